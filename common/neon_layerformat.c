/*-------------------------------------------------------------------------
 *
 * neon_layerformat.c
 *	  The layout of layer files, and decoding their parts from memory.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include <zstd.h>

#include "neon_layerformat.h"

/* ---- checksums ---- */

static pg_crc32c
crc_of_place(uint64 file_id, uint64 offset)
{
	uint8		place[16];
	pg_crc32c	crc;

	codec_store_u64(place, file_id);
	codec_store_u64(place + 8, offset);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, place, sizeof(place));
	return crc;
}

pg_crc32c
layer_crc(uint64 file_id, uint64 offset, const void *data, size_t len)
{
	pg_crc32c	crc = crc_of_place(file_id, offset);

	COMP_CRC32C(crc, data, len);
	FIN_CRC32C(crc);
	return crc;
}

pg_crc32c
layer_block_crc(uint64 file_id, uint64 offset, const uint8 *header, const void *payload, size_t len)
{
	pg_crc32c	crc = crc_of_place(file_id, offset);

	COMP_CRC32C(crc, header, LAYER_BLOCK_HEADER - 4);
	COMP_CRC32C(crc, payload, len);
	FIN_CRC32C(crc);
	return crc;
}

/* ---- header and footer ---- */

void
layer_header_encode(const LayerHeader *h, uint8 *buf)
{
	memset(buf, 0, LAYER_HEADER);
	codec_store_u32(buf, LAYER_MAGIC);
	codec_store_u16(buf + 4, h->version);
	buf[6] = h->type;
	buf[7] = h->flags;
	codec_store_u64(buf + 8, h->system_identifier);
	memcpy(buf + 16, h->tenant.b, NEON_ID_BYTES);
	memcpy(buf + 32, h->timeline.b, NEON_ID_BYTES);
	codec_store_u64(buf + 48, h->file_id);
	codec_store_u32(buf + 56, h->generation);
	codec_store_u32(buf + 60, layer_crc(h->file_id, 0, buf, 60));
}

/* What header and footer both say. */
static const char *
check_type(uint8 type, uint8 flags)
{
	if (type != LAYER_DELTA && type != LAYER_IMAGE)
		return "The file's type is unknown.";
	if (flags & 0xF0)
		return "The file needs a feature that is unknown.";
	return NULL;
}

const char *
layer_header_decode(const uint8 *buf, LayerHeader *h)
{
	memset(h, 0, sizeof(*h));
	if (codec_load_u32(buf) != LAYER_MAGIC)
		return "This is not the header of a layer file.";
	h->file_id = codec_load_u64(buf + 48);
	/* it is there in all versions: a changed bit is not taken for one */
	if (codec_load_u32(buf + 60) != layer_crc(h->file_id, 0, buf, 60))
		return "The header has a wrong CRC.";
	h->version = codec_load_u16(buf + 4);
	if (h->version != LAYER_VERSION)
		return "The version of the file is not one that can be read.";
	h->type = buf[6];
	h->flags = buf[7];
	h->system_identifier = codec_load_u64(buf + 8);
	memcpy(h->tenant.b, buf + 16, NEON_ID_BYTES);
	memcpy(h->timeline.b, buf + 32, NEON_ID_BYTES);
	h->generation = codec_load_u32(buf + 56);
	return check_type(h->type, h->flags);
}

void
layer_footer_encode(const LayerFooter *f, uint64 file_id, uint64 offset, uint8 *buf)
{
	memset(buf, 0, LAYER_FOOTER);
	codec_store_u32(buf, LAYER_FOOTER_MAGIC);
	codec_store_u16(buf + 4, f->version);
	buf[6] = f->type;
	buf[7] = f->flags;
	memcpy(buf + 8, f->first_key, NEON_KEY_ENCODED_SIZE);
	memcpy(buf + 26, f->last_key, NEON_KEY_ENCODED_SIZE);
	codec_store_u64(buf + 48, f->lsn_lo);
	codec_store_u64(buf + 56, f->lsn_hi);
	codec_store_u64(buf + 64, f->directory_offset); /* dictionaries: none */
	codec_store_u32(buf + 76, f->directory_blocks);
	codec_store_u64(buf + 80, f->directory_offset);
	codec_store_u64(buf + 88, f->fence_offset);
	codec_store_u32(buf + 96, f->fence_blocks);
	codec_store_u64(buf + 104, f->keys);
	codec_store_u64(buf + 112, f->versions);
	codec_store_u64(buf + 120, f->images);
	codec_store_u64(buf + 128, f->raw_bytes);
	codec_store_u64(buf + 136, f->image_bytes);
	codec_store_u32(buf + 160, f->file_crc);
	codec_store_u32(buf + 248, layer_crc(file_id, offset, buf, 248));
	codec_store_u32(buf + 252, LAYER_END_MAGIC);
}

