/*-------------------------------------------------------------------------
 *
 * kept.h
 *	  Warm restarts: relation files of the life before that are right at this
 *	  boot's LSN.
 *
 * keptstop.c writes which blocks are here, at a clean stop; kept.c takes the
 * files over, if they still are where they were (keptplace.c).  README.md has
 * the proof that what is kept is right.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_KEPT_LOCAL_H
#define NEON_KEPT_LOCAL_H

#include <time.h>

#include "map.h"
#include "neon_kept.h"

/* ---- kept.c ---- */

/* GUC: write at a stop, and take over at a start */
extern bool neon_keep_local;

extern void kept_define_settings(void);
extern void kept_request_shmem(void);

/*
 * In the postmaster, before any file is created: finds out whether the life
 * before left something that is right.  Nothing that is wrong with it is an
 * error.
 */
extern void kept_startup(void);

/* Is there something to take, for a file at path? */
extern bool kept_has_file(const MapFork *fork, const char *path);

/*
 * Moves the segment that the life before had to path.  Returns its size in
 * blocks, 0 if there is none.  The caller holds the fork's file lock, and the
 * files are not done.
 */
extern BlockNumber kept_take_segment(const MapFork *fork, BlockNumber segno, const char *path);

/*
 * After the segment got its size: the blocks that are right, among the first
 * nblocks, are present; the space of chunks that have none is given back.
 */
extern void kept_set_present(MapFork *fork, BlockNumber segno, BlockNumber nblocks, int fd);

/* When all that can be taken was: removes what is left of the life before, and logs what was kept. */
extern void kept_finish(void);

/* A file's time as NeonKeptHeader has it. */
static inline int64
kept_time(const struct timespec *time)
{
	return (int64) time->tv_sec * 1000000000 + time->tv_nsec;
}

/* ---- keptplace.c ---- */

/* Of the data directory, now; false if it cannot be known. */
extern bool kept_place(NeonKeptPlace *place);

/* Why files that were left there may be others now, or NULL. */
extern const char *kept_place_problem(const NeonKeptPlace *then);

/* ---- keptstop.c ---- */

/* In the postmaster: at its clean end the file is written. */
extern void keptstop_register(void);

#endif							/* NEON_KEPT_LOCAL_H */
