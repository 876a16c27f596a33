/*-------------------------------------------------------------------------
 *
 * keep.h
 *	  Warm restarts: the old data directory's relation files for the new one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_KEEP_H
#define NEON_CTL_KEEP_H

#include "pageserver.h"
#include "pqexpbuffer.h"

/* What a start kept of the local pages of the run before it. */
typedef struct KeptPages
{
	bool		offered;		/* there were some, of a clean stop */
	bool		known;			/* the rest is what the compute says */
	bool		complete;		/* it is final */
	int64		kept_chunks;
	int64		kept_bytes;
	int64		dropped_chunks;
	int64		dropped_bytes;
	char		reason[256];	/* why nothing was kept, or "" */
} KeptPages;

/*
 * If a compute was stopped cleanly in pgdata and left its pages, asks which of
 * them are not the same at lsn, and writes the answer into the directory that
 * is being built.  False if they are of no use; then *kept says why.  Nobody works
 * in pgdata.
 */
extern bool keep_prepare(PGconn *conn, const TimelineInfo *tl, XLogRecPtr lsn, const char *pgdata,
						 const char *built, KeptPages *kept);

/* Moves them there; the old directory is not used any more. */
extern void keep_move(const char *pgdata, const char *built);

/*
 * Asks the compute that was started; waits, not long, until its answer is final,
 * as the first one is if it was offered nothing.
 */
extern void keep_ask(PGconn *endpoint, KeptPages *kept, bool offered);

/* One line for people, none if there was nothing to keep; members of a JSON object. */
extern void keep_say(const KeptPages *kept);
extern void keep_json(PQExpBuffer buf, const KeptPages *kept);

#endif							/* NEON_CTL_KEEP_H */
