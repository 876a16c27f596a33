/*-------------------------------------------------------------------------
 *
 * throttle.c
 *	  Holding writers while the storage is too far behind.
 *
 * What the storage does not have exists only in this compute's pg_wal, so its
 * size is bounded: by neon.max_unflushed_wal.  Writers are held where they
 * extend a relation, begin a statement that modifies data, and commit.  All
 * these places may wait and fail; none is inside a critical section.
 *
 * The pageserver may be behind without that: then reads of what it lacks wait,
 * and the safekeepers keep the WAL for it.  neon.max_ingest_lag bounds this by
 * slowing writers down at the same places, the more the further it is behind.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "coordinator.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "pageserver.h"
#include "pgstat.h"
#include "quorum.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#define POLL_INTERVAL_MS	10
#define MAX_DELAY_MS		100 /* of one step of a writer */

static ExecutorRun_hook_type prev_executor_run = NULL;

/* How far behind is the storage, in bytes?  flush is what it has. */
static uint64
unflushed_bytes(XLogRecPtr flush)
{
	XLogRecPtr	insert = GetXLogInsertRecPtr();

	return insert > flush ? insert - flush : 0;
}

static uint64
limit_bytes(void)
{
	return (uint64) neon_max_unflushed_wal * 1024 * 1024;
}

/* May this process be held here? */
static bool
may_wait(void)
{
	if (!storage_needed() || CritSectionCount > 0 || InterruptHoldoffCount > 0)
		return false;
	switch (MyBackendType)
	{
		case B_BACKEND:
		case B_BG_WORKER:
		case B_AUTOVAC_WORKER:
			return !RecoveryInProgress();
		default:
			return false;
	}
}

/* The members that are behind the limit themselves: the others wait for them. */
static void
report_members_lag(uint64 unflushed, XLogRecPtr flush)
{
	ereport(ERROR,
			(errcode(ERRCODE_DISK_FULL),
			 errmsg("a majority of the safekeepers is too far behind"),
			 errdetail("It has the WAL up to %X/%X and lacks %llu MB; the limit (neon.max_unflushed_wal) is %d MB. Behind: %s.",
					   LSN_FORMAT_ARGS(flush), (unsigned long long) (unflushed / (1024 * 1024)),
					   neon_max_unflushed_wal, quorum_name_laggards(GetXLogInsertRecPtr() - limit_bytes())),
			 errhint("Check that the safekeepers run and have free disk space.")));
}

static void
report_lag(uint64 unflushed, XLogRecPtr flush)
{
	if (quorum_mode())
		report_members_lag(unflushed, flush);
	ereport(ERROR,
			(errcode(ERRCODE_DISK_FULL),
			 errmsg("pageserver %s is too far behind", pageserver_address()),
			 errdetail("It has the WAL up to %X/%X and lacks %llu MB; the limit (neon.max_unflushed_wal) is %d MB.",
					   LSN_FORMAT_ARGS(flush), (unsigned long long) (unflushed / (1024 * 1024)),
					   neon_max_unflushed_wal),
			 errhint("Check that the pageserver runs and has free disk space.")));
}

static void
wait_for_storage(void)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), neon_fetch_timeout);

	/* what lies in WAL buffers is sent to nobody, and nothing else may flush it */
	if (XactLastRecEnd != InvalidXLogRecPtr)
		XLogFlush(XactLastRecEnd);
	for (;;)
	{
		XLogRecPtr	flush = storage_flush_lsn();
		uint64		unflushed = unflushed_bytes(flush);

		if (unflushed <= limit_bytes())
			return;
		CHECK_FOR_INTERRUPTS();
		if (neon_clock() >= deadline)
			report_lag(unflushed, flush);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 POLL_INTERVAL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* For how long must a writer pause now?  From 1 ms at the limit to all at twice of it. */
static long
ingest_delay_ms(void)
{
	double		limit = neon_max_ingest_lag;
	double		lag;

	if (limit <= 0)
		return 0;
	lag = unflushed_bytes(quorum_mode() ? quorum_pageserver_lsn() : storage_known_flush_lsn());
	if (lag <= limit)
		return 0;
	return Min(MAX_DELAY_MS, 1 + (long) ((lag - limit) / limit * MAX_DELAY_MS));
}

static void
pause_for_ingest(void)
{
	long		delay_ms = ingest_delay_ms();

	if (delay_ms == 0)
		return;
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 delay_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

void
neon_throttle(void)
{
	if (!may_wait())
		return;
	if (unflushed_bytes(storage_known_flush_lsn()) > limit_bytes())
		wait_for_storage();
	pause_for_ingest();
}

static void
throttled_executor_run(QueryDesc *desc, ScanDirection direction, uint64 count, bool execute_once)
{
	if (desc->operation != CMD_SELECT || desc->plannedstmt->hasModifyingCTE)
		neon_throttle();
	if (prev_executor_run)
		prev_executor_run(desc, direction, count, execute_once);
	else
		standard_ExecutorRun(desc, direction, count, execute_once);
}

static void
throttle_commit(XactEvent event, void *arg)
{
	if ((event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE) &&
		TransactionIdIsValid(GetTopTransactionIdIfAny()))
		neon_throttle();
}

void
throttle_install(void)
{
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = throttled_executor_run;
	RegisterXactCallback(throttle_commit, NULL);
}
