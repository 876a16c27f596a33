/*-------------------------------------------------------------------------
 *
 * saver.c
 *	  Saves, for the next life of this timeline's primary, what is in no WAL.
 *
 * A worker of primaries.  It sends all kinds of what is saved to the
 * pageserver every neon.save_interval and when the server is stopped; the next
 * base backup brings them.  In the postmaster, what came with this one is
 * given back before anything else runs.  Nobody waits for any of this but a
 * stop, for FINAL_MS at most.  It also asks for the pace of writers (pace.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xlog.h"
#include "coordinator.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "neon.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "pace.h"
#include "pageserver.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "saved.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define SEND_TIMEOUT_MS		15000
#define COLLECT_TIMEOUT_MS	60000

/* A stop: until the others are gone, and in all. */
#define OTHERS_MS			1000
#define FINAL_MS			3000
#define POLL_MS				10

#define RESTART_SECONDS		60
#define PROBLEM_SIZE		256

extern PGDLLEXPORT void neon_saver_main(Datum arg);
extern PGDLLEXPORT Datum neon_sql_saved(PG_FUNCTION_ARGS);

/* One kind, as views show it; bytes 0 means never. */
typedef struct SavedStatus
{
	uint32		restored_bytes;
	XLogRecPtr	restored_lsn;
	TimestampTz restored_from;
	uint32		saved_bytes;
	XLogRecPtr	saved_lsn;
	TimestampTz saved_at;
	char		problem[PROBLEM_SIZE];
} SavedStatus;

typedef struct SaverShared
{
	slock_t		mutex;			/* over all of it; nothing is called while it is held */
	SavedStatus status[NEON_SAVED_KINDS];
} SaverShared;

static SaverShared *shared = NULL;

/* GUC: milliseconds; 0: at the stop only, -1: never */
static int	save_interval = 300 * 1000;

/* What the pageserver has, to leave out what is the same; of the restored one from the start. */
static struct
{
	bool		valid;
	uint32		len;
	uint32		crc;
}			last[NEON_SAVED_KINDS];

static bool finishing = false;

void
saver_define_settings(void)
{
	DefineCustomIntVariable("neon.save_interval",
							"Time between two saves of what is in no WAL for the next start.",
							"0 saves them only when the server stops, -1 never.",
							&save_interval, 300 * 1000, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

/* ---- start ---- */

void
saver_request_shmem(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(SaverShared)));
	savedfsm_request_shmem();
}

static bool
restore_body(NeonSavedKind kind, const char *body, uint32 len)
{
	switch (kind)
	{
		case NEON_SAVED_STATISTICS:
			return savedstats_restore(body, len);
		case NEON_SAVED_FSM:
			return savedfsm_restore(body, len);
		case NEON_SAVED_WARM:
			return savedwarm_restore(body, len);
	}
	return false;
}

/* What the base backup brought; the base backup of a static endpoint brings nothing. */
static void
restore(NeonSavedKind kind)
{
	SavedStatus *status = &shared->status[kind];
	char	   *data = savedfile_load(kind);
	const SavedHeader *header = savedfile_header(data);
	bool		used;

	if (data == NULL)
		return;
	used = restore_body(kind, data + sizeof(SavedHeader), header->len);
	if (used)
	{
		status->restored_bytes = header->len;
		status->restored_lsn = header->lsn;
		status->restored_from = header->saved_at;
		last[kind].valid = neon_id_equal(&header->timeline_id, &neon_boot.timeline_id);
		last[kind].len = header->len;
		last[kind].crc = header->crc;
	}
	pfree(data);
}

void
saver_shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon saver", sizeof(SaverShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(SaverShared));
		SpinLockInit(&shared->mutex);
	}
	LWLockRelease(AddinShmemInitLock);
	savedfsm_shmem_startup();
	for (int kind = 0; kind < NEON_SAVED_KINDS; kind++)
		restore(kind);
}

void
saver_register_worker(void)
{
	BackgroundWorker worker;

	if (neon_boot.kind != NEON_PRIMARY)
		return;
#ifdef NEON_TESTING
	if (neon_test_reference_dir[0] != '\0')
		return;
#endif
	library_worker(&worker, "neon", "neon_saver_main", "neon saver");
	worker.bgw_restart_time = RESTART_SECONDS;
	RegisterBackgroundWorker(&worker);
}

