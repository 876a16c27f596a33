/*-------------------------------------------------------------------------
 *
 * pace.c
 *	  The pace of writers while the pageserver's compaction is behind.
 *
 * The pageserver says how many bytes of WAL per second a writer should keep to;
 * the saver asks for it, as long as much is written.  Each session pays with time for
 * the WAL of its own: it waits where throttle.c would hold it too, but a moment only
 * where it extends a relation, which others may wait for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "coordinator.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "neon.h"
#include "neon_clock.h"
#include "pace.h"
#include "pageserver.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define ASK_TIMEOUT_MS	5000
#define ASK_BYTES		(16 * 1024 * 1024)	/* written since the last answer */
#define VALID_MS		120000	/* an answer that is not renewed */
#define LONGEST_RETRY_MS	60000
#define MOST_OWED_SECONDS	10	/* what a session may owe; the rest is let go */
#define MEGABYTE		(1024 * 1024)

typedef struct PaceShared
{
	pg_atomic_uint64 bytes_per_second;	/* 0: no limit */
	pg_atomic_uint64 valid_until;	/* neon_clock() */
	pg_atomic_uint64 debt;		/* for people; bytes */
	pg_atomic_uint64 max_debt;
} PaceShared;

static PaceShared *shared = NULL;

/* This session since the limit is in force. */
static struct
{
	bool		limited;
	uint64		counted;		/* pgWalUsage.wal_bytes at owed_at */
	TimestampTz owed_at;
	double		owed;			/* bytes that are not paid for with time */
}			own;

void
pace_request_shmem(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(PaceShared)));
}

void
pace_shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon pace", sizeof(PaceShared), &found);
	if (!found)
	{
		pg_atomic_init_u64(&shared->bytes_per_second, 0);
		pg_atomic_init_u64(&shared->valid_until, 0);
		pg_atomic_init_u64(&shared->debt, 0);
		pg_atomic_init_u64(&shared->max_debt, 0);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ---- asking ---- */

static uint64
number(const char *text)
{
	return text ? strtou64(text, NULL, 10) : 0;
}

/* What the pageserver cannot answer limits nobody: throttle.c knows of one that is away. */
static bool
ask(void (*idle) (void))
{
	const char *params[2] = {neon_tenant_id_setting, neon_timeline_id_setting};
	PageserverError error;
	List	   *rows;
	char	  **row;

	if (!pageserver_query("neon_saver",
						  "SELECT debt, max_debt, bytes_per_second FROM neon_pageserver.writer_pace($1, $2)",
						  2, params, ASK_TIMEOUT_MS, idle, &rows, &error) || rows == NIL)
		return false;
	row = linitial(rows);
	pg_atomic_write_u64(&shared->debt, number(row[0]));
	pg_atomic_write_u64(&shared->max_debt, number(row[1]));
	pg_atomic_write_u64(&shared->valid_until,
						(uint64) TimestampTzPlusMilliseconds(neon_clock(), VALID_MS));
	pg_atomic_write_u64(&shared->bytes_per_second, number(row[2]));
	return true;
}

void
pace_keep_asking(void (*idle) (void))
{
	static XLogRecPtr asked_at = InvalidXLogRecPtr;
	static TimestampTz retry_at = 0;
	static int	retry_ms = 0;
	XLogRecPtr	now = GetXLogInsertRecPtr();

	if (asked_at == InvalidXLogRecPtr)
		asked_at = now;
	if (neon_clock() < retry_at ||
		(now - asked_at < ASK_BYTES && pg_atomic_read_u64(&shared->bytes_per_second) == 0))
		return;
	if (ask(idle))
	{
		asked_at = now;
		retry_ms = 0;
	}
	else
		retry_ms = Min(Max(2 * retry_ms, PACE_ASK_MS), LONGEST_RETRY_MS);
	retry_at = TimestampTzPlusMilliseconds(neon_clock(), retry_ms);
}

/* ---- writers ---- */

static uint64
pace_now(void)
{
	uint64		pace = pg_atomic_read_u64(&shared->bytes_per_second);

	return pace == 0 || (uint64) neon_clock() > pg_atomic_read_u64(&shared->valid_until) ? 0 : pace;
}

/* What is written is owed, and time pays for it; what was before the limit is not owed. */
static void
settle(uint64 pace)
{
	TimestampTz now = neon_clock();
	uint64		written = pgWalUsage.wal_bytes;

	if (!own.limited)
		own.owed = 0;
	else
		own.owed += (double) (written - own.counted) - (double) pace * (now - own.owed_at) / USECS_PER_SEC;
	own.owed = Min(Max(own.owed, 0), (double) pace * MOST_OWED_SECONDS);
	own.limited = true;
	own.counted = written;
	own.owed_at = now;
}

void
pace_wait(int longest_ms)
{
	TimestampTz end = 0;
	uint64		pace;

	while ((pace = pace_now()) != 0 && throttle_may_wait())
	{
		double		wait_ms;

		settle(pace);
		if (end == 0)
			end = TimestampTzPlusMilliseconds(own.owed_at, longest_ms);
		wait_ms = Min(own.owed * 1000 / pace, (end - own.owed_at) / 1000.0);
		if (wait_ms < 1)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) wait_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	/* where it may not wait, it owes */
	if (pace == 0)
		own.limited = false;
}

bool
pace_describe(char *buf, size_t size)
{
	uint64		pace = pace_now();

	if (pace == 0)
		return false;
	snprintf(buf, size, "compaction of pageserver %s is %llu MB behind (neon_pageserver.max_compaction_debt is %llu MB there): %.1f MB of WAL per second and session",
			 pageserver_address(),
			 (unsigned long long) (pg_atomic_read_u64(&shared->debt) / MEGABYTE),
			 (unsigned long long) (pg_atomic_read_u64(&shared->max_debt) / MEGABYTE),
			 (double) pace / MEGABYTE);
	return true;
}