/* The parts follow each other without a gap, and the counts fit them. */
static const char *
check_footer(const LayerFooter *f, uint64 offset)
{
	uint64		fences = ((uint64) f->directory_blocks + LAYER_FENCES - 1) / LAYER_FENCES;

	if (f->directory_offset < LAYER_HEADER || f->directory_offset > offset ||
		f->fence_offset != f->directory_offset + (uint64) f->directory_blocks * LAYER_META_BLOCK ||
		f->fence_blocks != fences || offset != f->fence_offset + fences * LAYER_META_BLOCK)
		return "The footer's offsets do not fit the file.";
	if (f->keys == 0 || f->directory_blocks == 0 || f->versions < f->keys ||
		memcmp(f->first_key, f->last_key, NEON_KEY_ENCODED_SIZE) > 0)
		return "The footer's counts are impossible.";
	if (f->type == LAYER_DELTA ? f->lsn_lo >= f->lsn_hi : f->lsn_lo > f->lsn_hi)
		return "The footer's LSNs are impossible.";
	return NULL;
}

const char *
layer_footer_decode(const uint8 *buf, uint64 file_id, uint64 offset, LayerFooter *f)
{
	const char *problem;

	memset(f, 0, sizeof(*f));
	if (codec_load_u32(buf) != LAYER_FOOTER_MAGIC || codec_load_u32(buf + 252) != LAYER_END_MAGIC)
		return "This is not the footer of a layer file.";
	if (codec_load_u32(buf + 248) != layer_crc(file_id, offset, buf, 248))
		return "The footer has a wrong CRC.";
	f->version = codec_load_u16(buf + 4);
	if (f->version != LAYER_VERSION)
		return "The version of the footer is not one that can be read.";
	f->type = buf[6];
	f->flags = buf[7];
	memcpy(f->first_key, buf + 8, NEON_KEY_ENCODED_SIZE);
	memcpy(f->last_key, buf + 26, NEON_KEY_ENCODED_SIZE);
	f->lsn_lo = codec_load_u64(buf + 48);
	f->lsn_hi = codec_load_u64(buf + 56);
	f->directory_blocks = codec_load_u32(buf + 76);
	f->directory_offset = codec_load_u64(buf + 80);
	f->fence_offset = codec_load_u64(buf + 88);
	f->fence_blocks = codec_load_u32(buf + 96);
	f->keys = codec_load_u64(buf + 104);
	f->versions = codec_load_u64(buf + 112);
	f->images = codec_load_u64(buf + 120);
	f->raw_bytes = codec_load_u64(buf + 128);
	f->image_bytes = codec_load_u64(buf + 136);
	f->file_crc = codec_load_u32(buf + 160);
	if (codec_load_u32(buf + 72) != 0)
		return "The file has dictionaries, which this version does not know.";
	problem = check_type(f->type, f->flags);
	return problem ? problem : check_footer(f, offset);
}

/* ---- data blocks ---- */

const char *
layer_block_decode(const uint8 *buf, LayerBlock *b)
{
	b->stored = codec_load_u32(buf);
	b->raw = codec_load_u32(buf + 4);
	b->codec = buf[8];
	b->type = buf[9];
	if (b->codec != LAYER_CODEC_NONE && b->codec != LAYER_CODEC_ZSTD)
		return "A block's codec is unknown.";
	if (codec_load_u16(buf + 10) != 0)
		return "A block needs a dictionary that is not there.";
	if (b->raw == 0 || b->raw > LAYER_RAW_MAX || b->stored == 0 || b->stored > b->raw ||
		(b->codec == LAYER_CODEC_NONE && b->stored != b->raw))
		return "A block's length is impossible.";
	switch (b->type)
	{
		case LAYER_BLOCK_ENTRIES:
			return b->raw <= LAYER_ENTRIES_MAX ? NULL : "A block of entries is too long.";
		case LAYER_BLOCK_PAGE:
			return b->raw == LAYER_PAGE_RAW ? NULL : "A page has a wrong length.";
		case LAYER_BLOCK_MORE:
			return NULL;
	}
	return "A block's type is unknown.";
}

