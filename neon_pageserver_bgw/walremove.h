/*-------------------------------------------------------------------------
 *
 * walremove.h
 *	  Stored WAL that nobody needs any more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_WALREMOVE_H
#define NEON_PS_WALREMOVE_H

#include "timeline.h"

/*
 * Removes the segments of the timeline that lie wholly below its
 * disk_consistent_lsn, but for the last neon_pageserver.wal_keep of them.  For
 * whoever has moved that position from flushed_before, durably.  What cannot be
 * removed is logged and left for the next time.
 */
extern void walremove_flushed(Timeline *tl, XLogRecPtr flushed_before);

#endif							/* NEON_PS_WALREMOVE_H */
