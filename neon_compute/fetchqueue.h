/*-------------------------------------------------------------------------
 *
 * fetchqueue.h
 *	  This process's requests for absent blocks, and what is answered.
 *
 * False from queue_send(), queue_flush() or queue_receive(): the connection
 * failed, what was on its way is not answered any more, queue_problem() says why.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_FETCHQUEUE_H
#define NEON_FETCHQUEUE_H

#include "map.h"
#include "utils/timestamp.h"

/* So many requests may be on their way. */
#define QUEUE_SIZE			64

typedef struct FetchRange
{
	MapFork    *fork;
	RelFileNode rnode;			/* the fork's when it was asked for */
	BlockNumber start;
	uint16		nblocks;
	uint32		gen;			/* of the chunk when it was asked for */
	uint64		reqid;
} FetchRange;

/* Is the block one of the range? */
static inline bool
range_has(const FetchRange *range, const MapFork *fork, BlockNumber blkno)
{
	return range->fork == fork && blkno >= range->start &&
		blkno - range->start < range->nblocks;
}

/* Forgets what will not be answered any more: before each use of what follows. */
extern void queue_check(void);

/* The range that was asked for and has this block, or NULL. */
extern const FetchRange *queue_find(const MapFork *fork, BlockNumber blkno);

/* Is an answer on its way that has this block? */
extern bool queue_has(const MapFork *fork, BlockNumber blkno);

/* Requests, and blocks, on their way. */
extern int	queue_length(void);
extern uint32 queue_blocks(void);

/*
 * Puts a request for fork, start and nblocks, less than QUEUE_SIZE being on
 * their way; the other members are filled in.  queue_flush() sends them.
 */
extern bool queue_send(FetchRange *range, TimestampTz deadline);
extern bool queue_flush(TimestampTz deadline);

/*
 * Waits for the next answer, something being on its way, and installs its
 * pages.  fork and blkno: the block that is waited for, or NULL; an answer that
 * says that it cannot be had is an ERROR.
 */
extern bool queue_receive(const MapFork *fork, BlockNumber blkno, TimestampTz deadline);

/* Was an error answered for a range from which this block was wanted last? */
extern bool queue_has_failed(const MapFork *fork, BlockNumber blkno);

/* Why the last attempt failed, an error answer or that of the stream; or "". */
extern const char *queue_problem(void);
extern void queue_forget_problem(void);

/* What the last request of a primary may not be older than. */
extern XLogRecPtr queue_asked_since(void);

/* Blocks that this process has written to files so far. */
extern uint64 queue_installed(void);

#endif							/* NEON_FETCHQUEUE_H */
