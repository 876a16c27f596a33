/*-------------------------------------------------------------------------
 *
 * neon_walcursor.c
 *	  PostgreSQL's WAL reader over stored WAL.
 *
 * The reader checks lengths, resource manager, page headers, xl_prev and the
 * CRC of each record.  What it cannot check after being positioned, that the
 * first record follows the one before the start, is checked here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "neon_walcursor.h"
#include "utils/memutils.h"

/*
 * Has enough of a page arrived for the reader?  It does not see itself that the
 * header of a record which begins the page is not there yet, nor, behind a long
 * page header, the last piece of a record that goes on: it would find a wrong
 * xl_prev or CRC.
 */
static bool
has_first_record(const char *page, int len, bool long_header)
{
	const XLogPageHeaderData *header = (const XLogPageHeaderData *) page;
	int			size = long_header ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;

	if (len < size)
		return false;
	if ((header->xlp_info & XLP_FIRST_IS_CONTRECORD) == 0)
		return len >= size + (int) SizeOfXLogRecord;
	return !long_header || (uint64) len >= Min((uint64) header->xlp_rem_len + size, XLOG_BLCKSZ);
}

/* Bytes of the page that lie below the limit; -1 if fewer than the reader needs. */
static int
read_page_below_limit(XLogReaderState *reader, XLogRecPtr page, int wanted,
					  XLogRecPtr record, char *buf)
{
	WalCursor  *cursor = reader->private_data;
	int			len = XLOG_BLCKSZ;

	if (page >= cursor->limit)
		return -1;
	if (cursor->limit - page < XLOG_BLCKSZ)
		len = cursor->limit - page;
	if (len < wanted || !cursor->read(cursor->source, page, buf, len))
		return -1;
	if (len == XLOG_BLCKSZ)
		return len;
	memset(buf + len, 0, XLOG_BLCKSZ - len);
	if (!has_first_record(buf, len, XLogSegmentOffset(page, cursor->segsize) == 0))
		return -1;
	return len;
}

XLogRecPtr
walcursor_record_start(XLogRecPtr lsn, uint32 segsize)
{
	if (XLogSegmentOffset(lsn, segsize) == 0)
		return lsn + SizeOfXLogLongPHD;
	if (lsn % XLOG_BLCKSZ == 0)
		return lsn + SizeOfXLogShortPHD;
	return lsn;
}

WalCursor *
walcursor_open(WalCursorRead read, void *source, uint64 system_identifier, uint32 segsize,
			   XLogRecPtr start, XLogRecPtr prev, XLogRecPtr limit)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "WAL cursor",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	WalCursor  *cursor = palloc0(sizeof(WalCursor));

	cursor->context = context;
	cursor->read = read;
	cursor->source = source;
	cursor->segsize = segsize;
	cursor->limit = limit;
	cursor->next = start;
	cursor->prev = prev;
	cursor->reader = XLogReaderAllocate(segsize, NULL,
										XL_ROUTINE(.page_read = read_page_below_limit),
										cursor);
	if (cursor->reader == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed while allocating a WAL reading processor.")));
	cursor->reader->system_identifier = system_identifier;
	MemoryContextSwitchTo(old);
	return cursor;
}

/* The first record must follow the one that the cursor was opened behind. */
static bool
seam_holds(WalCursor *cursor)
{
	if (cursor->started || XLogRecPtrIsInvalid(cursor->prev))
		return true;
	return XLogRecGetPrev(cursor->reader) == cursor->prev;
}

WalCursorResult
walcursor_next(WalCursor *cursor)
{
	XLogReaderState *reader = cursor->reader;
	MemoryContext old = MemoryContextSwitchTo(cursor->context);
	XLogRecord *record;
	char	   *problem = NULL;

	if (!cursor->started)
		XLogBeginRead(reader, walcursor_record_start(cursor->next, cursor->segsize));
	record = XLogReadRecord(reader, &problem);
	MemoryContextSwitchTo(old);

	if (record == NULL)
	{
		cursor->problem = problem;
		return problem ? WALCURSOR_INVALID : WALCURSOR_MORE;
	}
	if (!seam_holds(cursor))
	{
		cursor->problem = psprintf("record at %X/%X does not follow the one at %X/%X",
								   LSN_FORMAT_ARGS(reader->ReadRecPtr),
								   LSN_FORMAT_ARGS(cursor->prev));
		return WALCURSOR_INVALID;
	}
	cursor->started = true;
	cursor->next = reader->EndRecPtr;
	cursor->prev = reader->ReadRecPtr;
	return WALCURSOR_RECORD;
}

void
walcursor_close(WalCursor *cursor)
{
	XLogReaderFree(cursor->reader);
	MemoryContextDelete(cursor->context);
}
