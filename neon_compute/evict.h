/*-------------------------------------------------------------------------
 *
 * evict.h
 *	  Dropping chunks from local disk, so that it stays below its limit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_EVICT_H
#define NEON_EVICT_H

/* In _PG_init, once the ticket is read: the worker, if there is a limit. */
extern void evict_register_worker(void);

/* Only in TESTING builds. */
extern void evict_install_test_points(void);

#endif							/* NEON_EVICT_H */
