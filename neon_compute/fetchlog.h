/*-------------------------------------------------------------------------
 *
 * fetchlog.h
 *	  Pages that were waited for long, and statements that waited long for pages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_FETCHLOG_H
#define NEON_FETCHLOG_H

#include "map.h"

/* In the postmaster. */
extern void fetchlog_define_settings(void);
extern void fetchlog_install(void);

/*
 * A block was waited for so long.  A primary asked for it as it is since that
 * LSN; the problem is that of the last attempt, or "".
 */
extern void fetchlog_block(const MapFork *fork, BlockNumber blkno, uint64 us, int tries,
						   XLogRecPtr since, const char *problem);

#endif							/* NEON_FETCHLOG_H */