/* ---- saving ---- */

static void
set_problem(NeonSavedKind kind, const char *problem)
{
	SavedStatus *status = &shared->status[kind];
	bool		news = strncmp(status->problem, problem, sizeof(status->problem) - 1) != 0;

	/* this process is the only one that writes it */
	if (!news)
		return;
	SpinLockAcquire(&shared->mutex);
	strlcpy(status->problem, problem, sizeof(status->problem));
	SpinLockRelease(&shared->mutex);
	if (problem[0] != '\0')
		ereport(LOG,
				(errmsg("%s for the next start are not saved completely: %s",
						saved_title(kind), problem)));
}

/* The body; false if there is none to send.  problem is filled if something is missing. */
static bool
collect(NeonSavedKind kind, StringInfo buf, TimestampTz deadline, char *problem)
{
	int			skipped;

	if (kind == NEON_SAVED_WARM)
	{
		savedwarm_collect(buf);
		return true;
	}
	if (kind == NEON_SAVED_STATISTICS)
	{
		if (savedstats_collect(buf))
			return true;
		strlcpy(problem, "they are too large", PROBLEM_SIZE);
		return false;
	}
	skipped = savedfsm_collect(buf, deadline);
	if (skipped < 0)
		strlcpy(problem, "there was no time to read them", PROBLEM_SIZE);
	else if (skipped > 0)
		snprintf(problem, PROBLEM_SIZE, "those of %d relations have no room", skipped);
	return skipped >= 0;
}

/* A stop does not wait for a save that was under way. */
static void
give_up_if_asked(void)
{
	if (ShutdownRequestPending && !finishing)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("interrupted by the stop of the server")));
}

/* The bytes as the text of a bytea. */
static char *
hex_text(const StringInfo buf)
{
	char	   *text = palloc((Size) buf->len * 2 + 3);

	memcpy(text, "\\x", 2);
	text[2 + hex_encode(buf->data, buf->len, text + 2)] = '\0';
	return text;
}

static bool
send_saved(NeonSavedKind kind, const StringInfo buf, int timeout_ms, char *problem)
{
	const char *params[6] = {neon_tenant_id_setting, neon_timeline_id_setting,
		psprintf("%u", neon_boot.term), neon_saved_names[kind],
		psprintf("%X/%X", LSN_FORMAT_ARGS(savedfile_header(buf->data)->lsn)),
	hex_text(buf)};
	MemoryContext context = CurrentMemoryContext;
	PageserverError error;
	List	   *rows;
	volatile bool sent = false;

	PG_TRY();
	{
		sent = pageserver_query("neon_saver",
								"SELECT neon_pageserver.saved_put($1, $2, $3::int4, $4, $5::pg_lsn, $6::bytea)",
								6, params, timeout_ms, give_up_if_asked, &rows, &error);
		if (!sent)
			strlcpy(problem, error.message, PROBLEM_SIZE);
	}
	PG_CATCH();
	{
		/* no lock or other resource is held here */
		if (!ShutdownRequestPending || finishing)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return sent;
}

static bool
is_news(NeonSavedKind kind, const SavedHeader *header)
{
	return !last[kind].valid || last[kind].len != header->len || last[kind].crc != header->crc;
}

/* The pageserver has this, from now or from before. */
static void
note_saved(NeonSavedKind kind, const SavedHeader *header)
{
	SavedStatus *status = &shared->status[kind];

	last[kind].valid = true;
	last[kind].len = header->len;
	last[kind].crc = header->crc;
	SpinLockAcquire(&shared->mutex);
	status->saved_bytes = header->len;
	status->saved_lsn = header->lsn;
	status->saved_at = header->saved_at;
	SpinLockRelease(&shared->mutex);
}

static int
left_ms(TimestampTz deadline)
{
	return (int) Max(TimestampDifferenceMilliseconds(neon_clock(), deadline), 1);
}

static void
save(NeonSavedKind kind, TimestampTz deadline)
{
	StringInfoData buf;
	char		problem[PROBLEM_SIZE] = "";

	initStringInfo(&buf);
	saved_begin(&buf);
	if (collect(kind, &buf, deadline, problem))
	{
		savedfile_end(&buf, kind);
		if (!is_news(kind, savedfile_header(buf.data)) ||
			send_saved(kind, &buf, Min(left_ms(deadline), SEND_TIMEOUT_MS), problem))
			note_saved(kind, savedfile_header(buf.data));
	}
	set_problem(kind, problem);
}

static void
save_all(MemoryContext context, int time_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), time_ms);

	for (int kind = 0; kind < NEON_SAVED_KINDS; kind++)
	{
		MemoryContextSwitchTo(context);
		save(kind, deadline);
		MemoryContextReset(context);
	}
}

