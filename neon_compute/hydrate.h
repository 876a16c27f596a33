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

extern void hydrate_define_gucs(void);

/*
 * Waits until the block is present, or local because of a truncation.  The
 * fork's files exist.  Called without LWLocks of ours; ERROR if the pageserver
 * does not give the block within neon.fetch_timeout, FATAL if this compute is
 * superseded.  True if the block was on its way already.
 */
extern bool hydrate_block(MapFork *fork, BlockNumber blkno);

/* Asks for the block without waiting, if that is possible now. */
extern void hydrate_prefetch(MapFork *fork, BlockNumber blkno);

#endif							/* NEON_HYDRATE_H */
