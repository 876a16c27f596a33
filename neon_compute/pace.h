/*-------------------------------------------------------------------------
 *
 * pace.h
 *	  The pace of writers while the pageserver's compaction is behind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PACE_H
#define NEON_PACE_H

#define PACE_ASK_MS		2000	/* between two calls of pace_keep_asking() */

/* How long to wait at most: at a statement or commit, and where others wait for a lock. */
#define PACE_STEP_MS	1000
#define PACE_EXTEND_MS	10

extern void pace_request_shmem(void);
extern void pace_shmem_startup(void);

/* For the saver, every PACE_ASK_MS; idle is called while it waits and may throw. */
extern void pace_keep_asking(void (*idle) (void));

/*
 * Waits as long as this session's WAL is worth, interruptibly; returns at once
 * where throttle_may_wait() is false.
 */
extern void pace_wait(int longest_ms);

/* Why writers are slowed down, as a line; false if they are not. */
extern bool pace_describe(char *buf, size_t size);

#endif							/* NEON_PACE_H */
