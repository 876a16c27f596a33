/*-------------------------------------------------------------------------
 *
 * skwal.h
 *	  A timeline's WAL on a safekeeper: plain segments in DIR/wal/, created
 *	  full of zeros, never recycled; zeros behind the last write.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_SKWAL_H
#define NEON_SK_SKWAL_H

#include "table.h"

/* ---- the writer's (sk_begin_write) ---- */

/*
 * Writes at lsn (any alignment, may cross segments); not durable.  Asks
 * sk_check_write() before each write to a file (R2).  After a failed write:
 * ereport(ERROR) and the bytes above flush_lsn are to be written again.
 */
extern void skwal_write(SkTimeline *tl, XLogRecPtr lsn, const char *data, size_t len);

/*
 * fdatasync of all that was written.  A failure is never retried on the same
 * file: the segment is made anew from what lies below flush_lsn (if that fails
 * too the member is damaged), and ereport(ERROR): go on at flush_lsn.
 */
extern void skwal_sync(SkTimeline *tl);

/* ---- under the operation lock, nobody writing ---- */

/*
 * Cuts the log at lsn (a record end): zeroes the rest of its segment, removes
 * later segments, fsyncs both.  flush_lsn and written_lsn become lsn.
 */
extern void skwal_truncate(SkTimeline *tl, XLogRecPtr lsn);

/*
 * Removes whole segments below lsn (at most up to commit_lsn): wal_start is
 * persisted first, then files go.  Returns the new wal_start.
 */
extern XLogRecPtr skwal_remove_below(SkTimeline *tl, XLogRecPtr lsn);

/*
 * Segments, at least one, that hold the len bytes from start (a segment's
 * start) on, and zeros behind them; durable.  Positions stay.
 */
extern void skwal_put_segments(SkTimeline *tl, XLogRecPtr start, const char *data, size_t len);

/* Whether the boot record of the last term goes with WAL below new_start: it is kept in st. */
extern void skwal_remember_boot(SkTimeline *tl, SkState *st, XLogRecPtr new_start);

/* Removes the files below the segment of lsn, which is wal_start already. */
extern void skwal_remove_files_below(SkTimeline *tl, XLogRecPtr lsn);

/* ---- anybody's ---- */

/* Bytes as they are in the files; false if some are not stored (below wal_start, no segment). */
extern bool skwal_read(SkTimeline *tl, XLogRecPtr lsn, char *buf, size_t len);

/* Closes what this process has open of the timeline. */
extern void skwal_forget(SkTimeline *tl);

/* False if the file system has less than neon_safekeeper.min_free_disk left. */
extern bool skwal_disk_has_space(void);

/* Bytes of WAL files of a timeline. */
extern uint64 skwal_disk_size(SkTimeline *tl);

/* ---- records ---- */

/*
 * Follows the records of a log that is being written.  limit is how far bytes
 * are stored; skreader_follow() returns the end of the last whole record below
 * it, CRC, xl_prev, page addresses verified.
 */
typedef struct SkReader SkReader;

/* start: a record end (usually flush_lsn). */
extern SkReader *skreader_open(SkTimeline *tl, XLogRecPtr start);

/*
 * *problem is set when what is there below limit is no valid record (corrupt
 * WAL, not just an incomplete one), else NULL.
 */
extern XLogRecPtr skreader_follow(SkReader *r, XLogRecPtr limit, const char **problem);
extern void skreader_close(SkReader *r);

/*
 * Where the first record begins on the page at from or behind it (or the one
 * before ends): *at, at most limit.  False if a page header below limit is
 * wrong; *at is that page then.
 */
extern bool skreader_first_record(SkTimeline *tl, XLogRecPtr from, XLogRecPtr limit,
								  XLogRecPtr *at);

/*
 * R10: the term of the boot record at x and what it holds of the boot id.
 * False if there is none, or not all of it below limit yet.
 */
extern bool skreader_boot_record(SkTimeline *tl, XLogRecPtr x, XLogRecPtr limit,
								 uint32 *term, NeonId *boot_id);

#endif							/* NEON_SK_SKWAL_H */
