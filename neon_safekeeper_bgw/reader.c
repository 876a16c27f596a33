/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  Records of a timeline's WAL: following a log that is being written, and
 *	  looking at one record.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "access/xlogrecord.h"
#include "neon_bootrec.h"
#include "neon_walcursor.h"
#include "skwal.h"
#include "utils/memutils.h"

struct SkReader
{
	SkTimeline *tl;
	WalCursor  *cursor;
	XLogRecPtr	wanted;			/* the next record ends here at the earliest */
	MemoryContext context;
};

static bool
read_bytes(void *source, XLogRecPtr lsn, char *buf, size_t len)
{
	return skwal_read(source, lsn, buf, len);
}

SkReader *
skreader_open(SkTimeline *tl, XLogRecPtr start)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "safekeeper WAL reader",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SkReader   *r = palloc0(sizeof(SkReader));

	r->tl = tl;
	r->context = context;
	r->cursor = walcursor_open(read_bytes, tl, tl->system_identifier, tl->wal_segment_size,
							   start, InvalidXLogRecPtr, start);
	MemoryContextSwitchTo(old);
	return r;
}

void
skreader_close(SkReader *r)
{
	walcursor_close(r->cursor);
	MemoryContextDelete(r->context);
}

/*
 * Where the record that begins at the cursor ends at the earliest: a long one
 * is not read again and again while it comes in.
 */
static XLogRecPtr
earliest_end(SkReader *r)
{
	XLogRecPtr	start = walcursor_record_start(r->cursor->next, r->tl->wal_segment_size);
	uint32		total;

	if (start + sizeof(total) > r->cursor->limit ||
		!skwal_read(r->tl, start, (char *) &total, sizeof(total)))
		return start + SizeOfXLogRecord;
	return start + total;
}

XLogRecPtr
skreader_follow(SkReader *r, XLogRecPtr limit, const char **problem)
{
	WalCursorResult result = WALCURSOR_MORE;

	*problem = NULL;
	r->cursor->limit = limit;
	while (r->wanted <= limit && (result = walcursor_next(r->cursor)) == WALCURSOR_RECORD)
		r->wanted = InvalidXLogRecPtr;
	if (result == WALCURSOR_INVALID)
		*problem = r->cursor->problem;
	else if (r->wanted <= limit)
		r->wanted = earliest_end(r);
	return r->cursor->next;
}

bool
skreader_first_record(SkTimeline *tl, XLogRecPtr from, XLogRecPtr limit, XLogRecPtr *at)
{
	XLogRecPtr	pos = from;

	while (pos < limit)
	{
		PGAlignedXLogBlock page;
		XLogPageHeader h = (XLogPageHeader) page.data;
		XLogRecPtr	end;

		*at = pos;
		if (!skwal_read(tl, pos, page.data, XLOG_BLCKSZ) || h->xlp_magic != XLOG_PAGE_MAGIC ||
			h->xlp_pageaddr != pos)
			return false;
		if (!(h->xlp_info & XLP_FIRST_IS_CONTRECORD))
			return true;
		end = pos + XLogPageHeaderSize(h) + MAXALIGN(h->xlp_rem_len);
		pos += XLOG_BLCKSZ;
		if (end < pos)
		{
			*at = Min(end, limit);
			return true;
		}
	}
	*at = limit;
	return true;
}

bool
skreader_boot_record(SkTimeline *tl, XLogRecPtr x, XLogRecPtr limit, uint32 *term,
					 NeonId *boot_id)
{
	SkReader   *r = skreader_open(tl, x);

	*term = 0;
	r->cursor->limit = limit;
	if (walcursor_next(r->cursor) == WALCURSOR_RECORD)
		*term = bootrec_term(r->cursor->reader);
	if (*term != 0)
		*boot_id = bootrec_boot_id(r->cursor->reader);
	skreader_close(r);
	return *term != 0;
}
