/*-------------------------------------------------------------------------
 *
 * walstore_private.h
 *	  What walstore.c, walrecord.c and walremove.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_WALSTORE_PRIVATE_H
#define NEON_PS_WALSTORE_PRIVATE_H

#include "access/xlogdefs.h"
#include "nodes/pg_list.h"
#include "walstore.h"

/* MAXPGPATH bytes, relative to the data directory. */
extern void walstore_segment_path(Timeline *tl, XLogSegNo segno, char *path);

/* Numbers of the timeline's own stored segments (XLogSegNo *), highest first. */
extern List *walstore_segments(Timeline *tl);

/* True if the segment is not there any more. */
extern bool walstore_unlink(Timeline *tl, XLogSegNo segno);

/* The bytes of a segment in memory; NULL if they cannot be had that way. */
extern const char *walstore_mapped_segment(Timeline *tl, XLogSegNo segno);
extern void walstore_unmap(void);

#endif							/* NEON_PS_WALSTORE_PRIVATE_H */
