/*-------------------------------------------------------------------------
 *
 * compactworker.c
 *	  Workers that merge layer files, and timeline_compact().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "init.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "sqlutil.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "store_private.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define IDLE_MS			10000
#define WAIT_MS			100
#define FIRST_RETRY_MS	1000
#define LAST_RETRY_MS	(3600 * 1000)

typedef struct CompactShared
{
	ConditionVariable work_cv;
} CompactShared;

/* What this process knows of a slot. */
typedef struct SlotMemo
{
	uint64		incarnation;
	uint32		map_version;	/* at which there was nothing to do */
	uint32		points_version; /* the same */
	XLogRecPtr	cutoff;			/* the same */
	bool		settled;		/* map_version counts */
	int			retry_ms;		/* after a failure; 0: none */
	TimestampTz retry_at;
} SlotMemo;

static int	compaction_workers = 1;
int			store_compaction_threshold = 4;
int			store_compaction_target_size = 128 * 1024;	/* kB */
int			store_maintenance_io_limit = 100 * 1024;	/* kB per second */

static CompactShared *compact_shared = NULL;

extern PGDLLEXPORT void compactworker_main(Datum arg);

void
compactworker_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.compaction_workers",
							"Number of processes that merge layer files.",
							NULL, &compaction_workers, 1, 0, 16,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.compaction_threshold",
							"Number of layer files, following each other in time, that are merged.",
							"Zero merges none.",
							&store_compaction_threshold, 4, 0, 32,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.compaction_target_size",
							"Size at which a merge goes on in another file.",
							NULL, &store_compaction_target_size, 128 * 1024, 64, 4 * 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.maintenance_io_limit",
							"Most that a merge writes per second.",
							"Zero is no limit.",
							&store_maintenance_io_limit, 100 * 1024, 0, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
}

Size
compactworker_shmem_size(void)
{
	return sizeof(CompactShared);
}

void
compactworker_shmem_init(void)
{
	bool		found;

	compact_shared = ShmemInitStruct("neon compaction workers", sizeof(CompactShared), &found);
	if (!found)
		ConditionVariableInit(&compact_shared->work_cv);
}

void
compactworker_register_workers(void)
{
	for (int i = 0; i < compaction_workers; i++)
	{
		BackgroundWorker worker;

		library_worker(&worker, "neon_pageserver", "compactworker_main", "neon compaction");
		snprintf(worker.bgw_name, BGW_MAXLEN, "neon compaction %d", i + 1);
		RegisterBackgroundWorker(&worker);
	}
}

void
compactworker_wake(void)
{
	ConditionVariableBroadcast(&compact_shared->work_cv);
}

/* ---- one timeline ---- */

/* True if something was merged. */
static bool
compact_guarded(const NeonId *tenant, const NeonId *timeline, SlotMemo *memo,
				MemoryContext context)
{
	volatile bool merged = false;

	PG_TRY();
	{
		Timeline   *tl = timeline_open(tenant, timeline, true);

		if (tl != NULL)
			merged = store_compact_once(tl);
		memo->retry_ms = 0;
	}
	PG_CATCH();
	{
		store_recover_from_error(context);
		memo->retry_ms = memo->retry_ms ? Min(memo->retry_ms * 2, LAST_RETRY_MS) : FIRST_RETRY_MS;
		memo->retry_at = TimestampTzPlusMilliseconds(neon_clock(), memo->retry_ms);
	}
	PG_END_TRY();
	MemoryContextReset(context);
	return merged;
}

/* Looks at a slot, unless nothing changed since the last look; true if it merged. */
static bool
compact_slot(TimelineShared *s, SlotMemo *memo, MemoryContext context)
{
	NeonId		tenant = s->id.tenant;
	NeonId		timeline = s->id.timeline;
	uint64		incarnation = pg_atomic_read_u64(&s->incarnation);
	uint32		version = pg_atomic_read_u32(&s->map_version);
	uint32		points = pg_atomic_read_u32(&s->points_version);
	XLogRecPtr	cutoff = pg_atomic_read_u64(&s->gc_cutoff);
	bool		merged;

	if (pg_atomic_read_u32(&s->state) != TIMELINE_ACTIVE)
		return false;
	if (memo->incarnation != incarnation)
	{
		memset(memo, 0, sizeof(*memo));
		memo->incarnation = incarnation;
	}
	if ((memo->settled && memo->map_version == version && memo->points_version == points &&
		 memo->cutoff == cutoff) ||
		(memo->retry_ms > 0 && neon_clock() < memo->retry_at))
		return false;
	merged = compact_guarded(&tenant, &timeline, memo, context);
	memo->settled = !merged && memo->retry_ms == 0;
	memo->map_version = version;
	memo->points_version = points;
	memo->cutoff = cutoff;
	return merged;
}

/* One merge of each timeline in turn; true if there was any. */
static bool
compact_all(SlotMemo *memos, MemoryContext context)
{
	bool		merged = false;

	for (int i = 0; i < timeline_nslots(); i++)
	{
		CHECK_FOR_INTERRUPTS();
		merged |= compact_slot(timeline_slot(i), &memos[i], context);
	}
	return merged;
}

void
compactworker_main(Datum arg)
{
	MemoryContext context;
	SlotMemo   *memos;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	memos = MemoryContextAllocZero(TopMemoryContext, timeline_nslots() * sizeof(SlotMemo));
	context = AllocSetContextCreate(TopMemoryContext, "neon compaction", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	for (;;)
	{
		bool		merged;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			memset(memos, 0, timeline_nslots() * sizeof(SlotMemo));
		}
		ConditionVariablePrepareToSleep(&compact_shared->work_cv);
		merged = compact_all(memos, context);
		if (!merged)
			(void) ConditionVariableTimedSleep(&compact_shared->work_cv, IDLE_MS, PG_WAIT_EXTENSION);
		ConditionVariableCancelSleep();
		CHECK_FOR_INTERRUPTS();
	}
}

/* ---- SQL ---- */

int
compactworker_run(Timeline *tl)
{
	int			merges = 0;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (store_compact_once(tl))
			merges++;
		else if (!store_is_compacting(tl))
			break;
		else
		{
			/* a worker is at it: wait for its end */
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, WAIT_MS,
							 PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
		}
	}
	return merges;
}

PG_FUNCTION_INFO_V1(neon_timeline_compact);

/* timeline_compact(tenant, timeline) returns int: the number of merges */
Datum
neon_timeline_compact(PG_FUNCTION_ARGS)
{
	Timeline   *tl;

	sql_refuse_transaction_block("timeline_compact");
	check_superuser("timeline_compact");
	tl = sql_open_timeline(fcinfo, 0, 1);
	PG_RETURN_INT32(compactworker_run(tl));
}
