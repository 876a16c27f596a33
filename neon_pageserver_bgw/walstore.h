/*-------------------------------------------------------------------------
 *
 * walstore.h
 *	  A timeline's stored WAL: plain segment files in wal/, byte-exact,
 *	  preallocated, never truncated, readable by pg_waldump.
 *
 * The first segment of a branch holds the ancestor's true bytes below the
 * branch point, that of a root timeline the initdb's below its start.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_WALSTORE_H
#define NEON_PS_WALSTORE_H

#include "neon_walcursor.h"
#include "timeline.h"

/* Owner only.  Writes at lsn (any alignment, may cross segments); not durable. */
extern void walstore_write(Timeline *tl, XLogRecPtr lsn, const char *data, size_t len);

/*
 * Owner only.  fdatasync of all that was written; a failure makes the timeline
 * read-only (the sync is never repeated).
 */
extern void walstore_sync(Timeline *tl);

/*
 * Owner only.  Makes the bytes below end durable, also those that another
 * process wrote and perhaps never synchronized.  Earlier segments are durable:
 * nobody goes on to the next one without that.
 */
extern void walstore_secure(Timeline *tl, XLogRecPtr end);

/* Owner only: overwrite from lsn to the end of its segment with zeros, later segments removed. */
extern void walstore_zero_after(Timeline *tl, XLogRecPtr lsn);

/*
 * Reads bytes of the timeline's history at lsn; below start_lsn's segment they
 * are the ancestor's.  False if they are not stored.
 */
extern bool walstore_read(Timeline *tl, XLogRecPtr lsn, char *buf, size_t len);

/* walcursor_open() on the timeline's stored WAL. */
extern WalCursor *walstore_cursor(Timeline *tl, XLogRecPtr start, XLogRecPtr prev,
								  XLogRecPtr limit);

/*
 * The record that starts at start, contiguous, CRC verified, in
 * CurrentMemoryContext; *end is its end LSN.  ereport(ERROR) with
 * ERRCODE_DATA_CORRUPTED if it is not there or bad.
 */
extern XLogRecord *walstore_record(Timeline *tl, XLogRecPtr start, XLogRecPtr *end);

/*
 * For who reads many records: from now on this process maps the segments that
 * walstore_record comes to, until it says false.  A segment that the disk cannot
 * deliver, or that somebody cut, is then a SIGBUS.
 */
extern void walstore_map_records(bool on);

/*
 * A reader over the stored WAL up to (not beyond) limit, ancestors included.
 * limit InvalidXLogRecPtr: to what is in the files.  Free with walstore_reader_free.
 */
extern XLogReaderState *walstore_reader(Timeline *tl, XLogRecPtr limit);
extern void walstore_reader_free(XLogReaderState *reader);

#endif							/* NEON_PS_WALSTORE_H */
