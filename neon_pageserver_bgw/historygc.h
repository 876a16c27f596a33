/*-------------------------------------------------------------------------
 *
 * historygc.h
 *	  What history*.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_HISTORYGC_H
#define NEON_PS_HISTORYGC_H

#include "history.h"
#include "manifest.h"

/* ---- readers (historyread.c) ---- */

/* A new epoch: reads that begin from now on see what was changed before. */
extern uint64 history_epoch_advance(void);

/* Are the reads over that began before the epoch? */
extern bool history_epoch_passed(uint64 epoch);

/* ---- points ---- */

/*
 * When the point ends, DT_NOEND if it does not by itself: a lease when its time
 * is over, but after a start of the instance not before its whole length, as
 * its holder could not renew it in between.
 */
extern TimestampTz history_end_of(const ManifestPoint *point);

/* NULL, or the point; valid until the next call of anything here. */
extern const ManifestPoint *history_find_point(Timeline *tl, HistoryPointKind kind,
											   const NeonId *id);

/*
 * Drops the leases that had ended at a time before which no read that goes on
 * began: false if there are none.
 */
extern bool history_drop_ended(Timeline *tl, TimestampTz before);

/* Wakes the history worker: a point has ended before its time. */
extern void history_wake(void);
extern ConditionVariable *history_work_cv(void);

/* ---- the horizon (historygc.c) ---- */

/* The published horizon if the reads of before are over, else the one before it. */
extern XLogRecPtr history_usable_horizon(Timeline *tl);

/*
 * Moves the published horizon to cutoff (a commit's end, at or below
 * disk_consistent_lsn), durably; false if it is there already, or if reads from
 * before it moved last are still going on.
 */
extern bool history_publish(Timeline *tl, XLogRecPtr cutoff, TimestampTz time);

#endif							/* NEON_PS_HISTORYGC_H */
