/*-------------------------------------------------------------------------
 *
 * walstore.h
 *	  A timeline's stored WAL: plain segment files in wal/, byte-exact, of full
 *	  size, preallocated while they are written, readable by pg_waldump.
 *
 * What is flushed to layers is removed after a while (walremove.h).  The first
 * segment of a branch holds the ancestor's true bytes below the branch point
 * if they were still stored when it was made, else records that do nothing;
 * that of a root timeline holds the initdb's below its start.
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
 * Any process: these bytes, which the caller has verified, take the place of
 * what is stored in [lsn, lsn + len) below flush_lsn, durably.  What is good there
 * stays what it is, so who reads meanwhile finds either.  A segment that is gone
 * or too short is made anew.
 */
extern void walstore_replace(Timeline *tl, XLogRecPtr lsn, const char *data, size_t len);

/*
 * Owner only: nobody will write for long.  All behind end, which is where the
 * last record ends, is zeros; it shall need no space.  A file system that cannot
 * do that keeps it.
 */
extern void walstore_give_space_back(Timeline *tl, XLogRecPtr end);

/* Where the timeline's own stored WAL begins: a segment's start; 0 if there is none. */
extern XLogRecPtr walstore_oldest(Timeline *tl);

/*
 * Reads bytes of the timeline's history at lsn; below start_lsn they are the
 * ancestor's, or the first segment's copy of them.  False if they are not stored.
 */
extern bool walstore_read(Timeline *tl, XLogRecPtr lsn, char *buf, size_t len);

/* Is lsn's segment stored, with the header that a segment has? */
extern bool walstore_has_segment(Timeline *tl, XLogRecPtr lsn);

/*
 * The bytes of lsn's segment below lsn, which is the end of a record that starts
 * at prev: the true ones if they are stored, else records that do nothing
 * (walpage_fill).  buf has room for them.
 */
extern void walstore_read_head(Timeline *tl, XLogRecPtr lsn, XLogRecPtr prev, char *buf);

/* walcursor_open() on the timeline's stored WAL. */
extern WalCursor *walstore_cursor(Timeline *tl, XLogRecPtr start, XLogRecPtr prev,
								  XLogRecPtr limit);

/*
 * The record that starts at start, contiguous, CRC verified, in
 * CurrentMemoryContext; *end is its end LSN.  ereport(ERROR) with
 * ERRCODE_DATA_CORRUPTED if it is not there or bad.
 */
extern XLogRecord *walstore_record(Timeline *tl, XLogRecPtr start, XLogRecPtr *end);

/* The same; NULL and what is wrong instead of the error. */
extern XLogRecord *walstore_try_record(Timeline *tl, XLogRecPtr start, XLogRecPtr *end,
									   const char **problem);

/*
 * For who reads many records: from now on this process maps the segments that
 * walstore_record comes to, until it says false.  A segment that the disk cannot
 * deliver, or that somebody cut, is then a SIGBUS.
 */
extern void walstore_map_records(bool on);

#endif							/* NEON_PS_WALSTORE_H */