static const char *
unpack(const LayerBlock *b, const uint8 *payload, uint8 *raw)
{
	static ZSTD_DCtx *context = NULL;
	size_t		n;

	if (b->codec == LAYER_CODEC_NONE)
	{
		memcpy(raw, payload, b->raw);
		return NULL;
	}
	if (context == NULL)
		context = ZSTD_createDCtx();
	if (context == NULL)
		return "There is no memory to decompress a block.";
	n = ZSTD_decompressDCtx(context, raw, b->raw, payload, b->stored);
	return !ZSTD_isError(n) && n == b->raw ? NULL : "A block cannot be decompressed.";
}

const char *
layer_block_unpack(uint64 file_id, uint64 offset, const uint8 *buf, size_t len,
				   LayerBlock *b, uint8 *raw)
{
	const char *problem;

	if (len < LAYER_BLOCK_HEADER)
		return "A block is too short.";
	if (codec_load_u32(buf) != len - LAYER_BLOCK_HEADER)
		return "A block's length is not that in the directory.";
	if (codec_load_u32(buf + 12) != layer_block_crc(file_id, offset, buf, buf + LAYER_BLOCK_HEADER,
													len - LAYER_BLOCK_HEADER))
		return "A block has a wrong CRC.";
	if ((problem = layer_block_decode(buf, b)) != NULL)
		return problem;
	return unpack(b, buf + LAYER_BLOCK_HEADER, raw);
}

/* ---- entries ---- */

void
layer_entries_begin(LayerEntries *it, const LayerFooter *f, const uint8 *raw, uint32 len)
{
	memset(it, 0, sizeof(*it));
	it->c = cursor_over(raw, len);
	it->lsn_lo = f->lsn_lo;
	it->lsn_hi = f->lsn_hi;
	it->lsn = f->lsn_lo;
	it->first = true;
}

static void
store_blk(uint8 *key, uint32 blk)
{
	uint8	   *p = key + NEON_OBJECT_ID_SIZE;

	p[0] = (uint8) (blk >> 24);
	p[1] = (uint8) (blk >> 16);
	p[2] = (uint8) (blk >> 8);
	p[3] = (uint8) blk;
}

/* The key of the next entry; false if it is not larger than the one before. */
static bool
next_key(LayerEntries *it, uint8 tag)
{
	uint8		before[NEON_KEY_ENCODED_SIZE];
	uint64		blk;

	if (it->first && (tag & LAYER_TAG_OBJECT) == 0)
		return false;
	if ((tag & (LAYER_TAG_OBJECT | LAYER_TAG_BLOCK)) == 0)
		return true;
	memcpy(before, it->key, sizeof(before));
	if (tag & LAYER_TAG_OBJECT)
		cursor_copy(&it->c, it->key, NEON_OBJECT_ID_SIZE);
	blk = tag & LAYER_TAG_BLOCK ? cursor_varint(&it->c) : 0;
	if (blk > PG_UINT32_MAX)
		return false;
	if ((tag & LAYER_TAG_OBJECT) == 0)
		blk += layer_key_blk(it->key);
	if (blk > PG_UINT32_MAX)
		return false;
	store_blk(it->key, (uint32) blk);
	it->lsn = it->lsn_lo;
	return it->first || memcmp(before, it->key, sizeof(before)) < 0;
}

/* The bytes of an entry, or that they are in other blocks. */
static bool
next_value(LayerEntries *it, uint8 tag, LayerEntry *e)
{
	uint64		len = cursor_varint(&it->c);

	if (len > PG_INT32_MAX)
		return false;
	e->len = (uint32) len;
	e->bytes = NULL;
	if (tag & LAYER_TAG_LARGE)
		return len > 0 && cursor_left(&it->c) == 0;
	e->bytes = cursor_bytes(&it->c, len);
	return e->bytes != NULL;
}

