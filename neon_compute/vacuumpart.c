/*-------------------------------------------------------------------------
 *
 * vacuumpart.c
 *	  The part of the local disk space that VACUUM may take.
 *
 * What VACUUM changes while a transaction runs cannot be dropped before that
 * has ended.  VACUUM has no transaction number, so nobody waits for it: it could
 * go on until all space is used up, and then the transaction had none left.
 * So all that VACUUMs have changed and that cannot be dropped yet is a quarter
 * at most of what can be had, if that is less than the database.
 *
 * Counted are pages that a VACUUM has made dirty, whenever it reads one: so it may
 * have changed all that is in shared buffers in between.  One that was written
 * meanwhile and changed again counts twice.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "neon_testpoint.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "vacuumpart.h"

#define PART			4
#define PART_LEAST		(UINT64CONST(1024) * 1024)
#define LOOKS			64

typedef struct VacuumShared
{
	pg_atomic_uint64 changed;	/* blocks, ever */
	pg_atomic_uint64 settled;	/* of them, those that can be dropped */
	pg_atomic_uint64 allowed;	/* blocks; how much more the first may be */
	pg_atomic_uint64 by_workers[FLEXIBLE_ARRAY_MEMBER]; /* of a leader, by process number */
} VacuumShared;

static VacuumShared *shared = NULL;

/* What had been changed at which LSN at most; of one process, in ascending order. */
static struct
{
	struct
	{
		XLogRecPtr	lsn;
		uint64		changed;
	}			at[LOOKS];
	int			n;
}			looks;

static Size
shared_size(void)
{
	return MAXALIGN(offsetof(VacuumShared, by_workers) + MaxBackends * sizeof(pg_atomic_uint64));
}

void
vacuumpart_request_shmem(void)
{
	RequestAddinShmemSpace(shared_size());
}

void
vacuumpart_shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon vacuum part", shared_size(), &found);
	if (!found)
	{
		pg_atomic_init_u64(&shared->changed, 0);
		pg_atomic_init_u64(&shared->settled, 0);
		pg_atomic_init_u64(&shared->allowed, PG_UINT64_MAX);
		for (int i = 0; i < MaxBackends; i++)
			pg_atomic_init_u64(&shared->by_workers[i], 0);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ----------
 * VACUUM
 * ----------
 */

/*
 * What workers have counted comes once more with the counters that they hand over to
 * their leader at their end, so he leaves out as much.
 */
static int64
without_workers(int64 blocks, bool begins)
{
	static int64 to_come = 0;
	int64		by_workers = pg_atomic_exchange_u64(&shared->by_workers[MyProc->pgprocno], 0);
	int64		left_out;

	to_come = begins ? 0 : to_come + by_workers;
	left_out = Min(to_come, blocks);
	to_come -= left_out;
	return blocks - left_out;
}

/* Returns whether there was anything.  Each table is a transaction of its own. */
static bool
count_changes(void)
{
	static LocalTransactionId lxid = InvalidLocalTransactionId;
	static int64 counted = 0;
	const PGPROC *leader = MyProc->lockGroupLeader;
	bool		begins = MyProc->lxid != lxid;
	int64		dirtied = pgBufferUsage.shared_blks_dirtied;
	int64		more = begins ? 0 : dirtied - counted;
	int64		blocks = more;

	lxid = MyProc->lxid;
	counted = dirtied;
	if (leader == NULL || leader == MyProc)
		blocks = without_workers(more, begins);
	else
		(void) pg_atomic_fetch_add_u64(&shared->by_workers[leader->pgprocno], more);
	(void) pg_atomic_fetch_add_u64(&shared->changed, blocks);
	return more > 0;
}

bool
vacuumpart_must_wait(void)
{
	return count_changes() && vacuumpart_is_used_up() && !NEON_TEST_BUG("no_vacuum_part");
}

static uint64
unsettled_blocks(void)
{
	uint64		settled = pg_atomic_read_u64(&shared->settled);

	pg_read_barrier();
	return pg_atomic_read_u64(&shared->changed) - settled;
}

bool
vacuumpart_is_used_up(void)
{
	return unsettled_blocks() >= pg_atomic_read_u64(&shared->allowed);
}

uint64
vacuumpart_changed(void)
{
	return unsettled_blocks() * BLCKSZ;
}

uint64
vacuumpart_allowed(void)
{
	return Min(pg_atomic_read_u64(&shared->allowed), PG_INT64_MAX / BLCKSZ) * BLCKSZ;
}

/* ----------
 * The evictor
 * ----------
 */

void
vacuumpart_set(bool settles)
{
	uint64		room = disk_evict_from();
	uint64		absent;
	uint64		only_here = disk_only_here(&absent);
	uint64		allowed = (room - Min(room, only_here)) / PART;

	if (!settles || disk_used() + absent < room)
		pg_atomic_write_u64(&shared->allowed, PG_UINT64_MAX);
	else
		pg_atomic_write_u64(&shared->allowed, Max(allowed, PART_LEAST) / BLCKSZ);
}

/* The number is read first: what it has was changed before the LSN. */
void
vacuumpart_look(void)
{
	uint64		changed = pg_atomic_read_u64(&shared->changed);

	if (changed == (looks.n > 0 ? looks.at[looks.n - 1].changed : pg_atomic_read_u64(&shared->settled)))
		return;
	pg_read_barrier();
	if (looks.n == LOOKS)
	{
		/* every other one will do */
		looks.n /= 2;
		for (int i = 0; i < looks.n; i++)
			looks.at[i] = looks.at[2 * i + 1];
	}
	looks.at[looks.n].lsn = GetXLogInsertRecPtr();
	looks.at[looks.n++].changed = changed;
}

void
vacuumpart_settle(XLogRecPtr clean_before)
{
	int			n = 0;

	while (n < looks.n && looks.at[n].lsn <= clean_before)
		n++;
	if (n == 0)
		return;
	pg_atomic_write_u64(&shared->settled, looks.at[n - 1].changed);
	looks.n -= n;
	memmove(looks.at, looks.at + n, looks.n * sizeof(looks.at[0]));
}
