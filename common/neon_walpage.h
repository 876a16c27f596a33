/*-------------------------------------------------------------------------
 *
 * neon_walpage.h
 *	  WAL written by us: page headers, and a segment's beginning whose true
 *	  bytes nobody has any more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_WALPAGE_H
#define NEON_WALPAGE_H

#include "access/xlog_internal.h"

/* What pages of one history have in common. */
typedef struct WalPages
{
	uint64		system_identifier;
	uint32		segsize;
	TimeLineID	tli;
} WalPages;

/* Bytes of the header of a page: a segment's first one has a longer one. */
extern uint32 walpage_header_size(XLogRecPtr page, uint32 segsize);

/* Does a page's header, of which the short part is looked at, say that it belongs at page? */
extern bool walpage_is_own(const XLogPageHeaderData *header, XLogRecPtr page);

/*
 * Behind a place where no valid record begins: does a page show that WAL went
 * on there?  Not so pages in the midst of the record that begins at that place:
 * of a large one, pages are written before it is complete.  The pages are given
 * in order; *expected, 0 before the first one, is what remains of that record.
 */
extern bool walpage_shows_more(const XLogPageHeaderData *header, uint32 *expected);

/* The header that starts a page; remaining: bytes of a record that goes on in it. */
extern void walpage_put_header(char *at, XLogRecPtr page, uint32 remaining,
							   const WalPages *pages);

/*
 * Fills the bytes of lsn's segment below lsn, which begin at image, with valid
 * WAL that changes nothing: XLOG_NOOP records, of which the last one starts at
 * prev and ends at lsn, as the true record there did.  If prev lies before the
 * segment there is only the rest of a record.
 */
extern void walpage_fill(char *image, XLogRecPtr lsn, XLogRecPtr prev, const WalPages *pages);

#endif							/* NEON_WALPAGE_H */
