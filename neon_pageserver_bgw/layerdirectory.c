/*-------------------------------------------------------------------------
 *
 * layerdirectory.c
 *	  The key directory of a layer file, while the file is written.
 *
 * It is kept in memory until the data is written: some 2 to 4 bytes per key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "layerdirectory.h"

/* Upper bound of an entry: tag, key, count, lengths. */
#define MAX_ENTRY	(1 + 2 + NEON_KEY_ENCODED_SIZE + 10 + 5 + 10 + LAYER_LISTED_BLOCKS * 5)

struct LayerDirectoryWriter
{
	StringInfoData done;		/* whole blocks */
	StringInfoData fences;		/* the first key of each block */
	uint32		nblocks;

	uint8		block[LAYER_META_BLOCK];	/* being filled */
	uint32		end;			/* of its entries */
	int			ngroups;
	int			nkeys;			/* of the block */
	int			group_keys;		/* of the last group */
	uint8		prev[NEON_KEY_ENCODED_SIZE];
	uint64		offset;			/* of the block where the last key ended */
	uint32		len;
};

LayerDirectoryWriter *
layer_directory_begin(void)
{
	LayerDirectoryWriter *d = palloc0(sizeof(LayerDirectoryWriter));

	initStringInfo(&d->done);
	initStringInfo(&d->fences);
	d->end = LAYER_META_HEADER;
	return d;
}

/* ---- blocks and groups ---- */

void
layer_directory_finish(LayerDirectoryWriter *d)
{
	if (d->nkeys == 0)
		return;
	codec_store_u32(d->block + 4, d->nblocks++);
	codec_store_u16(d->block + 8, d->nkeys);
	codec_store_u16(d->block + 10, d->ngroups);
	codec_store_u16(d->block + 12, d->end);
	codec_put_bytes(&d->done, d->block, LAYER_META_BLOCK);
	memset(d->block, 0, LAYER_META_BLOCK);
	d->end = LAYER_META_HEADER;
	d->ngroups = 0;
	d->nkeys = 0;
	d->group_keys = 0;
}

static void
begin_group(LayerDirectoryWriter *d, const LayerKey *key)
{
	uint8	   *g = d->block + LAYER_META_BLOCK - ++d->ngroups * LAYER_GROUP;

	memcpy(g, key->key, NEON_KEY_ENCODED_SIZE);
	codec_store_u16(g + 18, d->end);
	g[21] = 0;
	codec_store_u32(g + 22, (uint32) key->offset);
	codec_store_u16(g + 26, (uint16) (key->offset >> 32));
	codec_store_u32(g + 28, key->len);
	d->group_keys = 0;
	if (d->ngroups == 1)
		codec_put_bytes(&d->fences, key->key, NEON_KEY_ENCODED_SIZE);
}

/* ---- entries ---- */

/* A key behind another one: its distance, or 0 and its bytes from the first that differs. */
static int
encode_key(const uint8 *key, const uint8 *prev, uint8 *buf)
{
	int			shared = 0;

	if (memcmp(key, prev, NEON_OBJECT_ID_SIZE) == 0)
		return codec_store_varint(buf, layer_key_blk(key) - layer_key_blk(prev));
	while (key[shared] == prev[shared])
		shared++;
	buf[0] = 0;
	buf[1] = shared;
	memcpy(buf + 2, key + shared, NEON_KEY_ENCODED_SIZE - shared);
	return 2 + NEON_KEY_ENCODED_SIZE - shared;
}

static int
encode_more(const LayerKey *key, uint8 *buf)
{
	int			n = codec_store_varint(buf, key->more);

	if (key->more > LAYER_LISTED_BLOCKS)
	{
		n += codec_store_varint(buf + n, key->more_bytes);
		return n + codec_store_varint(buf + n, key->last_len);
	}
	for (uint32 i = 0; i < key->more; i++)
		n += codec_store_varint(buf + n, key->more_len[i]);
	return n;
}

static int
encode_entry(const LayerDirectoryWriter *d, const LayerKey *key, bool first, uint8 *buf)
{
	bool		new_block = !first && key->offset != d->offset;
	uint64		count = Min(key->newer, LAYER_DIR_COUNT_MAX);
	int			n = 1;

	if (new_block && key->offset != d->offset + d->len)
		elog(ERROR, "blocks of a layer are not contiguous");
	buf[0] = (key->base ? LAYER_DIR_BASE : 0) | (new_block ? LAYER_DIR_NEW_BLOCK : 0) |
		(key->more > 0 ? LAYER_DIR_MORE : 0) | count << LAYER_DIR_COUNT_SHIFT;
	if (!first)
		n += encode_key(key->key, d->prev, buf + n);
	if (count == LAYER_DIR_COUNT_MAX)
		n += codec_store_varint(buf + n, key->newer - LAYER_DIR_COUNT_MAX);
	if (new_block)
		n += codec_store_varint(buf + n, key->len);
	if (key->more > 0)
		n += encode_more(key, buf + n);
	return n;
}

void
layer_directory_add(LayerDirectoryWriter *d, const LayerKey *key)
{
	uint8		buf[MAX_ENTRY];
	bool		first = d->ngroups == 0 || d->group_keys == LAYER_GROUP_KEYS;
	int			n = encode_entry(d, key, first, buf);

	if (d->end + n + (d->ngroups + (first ? 1 : 0)) * LAYER_GROUP > LAYER_META_BLOCK)
	{
		layer_directory_finish(d);
		first = true;
		n = encode_entry(d, key, first, buf);
	}
	if (first)
		begin_group(d, key);
	memcpy(d->block + d->end, buf, n);
	d->end += n;
	d->nkeys++;
	d->block[LAYER_META_BLOCK - d->ngroups * LAYER_GROUP + 20] = d->group_keys++;
	memcpy(d->prev, key->key, NEON_KEY_ENCODED_SIZE);
	d->offset = key->offset + (key->more > 0 ? key->len + key->more_bytes - key->last_len : 0);
	d->len = key->more > 0 ? key->last_len : key->len;
}

/* ---- as they are stored ---- */

uint32
layer_directory_blocks(const LayerDirectoryWriter *d)
{
	return d->nblocks;
}

void
layer_directory_block(const LayerDirectoryWriter *d, uint32 i, uint64 file_id, uint64 offset,
					  uint8 *block)
{
	memcpy(block, d->done.data + (size_t) i * LAYER_META_BLOCK, LAYER_META_BLOCK);
	codec_store_u32(block, layer_crc(file_id, offset, block + 4, LAYER_META_BLOCK - 4));
}

void
layer_directory_fences(const LayerDirectoryWriter *d, uint32 i, uint64 file_id, uint64 offset,
					   uint8 *block)
{
	uint32		from = i * LAYER_FENCES;
	uint32		n = Min(d->nblocks - from, LAYER_FENCES);

	memset(block, 0, LAYER_META_BLOCK);
	codec_store_u32(block + 4, i);
	codec_store_u16(block + 8, n);
	memcpy(block + LAYER_FENCE_HEADER, d->fences.data + (size_t) from * NEON_KEY_ENCODED_SIZE,
		   n * NEON_KEY_ENCODED_SIZE);
	codec_store_u32(block, layer_crc(file_id, offset, block + 4, LAYER_META_BLOCK - 4));
}
