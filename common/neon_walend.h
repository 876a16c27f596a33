/*-------------------------------------------------------------------------
 *
 * neon_walend.h
 *	  Where the WAL that was inserted ends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_WALEND_H
#define NEON_WALEND_H

#include "access/xlog.h"
#include "access/xlog_internal.h"

/*
 * The end of the last record: what can be flushed, and what a storage can
 * have reached.  At the start of a page the insert position lies behind the
 * page's header, which nobody has written yet.
 */
static inline XLogRecPtr
neon_end_of_wal(void)
{
	XLogRecPtr	lsn = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		return lsn - SizeOfXLogLongPHD;
	if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return lsn - SizeOfXLogShortPHD;
	return lsn;
}

#endif							/* NEON_WALEND_H */
