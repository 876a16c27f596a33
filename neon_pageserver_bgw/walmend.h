/*-------------------------------------------------------------------------
 *
 * walmend.h
 *	  Stored WAL that is damaged is fetched again from the timeline's source.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_WALMEND_H
#define NEON_PS_WALMEND_H

#include "timeline.h"

/*
 * Behind lsn no valid record is stored: does stored WAL go on there all the same,
 * below limit?  The start of the last page that says so, or 0.  What a process
 * leaves that ends in the midst of a record does not count.
 */
extern XLogRecPtr walmend_goes_on(Timeline *tl, XLogRecPtr lsn, XLogRecPtr limit);

/*
 * Walks over the stored records behind start, the end of the one that starts at
 * prev (invalid: not known), until one ends at or above upto.  What is not valid
 * is received from the timeline's source, verified by its CRCs and links from the
 * last good record to the next one, and written in place.  False if that cannot
 * be done; *text, palloc'd, is a sentence that says what was done, or why not.
 * Takes seconds and more; needs no ownership, and what is good stays as it is.
 * ereport(ERROR) for what has to do with this instance's own files.
 */
extern bool walmend(Timeline *tl, XLogRecPtr start, XLogRecPtr prev, XLogRecPtr upto, char **text);

/* walmend() of all that is indexed and in no layer file yet. */
extern bool walmend_unflushed(Timeline *tl, char **text);

/* File and offset of stored WAL, for messages. */
extern char *walmend_place(Timeline *tl, XLogRecPtr lsn);

#endif							/* NEON_PS_WALMEND_H */
