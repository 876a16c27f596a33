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

extern void pace_request_shmem(void);
extern void pace_shmem_startup(void);

/* For the saver, every PACE_ASK_MS; idle is called while it waits and may throw. */
extern void pace_keep_asking(void (*idle) (void));

/* Waits as long as this session's WAL is worth; interruptible. */
extern void pace_wait(void);

/* Why writers are slowed down, as a line; false if they are not. */
extern bool pace_describe(char *buf, size_t size);

#endif							/* NEON_PACE_H */
