/*-------------------------------------------------------------------------
 *
 * walrecord.c
 *	  One record of stored WAL, by its start.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "access/xlogrecord.h"
#include "catalog/pg_control.h"
#include "port/pg_crc32c.h"
#include "rebuild.h"
#include "timeline_shared.h"
#include "utils/memutils.h"
#include "walmend.h"
#include "walstore_private.h"

#define RECORD_READ_AHEAD 512

/* Between walstore_map_records(true) and (false). */
static bool map_records = false;

void
walstore_map_records(bool on)
{
	map_records = on;
	if (!on)
		walstore_unmap();
}

/* A position in the stream of record bytes, page headers left out. */
typedef struct RecordCursor
{
	Timeline   *tl;
	XLogRecPtr	pos;
	const char *problem;
} RecordCursor;

/* At the start of a page: its header is checked and skipped. */
static bool
skip_page_header(RecordCursor *c, bool continued)
{
	XLogPageHeaderData h;

	if (!walstore_read(c->tl, c->pos, (char *) &h, SizeOfXLogShortPHD))
	{
		c->problem = "the WAL is not stored";
		return false;
	}
	if (h.xlp_magic != XLOG_PAGE_MAGIC || h.xlp_pageaddr != c->pos ||
		((h.xlp_info & XLP_FIRST_IS_CONTRECORD) != 0) != continued)
	{
		c->problem = "a page header is wrong";
		return false;
	}
	c->pos += XLogPageHeaderSize(&h);
	return true;
}

static bool
copy_record_bytes(RecordCursor *c, char *dst, size_t len)
{
	while (len > 0)
	{
		size_t		n;

		if (c->pos % XLOG_BLCKSZ == 0 && !skip_page_header(c, true))
			return false;
		n = Min(len, XLOG_BLCKSZ - c->pos % XLOG_BLCKSZ);
		if (!walstore_read(c->tl, c->pos, dst, n))
		{
			c->problem = "the WAL is not stored";
			return false;
		}
		c->pos += n;
		dst += n;
		len -= n;
	}
	return true;
}

static bool
record_crc_ok(const XLogRecord *record)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, (const char *) record + SizeOfXLogRecord,
				record->xl_tot_len - SizeOfXLogRecord);
	COMP_CRC32C(crc, (const char *) record, offsetof(XLogRecord, xl_crc));
	FIN_CRC32C(crc);
	return EQ_CRC32C(record->xl_crc, crc);
}

/* The record if it lies in one page of a mapped segment and is good; else NULL. */
static XLogRecord *
mapped_record(RecordCursor *c)
{
	uint32		segsize = c->tl->id.wal_segment_size;
	uint32		room = XLOG_BLCKSZ - c->pos % XLOG_BLCKSZ;
	const char *segment;
	uint32		total;
	XLogRecord *record;

	if (c->tl->ancestor != NULL && c->pos < c->tl->id.start_lsn)
		return NULL;
	if ((segment = walstore_mapped_segment(c->tl, c->pos / segsize)) == NULL)
		return NULL;
	memcpy(&total, segment + c->pos % segsize, sizeof(total));
	if (total < SizeOfXLogRecord || total > room)
		return NULL;
	record = palloc(total);
	memcpy(record, segment + c->pos % segsize, total);
	if (!record_crc_ok(record))
		return NULL;
	c->pos += total;
	return record;
}

/* NULL and a problem in the cursor if there is no good record. */
static XLogRecord *
read_record(RecordCursor *c)
{
	char		head[RECORD_READ_AHEAD];
	uint32		total;
	size_t		n;
	char	   *record;

	n = Min(sizeof(head), XLOG_BLCKSZ - c->pos % XLOG_BLCKSZ);
	if (!walstore_read(c->tl, c->pos, head, n))
	{
		c->problem = "the WAL is not stored";
		return NULL;
	}
	memcpy(&total, head, sizeof(total));
	if (total < SizeOfXLogRecord || total > MaxAllocSize)
	{
		c->problem = "its length is impossible";
		return NULL;
	}
	n = Min(n, total);
	record = palloc(total);
	memcpy(record, head, n);
	c->pos += n;
	if (!copy_record_bytes(c, record + n, total - n))
		return NULL;
	if (!record_crc_ok((XLogRecord *) record))
	{
		c->problem = "its CRC is wrong";
		return NULL;
	}
	return (XLogRecord *) record;
}

XLogRecord *
walstore_try_record(Timeline *tl, XLogRecPtr start, XLogRecPtr *end, const char **problem)
{
	RecordCursor c = {tl, start, NULL};
	XLogRecord *record = NULL;

	if (start % MAXIMUM_ALIGNOF != 0 || start % XLOG_BLCKSZ < SizeOfXLogShortPHD)
		c.problem = "no record can start there";
	else
	{
		timeline_check(tl);
		if (map_records)
			record = mapped_record(&c);
		if (record == NULL)
			record = read_record(&c);
	}
	*problem = c.problem;
	if (record == NULL)
		return NULL;
	*end = MAXALIGN(c.pos);
	if (record->xl_rmid == RM_XLOG_ID && (record->xl_info & ~XLR_INFO_MASK) == XLOG_SWITCH)
		*end = TYPEALIGN(tl->id.wal_segment_size, *end);
	return record;
}

XLogRecord *
walstore_record(Timeline *tl, XLogRecPtr start, XLogRecPtr *end)
{
	const char *problem;
	XLogRecord *record = walstore_try_record(tl, start, end, &problem);

	if (record == NULL)
	{
		rebuild_note_wal(tl, start);
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read the WAL record at %X/%X in %s", LSN_FORMAT_ARGS(start),
						walmend_place(tl, start)),
				 errdetail("%s", problem)));
	}
	return record;
}
