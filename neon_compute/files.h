/*-------------------------------------------------------------------------
 *
 * files.h
 *	  Local files of the relations in the map: created with their true sizes,
 *	  all holes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_FILES_H
#define NEON_FILES_H

#include "map.h"

/* In _PG_init: before somebody looks at files by himself all are created. */
extern void files_install_hook(void);

/* In the postmaster, after kept_startup(): takes and creates those that cannot wait. */
extern void files_startup(void);

/* Is this a fork (NULL: none) of the boot whose files do not exist yet? */
static inline bool
files_missing(const MapFork *fork)
{
	return fork != NULL &&
		pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &fork->file_state)) == MAP_FILE_MISSING;
}

/* Creates the fork's files unless that was done; ERROR if it cannot be. */
extern void files_create(MapFork *fork);

/* All that are missing.  Can be cancelled; who does it at the same time helps. */
extern void files_create_all(void);

/* From now on the fork's files are not created any more. */
extern void files_forget(MapFork *fork);

static inline void
files_ensure(MapFork *fork)
{
	if (unlikely(files_missing(fork)))
		files_create(fork);
}

/*
 * Writes nblocks pages to the fork's file, at blocks that lie within one
 * chunk.  fd is of files_open_segment(); ERROR if it fails.
 */
extern void files_write(int fd, const MapFork *fork, BlockNumber blkno,
						const char *pages, int nblocks);

/*
 * Opens the segment file of a block, to be closed with CloseTransientFile().
 * Returns -1 if it does not exist (any more).
 */
extern int	files_open_segment(const MapFork *fork, BlockNumber blkno);

/*
 * Size of a fork, whether it is in the map or not, by its files; 0 if there
 * are none.  Needs no lock on the relation.
 */
extern uint64 files_blocks(RelFileNode rnode, ForkNumber forknum);

/* Flushes every file of the map, and their directories. */
extern void files_sync_all(void);

#endif							/* NEON_FILES_H */
