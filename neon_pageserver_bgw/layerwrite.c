/*-------------------------------------------------------------------------
 *
 * layerwrite.c
 *	  Writing a layer file, in one pass from front to back.
 *
 * Entries gather in a block, which is compressed and written when it is full.
 * What the directory says of a key is known when the last block that it has
 * entries in is written: until then the key is pending.  Whenever the open
 * block has entries, every pending key has some in it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

#include "layerdirectory.h"
#include "layerfile.h"
#include "neon_diskfull.h"
#include "neon_durable.h"
#include "neon_testpoint.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#define WRITE_BUFFER	(256 * 1024)
#define ZSTD_LEVEL		1

/* A value of this size begins a block, so that it can be read alone. */
#define OWN_BLOCK		4096

struct LayerWriter
{
	MemoryContext context;
	MemoryContextCallback on_reset;
	TimelineIdentity id;
	ManifestFile file;
	LayerFooter footer;			/* filled in as the file grows */
	char		path[MAXPGPATH];
	int			fd;				/* -1: closed */
	bool		finished;
	uint64		offset;			/* of what comes next, buffered bytes included */
	pg_crc32c	crc;			/* of all so far */
	char	   *buffer;
	size_t		buffered;

	StringInfoData block;		/* raw bytes of the open block */
	uint8	   *packed;			/* a block as it is stored */
	size_t		packed_size;
	uint8		block_key[NEON_KEY_ENCODED_SIZE];	/* of its last entry */
	uint8		prev[NEON_KEY_ENCODED_SIZE];	/* key and LSN added last */
	XLogRecPtr	prev_lsn;

	LayerKey   *pending;
	int			npending;
	int			maxpending;
	LayerDirectoryWriter *directory;
};

void
layer_path(const TimelineIdentity *id, const ManifestFile *file, char *path)
{
	char		below[64];

	snprintf(below, sizeof(below), "layers/%016llx-%08x.%s", (unsigned long long) file->id,
			 file->generation, file->type == LAYER_IMAGE ? "image" : "delta");
	timeline_path(&id->tenant, &id->timeline, below, path);
}

/* ---- the file ---- */

static void
close_fd(LayerWriter *w)
{
	if (w->fd < 0)
		return;
	close(w->fd);
	ReleaseExternalFD();
	w->fd = -1;
}

static void
writer_reset(void *arg)
{
	LayerWriter *w = arg;

	close_fd(w);
	if (!w->finished)
		unlink(w->path);
}

void
layer_writer_abort(LayerWriter *w)
{
	MemoryContextDelete(w->context);
}

static void
flush_buffer(LayerWriter *w)
{
	if (!durable_pwrite(w->fd, w->buffer, w->buffered, w->offset - w->buffered))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", w->path),
				 neon_hint_if_full(w->path)));
	w->buffered = 0;
}

static void
put_bytes(LayerWriter *w, const void *data, size_t len)
{
	const char *p = data;

	COMP_CRC32C(w->crc, data, len);
	while (len > 0)
	{
		size_t		n = Min(len, WRITE_BUFFER - w->buffered);

		memcpy(w->buffer + w->buffered, p, n);
		w->buffered += n;
		w->offset += n;
		p += n;
		len -= n;
		if (w->buffered == WRITE_BUFFER)
			flush_buffer(w);
	}
}

static void
put_header(LayerWriter *w)
{
	LayerHeader h = {0};
	uint8		buf[LAYER_HEADER];

	h.version = LAYER_VERSION;
	h.type = w->file.type;
	h.system_identifier = w->id.system_identifier;
	h.tenant = w->id.tenant;
	h.timeline = w->id.timeline;
	h.file_id = w->file.id;
	h.generation = w->file.generation;
	layer_header_encode(&h, buf);
	put_bytes(w, buf, sizeof(buf));
}

static void
create_file(LayerWriter *w)
{
	layer_path(&w->id, &w->file, w->path);
	w->fd = BasicOpenFile(w->path, O_RDWR | O_CREAT | O_EXCL | PG_BINARY);
	if (w->fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", w->path),
				 neon_hint_if_full(w->path)));
	ReserveExternalFD();
	w->on_reset.func = writer_reset;
	w->on_reset.arg = w;
	MemoryContextRegisterResetCallback(w->context, &w->on_reset);
}