/* ---- the worker ---- */

/* Does anybody run who still changes what is saved? */
static bool
others_run(void)
{
	pgstat_clear_backend_activity_snapshot();
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
		LocalPgBackendStatus *entry = pgstat_fetch_stat_local_beentry(i);

		if (entry != NULL && (entry->backendStatus.st_backendType == B_BACKEND ||
							  entry->backendStatus.st_backendType == B_AUTOVAC_WORKER))
			return true;
	}
	return false;
}

/*
 * The postmaster waits for this process before it lets the checkpointer end,
 * so sessions can be waited for: they report their last numbers when they end.
 */
static void
save_at_stop(MemoryContext context)
{
	TimestampTz until = TimestampTzPlusMilliseconds(neon_clock(), OTHERS_MS);

	finishing = true;
	while (others_run() && neon_clock() < until)
	{
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS, PG_WAIT_EXTENSION);
	}
	save_all(context, FINAL_MS - OTHERS_MS);
}

static MemoryContext
setup(void)
{
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	/* a fresh look at each number, whatever sessions are told */
	SetConfigOption("stats_fetch_consistency", "none", PGC_USERSET, PGC_S_OVERRIDE);
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "neon saver");
	return AllocSetContextCreate(TopMemoryContext, "neon saver", ALLOCSET_DEFAULT_SIZES);
}

/* It asks at most once in PACE_ASK_MS, whatever wakes this process. */
static void
keep_pace(MemoryContext context)
{
	static TimestampTz last_time = 0;

	if (TimestampDifferenceMilliseconds(last_time, neon_clock()) < PACE_ASK_MS)
		return;
	last_time = neon_clock();
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		pace_keep_asking(give_up_if_asked);
	}
	PG_CATCH();
	{
		/* no lock or other resource is held here */
		if (!ShutdownRequestPending)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	MemoryContextReset(context);
}

void
neon_saver_main(Datum arg)
{
	MemoryContext context = setup();
	TimestampTz last_save = neon_clock();

	while (!ShutdownRequestPending)
	{
		long		left = PG_INT32_MAX;

		if (save_interval > 0)
			left = save_interval - TimestampDifferenceMilliseconds(last_save, neon_clock());
		if (save_interval > 0 && left <= 0)
		{
			save_all(context, COLLECT_TIMEOUT_MS);
			last_save = neon_clock();
			continue;
		}
		keep_pace(context);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT,
						 Min(left, PACE_ASK_MS), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			neon_hydration_reloaded();
		}
	}
	if (save_interval >= 0)
		save_at_stop(context);
	proc_exit(0);
}

/* ---- the view ---- */

PG_FUNCTION_INFO_V1(neon_sql_saved);

static void
put_row(ReturnSetInfo *rsinfo, NeonSavedKind kind)
{
	SavedStatus status;
	Datum		values[8];
	bool		nulls[8] = {false};

	SpinLockAcquire(&shared->mutex);
	status = shared->status[kind];
	SpinLockRelease(&shared->mutex);
	values[0] = CStringGetTextDatum(neon_saved_names[kind]);
	values[1] = Int64GetDatum((int64) status.restored_bytes);
	values[2] = LSNGetDatum(status.restored_lsn);
	values[3] = TimestampTzGetDatum(status.restored_from);
	nulls[1] = nulls[2] = nulls[3] = status.restored_bytes == 0;
	values[4] = Int64GetDatum((int64) status.saved_bytes);
	values[5] = LSNGetDatum(status.saved_lsn);
	values[6] = TimestampTzGetDatum(status.saved_at);
	nulls[4] = nulls[5] = nulls[6] = status.saved_bytes == 0;
	values[7] = CStringGetTextDatum(status.problem);
	nulls[7] = status.problem[0] == '\0';
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
neon_sql_saved(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for (int kind = 0; kind < NEON_SAVED_KINDS; kind++)
		put_row((ReturnSetInfo *) fcinfo->resultinfo, kind);
	return (Datum) 0;
}
