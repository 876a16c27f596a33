/*-------------------------------------------------------------------------
 *
 * acknowledge.h
 *	  A commit is told to be done when a majority has it, and not before.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_ACKNOWLEDGE_H
#define NEON_ACKNOWLEDGE_H

/* In _PG_init, after the mode is decided: does nothing in laptop mode. */
extern void acknowledge_install(void);

#endif							/* NEON_ACKNOWLEDGE_H */
