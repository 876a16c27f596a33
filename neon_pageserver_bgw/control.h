/*-------------------------------------------------------------------------
 *
 * control.h
 *	  The state of pg_control at any LSN, derived from WAL alone.
 *
 * The ingest stores it as a blob at start_lsn, every CONTROL_INTERVAL bytes of
 * WAL and at checkpoints; control_at() advances the nearest one over the WAL
 * in between, which also finds record boundaries, xl_prev and commit times.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_CONTROL_H
#define NEON_PS_CONTROL_H

#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "catalog/pg_control.h"
#include "lib/stringinfo.h"
#include "neon_key.h"
#include "timeline.h"

#define CONTROL_INTERVAL	(1024 * 1024)

typedef struct ControlState
{
	XLogRecPtr	lsn;			/* end of the last record in it */
	XLogRecPtr	prev;			/* start of that record */
	CheckPoint	checkpoint;		/* counters as a shutdown checkpoint here has them */
	xl_parameter_change parameters;
	uint32		term;			/* of the last boot record */
	TimestampTz max_commit_time;	/* largest commit time up to here; at first
								 * that of the initial checkpoint */
	XLogRecPtr	last_commit_end;	/* end of the last commit, abort or prepare */
	XLogRecPtr	last_commit_start;
	XLogRecPtr	commit_end;		/* end of the last commit alone; at first the
								 * start of the history */
	TimestampTz commit_time;	/* of that commit */
} ControlState;

/* The key of the encoded state. */
extern NeonKey control_key(void);

/* From a control file whose latest checkpoint record ends at lsn. */
extern void control_init(ControlState *state, const ControlFileData *file,
						 XLogRecPtr prev, XLogRecPtr lsn);

/* The settings that a control file keeps, from the state into it. */
extern void control_set_parameters(ControlFileData *file, const ControlState *state);

/* Applies the record that the reader has just read. */
extern void control_advance(ControlState *state, XLogReaderState *record);

extern void control_encode(const ControlState *state, StringInfo buf);
extern bool control_decode(const char *data, uint32 len, ControlState *state);

/*
 * The state at the newest stored blob at or below lsn; false if there is none.
 */
extern bool control_stored(Timeline *tl, XLogRecPtr lsn, ControlState *state);

/*
 * State at lsn, which must be a record end in the history of tl; else
 * ereport(ERROR, ERRCODE_INVALID_PARAMETER_VALUE) that names the nearest
 * record end below.
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

#endif							/* NEON_PS_CONTROL_H */
