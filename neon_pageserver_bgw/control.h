/*-------------------------------------------------------------------------
 *
 * control.h
 *	  The state of pg_control behind a record, derived from WAL alone.
 *
 * The ingest puts it into the open index every CONTROL_INTERVAL bytes of WAL and
 * at checkpoints; a flush writes time blocks (timeblock.h) in its place.
 * controlat.h finds it at an LSN.
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

/* The key of the encoded state in the open index. */
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

#endif							/* NEON_PS_CONTROL_H */
