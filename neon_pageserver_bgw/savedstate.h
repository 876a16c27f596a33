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
#include "lib/stringinfo.h"
#include "neon_saved.h"

/*
 * Adds to the base backup what was saved and suits this kind of boot.  What is
 * not there, or damaged, is left out; a damaged file is logged.
 */
extern void savedstate_send(Timeline *tl, BootKind kind);

/* Of a timeline that no compute has written and nobody else knows: as if one had saved it. */
extern void savedstate_import(Timeline *tl, NeonSavedKind kind, XLogRecPtr lsn, StringInfo data);

#endif							/* NEON_PS_SAVEDSTATE_H */
