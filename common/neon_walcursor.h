/*-------------------------------------------------------------------------
 *
 * neon_walcursor.h
 *	  Walking over the records of WAL that is stored somewhere, also while it
 *	  is being received.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_WALCURSOR_H
#define NEON_WALCURSOR_H

#include "access/xlogreader.h"

typedef enum WalCursorResult
{
	WALCURSOR_RECORD,			/* cursor->reader holds the next record */
	WALCURSOR_MORE,				/* the record goes beyond limit, or is not stored */
	WALCURSOR_INVALID,			/* what is there is no valid record; see problem */
} WalCursorResult;

/* Reads len bytes at lsn, which lie in one page; false if they are not stored. */
typedef bool (*WalCursorRead) (void *source, XLogRecPtr lsn, char *buf, size_t len);

typedef struct WalCursor
{
	WalCursorRead read;
	void	   *source;
	uint32		segsize;
	XLogReaderState *reader;
	XLogRecPtr	limit;			/* bytes at and above are not looked at; may be raised */
	XLogRecPtr	next;			/* end of the last record that was returned */
	XLogRecPtr	prev;			/* its start; Invalid: not checked for the first one */
	const char *problem;		/* why WALCURSOR_INVALID */
	bool		started;
	MemoryContext context;		/* the reader's memory */
} WalCursor;

/*
 * A cursor before the record that starts at start (the end of the record
 * before it), whose xl_prev must be prev unless that is invalid.  limit
 * PG_UINT64_MAX: as far as bytes are stored.
 */
extern WalCursor *walcursor_open(WalCursorRead read, void *source, uint64 system_identifier,
								 uint32 segsize, XLogRecPtr start, XLogRecPtr prev,
								 XLogRecPtr limit);

/*
 * The next record, CRC and xl_prev verified.  After anything but
 * WALCURSOR_RECORD it may be called again, when limit was raised or the bytes
 * have changed.
 */
extern WalCursorResult walcursor_next(WalCursor *cursor);
extern void walcursor_close(WalCursor *cursor);

/* Where the first record behind lsn starts: after a page header if lsn is a page boundary. */
extern XLogRecPtr walcursor_record_start(XLogRecPtr lsn, uint32 segsize);

#endif							/* NEON_WALCURSOR_H */
