/*-------------------------------------------------------------------------
 *
 * localstat.c
 *	  What the processes of this server read, fetch and wait for.
 *
 * A slot belongs to whoever has the PGPROC of the same number.  Its counters
 * only rise: who takes the slot over, and a reset, note where they were.  So
 * counting takes no lock and no atomic addition; each value has one writer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "localstat.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

/* What its owner writes and others look at. */
typedef struct LocalSlot
{
	pg_atomic_uint64 counter[LOCAL_COUNTERS];
	pg_atomic_uint64 at_start[LOCAL_COUNTERS];	/* when its owner came */
	pg_atomic_uint64 at_reset[LOCAL_COUNTERS];
	pg_atomic_uint32 pid;		/* of the owner, or 0 */
	pg_atomic_uint32 wait;		/* LocalWait */
	pg_atomic_uint64 since;		/* neon_clock() since the block is needed, or 0 */
	RelFileNode rnode;
	ForkNumber	forknum;
	BlockNumber blkno;
} LocalSlot;

/* No two processes write to the same cache line. */
#define SLOT_SIZE			CACHELINEALIGN(sizeof(LocalSlot))

typedef struct LocalShared
{
	int			nslots;
	pg_atomic_uint64 reset_time;
} LocalShared;

static LocalShared *shared = NULL;
static char *slots = NULL;
static LocalSlot *my_slot = NULL;

/* ----------
 * Shared memory
 * ----------
 */

