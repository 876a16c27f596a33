/*-------------------------------------------------------------------------
 *
 * neon_bootrec.c
 *	  The boot checkpoint record: writing it and knowing it again.
 *
 * PostgreSQL zeroes the CheckPoint struct before it fills it, so the padding
 * of its own records is zero; ours carries the term and the boot id there.  The
 * record's CRC covers it and nothing in PostgreSQL looks at it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "access/xlogrecord.h"
#include "neon_bootrec.h"
#include "neon_walpage.h"
#include "port/pg_crc32c.h"

/* Padding after fullPageWrites and at the end of the struct. */
#define BOOT_ID_OFFSET		17
#define TERM_OFFSET			84

StaticAssertDecl(sizeof(CheckPoint) == 88, "layout of CheckPoint");
StaticAssertDecl(offsetof(CheckPoint, fullPageWrites) + sizeof(bool) == BOOT_ID_OFFSET,
				 "layout of CheckPoint");
StaticAssertDecl(offsetof(CheckPoint, nextXid) == BOOT_ID_OFFSET + BOOTREC_ID_SIZE,
				 "layout of CheckPoint");
StaticAssertDecl(offsetof(CheckPoint, oldestActiveXid) + sizeof(TransactionId) == TERM_OFFSET,
				 "layout of CheckPoint");

#define BOOTREC_BODY	(2 + sizeof(CheckPoint))	/* block id, length, data */
#define BOOTREC_LENGTH	(SizeOfXLogRecord + BOOTREC_BODY)

static void
set_boot(CheckPoint *checkpoint, uint32 term, const NeonId *boot_id)
{
	char	   *bytes = (char *) checkpoint;

	memset(bytes + BOOT_ID_OFFSET, 0, BOOTREC_ID_SIZE);
	if (boot_id)
		memcpy(bytes + BOOT_ID_OFFSET, boot_id->b, BOOTREC_ID_SIZE);
	memcpy(bytes + TERM_OFFSET, &term, sizeof(term));
}

static void
build_record(char *record, XLogRecPtr prev, const CheckPoint *checkpoint)
{
	XLogRecord	header;
	pg_crc32c	crc;

	memset(&header, 0, sizeof(header));
	header.xl_tot_len = BOOTREC_LENGTH;
	header.xl_prev = prev;
	header.xl_info = XLOG_CHECKPOINT_SHUTDOWN;
	header.xl_rmid = RM_XLOG_ID;

	record[SizeOfXLogRecord] = (char) XLR_BLOCK_ID_DATA_SHORT;
	record[SizeOfXLogRecord + 1] = (char) sizeof(CheckPoint);
	memcpy(record + SizeOfXLogRecord + 2, checkpoint, sizeof(CheckPoint));

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, record + SizeOfXLogRecord, BOOTREC_BODY);
	COMP_CRC32C(crc, &header, offsetof(XLogRecord, xl_crc));
	FIN_CRC32C(crc);
	header.xl_crc = crc;
	memcpy(record, &header, SizeOfXLogRecord);
}

void
bootrec_write(char *image, XLogRecPtr x, XLogRecPtr prev, CheckPoint *checkpoint,
			  uint32 term, const NeonId *boot_id, uint64 system_identifier, uint32 segsize,
			  TimeLineID tli, BootRecordPlace *place)
{
	const WalPages pages = {system_identifier, segsize, tli};
	XLogRecPtr	base = x - XLogSegmentOffset(x, segsize);
	XLogRecPtr	pos = x;
	char		record[BOOTREC_LENGTH];
	uint32		done = 0;

	Assert(x == MAXALIGN(x));

	if (pos % XLOG_BLCKSZ == 0)
	{
		walpage_put_header(image + (pos - base), pos, 0, &pages);
		pos += walpage_header_size(pos, segsize);
	}
	place->start = pos;
	checkpoint->redo = pos;
	set_boot(checkpoint, term, boot_id);
	build_record(record, prev, checkpoint);

	while (done < BOOTREC_LENGTH)
	{
		uint32		chunk;

		if (pos % XLOG_BLCKSZ == 0)
		{
			walpage_put_header(image + (pos - base), pos, BOOTREC_LENGTH - done, &pages);
			pos += walpage_header_size(pos, segsize);
		}
		chunk = Min(BOOTREC_LENGTH - done, XLOG_BLCKSZ - pos % XLOG_BLCKSZ);
		memcpy(image + (pos - base), record + done, chunk);
		pos += chunk;
		done += chunk;
	}
	/* padding up to the end, which readers skip */
	memset(image + (pos - base), 0, MAXALIGN(pos) - pos);
	place->end = MAXALIGN(pos);
	place->nsegments = (place->end - 1 - base) / segsize + 1;
}

uint32
bootrec_term(XLogReaderState *record)
{
	uint32		term;

	if (XLogRecGetRmid(record) != RM_XLOG_ID ||
		(XLogRecGetInfo(record) & ~XLR_INFO_MASK) != XLOG_CHECKPOINT_SHUTDOWN ||
		XLogRecGetDataLen(record) != sizeof(CheckPoint))
		return 0;
	memcpy(&term, XLogRecGetData(record) + TERM_OFFSET, sizeof(term));
	return term;
}

bool
bootrec_is_of_boot(XLogReaderState *record, const NeonId *boot_id)
{
	return memcmp(XLogRecGetData(record) + BOOT_ID_OFFSET, boot_id->b, BOOTREC_ID_SIZE) == 0;
}

static NeonId
boot_id_at(const char *checkpoint)
{
	NeonId		boot_id = {{0}};

	memcpy(boot_id.b, checkpoint + BOOT_ID_OFFSET, BOOTREC_ID_SIZE);
	return boot_id;
}

NeonId
bootrec_boot_id(XLogReaderState *record)
{
	return boot_id_at(XLogRecGetData(record));
}

NeonId
bootrec_checkpoint_boot_id(const CheckPoint *checkpoint)
{
	return boot_id_at((const char *) checkpoint);
}

bool
bootrec_same_boot(const NeonId *a, const NeonId *b)
{
	return memcmp(a->b, b->b, BOOTREC_ID_SIZE) == 0;
}
