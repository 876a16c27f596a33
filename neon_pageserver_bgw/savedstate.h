/*-------------------------------------------------------------------------
 *
 * savedstate.h
 *	  What computes save between their lives, beside the timeline.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_SAVEDSTATE_H
#define NEON_PS_SAVEDSTATE_H

#include "bootfiles.h"

/*
 * Adds to the base backup what was saved and suits this kind of boot.  What is
 * not there, or damaged, is left out; a damaged file is logged.
 */
extern void savedstate_send(Timeline *tl, BootKind kind);

#endif							/* NEON_PS_SAVEDSTATE_H */
