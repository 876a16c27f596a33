/*-------------------------------------------------------------------------
 *
 * dsm.h
 *	  Dynamic shared memory that a killed server left behind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_DSM_H
#define NEON_CTL_DSM_H

/*
 * Removes the dynamic shared memory segments of the server whose System V
 * segment is shmem_id, to which no process is attached any more.  Does
 * nothing if what is found there is not what is expected.
 */
extern void dsm_remove_leftovers(int shmem_id);

#endif							/* NEON_CTL_DSM_H */
