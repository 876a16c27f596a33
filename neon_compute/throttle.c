/*-------------------------------------------------------------------------
 *
 * throttle.c
 *	  Holding writers while the storage is too far behind.
 *
 * What the storage does not have exists only in this compute's pg_wal, so its
 * size is bounded: by neon.max_unflushed_wal.  Writers are held where they
 * extend a relation, begin a statement that modifies data, and commit.  All
 * these places may wait and fail; none is inside a critical section.  A
 * statement that changes many pages and adds none, as DELETE and VACUUM do, is
 * slowed down where it reads the next one.
 *
 * The pageserver may be behind without that: then reads of what it lacks wait,
 * and the safekeepers keep the WAL for it.  neon.max_ingest_lag bounds this by
 * slowing writers down at the same places, the more the further it is behind,
 * and holds them at twice the limit.  How its compaction is kept from falling
 * behind for ever is told in pace.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "coordinator.h"
#include "diskhold.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "pace.h"
#include "pageserver.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "quorum.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define POLL_INTERVAL_MS	10
#define MAX_DELAY_MS		100 /* of one step of a writer */
#define REMINDER_MS			60000
#define SETTLED_MS			2000
#define MEGABYTE			(1024 * 1024)

/* The limits in force: the settings, as the coordinator has read them last. */
typedef struct ThrottleShared
{
	pg_atomic_uint32 max_unflushed_wal; /* megabytes */
	pg_atomic_uint64 max_ingest_lag;	/* bytes; 0: no limit */
} ThrottleShared;

static ThrottleShared *shared = NULL;

static ExecutorRun_hook_type prev_executor_run = NULL;

/* ---- the limits ---- */

void
throttle_request_shmem(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(ThrottleShared)));
}

static uint64
setting_ingest_lag(void)
{
	return (uint64) ceil(Min(neon_max_ingest_lag, (double) PG_INT64_MAX / 4));
}

