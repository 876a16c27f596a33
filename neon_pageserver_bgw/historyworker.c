/*-------------------------------------------------------------------------
 *
 * historyworker.c
 *	  The worker that moves the horizon of every timeline and drops leases that
 *	  have ended, and timeline_gc().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "controlat.h"
#include "fmgr.h"
#include "historygc.h"
#include "ingest.h"
#include "init.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "sqlutil.h"
#include "storage/latch.h"
#include "store_private.h"
#include "tcop/tcopprot.h"
#include "tenantsettings.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#define ROUND_MS			10000
#define SETTLING_ROUND_MS	500		/* while something has ended and its readers may go on */
#define READERS_POLL_MS		20
#define READERS_WAIT_MS		60000

/* How often a timeline is looked at whose history ages, per its interval. */
#define LOOKS_PER_INTERVAL	200
#define LONGEST_LOOK_US		(10 * USECS_PER_MINUTE)

/* What this process knows of a slot. */
typedef struct SlotMemo
{
	uint64		incarnation;
	XLogRecPtr	end;			/* disk_consistent_lsn at the last look */
	TimestampTz next_look;		/* in neon_clock(), unless the end moved */
	TimestampTz first_end;		/* of a lease here; 0: not known, DT_NOEND: none */
	uint32		points_version; /* of which first_end is */
} SlotMemo;

/* Reads that began before a time are over when the epoch of that time has passed. */
typedef struct Settling
{
	TimestampTz since;			/* of the epoch that is waited for; 0: none */
	uint64		epoch;
	TimestampTz ended_before;	/* the newest time whose epoch has passed; 0: none */
	bool		waiting;		/* something ended after that, and before since */
} Settling;

extern PGDLLEXPORT void historyworker_main(Datum arg);

void
historyworker_register_worker(void)
{
	BackgroundWorker worker;

	library_worker(&worker, "neon_pageserver", "historyworker_main", "neon history");
	RegisterBackgroundWorker(&worker);
}

/* ---- the horizon ---- */

/*
 * How far it may move by settings alone, at most to what is in layers: a start
 * must not find the end of the timeline below its horizon.
 */
static XLogRecPtr
horizon_by_bytes(Timeline *tl, const TenantSettings *settings)
{
	XLogRecPtr	last = timeline_last_record_lsn(tl);

	if (last <= settings->gc_horizon)
		return InvalidXLogRecPtr;
	return Min(last - settings->gc_horizon, timeline_disk_consistent_lsn(tl));
}

/* The same by age; Invalid if all of the history is younger. */
static XLogRecPtr
horizon_by_age(Timeline *tl, const TenantSettings *settings, XLogRecPtr limit)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz commit_time;
	XLogRecPtr	lsn;
	bool		in_future;

	if (settings->pitr_interval == 0)
		return limit;
	if (settings->pitr_interval >= now - MIN_TIMESTAMP ||
		!control_lsn_for_timestamp(tl, now - settings->pitr_interval, &lsn, &commit_time, &in_future))
		return InvalidXLogRecPtr;
	return Min(lsn, limit);
}

/*
 * Moves the horizon as far as the settings allow; true if it moved.  It is put
 * at the end of a commit: what an LSN or a time from the kept history is rounded
 * down to is in the kept history then.
 */
static bool
move_horizon(Timeline *tl)
{
	TenantSettings settings = tenant_settings(&tl->id.tenant);
	XLogRecPtr	floor = Max(history_cutoff(tl, NULL), tl->id.start_lsn);
	XLogRecPtr	limit = horizon_by_bytes(tl, &settings);
	ControlState state;

	if (limit > floor)
		limit = horizon_by_age(tl, &settings, limit);
	if (limit <= floor)
		return false;
	control_round_to_commit(tl, limit, &state);
	if (state.commit_end <= floor)
		return false;
	return history_publish(tl, state.commit_end, state.max_commit_time);
}

/* ---- leases ---- */

/* When the first lease of the timeline ends, of the points in the manifest. */
static TimestampTz
first_end(Timeline *tl)
{
	Manifest   *m = timeline_read_manifest(tl);
	TimestampTz first = DT_NOEND;

	for (int i = 0; i < m->npoints; i++)
		first = Min(first, history_end_of(&m->points[i]));
	manifest_free(m);
	return first;
}

/*
 * Leases that had ended when the round before this one began: reads which began
 * before that are over if its epoch has passed.
 */
static void
drop_ended(Timeline *tl, SlotMemo *memo, Settling *settling)
{
	uint32		version = pg_atomic_read_u32(&tl->shared->points_version);

	if (memo->first_end == 0 || memo->points_version != version)
	{
		memo->first_end = first_end(tl);
		memo->points_version = version;
	}
	if (memo->first_end <= settling->ended_before &&
		history_drop_ended(tl, settling->ended_before))
		compactworker_wake();
	else if (memo->first_end <= settling->since)
		settling->waiting = true;
}

