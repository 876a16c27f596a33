/*-------------------------------------------------------------------------
 *
 * controlat.h
 *	  The control state at an LSN or a time of a timeline's history.
 *
 * What is flushed is in time blocks, which know the ends of transactions; behind
 * that stored WAL is read, from the nearest state that the ingest put.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_CONTROLAT_H
#define NEON_PS_CONTROLAT_H

#include "control.h"

/*
 * The state at lsn or, where it is not known to be the end of a record, at the
 * nearest one below that is known.  Exact at the ends of transactions, of
 * flushes, and wherever the WAL is still stored.  False if lsn lies before the
 * history.
 */
extern bool control_find(Timeline *tl, XLogRecPtr lsn, ControlState *state);

/*
 * State at lsn; ereport(ERROR, ERRCODE_INVALID_PARAMETER_VALUE) that names the
 * nearest possible LSN below, if it is not known there.
 */
extern void control_at(Timeline *tl, XLogRecPtr lsn, ControlState *state);

/*
 * The state at the last commit, abort or prepare record that ends at or below
 * lsn (start_lsn if there is none): what a user's LSN is rounded down to.
 */
extern void control_round_to_commit(Timeline *tl, XLogRecPtr lsn, ControlState *state);

/*
 * End of the last commit with time <= when before the first one with a later
 * time, in LSN order.  *in_future is set if the history ends before when;
 * false if when lies before the timeline's history.
 */
extern bool control_lsn_for_timestamp(Timeline *tl, TimestampTz when, XLogRecPtr *lsn,
									  TimestampTz *commit_time, bool *in_future);

#endif							/* NEON_PS_CONTROLAT_H */
