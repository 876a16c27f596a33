/*-------------------------------------------------------------------------
 *
 * walvalue.c
 *	  A WAL record as it is stored in a layer file under a key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "neon_layerformat.h"
#include "utils/memutils.h"
#include "walvalue.h"

/* ---- finding the reference ---- */

/* Skips an image's header; false if the record ends before. */
static bool
skip_image_header(Cursor *c)
{
	XLogRecordBlockImageHeader image;

	cursor_copy(c, &image, SizeOfXLogRecordBlockImageHeader);
	if ((image.bimg_info & BKPIMAGE_HAS_HOLE) && BKPIMAGE_COMPRESSED(image.bimg_info))
		(void) cursor_bytes(c, SizeOfXLogRecordBlockCompressHeader);
	return c->ok;
}

/*
 * Where the tag of the reference to the key lies in the bytes behind the
 * record's header, and in what form the record can be stored for that.
 */
static LayerWalForm
find_tag(const uint8 *body, uint32 len, const NeonKey *key, uint32 *cut)
{
	Cursor		c = cursor_over(body, len);
	RelFileNode rnode = {0};

	if (key->kind != NEON_KEY_PAGE)
		return LAYER_WAL_WHOLE;
	for (;;)
	{
		XLogRecordBlockHeader h;
		BlockNumber blk;

		cursor_copy(&c, &h, SizeOfXLogRecordBlockHeader);
		/* References come before all else. */
		if (!c.ok || h.id > XLR_MAX_BLOCK_ID)
			return LAYER_WAL_WHOLE;
		if ((h.fork_flags & BKPBLOCK_HAS_IMAGE) && !skip_image_header(&c))
			return LAYER_WAL_WHOLE;
		*cut = c.p - body;
		if (!(h.fork_flags & BKPBLOCK_SAME_REL))
			cursor_copy(&c, &rnode, sizeof(rnode));
		cursor_copy(&c, &blk, sizeof(blk));
		if (c.ok && blk == key->blk && (h.fork_flags & BKPBLOCK_FORK_MASK) == key->fork &&
			rnode.spcNode == key->spc && rnode.dbNode == key->db && rnode.relNode == key->rel)
			return h.fork_flags & BKPBLOCK_SAME_REL ? LAYER_WAL_NO_BLOCK : LAYER_WAL_NO_TAG;
	}
}

static uint32
tag_size(LayerWalForm form)
{
	switch (form)
	{
		case LAYER_WAL_WHOLE:
			break;
		case LAYER_WAL_NO_BLOCK:
			return sizeof(BlockNumber);
		case LAYER_WAL_NO_TAG:
			return sizeof(RelFileNode) + sizeof(BlockNumber);
	}
	return 0;
}

/* ---- both ways ---- */

void
walvalue_encode(const XLogRecord *record, const NeonKey *key, StringInfo buf)
{
	const uint8 *body = (const uint8 *) record + SizeOfXLogRecord;
	uint32		len = record->xl_tot_len - SizeOfXLogRecord;
	uint32		cut = 0;
	LayerWalForm form = find_tag(body, len, key, &cut);
	uint32		n = tag_size(form);

	codec_put_u8(buf, form);
	if (form == LAYER_WAL_WHOLE)
		cut = 0;
	else
		codec_put_varint(buf, cut);
	codec_put_u32(buf, record->xl_xid);
	codec_put_u8(buf, record->xl_info);
	codec_put_u8(buf, record->xl_rmid);
	codec_put_bytes(buf, body, cut);
	codec_put_bytes(buf, body + cut + n, len - cut - n);
}

XLogRecord *
walvalue_decode(const char *data, uint32 len, const NeonKey *key, const char **problem)
{
	LayerWal	wal;
	XLogRecord *record;
	char	   *p;

	*problem = layer_wal_decode((const uint8 *) data, len, &wal);
	if (*problem != NULL)
		return NULL;
	if (wal.body_len > MaxAllocSize / 2)
	{
		*problem = "A stored WAL record is too long.";
		return NULL;
	}
	record = palloc0(SizeOfXLogRecord + wal.body_len + tag_size(wal.form));
	record->xl_tot_len = SizeOfXLogRecord + wal.body_len + tag_size(wal.form);
	record->xl_xid = wal.xid;
	record->xl_info = wal.info;
	record->xl_rmid = wal.rmid;
	p = (char *) record + SizeOfXLogRecord;
	memcpy(p, wal.body, wal.cut);
	p += wal.cut;
	if (wal.form == LAYER_WAL_NO_TAG)
	{
		RelFileNode rnode = {key->spc, key->db, key->rel};

		memcpy(p, &rnode, sizeof(rnode));
		p += sizeof(rnode);
	}
	if (wal.form != LAYER_WAL_WHOLE)
	{
		memcpy(p, &key->blk, sizeof(key->blk));
		p += sizeof(key->blk);
	}
	memcpy(p, wal.body + wal.cut, wal.body_len - wal.cut);
	return record;
}
