/*-------------------------------------------------------------------------
 *
 * walmake.c
 *	  WAL records made by hand.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "access/xlogrecord.h"
#include "catalog/pg_control.h"
#include "port/pg_crc32c.h"
#include "walmake.h"

#define DATA_HEADER		SizeOfXLogRecordDataHeaderLong

/* The record as one piece. */
static char *
make_body(XLogRecPtr prev, uint32 payload, uint32 who, uint32 *total)
{
	char	   *body;
	XLogRecord *header;
	pg_crc32c	crc;

	*total = SizeOfXLogRecord + DATA_HEADER + payload;
	body = palloc0(*total);
	header = (XLogRecord *) body;
	header->xl_tot_len = *total;
	header->xl_xid = who;
	header->xl_prev = prev;
	header->xl_info = XLOG_NOOP;
	header->xl_rmid = RM_XLOG_ID;
	body[SizeOfXLogRecord] = (char) XLR_BLOCK_ID_DATA_LONG;
	memcpy(body + SizeOfXLogRecord + 1, &payload, sizeof(payload));
	memset(body + SizeOfXLogRecord + DATA_HEADER, who, payload);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, body + SizeOfXLogRecord, *total - SizeOfXLogRecord);
	COMP_CRC32C(crc, body, offsetof(XLogRecord, xl_crc));
	FIN_CRC32C(crc);
	header->xl_crc = crc;
	return body;
}

/* A page's header at lsn; its length. */
static uint32
make_page_header(char *to, XLogRecPtr lsn, uint32 remaining, uint64 system_identifier,
				 uint32 segment_size)
{
	XLogLongPageHeaderData h;
	bool		is_long = lsn % segment_size == 0;

	memset(&h, 0, sizeof(h));
	h.std.xlp_magic = XLOG_PAGE_MAGIC;
	h.std.xlp_tli = 1;
	h.std.xlp_pageaddr = lsn;
	h.std.xlp_info = (is_long ? XLP_LONG_HEADER : 0) |
		(remaining ? XLP_FIRST_IS_CONTRECORD : 0);
	h.std.xlp_rem_len = remaining;
	h.xlp_sysid = system_identifier;
	h.xlp_seg_size = segment_size;
	h.xlp_xlog_blcksz = XLOG_BLCKSZ;
	memcpy(to, &h, is_long ? SizeOfXLogLongPHD : SizeOfXLogShortPHD);
	return is_long ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;
}

uint32
walmake_payload(XLogRecPtr start, XLogRecPtr end, uint32 segment_size)
{
	uint32		total = 0;
	XLogRecPtr	next;

	for (XLogRecPtr at = start; at < end; at = next)
	{
		uint32		header = 0;

		if (at % segment_size == 0)
			header = SizeOfXLogLongPHD;
		else if (at % XLOG_BLCKSZ == 0)
			header = SizeOfXLogShortPHD;
		next = Min(end, at - at % XLOG_BLCKSZ + XLOG_BLCKSZ);
		total += next - at - header;
	}
	return total - SizeOfXLogRecord - DATA_HEADER;
}

MadeRecord
walmake_record(XLogRecPtr start, XLogRecPtr prev, uint32 payload, uint32 who,
			   uint64 system_identifier, uint32 segment_size)
{
	MadeRecord	made = {.start = start};
	uint32		total;
	char	   *body = make_body(prev, payload, who, &total);
	uint32		done = 0;
	uint32		at = 0;

	made.bytes = palloc0(total + (total / 4096 + 4) * SizeOfXLogLongPHD + MAXIMUM_ALIGNOF);
	while (done < total)
	{
		uint32		n;

		if ((start + at) % XLOG_BLCKSZ == 0)
			at += make_page_header(made.bytes + at, start + at, done > 0 ? total - done : 0,
								   system_identifier, segment_size);
		if (done == 0)
			made.record = start + at;
		n = Min(total - done, XLOG_BLCKSZ - (start + at) % XLOG_BLCKSZ);
		memcpy(made.bytes + at, body + done, n);
		done += n;
		at += n;
	}
	made.end = MAXALIGN64(start + at);
	pfree(body);
	return made;
}
