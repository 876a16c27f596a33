/*-------------------------------------------------------------------------
 *
 * crashnote.h
 *	  Which timeline a process was working on when it crashed.
 *
 * Kept in a file outside PostgreSQL's shared memory, so that it survives the
 * restart that follows.  A timeline on which processes crash again and again is
 * refused, and the others are served.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_CRASHNOTE_H
#define NEON_PS_CRASHNOTE_H

#include "neon_key.h"
#include "timeline.h"

/* What this process works on; read by the signal handler. */
typedef struct CrashNote
{
	NeonId		tenant;
	NeonId		timeline;
	NeonKey		key;
	XLogRecPtr	lsn;
} CrashNote;

extern CrashNote crashnote_now;

static inline void
crashnote_set(const Timeline *tl, const NeonKey *key, XLogRecPtr lsn)
{
	crashnote_now.tenant = tl->id.tenant;
	crashnote_now.timeline = tl->id.timeline;
	crashnote_now.key = *key;
	crashnote_now.lsn = lsn;
}

/* In the postmaster: maps the file and installs the signal handlers. */
extern void crashnote_init(void);

/*
 * True if so many processes crashed lately on the timeline that it is to be
 * refused; detail (TIMELINE_DETAIL_MAX bytes) says so.
 */
extern bool crashnote_is_refused(const NeonId *tenant, const NeonId *timeline, char *detail);

#endif							/* NEON_PS_CRASHNOTE_H */
