/*-------------------------------------------------------------------------
 *
 * compactclaim.h
 *	  Who works on which of a timeline's layer files.
 *
 * A process has the *turn* of a timeline while it chooses work, or while it puts
 * the result into the manifest: so it sees what all others have done, and none
 * of them changes the list of files meanwhile.  What was chosen is *claimed*, a
 * partition or all files, and worked on without the turn.  A process has one
 * claim at most.  Turn and claim end with the process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_COMPACTCLAIM_H
#define NEON_PS_COMPACTCLAIM_H

#include "timeline.h"

/* Waits, interruptibly, for whoever has it. */
extern void compactclaim_begin_turn(Timeline *tl);

/* Gives the turn back, if this process has one. */
extern void compactclaim_end_turn(void);

/*
 * Claims the partition that begins with an encoded key, or all files (NULL),
 * with the turn.  False if another process has a claim that it would meet.
 */
extern bool compactclaim_take(Timeline *tl, const uint8 *first_key);

/* Has another process claimed the partition (NULL: anything of the timeline)? */
extern bool compactclaim_is_taken(Timeline *tl, const uint8 *first_key);

/* Gives back what this process has claimed, if anything. */
extern void compactclaim_release(void);

/* Claims of all processes on all timelines. */
extern int	compactclaim_count(void);

/* Called from the library's init files. */
extern Size compactclaim_shmem_size(void);
extern void compactclaim_shmem_init(void);

#endif							/* NEON_PS_COMPACTCLAIM_H */
