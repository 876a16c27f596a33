/*-------------------------------------------------------------------------
 *
 * pace.c
 *	  The pace of writers while the pageserver's compaction is behind.
 *
 * The pageserver says how many bytes of WAL per second a writer should keep to;
 * the saver asks for it, as long as much is written.  Each session waits for the
 * WAL of its own, where throttle.c would hold it too.
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
#define VALID_MS		60000	/* an answer that is not renewed */
#define LONGEST_WAIT_MS	10000	/* at one place; the rest is waited for at the next ones */
#define MEGABYTE		(1024 * 1024)

typedef struct PaceShared
{
	pg_atomic_uint64 bytes_per_second;	/* 0: no limit */
	pg_atomic_uint64 valid_until;	/* neon_clock() */
	pg_atomic_uint64 debt;		/* for people; bytes */
	pg_atomic_uint64 max_debt;
} PaceShared;

static PaceShared *shared = NULL;

/* This session's WAL up to here is paid for, or in owed_us. */
static uint64 counted_bytes = 0;
static double owed_us = 0;

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
	XLogRecPtr	now = GetXLogInsertRecPtr();

	if (asked_at == InvalidXLogRecPtr)
		asked_at = now;
	if ((now - asked_at >= ASK_BYTES || pg_atomic_read_u64(&shared->bytes_per_second) != 0) &&
		ask(idle))
		asked_at = now;
}

/* ---- writers ---- */

static uint64
pace_now(void)
{
	uint64		pace = pg_atomic_read_u64(&shared->bytes_per_second);

	return pace == 0 || (uint64) neon_clock() > pg_atomic_read_u64(&shared->valid_until) ? 0 : pace;
}

void
pace_wait(void)
{
	uint64		pace = pace_now();
	TimestampTz start;
	TimestampTz until;

	if (likely(pace == 0))
	{
		owed_us = 0;
		counted_bytes = pgWalUsage.wal_bytes;
		return;
	}
	owed_us += (double) (pgWalUsage.wal_bytes - counted_bytes) * USECS_PER_SEC / pace;
	counted_bytes = pgWalUsage.wal_bytes;
	if (owed_us < 1000)
		return;
	start = neon_clock();
	until = start + (TimestampTz) Min(owed_us, LONGEST_WAIT_MS * 1000.0);
	for (TimestampTz now = start; now < until && pace_now() != 0; now = neon_clock())
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(1 + (until - now) / 1000, 1000), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	owed_us = Max(owed_us - (neon_clock() - start), 0);
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
