/*-------------------------------------------------------------------------
 *
 * test_utils.h
 *	  What is registered when the library is loaded.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEST_UTILS_H
#define TEST_UTILS_H

/* Called once, in the postmaster. */
extern void discard_init(void);
extern void worker_init(void);

#endif							/* TEST_UTILS_H */