/* ---- one timeline ---- */

static bool
is_due(Timeline *tl, SlotMemo *memo)
{
	XLogRecPtr	end = timeline_disk_consistent_lsn(tl);
	TenantSettings settings;

	if (memo->end == end && neon_clock() < memo->next_look)
		return false;
	settings = tenant_settings(&tl->id.tenant);
	memo->end = end;
	memo->next_look = neon_clock() +
		Min(Max(settings.pitr_interval / LOOKS_PER_INTERVAL, ROUND_MS * 1000), LONGEST_LOOK_US);
	return true;
}

static void
look_at(Timeline *tl, SlotMemo *memo, Settling *settling)
{
	if (memo->incarnation != tl->incarnation)
	{
		memset(memo, 0, sizeof(*memo));
		memo->incarnation = tl->incarnation;
	}
	drop_ended(tl, memo, settling);
	if (is_due(tl, memo) && move_horizon(tl))
		compactworker_wake();
}

/* An error is logged and hurts no other timeline; it is tried again when it is due. */
static void
look_at_guarded(TimelineShared *s, SlotMemo *memo, Settling *settling, MemoryContext context)
{
	NeonId		tenant = s->id.tenant;
	NeonId		timeline = s->id.timeline;

	if (pg_atomic_read_u32(&s->state) != TIMELINE_ACTIVE)
		return;
	PG_TRY();
	{
		Timeline   *tl = timeline_open(&tenant, &timeline, true);

		if (tl != NULL)
			look_at(tl, memo, settling);
	}
	PG_CATCH();
	{
		store_recover_from_error(context);
	}
	PG_END_TRY();
	MemoryContextReset(context);
}

/* ---- the worker ---- */

static void
settle(Settling *settling)
{
	if (settling->since != 0 && !history_epoch_passed(settling->epoch))
		return;
	settling->ended_before = settling->since;
	settling->since = GetCurrentTimestamp();
	settling->epoch = history_epoch_advance();
	settling->waiting = false;
}

void
historyworker_main(Datum arg)
{
	MemoryContext context;
	SlotMemo   *memos;
	Settling	settling = {0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	memos = MemoryContextAllocZero(TopMemoryContext, timeline_nslots() * sizeof(SlotMemo));
	context = AllocSetContextCreate(TopMemoryContext, "neon history", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	for (;;)
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			memset(memos, 0, timeline_nslots() * sizeof(SlotMemo));
		}
		ConditionVariablePrepareToSleep(history_work_cv());
		settle(&settling);
		for (int i = 0; i < timeline_nslots(); i++)
		{
			CHECK_FOR_INTERRUPTS();
			look_at_guarded(timeline_slot(i), &memos[i], &settling, context);
		}
		timeline_close_files(false);
		(void) ConditionVariableTimedSleep(history_work_cv(),
										   settling.waiting ? SETTLING_ROUND_MS : ROUND_MS,
										   PG_WAIT_EXTENSION);
		ConditionVariableCancelSleep();
		CHECK_FOR_INTERRUPTS();
	}
}

/* ---- SQL ---- */

PG_FUNCTION_INFO_V1(neon_timeline_gc);

/* Waits until compaction may use the horizon; an error if a read goes on for too long. */
static void
wait_for_readers(Timeline *tl)
{
	TimestampTz end = TimestampTzPlusMilliseconds(neon_clock(), READERS_WAIT_MS);
	RetentionSet *set;

	for (;;)
	{
		bool		usable;

		set = history_retention(tl);
		usable = set->horizon == history_cutoff(tl, NULL);
		pfree(set);
		if (usable)
			return;
		if (neon_clock() > end)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("reads from before the horizon moved are still going on"),
					 errhint("The horizon has moved; compaction uses it when they are over.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 READERS_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* timeline_gc(tenant, timeline) returns pg_lsn: the oldest LSN that stays valid */
Datum
neon_timeline_gc(PG_FUNCTION_ARGS)
{
	Timeline   *tl;
	XLogRecPtr	cutoff;

	sql_refuse_transaction_block("timeline_gc");
	check_superuser("timeline_gc");
	tl = sql_open_timeline(fcinfo, 0, 1);
	timeline_check_readable(tl);
	ingest_checkpoint(tl);
	wait_for_readers(tl);		/* of the last time it moved */
	if (move_horizon(tl))
		wait_for_readers(tl);
	compactworker_run(tl);
	cutoff = history_cutoff(tl, NULL);
	if (XLogRecPtrIsInvalid(cutoff))
		PG_RETURN_NULL();
	PG_RETURN_LSN(cutoff);
}
