/*-------------------------------------------------------------------------
 *
 * neon_walpage.c
 *	  WAL written by us: page headers, and a segment's beginning whose true
 *	  bytes nobody has any more.
 *
 * A server that boots in the middle of a segment needs valid page headers
 * before the place, and who reads the segment from its start wants records.
 * XLOG_NOOP records of any length are both, and redo of them does nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "access/xlogrecord.h"
#include "catalog/pg_control.h"
#include "neon_walpage.h"
#include "port/pg_crc32c.h"

/* Bytes of a filling record; none is shorter than a record's header. */
#define FILL_RECORD		8000

uint32
walpage_header_size(XLogRecPtr page, uint32 segsize)
{
	return XLogSegmentOffset(page, segsize) == 0 ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;
}

bool
walpage_is_own(const XLogPageHeaderData *header, XLogRecPtr page)
{
	return header->xlp_magic == XLOG_PAGE_MAGIC &&
		(header->xlp_info & ~XLP_ALL_FLAGS) == 0 &&
		header->xlp_tli == 1 && header->xlp_pageaddr == page;
}

bool
walpage_shows_more(const XLogPageHeaderData *header, uint32 *expected)
{
	uint32		room = XLOG_BLCKSZ - XLogPageHeaderSize(header);

	if ((header->xlp_info & XLP_FIRST_IS_CONTRECORD) == 0 ||
		(*expected != 0 && header->xlp_rem_len != *expected))
		return true;
	if (header->xlp_rem_len <= room)
		return true;			/* it ends here, so it should have been valid */
	*expected = header->xlp_rem_len - room;
	return false;
}

void
walpage_put_header(char *at, XLogRecPtr page, uint32 remaining, const WalPages *pages)
{
	XLogLongPageHeaderData header;

	memset(&header, 0, sizeof(header));
	header.std.xlp_magic = XLOG_PAGE_MAGIC;
	header.std.xlp_info = XLP_BKP_REMOVABLE;
	header.std.xlp_tli = pages->tli;
	header.std.xlp_pageaddr = page;
	header.std.xlp_rem_len = remaining;
	if (remaining > 0)
		header.std.xlp_info |= XLP_FIRST_IS_CONTRECORD;
	if (walpage_header_size(page, pages->segsize) == SizeOfXLogLongPHD)
	{
		header.std.xlp_info |= XLP_LONG_HEADER;
		header.xlp_sysid = pages->system_identifier;
		header.xlp_seg_size = pages->segsize;
		header.xlp_xlog_blcksz = XLOG_BLCKSZ;
	}
	memcpy(at, &header, walpage_header_size(page, pages->segsize));
}

/* ---- filling ---- */

typedef struct Fill
{
	char	   *image;
	XLogRecPtr	base;			/* where the segment starts */
	XLogRecPtr	pos;			/* next byte */
	const WalPages *pages;
} Fill;

/* A page header if one is due; remaining: of the record that goes on behind it. */
static void
pass_page_header(Fill *f, uint32 remaining)
{
	if (f->pos % XLOG_BLCKSZ != 0)
		return;
	walpage_put_header(f->image + (f->pos - f->base), f->pos, remaining, f->pages);
	f->pos += walpage_header_size(f->pos, f->pages->segsize);
}

/* Writes bytes of a record (NULL: zeros), of which "remaining" are left with them. */
static void
put_bytes(Fill *f, const char *data, uint32 len, uint32 remaining)
{
	while (len > 0)
	{
		uint32		n;

		pass_page_header(f, remaining);
		n = Min(len, XLOG_BLCKSZ - f->pos % XLOG_BLCKSZ);
		if (data)
		{
			memcpy(f->image + (f->pos - f->base), data, n);
			data += n;
		}
		else
			memset(f->image + (f->pos - f->base), 0, n);
		f->pos += n;
		len -= n;
		remaining -= n;
	}
}

