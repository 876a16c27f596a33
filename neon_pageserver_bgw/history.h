/*-------------------------------------------------------------------------
 *
 * history.h
 *	  What of a timeline's past must stay readable: the horizon, and the points
 *	  below it (branch points of children, leases).
 *
 * The horizon moves in three steps: it is published by a synchronized edit of
 * the manifest; from then on reads below it are refused, but at the points;
 * when the reads that began before are over, compaction may use it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_HISTORY_H
#define NEON_PS_HISTORY_H

#include "timeline.h"

typedef enum HistoryPointKind
{
	HISTORY_BRANCH = 'b',		/* id: of the child; never expires */
	HISTORY_LEASE = 'l',		/* id: of the lease */
} HistoryPointKind;

/* What compaction has to keep. */
typedef struct RetentionSet
{
	XLogRecPtr	horizon;		/* every version above it; 0: everything */
	int			npoints;
	XLogRecPtr *points;			/* sorted, unique, <= horizon: the state at each */
} RetentionSet;

/*
 * The set as of now, one chunk in CurrentMemoryContext.  Whoever takes it may
 * use it for as long as he likes: points made later lie at or above its horizon
 * or are in it.  Takes history_lock; reads the manifest.
 */
extern RetentionSet *history_retention(Timeline *tl);

/* ---- points ---- */

/*
 * Makes the LSN a branch point, durably.  ereport(ERROR) if it is below the
 * horizon and not a point already.
 */
extern void history_add_branch(Timeline *tl, const NeonId *child, XLogRecPtr lsn);

/* The child was never made, and nobody can have read it. */
extern void history_drop_branch(Timeline *tl, const NeonId *child);

/*
 * The child is gone; its point becomes a lease that has ended, so that it goes
 * when the reads that used it are over.
 */
extern void history_release_branch(Timeline *tl, const NeonId *child);

/*
 * Makes a lease of the LSN, or renews the one with this id; durable when it
 * returns its end.  One of which more than two thirds are left is not renewed.
 * length is in microseconds.  ereport(ERROR) as history_add_branch.
 */
extern TimestampTz history_lease(Timeline *tl, const NeonId *id, XLogRecPtr lsn, int64 length);

/* The holder needs it no longer; false if there is none. */
extern bool history_release_lease(Timeline *tl, const NeonId *id);

/* ---- readers ---- */

/*
 * Around a read at an LSN that a client chose.  begin makes compaction wait and
 * returns the oldest LSN that is readable; what was last_record_lsn after it is
 * readable, until end.  One at a time in a process; a read that an ERROR ends
 * is ended by the caller's PG_CATCH or by the end of the transaction.
 */
extern XLogRecPtr history_read_begin(Timeline *tl);
extern void history_read_end(void);

/*
 * ereport(ERROR, sqlstate) unless lsn >= cutoff (of history_read_begin), or is
 * a point; what an ancestor would be asked for counts too.
 */
extern void history_check(Timeline *tl, XLogRecPtr lsn, XLogRecPtr cutoff, int sqlstate);

/* ereport(ERROR, 22023) if the time is older than the last commit at or below the horizon. */
extern void history_check_time(Timeline *tl, TimestampTz when);

/* begin and check for an LSN that is given: 22023 if it is refused. */
extern void history_read_begin_at(Timeline *tl, XLogRecPtr lsn);

/* ---- the horizon ---- */

/* The published horizon, and the time of the last commit at or below it; 0: none. */
extern XLogRecPtr history_cutoff(Timeline *tl, TimestampTz *time);

/* The oldest LSN from which on the history is whole, ancestors included. */
extern XLogRecPtr history_oldest(Timeline *tl);

#endif							/* NEON_PS_HISTORY_H */