LayerWriter *
layer_writer_begin(const TimelineIdentity *id, LayerType type, uint64 file_id, XLogRecPtr lsn_lo,
				   XLogRecPtr lsn_hi)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "neon layer writer",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	LayerWriter *w = palloc0(sizeof(LayerWriter));

	w->context = context;
	w->id = *id;
	w->file.id = file_id;
	w->file.type = type;
	w->file.generation = LAYER_FIRST_GENERATION;
	w->file.lsn_lo = lsn_lo;
	w->file.lsn_hi = lsn_hi;
	INIT_CRC32C(w->crc);
	w->buffer = palloc(WRITE_BUFFER);
	initStringInfo(&w->block);
	w->packed_size = LAYER_BLOCK_HEADER + ZSTD_compressBound(LAYER_RAW_MAX);
	w->packed = palloc(w->packed_size);
	w->maxpending = 64;
	w->pending = palloc(w->maxpending * sizeof(LayerKey));
	w->directory = layer_directory_begin();
	create_file(w);
	put_header(w);
	MemoryContextSwitchTo(old);
	return w;
}

/* ---- blocks ---- */

/* Into w->packed behind the header; the length. */
static size_t
pack(LayerWriter *w, const void *raw, size_t len, LayerCodec *codec)
{
	static ZSTD_CCtx *context = NULL;
	uint8	   *payload = w->packed + LAYER_BLOCK_HEADER;
	size_t		n;

	if (context == NULL)
		context = ZSTD_createCCtx();
	if (context == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	n = ZSTD_compressCCtx(context, payload, w->packed_size - LAYER_BLOCK_HEADER, raw, len,
						  ZSTD_LEVEL);
	if (ZSTD_isError(n))
		elog(ERROR, "could not compress a block: %s", ZSTD_getErrorName(n));
	*codec = LAYER_CODEC_ZSTD;
	if (n < len - len / 16)
		return n;
	*codec = LAYER_CODEC_NONE;
	memcpy(payload, raw, len);
	return len;
}

/* Writes a block; its stored length with the header. */
static uint32
put_block(LayerWriter *w, LayerBlockType type, const void *raw, size_t len)
{
	LayerCodec	codec;
	size_t		n = pack(w, raw, len, &codec);
	uint8	   *h = w->packed;

	memset(h, 0, LAYER_BLOCK_HEADER);
	codec_store_u32(h, n);
	codec_store_u32(h + 4, len);
	h[8] = codec;
	h[9] = type;
	codec_store_u32(h + 12, layer_block_crc(w->file.id, w->offset, h, h + LAYER_BLOCK_HEADER, n));
	put_bytes(w, h, LAYER_BLOCK_HEADER + n);
	w->footer.raw_bytes += len;
	return LAYER_BLOCK_HEADER + n;
}

/* A key has entries in the block at offset. */
static void
key_in_block(LayerKey *key, uint64 offset, uint32 len)
{
	if (key->len == 0)
	{
		key->offset = offset;
		key->len = len;
		return;
	}
	if (key->more < LAYER_LISTED_BLOCKS)
	{
		if (key->more_len == NULL)
			key->more_len = palloc(LAYER_LISTED_BLOCKS * sizeof(uint32));
		key->more_len[key->more] = len;
	}
	key->more++;
	key->more_bytes += len;
	key->last_len = len;
}

/* The directory gets the keys before the i-th one. */
static void
complete_keys(LayerWriter *w, int i)
{
	for (int k = 0; k < i; k++)
	{
		layer_directory_add(w->directory, &w->pending[k]);
		if (w->pending[k].more_len)
			pfree(w->pending[k].more_len);
	}
	w->npending -= i;
	memmove(w->pending, w->pending + i, w->npending * sizeof(LayerKey));
}

static void
close_block(LayerWriter *w)
{
	uint64		offset = w->offset;
	uint32		len;

	if (w->block.len == 0)
		return;
	len = put_block(w, LAYER_BLOCK_ENTRIES, w->block.data, w->block.len);
	for (int i = 0; i < w->npending; i++)
		key_in_block(&w->pending[i], offset, len);
	complete_keys(w, w->npending - 1);
	resetStringInfo(&w->block);
}

/* ---- entries ---- */

static void
check_version(LayerWriter *w, const uint8 *key, const StoreVersion *version)
{
	int			cmp = w->footer.versions > 0 ? memcmp(key, w->prev, NEON_KEY_ENCODED_SIZE) : 1;
	bool		image = w->file.type == LAYER_IMAGE;

	if (cmp < 0 || (cmp == 0 && (image || version->lsn < w->prev_lsn)))
		elog(ERROR, "versions of a layer are not in order");
	if (version->lsn > w->file.lsn_hi || version->lsn < w->file.lsn_lo ||
		(!image && version->lsn == w->file.lsn_lo) || (version->lsn - w->file.lsn_lo) % 8 != 0)
		elog(ERROR, "version at %X/%X is outside its layer", LSN_FORMAT_ARGS(version->lsn));
	if (image && (version->value_kind != NEON_VALUE_IMAGE || version->len != BLCKSZ))
		elog(ERROR, "version at %X/%X is no image", LSN_FORMAT_ARGS(version->lsn));
}

static LayerKey *
begin_key(LayerWriter *w, const uint8 *key)
{
	LayerKey   *k;

	/* The one before has no entries in the block that comes. */
	if (w->block.len == 0)
		complete_keys(w, w->npending);
	if (w->npending == w->maxpending)
	{
		w->maxpending *= 2;
		w->pending = repalloc(w->pending, w->maxpending * sizeof(LayerKey));
	}
	k = &w->pending[w->npending++];
	memset(k, 0, sizeof(*k));
	memcpy(k->key, key, NEON_KEY_ENCODED_SIZE);
	w->footer.keys++;
	return k;
}

/* All of an entry but its bytes. */
static void
put_entry_head(LayerWriter *w, const uint8 *key, const StoreVersion *v, bool large)
{
	bool		first = w->block.len == 0;
	bool		new_key = first || memcmp(key, w->block_key, NEON_KEY_ENCODED_SIZE) != 0;
	bool		new_object = first || memcmp(key, w->block_key, NEON_OBJECT_ID_SIZE) != 0;
	uint32		blk = layer_key_blk(key);
	uint32		step = new_object ? blk : blk - layer_key_blk(w->block_key);
	uint8		tag = v->value_kind << LAYER_TAG_KIND_SHIFT;

	tag |= (v->base ? LAYER_TAG_BASE : 0) | (large ? LAYER_TAG_LARGE : 0) |
		(new_object ? LAYER_TAG_OBJECT : 0) | (new_key && step != 0 ? LAYER_TAG_BLOCK : 0);
	codec_put_u8(&w->block, tag);
	if (new_object)
		codec_put_bytes(&w->block, key, NEON_OBJECT_ID_SIZE);
	if (tag & LAYER_TAG_BLOCK)
		codec_put_varint(&w->block, step);
	codec_put_varint(&w->block, (v->lsn - (new_key ? w->file.lsn_lo : w->prev_lsn)) / 8);
	if (v->value_kind == NEON_VALUE_WAL)
		codec_put_varint(&w->block, (v->lsn - v->start) / 8);
	codec_put_varint(&w->block, v->len);
	memcpy(w->block_key, key, NEON_KEY_ENCODED_SIZE);
}

/* The bytes of a value, in blocks of their own behind the one with its entry. */
static void
put_large(LayerWriter *w, const StoreVersion *v)
{
	close_block(w);
	for (uint32 done = 0; done < v->len;)
	{
		uint32		n = Min(v->len - done, LAYER_RAW_MAX);
		uint64		offset = w->offset;
		uint32		len = put_block(w, LAYER_BLOCK_MORE, v->data + done, n);

		key_in_block(&w->pending[w->npending - 1], offset, len);
		done += n;
	}
}

static void
add_entry(LayerWriter *w, const uint8 *key, const StoreVersion *v)
{
	bool		large = v->len > LAYER_LARGE;
	bool		new_key = w->npending == 0 ||
	memcmp(key, w->pending[w->npending - 1].key, NEON_KEY_ENCODED_SIZE) != 0;
	LayerKey   *k;

	if (v->len >= OWN_BLOCK)
		close_block(w);
	k = new_key ? begin_key(w, key) : &w->pending[w->npending - 1];
	k->base |= v->base;
	k->newer = v->base ? 0 : k->newer + 1;
	put_entry_head(w, key, v, large);
	if (large)
		put_large(w, v);
	else
	{
		if (v->len > 0)
			codec_put_bytes(&w->block, v->data, v->len);
		if (w->block.len >= LAYER_BLOCK_TARGET)
			close_block(w);
	}
}

static void
add_page(LayerWriter *w, const uint8 *key, const StoreVersion *v)
{
	uint8		raw[LAYER_PAGE_RAW];
	uint64		offset = w->offset;
	uint32		len;

	codec_store_u64(raw, v->lsn);
	memcpy(raw + 8, v->data, BLCKSZ);
	len = put_block(w, LAYER_BLOCK_PAGE, raw, sizeof(raw));
	w->footer.image_bytes += len;
	begin_key(w, key)->base = true;
	key_in_block(&w->pending[0], offset, len);
}

void
layer_writer_add(LayerWriter *w, const NeonKey *key, const StoreVersion *version)
{
	MemoryContext old = MemoryContextSwitchTo(w->context);
	uint8		encoded[NEON_KEY_ENCODED_SIZE];

	neon_key_encode(key, encoded);
	check_version(w, encoded, version);
	if (w->footer.versions == 0)
		memcpy(w->footer.first_key, encoded, sizeof(encoded));
	if (w->file.type == LAYER_IMAGE)
		add_page(w, encoded, version);
	else
		add_entry(w, encoded, version);
	memcpy(w->prev, encoded, sizeof(encoded));
	w->prev_lsn = version->lsn;
	w->footer.versions++;
	if (version->value_kind == NEON_VALUE_IMAGE)
		w->footer.images++;
	MemoryContextSwitchTo(old);
}

uint64
layer_writer_bytes(const LayerWriter *w)
{
	return w->offset;
}

/* ---- the end ---- */

static void
put_directory(LayerWriter *w)
{
	LayerFooter *f = &w->footer;
	uint8		block[LAYER_META_BLOCK];

	layer_directory_finish(w->directory);
	f->directory_offset = w->offset;
	f->directory_blocks = layer_directory_blocks(w->directory);
	for (uint32 i = 0; i < f->directory_blocks; i++)
	{
		layer_directory_block(w->directory, i, w->file.id, w->offset, block);
		put_bytes(w, block, sizeof(block));
	}
	f->fence_offset = w->offset;
	f->fence_blocks = (f->directory_blocks + LAYER_FENCES - 1) / LAYER_FENCES;
	for (uint32 i = 0; i < f->fence_blocks; i++)
	{
		layer_directory_fences(w->directory, i, w->file.id, w->offset, block);
		put_bytes(w, block, sizeof(block));
	}
}

static void
put_footer(LayerWriter *w)
{
	LayerFooter *f = &w->footer;
	pg_crc32c	crc = w->crc;
	uint8		buf[LAYER_FOOTER];

	FIN_CRC32C(crc);
	f->file_crc = crc;
	f->version = LAYER_VERSION;
	f->type = w->file.type;
	f->lsn_lo = w->file.lsn_lo;
	f->lsn_hi = w->file.lsn_hi;
	memcpy(f->last_key, w->prev, sizeof(w->prev));
	layer_footer_encode(f, w->file.id, w->offset, buf);
	put_bytes(w, buf, sizeof(buf));
}

static bool
sync_file(LayerWriter *w)
{
	char		dir[MAXPGPATH];

	timeline_path(&w->id.tenant, &w->id.timeline, "layers", dir);
	return pg_fsync(w->fd) == 0 && !NEON_TEST_FAILS("layer-sync") && durable_try_sync_dir(dir);
}

bool
layer_writer_finish(LayerWriter *w, ManifestFile *file)
{
	MemoryContext old = MemoryContextSwitchTo(w->context);
	bool		synced;

	if (w->footer.versions == 0)
		elog(ERROR, "a layer without versions");
	close_block(w);
	complete_keys(w, w->npending);
	put_directory(w);
	put_footer(w);
	flush_buffer(w);
	synced = sync_file(w);

	*file = w->file;
	file->bytes = w->offset;
	file->entries = w->footer.versions;
	memcpy(file->first_key, w->footer.first_key, NEON_KEY_ENCODED_SIZE);
	memcpy(file->last_key, w->prev, NEON_KEY_ENCODED_SIZE);
	w->finished = synced;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(w->context);
	return synced;
}
