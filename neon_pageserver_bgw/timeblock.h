/*-------------------------------------------------------------------------
 *
 * timeblock.h
 *	  Time blocks: where transactions ended in flushed WAL, and the control
 *	  state there.  What boots, branches and times need once the WAL is gone.
 *
 * The value of a key of kind TIME, written by a flush.  A block covers an
 * interval (start, end] of LSNs within one megabyte of WAL; the intervals of a
 * timeline's blocks follow each other without a gap.  It holds the control
 * state as of start and, as differences, the states behind the records in it
 * that end a transaction (commit, abort, prepare).  The version's LSN is the
 * first one that it covers, start + 8: a lookup of a key at an LSN finds the
 * block that covers it, and of an interval (a, b] of LSNs the newest version is
 * all that a reader at b needs, as with every other key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_TIMEBLOCK_H
#define NEON_PS_TIMEBLOCK_H

#include "control.h"
#include "neon_codec.h"

#define TIMEBLOCK_SPAN		(1024 * 1024)	/* bytes of WAL that a key stands for */

/* The key of the block that covers lsn. */
static inline NeonKey
timeblock_key(XLogRecPtr lsn)
{
	uint64		number = (lsn - 1) / TIMEBLOCK_SPAN;

	return neon_key(NEON_KEY_TIME, 0, 0, (uint32) (number >> 32), 0, (uint32) number);
}

/* What record a state stands behind. */
typedef enum TimeEntryKind
{
	TIME_OTHER = 0,				/* none that ends a transaction: the last record of a flush */
	TIME_COMMIT = 1,
	TIME_NO_COMMIT = 2,			/* abort, prepare */
} TimeEntryKind;

extern TimeEntryKind timeblock_entry_kind(const ControlState *state);

/* ---- writing ---- */

typedef struct TimeBlock
{
	ControlState base;			/* at the last record end at or below start */
	XLogRecPtr	start;
	ControlState last;			/* of the last entry */
	uint32		nentries;
	StringInfoData entries;
} TimeBlock;

/* Allocates in CurrentMemoryContext at the first time. */
extern void timeblock_begin(TimeBlock *block, const ControlState *base, XLogRecPtr start);
extern void timeblock_add(TimeBlock *block, const ControlState *state);
extern bool timeblock_is_full(const TimeBlock *block);

/* Appends the stored form; end: the last LSN covered. */
extern void timeblock_encode(const TimeBlock *block, XLogRecPtr end, StringInfo buf);

/* ---- reading ---- */

typedef struct TimeBlockReader
{
	ControlState state;			/* at first the base */
	XLogRecPtr	start;
	XLogRecPtr	end;
	uint32		left;			/* entries */
	Cursor		cursor;			/* over the stored form, which has to stay */
} TimeBlockReader;

/* ereport(ERROR, ERRCODE_DATA_CORRUPTED) if the bytes are no block. */
extern void timeblock_open(TimeBlockReader *reader, const char *data, uint32 len);

/* The state behind the next entry; false if there is none.  Errors as above. */
extern bool timeblock_next(TimeBlockReader *reader);

#endif							/* NEON_PS_TIMEBLOCK_H */
