/*-------------------------------------------------------------------------
 *
 * localstat.h
 *	  What the processes of this server read, fetch and wait for.
 *
 * Each process has a slot of shared memory that it alone counts in.  What
 * processes before it counted there stays, so the sum of all slots is the
 * server's total.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_LOCALSTAT_H
#define NEON_LOCALSTAT_H

#include "datatype/timestamp.h"
#include "storage/block.h"
#include "common/relpath.h"
#include "storage/relfilenode.h"

typedef enum LocalCounter
{
	LOCAL_HITS,					/* reads of blocks that were here */
	LOCAL_MISSES,				/* reads that waited for the pageserver */
	LOCAL_READ_AHEAD_HITS,		/* those of them whose block was on its way */
	LOCAL_FETCHES,				/* answers with pages */
	LOCAL_FETCHED_PAGES,
	LOCAL_FETCHED_BYTES,
	LOCAL_RETRIES,				/* attempts that failed */
	LOCAL_FAILURES,				/* waits that ended with an error */
	LOCAL_WAIT_US,				/* time in these waits, of hydration too */
	LOCAL_COUNTERS,
} LocalCounter;

/* What a process that needs a block waits for at the moment. */
typedef enum LocalWait
{
	LOCAL_WAIT_NONE,
	LOCAL_WAIT_CONNECT,			/* a connection to the pageserver */
	LOCAL_WAIT_FETCH,			/* an answer */
	LOCAL_WAIT_RETRY,			/* the next attempt */
} LocalWait;

/* In the postmaster. */
extern void localstat_request_shmem(void);
extern void localstat_shmem_startup(void);

/* ----------
 * By the process that something happens to.  Neither allocates nor fails.
 * ----------
 */
extern void local_count(LocalCounter counter, uint64 n);

/* What it has counted, from a beginning of which the caller knows nothing. */
extern uint64 local_mine(LocalCounter counter);

/*
 * This process needs a block that is not here: from now on, until it has it.
 * What it waits for is told in between.
 */
extern void local_wait_begin(RelFileNode rnode, ForkNumber forknum, BlockNumber blkno);
extern void local_wait_for(LocalWait wait);
extern void local_wait_end(void);

/* ----------
 * Looking at it.
 * ----------
 */

/* Since the last reset, or the server's start. */
extern uint64 local_total(LocalCounter counter);

typedef struct LocalProcess
{
	int			pid;
	uint64		counter[LOCAL_COUNTERS];	/* of this process, since the last reset */
	LocalWait	wait;
	bool		needs_block;	/* then these are set */
	RelFileNode rnode;
	ForkNumber	forknum;
	BlockNumber blkno;
	uint64		needs_us;		/* for so long */
} LocalProcess;

/*
 * Slots are numbered from 0; false if no process of ours is in this one that
 * has read anything.  What a busy process shows may be a little inconsistent.
 */
extern int	local_nslots(void);
extern bool local_process(int slot, LocalProcess *process);

extern const char *local_wait_name(LocalWait wait);	/* NULL for none */

extern void local_reset(void);
extern TimestampTz local_reset_time(void);	/* 0: never */

#endif							/* NEON_LOCALSTAT_H */
