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

/*
 * If a compute was stopped cleanly in pgdata and left its pages, asks which of
 * them are not the same at lsn, and writes the answer into the directory that
 * is being built.  False if they are of no use.  Nobody works in pgdata.
 */
extern bool keep_prepare(PGconn *conn, const TimelineInfo *tl, XLogRecPtr lsn, const char *pgdata,
						 const char *built);

/* Moves them there; the old directory is not used any more. */
extern void keep_move(const char *pgdata, const char *built);

#endif							/* NEON_CTL_KEEP_H */
