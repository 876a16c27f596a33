/*-------------------------------------------------------------------------
 *
 * walwriter.h
 *	  WAL that arrives, wherever it comes from, becomes durable whole records.
 *
 * Used by the timeline's worker only.  Everything here asks for the right to
 * write (R2) before it changes anything, and ends with ereport(ERROR, NS001)
 * or false when a higher term has been promised.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_WALWRITER_H
#define NEON_SK_WALWRITER_H

#include "skwal.h"

typedef struct WalWriter
{
	SkTimeline *tl;
	SkReader   *reader;
	XLogRecPtr	received;		/* end of the bytes that were written */
	XLogRecPtr	synced;			/* end of those that are durable */
	XLogRecPtr	flushed;		/* end of the last whole record of these */
	XLogRecPtr	refreshed;		/* flushed at the last refresh of the state file */
	uint64		last_refresh;	/* neon_boottime_ms() */
} WalWriter;

/* Takes the right to write (sk_begin_write) and goes on at flush_lsn. */
extern void walwriter_begin(WalWriter *w, SkTimeline *tl, uint32 term, const char *source);

/* Writes bytes, which must follow those before; false with *problem if they do not. */
extern bool walwriter_take(WalWriter *w, XLogRecPtr start, const char *data, size_t len,
						   char **problem);

/*
 * One fdatasync for all that was taken; flush_lsn rises to the end of the last
 * whole record.  False with *problem if what came is no valid WAL: what lies
 * before it is durable, the rest has to be fetched again.
 */
extern bool walwriter_settle(WalWriter *w, char **problem);

/*
 * commit_lsn and acked_lsn in the state file follow once a second and at each
 * segment's end: called when the source has its answer, which must not wait
 * for that.
 */
extern void walwriter_refresh(WalWriter *w);

/* Gives the right to write back. */
extern void walwriter_end(WalWriter *w);

#endif							/* NEON_SK_WALWRITER_H */