void
throttle_shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon throttle", sizeof(ThrottleShared), &found);
	if (!found)
	{
		pg_atomic_init_u32(&shared->max_unflushed_wal, neon_max_unflushed_wal);
		pg_atomic_init_u64(&shared->max_ingest_lag, setting_ingest_lag());
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * A session reads the files of settings between two statements only.  One that
 * is held in the middle of one has to know when a limit is raised.
 */
void
throttle_publish_limits(void)
{
	pg_atomic_write_u32(&shared->max_unflushed_wal, neon_max_unflushed_wal);
	pg_atomic_write_u64(&shared->max_ingest_lag, setting_ingest_lag());
}

static int
limit_mb(void)
{
	return (int) pg_atomic_read_u32(&shared->max_unflushed_wal);
}

static uint64
limit_bytes(void)
{
	return (uint64) limit_mb() * MEGABYTE;
}

static double
ingest_limit(void)
{
	return (double) pg_atomic_read_u64(&shared->max_ingest_lag);
}

/* ---- holding ---- */

/*
 * How far behind is the storage, in bytes?  flush is what it has said that it
 * has, if it has said something yet; what was there at the start it has anyway.
 */
static uint64
unflushed_bytes(XLogRecPtr flush)
{
	XLogRecPtr	insert = GetXLogInsertRecPtr();
	XLogRecPtr	has = Max(flush, neon_boot.boot_record_lsn);

	return insert > has ? insert - has : 0;
}

bool
throttle_may_wait(void)
{
	return CritSectionCount == 0 && InterruptHoldoffCount == 0 &&
		(MyBackendType == B_BACKEND || MyBackendType == B_BG_WORKER ||
		 MyBackendType == B_AUTOVAC_WORKER);
}

/* The members that are behind the limit themselves: the others wait for them. */
static void
report_members_lag(uint64 unflushed, XLogRecPtr flush)
{
	ereport(ERROR,
			(errcode(ERRCODE_DISK_FULL),
			 errmsg("a majority of the safekeepers is too far behind"),
			 errdetail("It has the WAL up to %X/%X and lacks %llu MB; the limit (neon.max_unflushed_wal) is %d MB. Behind: %s.",
					   LSN_FORMAT_ARGS(flush), (unsigned long long) (unflushed / MEGABYTE),
					   limit_mb(), quorum_name_laggards(GetXLogInsertRecPtr() - limit_bytes())),
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
					   LSN_FORMAT_ARGS(flush), (unsigned long long) (unflushed / MEGABYTE),
					   limit_mb()),
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

/* What the pageserver lacks, in bytes. */
static uint64
ingest_lag(void)
{
	return unflushed_bytes(quorum_mode() ? quorum_pageserver_lsn() : storage_known_flush_lsn());
}

/* From 1 ms at the limit to all at twice of it. */
static long
ingest_delay_ms(double lag, double limit)
{
	return Min(MAX_DELAY_MS, 1 + (long) ((lag - limit) / limit * MAX_DELAY_MS));
}

static void
pause_once(long ms)
{
	if (XactLastRecEnd != InvalidXLogRecPtr)
		XLogFlush(XactLastRecEnd);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * A writer pauses once while the pageserver is beyond the limit, and for as
 * long as it is beyond twice of it: that is no error, for all is durable.
 */
static void
pause_for_ingest(void)
{
	double		limit = ingest_limit();
	double		lag;

	while (limit > 0 && (lag = ingest_lag()) > limit)
	{
		pause_once(ingest_delay_ms(lag, limit));
		if (lag < 2 * limit)
			break;
		limit = ingest_limit();
	}
}

void
neon_throttle(void)
{
	if (!storage_needed() || !throttle_may_wait() || RecoveryInProgress())
		return;
	if (unflushed_bytes(storage_known_flush_lsn()) > limit_bytes())
		wait_for_storage();
	pause_for_ingest();
}

void
neon_throttle_read(void)
{
	static XLogRecPtr paid = InvalidXLogRecPtr;
	double		limit;
	double		lag;

	if (XactLastRecEnd == paid)
		return;
	paid = XactLastRecEnd;
	if (paid == InvalidXLogRecPtr || !storage_needed() || !throttle_may_wait())
		return;
	limit = ingest_limit();
	if (unflushed_bytes(storage_known_flush_lsn()) > limit_bytes())
		pause_once(MAX_DELAY_MS);
	else if (limit > 0 && (lag = ingest_lag()) > limit)
		pause_once(ingest_delay_ms(lag, limit));
	pace_wait(PACE_EXTEND_MS);
}

/* ---- what is told of it ---- */

bool
throttle_describe(char *buf, size_t size)
{
	uint64		unflushed = unflushed_bytes(storage_known_flush_lsn());
	double		lag = ingest_lag();
	double		limit = ingest_limit();

	if (unflushed > limit_bytes())
	{
		if (quorum_mode())
			snprintf(buf, size, "a majority of the safekeepers lacks %llu MB (neon.max_unflushed_wal is %d MB); behind: %s",
					 (unsigned long long) (unflushed / MEGABYTE), limit_mb(),
					 quorum_name_laggards(GetXLogInsertRecPtr() - limit_bytes()));
		else
			snprintf(buf, size, "pageserver %s lacks %llu MB (neon.max_unflushed_wal is %d MB)",
					 pageserver_address(), (unsigned long long) (unflushed / MEGABYTE),
					 limit_mb());
		return true;
	}
	if (limit <= 0 || lag <= limit)
		return pace_describe(buf, size);
	snprintf(buf, size, "pageserver %s lacks %.0f MB (neon.max_ingest_lag is %.0f MB)",
			 pageserver_address(), lag / MEGABYTE, limit / MEGABYTE);
	return true;
}

void
throttle_report(uint64 now)
{
	static bool told = false;
	static bool told_ingest;	/* it was that limit */
	static uint64 told_at;
	static uint64 held_at;		/* they were held last */
	char		why[512];

	if (throttle_describe(why, sizeof(why)))
	{
		bool		ingest = unflushed_bytes(storage_known_flush_lsn()) <= limit_bytes();

		held_at = now;
		if (told && now - told_at < (ingest == told_ingest ? REMINDER_MS : REMINDER_MS / 6))
			return;
		told = true;
		told_ingest = ingest;
		told_at = now;
		ereport(LOG, (errmsg("writers are held back: %s", why)));
	}
	else if (told && now - held_at >= SETTLED_MS)
	{
		/* where a limit works, the lag swings around it */
		told = false;
		ereport(LOG, (errmsg("writers are no longer held back")));
	}
}

/* ---- where they are held ---- */

static void
throttled_executor_run(QueryDesc *desc, ScanDirection direction, uint64 count, bool execute_once)
{
	if (desc->operation != CMD_SELECT || desc->plannedstmt->hasModifyingCTE)
	{
		neon_throttle();
		pace_wait(PACE_STEP_MS);
		disk_make_room(NULL);
	}
	disk_note_begin();
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
	{
		neon_throttle();
		pace_wait(PACE_STEP_MS);
	}
}

void
throttle_install(void)
{
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = throttled_executor_run;
	RegisterXactCallback(throttle_commit, NULL);
}
