/*-------------------------------------------------------------------------
 *
 * hydrate.h
 *	  Fetching absent blocks into the local files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_HYDRATE_H
#define NEON_HYDRATE_H

#include "map.h"

/*
 * Waits until the block is present, or local because of a truncation.  The
 * fork's files exist.  Called without LWLocks of ours; ERROR if the pageserver
 * does not give the block within neon.fetch_timeout, FATAL if this compute is
 * superseded.  True if the block was on its way already.
 */
extern bool hydrate_block(MapFork *fork, BlockNumber blkno);

/* The same, as part of reading all that is absent of the fork, forward. */
extern void hydrate_forward(MapFork *fork, BlockNumber blkno);

/*
 * Asks for those of a chunk's blocks that are absent, waiting only if too many
 * are on their way already; hydrate_finish() waits for all of them.  False if
 * the pageserver was not reached: what was asked for is forgotten then.
 */
extern bool hydrate_run(MapFork *fork, BlockNumber start, uint32 nblocks);
extern bool hydrate_finish(void);

/* Asks for the block without waiting, if that is possible now. */
extern void hydrate_prefetch(MapFork *fork, BlockNumber blkno);

#endif							/* NEON_HYDRATE_H */
