/*-------------------------------------------------------------------------
 *
 * walmake.h
 *	  WAL records made by hand: valid ones that do nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_WALMAKE_H
#define NEON_SK_WALMAKE_H

#include "access/xlogdefs.h"

typedef struct MadeRecord
{
	XLogRecPtr	start;			/* where the one before ends */
	XLogRecPtr	record;			/* its own address, behind a page's header */
	XLogRecPtr	end;
	char	   *bytes;			/* [start, end), palloc'd; page headers included */
} MadeRecord;

/*
 * A record behind start whose predecessor is at prev (0: none), with payload
 * bytes in it; who makes it differ from others.
 */
extern MadeRecord walmake_record(XLogRecPtr start, XLogRecPtr prev, uint32 payload, uint32 who,
								 uint64 system_identifier, uint32 segment_size);

/* The payload with which the record behind start ends at end, which is aligned and not inside a page's header. */
extern uint32 walmake_payload(XLogRecPtr start, XLogRecPtr end, uint32 segment_size);

#endif							/* NEON_SK_WALMAKE_H */