/* Those of prepared transactions come after all others, and read nothing. */
static int
count_slots(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

static Size
shared_size(void)
{
	return add_size(CACHELINEALIGN(sizeof(LocalShared)), mul_size(SLOT_SIZE, count_slots()));
}

void
localstat_request_shmem(void)
{
	RequestAddinShmemSpace(shared_size());
}

static LocalSlot *
slot_at(int i)
{
	return (LocalSlot *) (slots + (Size) i * SLOT_SIZE);
}

static void
init_slot(LocalSlot *slot)
{
	memset(slot, 0, sizeof(*slot));
	for (int c = 0; c < LOCAL_COUNTERS; c++)
	{
		pg_atomic_init_u64(&slot->counter[c], 0);
		pg_atomic_init_u64(&slot->at_start[c], 0);
		pg_atomic_init_u64(&slot->at_reset[c], 0);
	}
	pg_atomic_init_u32(&slot->pid, 0);
	pg_atomic_init_u32(&slot->wait, LOCAL_WAIT_NONE);
	pg_atomic_init_u64(&slot->since, 0);
}

void
localstat_shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon local statistics", shared_size(), &found);
	slots = (char *) shared + CACHELINEALIGN(sizeof(LocalShared));
	if (!found)
	{
		shared->nslots = count_slots();
		pg_atomic_init_u64(&shared->reset_time, 0);
		for (int i = 0; i < shared->nslots; i++)
			init_slot(slot_at(i));
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ----------
 * Counting
 * ----------
 */

/* The last thing before the PGPROC is free: it keeps the pid of who has ended. */
static void
give_back_slot(int code, Datum arg)
{
	pg_atomic_write_u64(&my_slot->since, 0);
	pg_atomic_write_u32(&my_slot->wait, LOCAL_WAIT_NONE);
	pg_atomic_write_u32(&my_slot->pid, 0);
}

static bool
take_slot(void)
{
	LocalSlot  *slot;

	if (my_slot != NULL)
		return true;
	if (shared == NULL || MyProc == NULL || MyProc->pgprocno >= shared->nslots)
		return false;
	slot = slot_at(MyProc->pgprocno);
	pg_atomic_write_u64(&slot->since, 0);
	pg_atomic_write_u32(&slot->wait, LOCAL_WAIT_NONE);
	for (int c = 0; c < LOCAL_COUNTERS; c++)
		pg_atomic_write_u64(&slot->at_start[c], pg_atomic_read_u64(&slot->counter[c]));
	pg_write_barrier();
	pg_atomic_write_u32(&slot->pid, MyProcPid);
	my_slot = slot;
	on_shmem_exit(give_back_slot, 0);
	return true;
}

void
local_count(LocalCounter counter, uint64 n)
{
	pg_atomic_uint64 *value;

	if (unlikely(!take_slot()))
		return;
	value = &my_slot->counter[counter];
	pg_atomic_write_u64(value, pg_atomic_read_u64(value) + n);
}

uint64
local_mine(LocalCounter counter)
{
	return take_slot() ? pg_atomic_read_u64(&my_slot->counter[counter]) : 0;
}

void
local_wait_begin(RelFileNode rnode, ForkNumber forknum, BlockNumber blkno)
{
	if (!take_slot())
		return;
	my_slot->rnode = rnode;
	my_slot->forknum = forknum;
	my_slot->blkno = blkno;
	pg_write_barrier();
	pg_atomic_write_u64(&my_slot->since, neon_clock());
}

void
local_wait_for(LocalWait wait)
{
	if (take_slot())
		pg_atomic_write_u32(&my_slot->wait, wait);
}

void
local_wait_end(void)
{
	if (!take_slot())
		return;
	pg_atomic_write_u32(&my_slot->wait, LOCAL_WAIT_NONE);
	pg_atomic_write_u64(&my_slot->since, 0);
}

/* ----------
 * Looking
 * ----------
 */

/* Since a value that was the counter's before: looked at first, so this is never negative. */
static uint64
counted_since(LocalSlot *slot, LocalCounter counter, uint64 before)
{
	pg_read_barrier();
	return pg_atomic_read_u64(&slot->counter[counter]) - before;
}

uint64
local_total(LocalCounter counter)
{
	uint64		total = 0;

	for (int i = 0; i < local_nslots(); i++)
	{
		LocalSlot  *slot = slot_at(i);

		total += counted_since(slot, counter, pg_atomic_read_u64(&slot->at_reset[counter]));
	}
	return total;
}

int
local_nslots(void)
{
	return shared == NULL ? 0 : shared->nslots;
}

bool
local_process(int i, LocalProcess *process)
{
	LocalSlot  *slot = slot_at(i);
	uint64		since;

	memset(process, 0, sizeof(*process));
	process->pid = pg_atomic_read_u32(&slot->pid);
	if (process->pid == 0 || ProcGlobal->allProcs[i].pid != process->pid)
		return false;
	pg_read_barrier();
	for (int c = 0; c < LOCAL_COUNTERS; c++)
	{
		uint64		start = pg_atomic_read_u64(&slot->at_start[c]);
		uint64		reset = pg_atomic_read_u64(&slot->at_reset[c]);

		process->counter[c] = counted_since(slot, c, Max(start, reset));
	}
	process->wait = pg_atomic_read_u32(&slot->wait);

	since = pg_atomic_read_u64(&slot->since);
	pg_read_barrier();
	process->rnode = slot->rnode;
	process->forknum = slot->forknum;
	process->blkno = slot->blkno;
	pg_read_barrier();
	/* it may need another block by now; then this look shows none */
	if (since != 0 && pg_atomic_read_u64(&slot->since) == since)
	{
		process->needs_block = true;
		process->needs_us = neon_clock() - since;
	}
	return true;
}

/* PostgreSQL 15 has no names for the waits of extensions, so these are shown by our view. */
const char *
local_wait_name(LocalWait wait)
{
	switch (wait)
	{
		case LOCAL_WAIT_NONE:
			return NULL;
		case LOCAL_WAIT_CONNECT:
			return "NeonConnect";
		case LOCAL_WAIT_FETCH:
			return "NeonFetch";
		case LOCAL_WAIT_RETRY:
			return "NeonRetry";
	}
	return NULL;
}

void
local_reset(void)
{
	for (int i = 0; i < local_nslots(); i++)
	{
		LocalSlot  *slot = slot_at(i);

		for (int c = 0; c < LOCAL_COUNTERS; c++)
			pg_atomic_write_u64(&slot->at_reset[c], pg_atomic_read_u64(&slot->counter[c]));
	}
	pg_atomic_write_u64(&shared->reset_time, GetCurrentTimestamp());
}

TimestampTz
local_reset_time(void)
{
	return pg_atomic_read_u64(&shared->reset_time);
}
