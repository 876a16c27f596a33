/*-------------------------------------------------------------------------
 *
 * testwal.h
 *	  WAL records for the model of the store, and storing them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_TESTWAL_H
#define NEON_PS_TESTWAL_H

#include "access/xlogrecord.h"
#include "neon_key.h"
#include "timeline.h"

#define TEST_SEGMENT	(1024 * 1024)

/*
 * A record of total bytes (90 at least) that refers to the key, or not, in one
 * of four ways; all of it follows from fill.  Its xl_prev is wrong, so that
 * nothing that decodes WAL goes on there: the model puts by itself.
 */
extern XLogRecord *make_record(const NeonKey *key, uint32 fill, uint32 total);

/* Where data may be at or behind a position: not in a page's header. */
extern XLogRecPtr behind_header(XLogRecPtr at);

/* End LSN of a record that starts at start. */
extern XLogRecPtr end_of_record(XLogRecPtr start, uint32 len);

/* Stores bytes at start, with the headers of the pages that they come to. */
extern void store_wal(Timeline *tl, XLogRecPtr start, const char *data, uint32 len);

#endif							/* NEON_PS_TESTWAL_H */