bool
layer_entries_next(LayerEntries *it, LayerEntry *e, const char **problem)
{
	uint8		tag;
	uint64		step;
	bool		ok;

	*problem = NULL;
	if (cursor_left(&it->c) == 0)
		return false;
	tag = cursor_u8(&it->c);
	ok = (tag & 0x80) == 0 && next_key(it, tag);
	step = cursor_varint(&it->c);
	ok = ok && step <= (it->lsn_hi - it->lsn) / 8;
	it->lsn += step * 8;
	ok = ok && it->lsn > it->lsn_lo;
	e->kind = (tag >> LAYER_TAG_KIND_SHIFT) & 7;
	e->base = (tag & LAYER_TAG_BASE) != 0;
	e->lsn = it->lsn;
	e->start = InvalidXLogRecPtr;
	if (e->kind == NEON_VALUE_WAL)
	{
		uint64		length = cursor_varint(&it->c);

		ok = ok && length > 0 && length < e->lsn / 8;
		e->start = e->lsn - length * 8;
	}
	ok = ok && next_value(it, tag, e) && it->c.ok && e->kind <= NEON_VALUE_BLOB;
	if (!ok)
	{
		*problem = "An entry is malformed.";
		return false;
	}
	memcpy(e->key, it->key, sizeof(e->key));
	it->first = false;
	return true;
}

/* ---- directory and fences ---- */

static const char *
check_meta(const uint8 *buf, uint64 file_id, uint64 offset, uint32 number)
{
	if (codec_load_u32(buf) != layer_crc(file_id, offset, buf + 4, LAYER_META_BLOCK - 4))
		return "A block of the directory has a wrong CRC.";
	if (codec_load_u32(buf + 4) != number)
		return "A block of the directory has a wrong number.";
	return NULL;
}

const char *
layer_directory_check(const uint8 *buf, uint64 file_id, uint64 offset, uint32 number)
{
	const char *problem = check_meta(buf, file_id, offset, number);
	uint32		ngroups = codec_load_u16(buf + 10);
	uint32		end = codec_load_u16(buf + 12);

	if (problem != NULL)
		return problem;
	if (ngroups == 0 || end < LAYER_META_HEADER ||
		end + ngroups * LAYER_GROUP > LAYER_META_BLOCK)
		return "A block of the directory is malformed.";
	return NULL;
}

const char *
layer_fences_check(const uint8 *buf, uint64 file_id, uint64 offset, uint32 number, uint32 *count)
{
	const char *problem = check_meta(buf, file_id, offset, number);

	*count = codec_load_u16(buf + 8);
	if (problem == NULL && (*count == 0 || *count > LAYER_FENCES))
		return "A block of fences is malformed.";
	return problem;
}

/* Group i: they grow from the end of the block backward. */
static const uint8 *
group_at(const uint8 *block, int i)
{
	return block + LAYER_META_BLOCK - (i + 1) * LAYER_GROUP;
}

/* False if the group is malformed. */
static bool
begin_group(LayerDirectory *it)
{
	const uint8 *g = group_at(it->block, it->group);
	uint32		from = codec_load_u16(g + 18);
	uint32		to = it->group + 1 < it->ngroups ?
		codec_load_u16(group_at(it->block, it->group + 1) + 18) : codec_load_u16(it->block + 12);

	if (from < LAYER_META_HEADER || to < from || to > codec_load_u16(it->block + 12))
		return false;
	memcpy(it->key, g, NEON_KEY_ENCODED_SIZE);
	it->c = cursor_over(it->block + from, to - from);
	it->left = g[20] + 1;
	it->first = true;
	it->offset = codec_load_u64(g + 20) >> 16;
	it->len = codec_load_u32(g + 28);
	return it->left <= LAYER_GROUP_KEYS;
}

void
layer_directory_seek(LayerDirectory *it, const uint8 *buf, const uint8 *key)
{
	int			lo = 0;
	int			hi;

	memset(it, 0, sizeof(*it));
	it->block = buf;
	it->ngroups = codec_load_u16(buf + 10);
	hi = it->ngroups - 1;
	while (lo < hi)
	{
		int			mid = (lo + hi + 1) / 2;

		if (memcmp(group_at(buf, mid), key, NEON_KEY_ENCODED_SIZE) <= 0)
			lo = mid;
		else
			hi = mid - 1;
	}
	it->group = lo - 1;
}

/* The key of an entry that is not the first of its group. */
static bool
next_dir_key(LayerDirectory *it)
{
	uint64		gap = cursor_varint(&it->c);
	uint8		before[NEON_KEY_ENCODED_SIZE];
	uint8		shared;

	if (gap != 0)
	{
		uint64		blk = layer_key_blk(it->key) + gap;

		if (gap > PG_UINT32_MAX || blk > PG_UINT32_MAX)
			return false;
		store_blk(it->key, (uint32) blk);
		return true;
	}
	shared = cursor_u8(&it->c);
	if (shared >= NEON_KEY_ENCODED_SIZE)
		return false;
	memcpy(before, it->key, sizeof(before));
	cursor_copy(&it->c, it->key + shared, NEON_KEY_ENCODED_SIZE - shared);
	return memcmp(before, it->key, sizeof(before)) < 0;
}

