/*-------------------------------------------------------------------------
 *
 * testwal.c
 *	  WAL records for the model of the store, and storing them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "testwal.h"
#include "walstore.h"

/* References of a record to blocks; what follows from the number is how the key's is told. */
static char *
put_references(const NeonKey *key, uint32 how, char *p)
{
	XLogRecordBlockHeader h = {0, key->fork, 0};
	XLogRecordBlockImageHeader image = {100, 200, BKPIMAGE_HAS_HOLE};
	RelFileNode rnode = {key->spc, key->db, key->rel + (how == 3 ? 1 : 0)};
	BlockNumber blk = key->blk + (how == 1 ? 1 : 0);

	if (how == 2)
		h.fork_flags |= BKPBLOCK_HAS_IMAGE;
	memcpy(p, &h, SizeOfXLogRecordBlockHeader);
	p += SizeOfXLogRecordBlockHeader;
	if (how == 2)
	{
		memcpy(p, &image, SizeOfXLogRecordBlockImageHeader);
		p += SizeOfXLogRecordBlockImageHeader;
	}
	memcpy(p, &rnode, sizeof(rnode));
	p += sizeof(rnode);
	memcpy(p, &blk, sizeof(blk));
	p += sizeof(blk);
	if (how != 1)
		return p;
	h.id = 1;
	h.fork_flags |= BKPBLOCK_SAME_REL;
	memcpy(p, &h, SizeOfXLogRecordBlockHeader);
	p += SizeOfXLogRecordBlockHeader;
	memcpy(p, &key->blk, sizeof(blk));
	return p + sizeof(blk);
}

XLogRecord *
make_record(const NeonKey *key, uint32 fill, uint32 total)
{
	XLogRecord *record = palloc0(total);
	char	   *p = (char *) record + SizeOfXLogRecord;
	char	   *end = (char *) record + total;
	uint32		len;
	pg_crc32c	crc;

	record->xl_tot_len = total;
	record->xl_xid = fill;
	/* nothing that decodes WAL goes on here: the model puts by itself */
	record->xl_prev = 8;
	record->xl_info = (fill * 16) & XLR_RMGR_INFO_MASK;
	record->xl_rmid = RM_HEAP_ID;
	p = put_references(key, fill % 4, p);
	*p++ = (char) XLR_BLOCK_ID_DATA_LONG;
	len = end - p - sizeof(len);
	memcpy(p, &len, sizeof(len));
	p += sizeof(len);
	for (uint32 i = 0; i < len; i++)
		p[i] = (char) (i < 40 ? fill >> (i % 24) : fill * 31 + i);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, (char *) record + SizeOfXLogRecord, total - SizeOfXLogRecord);
	COMP_CRC32C(crc, (char *) record, offsetof(XLogRecord, xl_crc));
	FIN_CRC32C(crc);
	record->xl_crc = crc;
	return record;
}

XLogRecPtr
behind_header(XLogRecPtr at)
{
	if (at % XLOG_BLCKSZ == 0)
		at += at % TEST_SEGMENT == 0 ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;
	return at;
}

XLogRecPtr
end_of_record(XLogRecPtr start, uint32 len)
{
	XLogRecPtr	at = start;

	for (;;)
	{
		uint32		room = XLOG_BLCKSZ - at % XLOG_BLCKSZ;

		if (len <= room)
			return MAXALIGN64(at + len);
		len -= room;
		at = behind_header(at + room);
	}
}

void
store_wal(Timeline *tl, XLogRecPtr start, const char *data, uint32 len)
{
	XLogRecPtr	page = start - start % XLOG_BLCKSZ;
	XLogRecPtr	at = start;
	bool		begins = start == behind_header(page);

	while (len > 0)
	{
		uint32		n = Min(len, XLOG_BLCKSZ - at % XLOG_BLCKSZ);

		if (begins || at != start)
		{
			XLogLongPageHeaderData h = {0};

			page = at - at % XLOG_BLCKSZ;
			h.std.xlp_magic = XLOG_PAGE_MAGIC;
			h.std.xlp_info = (at != start ? XLP_FIRST_IS_CONTRECORD : 0) |
				(page % TEST_SEGMENT == 0 ? XLP_LONG_HEADER : 0);
			h.std.xlp_tli = 1;
			h.std.xlp_pageaddr = page;
			h.std.xlp_rem_len = at != start ? len : 0;
			walstore_write(tl, page, (char *) &h, at - page);
		}
		walstore_write(tl, at, data, n);
		data += n;
		len -= n;
		begins = false;
		at = behind_header(at + n);
	}
}
