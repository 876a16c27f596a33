/*-------------------------------------------------------------------------
 *
 * savedfsm_private.h
 *	  What the two halves of saved free space maps share: savedfsm.c, which
 *	  puts them back, and savedfsm_collect.c, which saves them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SAVEDFSM_PRIVATE_H
#define NEON_SAVEDFSM_PRIVATE_H

#include "neon_savedfsm.h"

/* Adds what was restored and not put back yet. */
extern void savedfsm_add_untouched(FsmCollector *col);

#endif							/* NEON_SAVEDFSM_PRIVATE_H */