/* Bytes between two positions without the page headers. */
static uint32
record_bytes(XLogRecPtr from, XLogRecPtr to, uint32 segsize)
{
	uint32		bytes = 0;

	while (from < to)
	{
		XLogRecPtr	page_end = from - from % XLOG_BLCKSZ + XLOG_BLCKSZ;

		if (from % XLOG_BLCKSZ == 0)
			from += walpage_header_size(from, segsize);
		if (from < to)
			bytes += Min(page_end, to) - from;
		from = page_end;
	}
	return bytes;
}

/* What stands before a record's zeros: header and, if it has data, their length. */
static uint32
record_head(char *head, uint32 len, XLogRecPtr prev)
{
	XLogRecord	record;
	uint32		n = SizeOfXLogRecord;
	uint32		data_len;
	pg_crc32c	crc;

	memset(&record, 0, sizeof(record));
	record.xl_tot_len = len;
	record.xl_prev = prev;
	record.xl_info = XLOG_NOOP;
	record.xl_rmid = RM_XLOG_ID;
	if (len - n > 2 + 255)
	{
		data_len = len - n - 5;
		head[n++] = (char) XLR_BLOCK_ID_DATA_LONG;
		memcpy(head + n, &data_len, sizeof(data_len));
		n += sizeof(data_len);
	}
	else if (len > n)
	{
		data_len = len - n - 2;
		head[n++] = (char) XLR_BLOCK_ID_DATA_SHORT;
		head[n++] = (char) data_len;
	}
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, head + SizeOfXLogRecord, n - SizeOfXLogRecord);
	for (uint32 left = len - n; left > 0;)
	{
		static const char zeros[XLOG_BLCKSZ];
		uint32		step = Min(left, sizeof(zeros));

		COMP_CRC32C(crc, zeros, step);
		left -= step;
	}
	COMP_CRC32C(crc, (char *) &record, offsetof(XLogRecord, xl_crc));
	FIN_CRC32C(crc);
	record.xl_crc = crc;
	memcpy(head, &record, SizeOfXLogRecord);
	return n;
}

/* A whole record of len bytes, at least a header's and a multiple of 8. */
static XLogRecPtr
put_record(Fill *f, uint32 len, XLogRecPtr prev)
{
	char		head[SizeOfXLogRecord + 5] = {0};
	uint32		n = record_head(head, len, prev);
	XLogRecPtr	start;

	pass_page_header(f, 0);
	start = f->pos;
	put_bytes(f, head, n, len);
	put_bytes(f, NULL, len - n, len - n);
	return start;
}

/* Records from the segment's start up to where the last one begins. */
static XLogRecPtr
put_records_before(Fill *f, XLogRecPtr end)
{
	uint32		left = record_bytes(f->pos, end, f->pages->segsize);
	XLogRecPtr	prev = InvalidXLogRecPtr;

	/* too little for a record: the end of one that began before the segment */
	if (left < SizeOfXLogRecord)
	{
		put_bytes(f, NULL, left, left);
		return prev;
	}
	while (left > 0)
	{
		uint32		n = left;

		if (n > 2 * FILL_RECORD)
			n = FILL_RECORD;
		else if (n > FILL_RECORD)
			n = TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, n / 2);
		prev = put_record(f, n, prev);
		left -= n;
	}
	return prev;
}

void
walpage_fill(char *image, XLogRecPtr lsn, XLogRecPtr prev, const WalPages *pages)
{
	Fill		f = {.image = image, .pages = pages};
	uint32		len;

	f.base = lsn - XLogSegmentOffset(lsn, pages->segsize);
	f.pos = f.base;
	if (f.base == lsn)
		return;
	if (prev < f.base)
	{
		len = record_bytes(f.base, lsn, pages->segsize);
		put_bytes(&f, NULL, len, len);
	}
	else
	{
		XLogRecPtr	before = put_records_before(&f, prev);

		put_record(&f, record_bytes(prev, lsn, pages->segsize), before);
	}
	Assert(f.pos == lsn);
}