/* A stored length; 0 if it is impossible. */
static uint32
take_length(Cursor *c)
{
	uint64		len = cursor_varint(c);

	if (len <= LAYER_BLOCK_HEADER || len > LAYER_BLOCK_HEADER + LAYER_RAW_MAX)
	{
		c->ok = false;
		return 0;
	}
	return (uint32) len;
}

/* The further blocks of a key; they end where the next key may begin. */
static void
take_more(LayerDirectory *it, LayerPlace *place)
{
	uint64		n = cursor_varint(&it->c);

	if (n == 0 || n > PG_INT32_MAX)
		it->c.ok = false;
	if (!it->c.ok)
		return;
	place->more = (uint32) n;
	if (n <= LAYER_LISTED_BLOCKS)
	{
		for (uint32 i = 0; i < place->more; i++)
		{
			place->more_len[i] = take_length(&it->c);
			place->more_bytes += place->more_len[i];
		}
		place->last_len = place->more_len[n - 1];
	}
	else
	{
		place->more_bytes = cursor_varint(&it->c);
		place->last_len = take_length(&it->c);
		if (place->more_bytes >> 48 != 0 || place->more_bytes < place->last_len)
			it->c.ok = false;
	}
}

/* Where the versions of the next key are. */
static void
next_place(LayerDirectory *it, uint8 tag, LayerPlace *place)
{
	place->newer = tag >> LAYER_DIR_COUNT_SHIFT;
	if (place->newer == LAYER_DIR_COUNT_MAX)
		place->newer += cursor_varint(&it->c);
	place->base = (tag & LAYER_DIR_BASE) != 0;
	if (tag & LAYER_DIR_NEW_BLOCK)
	{
		it->offset += it->len;
		it->len = take_length(&it->c);
	}
	place->offset = it->offset;
	place->len = it->len;
	place->more = 0;
	place->more_bytes = 0;
	place->last_len = 0;
	if (tag & LAYER_DIR_MORE)
	{
		take_more(it, place);
		it->offset += it->len + place->more_bytes - place->last_len;
		it->len = place->last_len;
	}
}

bool
layer_directory_next(LayerDirectory *it, LayerPlace *place, const char **problem)
{
	uint8		tag;
	bool		ok = true;

	*problem = NULL;
	if (it->left == 0)
	{
		if (it->group + 1 >= it->ngroups)
			return false;
		it->group++;
		ok = begin_group(it);
	}
	tag = cursor_u8(&it->c);
	if (it->first)
		ok = ok && (tag & LAYER_DIR_NEW_BLOCK) == 0 && it->len > LAYER_BLOCK_HEADER &&
			it->len <= LAYER_BLOCK_HEADER + LAYER_RAW_MAX;
	else
		ok = ok && next_dir_key(it);
	if (ok)
		next_place(it, tag, place);
	it->first = false;
	it->left--;
	if (it->left == 0)
		ok = ok && cursor_left(&it->c) == 0;
	if (!ok || !it->c.ok)
	{
		*problem = "A block of the directory is malformed.";
		return false;
	}
	memcpy(place->key, it->key, NEON_KEY_ENCODED_SIZE);
	return true;
}

/* ---- WAL records ---- */

const char *
layer_wal_decode(const uint8 *bytes, uint32 len, LayerWal *wal)
{
	Cursor		c = cursor_over(bytes, len);

	memset(wal, 0, sizeof(*wal));
	wal->form = cursor_u8(&c);
	if (wal->form > LAYER_WAL_NO_TAG)
		return "A WAL record is stored in an unknown form.";
	if (wal->form != LAYER_WAL_WHOLE)
	{
		uint64		cut = cursor_varint(&c);

		wal->cut = (uint32) Min(cut, PG_UINT32_MAX);
	}
	wal->xid = cursor_u32(&c);
	wal->info = cursor_u8(&c);
	wal->rmid = cursor_u8(&c);
	wal->body = c.p;
	wal->body_len = cursor_left(&c);
	if (!c.ok || wal->cut > wal->body_len)
		return "A stored WAL record is malformed.";
	return NULL;
}
