/*-------------------------------------------------------------------------
 *
 * skwal_private.h
 *	  What opening and creation of a timeline need of its segment files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_SKWAL_PRIVATE_H
#define NEON_SK_SKWAL_PRIVATE_H

#include "access/xlog_internal.h"
#include "skwal.h"

extern void skwal_segment_path(SkTimeline *tl, XLogSegNo segno, char *path);

/* Numbers in [from, to) of the stored segments, ascending, palloc'd; returns how many. */
extern int	skwal_segments(SkTimeline *tl, XLogSegNo from, XLogSegNo to, XLogSegNo **result);

/* The first segment, of zeros behind len bytes of head; durable. */
extern void skwal_make_first(SkTimeline *tl, XLogRecPtr start, const char *head, size_t len);

/* Is there a segment or a byte other than zero at or behind lsn? */
extern bool skwal_anything_from(SkTimeline *tl, XLogRecPtr lsn);

/* Zeroes lsn to the end of its segment, removes later ones; durable.  Positions stay. */
extern void skwal_zero_from(SkTimeline *tl, XLogRecPtr lsn);

/* Makes bytes [from, to) durable whatever became of earlier syncs. */
extern void skwal_secure(SkTimeline *tl, XLogRecPtr from, XLogRecPtr to);

#endif							/* NEON_SK_SKWAL_PRIVATE_H */
