/*-------------------------------------------------------------------------
 *
 * bootrec_test.c
 *	  Boot records at every alignment, and next to those of PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "fmgr.h"
#include "neon_bootrec.h"
#include "neon_id.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "walstore.h"

#define TEST_SEGSIZE	(1024 * 1024)
#define TEST_SYSID		UINT64CONST(0x1122334455667788)
#define TEST_TERM		77
#define TEST_PREV		UINT64CONST(0x400028)

typedef struct Image
{
	char	   *bytes;			/* two segments */
	XLogRecPtr	start;			/* of the first */
} Image;

static int
read_image(XLogReaderState *reader, XLogRecPtr page, int wanted, XLogRecPtr record, char *buf)
{
	Image	   *image = reader->private_data;

	if (page < image->start || page + XLOG_BLCKSZ > image->start + 2 * TEST_SEGSIZE)
		return -1;
	memcpy(buf, image->bytes + (page - image->start), XLOG_BLCKSZ);
	return XLOG_BLCKSZ;
}

/* Headers of the pages from the segment's start up to x, as if a WAL were there. */
static void
put_headers_below(Image *image, XLogRecPtr x)
{
	XLogRecPtr	page;

	for (page = image->start; page < x; page += XLOG_BLCKSZ)
	{
		XLogLongPageHeader header = (XLogLongPageHeader) (image->bytes + (page - image->start));

		header->std.xlp_magic = XLOG_PAGE_MAGIC;
		header->std.xlp_tli = 1;
		header->std.xlp_pageaddr = page;
		if (page != image->start)
			continue;
		header->std.xlp_info = XLP_LONG_HEADER;
		header->xlp_sysid = TEST_SYSID;
		header->xlp_seg_size = TEST_SEGSIZE;
		header->xlp_xlog_blcksz = XLOG_BLCKSZ;
	}
}

/* NULL, or what is wrong with a boot record at x. */
static char *
check_position(Image *image, XLogRecPtr x)
{
	const NeonId boot_id = {{1, 2, 3, 4, 5, 6, 7}};
	const NeonId other_boot = {{1, 2, 3, 4, 5, 6, 8}};
	CheckPoint	checkpoint;
	BootRecordPlace place;
	XLogReaderState *reader;
	char	   *problem = NULL;
	char	   *result = NULL;

	memset(image->bytes, 0, 2 * TEST_SEGSIZE);
	memset(&checkpoint, 0xEE, sizeof(checkpoint));
	put_headers_below(image, x);
	bootrec_write(image->bytes, x, TEST_PREV, &checkpoint, TEST_TERM, &boot_id, TEST_SYSID,
				  TEST_SEGSIZE, 1, &place);

	reader = XLogReaderAllocate(TEST_SEGSIZE, NULL, XL_ROUTINE(.page_read = read_image), image);
	reader->system_identifier = TEST_SYSID;
	XLogBeginRead(reader, place.start);
	if (XLogReadRecord(reader, &problem) == NULL)
		result = psprintf("%X/%X: %s", LSN_FORMAT_ARGS(x), problem ? problem : "no record");
	else if (reader->ReadRecPtr != place.start || reader->EndRecPtr != place.end ||
			 XLogRecGetPrev(reader) != TEST_PREV || bootrec_term(reader) != TEST_TERM ||
			 !bootrec_is_of_boot(reader, &boot_id) || bootrec_is_of_boot(reader, &other_boot) ||
			 memcmp(XLogRecGetData(reader), &checkpoint, sizeof(checkpoint)) != 0 ||
			 checkpoint.redo != place.start ||
			 place.start != walcursor_record_start(x, TEST_SEGSIZE) ||
			 place.nsegments != (place.end > image->start + TEST_SEGSIZE ? 2 : 1))
		result = psprintf("%X/%X: wrong record or place", LSN_FORMAT_ARGS(x));
	XLogReaderFree(reader);
	return result;
}

PG_FUNCTION_INFO_V1(neon_test_boot_record_sweep);

/* Every alignment on a page, on the first and the last page of a segment. */
Datum
neon_test_boot_record_sweep(PG_FUNCTION_ARGS)
{
	Image		image = {palloc(2 * TEST_SEGSIZE), 5 * (XLogRecPtr) TEST_SEGSIZE};
	char	   *problem = NULL;
	XLogRecPtr	x;

	for (x = image.start; x < image.start + 2 * XLOG_BLCKSZ && !problem; x += MAXIMUM_ALIGNOF)
	{
		/* positions inside a page header are no record ends */
		if (x % XLOG_BLCKSZ != 0 &&
			x % XLOG_BLCKSZ < (x < image.start + XLOG_BLCKSZ ? SizeOfXLogLongPHD : SizeOfXLogShortPHD))
			continue;
		problem = check_position(&image, x);
		if (!problem && x % XLOG_BLCKSZ != 0 && x > image.start + XLOG_BLCKSZ)
			problem = check_position(&image, x + TEST_SEGSIZE - 2 * XLOG_BLCKSZ);
	}
	if (problem)
		PG_RETURN_TEXT_P(cstring_to_text(problem));
	PG_RETURN_TEXT_P(cstring_to_text("ok"));
}

PG_FUNCTION_INFO_V1(neon_test_boot_record_like_vanilla);

/*
 * Whether the shutdown checkpoint record that PostgreSQL wrote at x, at the end
 * of a recovery, is byte for byte what bootrec_write makes with term 0.
 */
Datum
neon_test_boot_record_like_vanilla(PG_FUNCTION_ARGS)
{
	NeonId		tenant;
	NeonId		timeline;
	Timeline   *tl;
	XLogRecPtr	x = PG_GETARG_LSN(2);
	WalCursor  *cursor;
	CheckPoint	checkpoint;
	BootRecordPlace place;
	uint32		segsize;
	XLogRecPtr	base;
	char	   *image;
	char	   *stored;

	if (!neon_id_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)), &tenant) ||
		!neon_id_parse(text_to_cstring(PG_GETARG_TEXT_PP(1)), &timeline))
		elog(ERROR, "not an id");
	tl = timeline_open(&tenant, &timeline, false);
	segsize = tl->id.wal_segment_size;
	base = x - XLogSegmentOffset(x, segsize);
	cursor = walstore_cursor(tl, x, InvalidXLogRecPtr, PG_UINT64_MAX);
	if (walcursor_next(cursor) != WALCURSOR_RECORD ||
		XLogRecGetRmid(cursor->reader) != RM_XLOG_ID ||
		(XLogRecGetInfo(cursor->reader) & ~XLR_INFO_MASK) != XLOG_CHECKPOINT_SHUTDOWN)
		elog(ERROR, "no shutdown checkpoint at %X/%X", LSN_FORMAT_ARGS(x));
	memcpy(&checkpoint, XLogRecGetData(cursor->reader), sizeof(checkpoint));

	image = palloc0(2 * segsize);
	bootrec_write(image, x, XLogRecGetPrev(cursor->reader), &checkpoint, 0, NULL,
				  tl->id.system_identifier, segsize, 1, &place);
	stored = palloc(place.end - x);
	if (cursor->next != place.end || !walstore_read(tl, x, stored, place.end - x))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(memcmp(stored, image + (x - base), place.end - x) == 0);
}
