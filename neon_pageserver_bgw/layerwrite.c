/*-------------------------------------------------------------------------
 *
 * layerwrite.c
 *	  Writing a layer file, in one pass from front to back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "neon_codec.h"
#include "layerfile.h"
#include "layerformat.h"
#include "neon_diskfull.h"
#include "neon_durable.h"
#include "storage/fd.h"
#include "neon_testpoint.h"
#include "utils/memutils.h"

#define WRITE_BUFFER	(256 * 1024)

struct LayerWriter
{
	MemoryContext context;
	MemoryContextCallback on_reset;
	TimelineIdentity id;
	uint64		file_id;
	XLogRecPtr	lsn_lo;
	XLogRecPtr	lsn_hi;
	char		path[MAXPGPATH];
	int			fd;				/* -1: closed */
	bool		finished;
	uint64		offset;			/* of what comes next, buffered bytes included */
	char	   *buffer;
	size_t		buffered;

	StringInfoData block;		/* payload of the open entry block */
	uint16		restarts[LAYER_BLOCK_MAX / LAYER_RESTART];
	int			nrestarts;
	int			nentries;		/* of the open block */
	uint8		block_key[NEON_KEY_ENCODED_SIZE];
	XLogRecPtr	block_lsn;

	StringInfoData index;
	uint32		nblocks;
	uint64		total;
	NeonKey		prev;
	XLogRecPtr	prev_lsn;
	uint8		first_key[NEON_KEY_ENCODED_SIZE];
};

pg_crc32c
layer_crc(uint64 file_id, uint64 offset, const void *data, size_t len)
{
	uint8		place[16];
	pg_crc32c	crc;

	codec_store_u64(place, file_id);
	codec_store_u64(place + 8, offset);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, place, sizeof(place));
	COMP_CRC32C(crc, data, len);
	FIN_CRC32C(crc);
	return crc;
}

void
layer_path(const TimelineIdentity *id, uint64 file_id, char *path)
{
	char		below[64];

	snprintf(below, sizeof(below), "layers/%016llx.layer", (unsigned long long) file_id);
	timeline_path(&id->tenant, &id->timeline, below, path);
}

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
write_failed(LayerWriter *w)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not write file \"%s\": %m", w->path),
			 neon_hint_if_full(w->path)));
}

static void
flush_buffer(LayerWriter *w)
{
	if (!durable_pwrite(w->fd, w->buffer, w->buffered, w->offset - w->buffered))
		write_failed(w);
	w->buffered = 0;
}

static void
put_bytes(LayerWriter *w, const void *data, size_t len)
{
	const char *p = data;

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
	uint8		h[LAYER_HEADER] = {0};

	codec_store_u32(h, LAYER_MAGIC);
	codec_store_u16(h + 4, LAYER_VERSION);
	codec_store_u64(h + 8, w->file_id);
	memcpy(h + 16, w->id.tenant.b, NEON_ID_BYTES);
	memcpy(h + 32, w->id.timeline.b, NEON_ID_BYTES);
	codec_store_u32(h + LAYER_HEADER - 4, layer_crc(w->file_id, 0, h, LAYER_HEADER - 4));
	put_bytes(w, h, sizeof(h));
}

LayerWriter *
layer_writer_begin(const TimelineIdentity *id, uint64 file_id, XLogRecPtr lsn_lo,
				   XLogRecPtr lsn_hi)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "neon layer writer",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	LayerWriter *w = palloc0(sizeof(LayerWriter));

	w->context = context;
	w->id = *id;
	w->file_id = file_id;
	w->lsn_lo = lsn_lo;
	w->lsn_hi = lsn_hi;
	w->buffer = palloc(WRITE_BUFFER);
	initStringInfo(&w->block);
	initStringInfo(&w->index);
	layer_path(id, file_id, w->path);
	w->fd = BasicOpenFile(w->path, O_RDWR | O_CREAT | O_EXCL | PG_BINARY);
	if (w->fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", w->path),
				 neon_hint_if_full(w->path)));
	ReserveExternalFD();
	w->on_reset.func = writer_reset;
	w->on_reset.arg = w;
	MemoryContextRegisterResetCallback(context, &w->on_reset);
	put_header(w);
	MemoryContextSwitchTo(old);
	return w;
}

/* ---- entries ---- */

static void
put_varint(StringInfo buf, uint64 v)
{
	uint8		b[10];

	codec_put_bytes(buf, b, codec_store_varint(b, v));
}

static void
close_block(LayerWriter *w)
{
	uint8		h[LAYER_BLOCK_HEADER] = {0};
	uint8		place[16];
	uint8		r[2];
	pg_crc32c	crc;

	if (w->nentries == 0)
		return;
	for (int i = 0; i < w->nrestarts; i++)
	{
		codec_store_u16(r, w->restarts[i]);
		codec_put_bytes(&w->block, r, sizeof(r));
	}
	codec_put_u64(&w->index, w->offset);
	codec_put_u32(&w->index, w->block.len);
	codec_put_bytes(&w->index, w->block_key, NEON_KEY_ENCODED_SIZE);
	codec_put_u64(&w->index, w->block_lsn);

	codec_store_u32(h + 4, w->block.len);
	codec_store_u16(h + 8, w->nentries);
	codec_store_u16(h + 10, w->nrestarts);
	codec_store_u64(place, w->file_id);
	codec_store_u64(place + 8, w->offset);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, place, sizeof(place));
	COMP_CRC32C(crc, h + 4, sizeof(h) - 4);
	COMP_CRC32C(crc, w->block.data, w->block.len);
	FIN_CRC32C(crc);
	codec_store_u32(h, crc);
	put_bytes(w, h, sizeof(h));
	put_bytes(w, w->block.data, w->block.len);
	resetStringInfo(&w->block);
	w->nblocks++;
	w->nentries = 0;
	w->nrestarts = 0;
}

/* Tag, key and LSN of an entry. */
static void
put_entry_head(LayerWriter *w, const NeonKey *key, XLogRecPtr lsn, uint8 tag)
{
	bool		restart = w->nentries % LAYER_RESTART == 0;
	bool		new_key = restart || neon_key_cmp(key, &w->prev) != 0;
	uint8		encoded[NEON_KEY_ENCODED_SIZE];

	if (restart)
		w->restarts[w->nrestarts++] = w->block.len;
	if (new_key)
		tag |= LAYER_TAG_KEY;
	if (new_key && !restart && key->kind == w->prev.kind && key->spc == w->prev.spc &&
		key->db == w->prev.db && key->rel == w->prev.rel && key->fork == w->prev.fork)
		tag |= LAYER_TAG_SAME_OBJECT;
	neon_key_encode(key, encoded);
	if (w->nentries == 0)
	{
		memcpy(w->block_key, encoded, sizeof(encoded));
		w->block_lsn = lsn;
	}
	codec_put_u8(&w->block, tag);
	if (tag & LAYER_TAG_SAME_OBJECT)
		put_varint(&w->block, key->blk - w->prev.blk);
	else if (tag & LAYER_TAG_KEY)
		codec_put_bytes(&w->block, encoded, sizeof(encoded));
	put_varint(&w->block, new_key ? lsn - w->lsn_lo : lsn - w->prev_lsn);
}

LayerValue
layer_writer_value(LayerWriter *w, const void *data, uint32 len)
{
	LayerValue	value;

	value.offset = w->offset;
	value.crc = layer_crc(w->file_id, value.offset, data, len);
	put_bytes(w, data, len);
	return value;
}

static void
check_order(LayerWriter *w, const NeonKey *key, const StoreVersion *version)
{
	int			cmp = w->total > 0 ? neon_key_cmp(key, &w->prev) : 1;

	if (cmp < 0 || (cmp == 0 && version->lsn < w->prev_lsn))
		elog(ERROR, "versions of a layer are not in order");
	if (version->lsn < w->lsn_lo || version->lsn > w->lsn_hi)
		elog(ERROR, "version at %X/%X is outside its layer", LSN_FORMAT_ARGS(version->lsn));
}

void
layer_writer_add(LayerWriter *w, const NeonKey *key, const StoreVersion *version,
				 const LayerValue *stored)
{
	MemoryContext old = MemoryContextSwitchTo(w->context);
	uint8		tag = version->value_kind << LAYER_TAG_KIND_SHIFT;
	bool		is_wal = version->value_kind == NEON_VALUE_WAL;
	LayerValue	value = {0};

	check_order(w, key, version);
	if (w->total == 0)
		neon_key_encode(key, w->first_key);
	if (version->base)
		tag |= LAYER_TAG_BASE;
	if (stored)
		value = *stored;
	else if (!is_wal && version->len <= LAYER_INLINE_MAX)
		tag |= LAYER_TAG_INLINE;
	else if (!is_wal)
		value = layer_writer_value(w, version->data, version->len);

	put_entry_head(w, key, version->lsn, tag);
	put_varint(&w->block, is_wal ? version->lsn - version->start : version->len);
	if (tag & LAYER_TAG_INLINE)
		codec_put_bytes(&w->block, version->data, version->len);
	else if (!is_wal)
	{
		put_varint(&w->block, value.offset);
		codec_put_u32(&w->block, value.crc);
	}
	w->prev = *key;
	w->prev_lsn = version->lsn;
	w->nentries++;
	w->total++;
	if (w->block.len >= LAYER_BLOCK_TARGET)
		close_block(w);
	MemoryContextSwitchTo(old);
}

static void
put_footer(LayerWriter *w, uint64 index_offset)
{
	uint8		f[LAYER_FOOTER] = {0};

	codec_store_u32(f, LAYER_FOOTER_MAGIC);
	codec_store_u16(f + 4, LAYER_VERSION);
	codec_store_u64(f + 8, w->file_id);
	memcpy(f + 16, w->id.tenant.b, NEON_ID_BYTES);
	memcpy(f + 32, w->id.timeline.b, NEON_ID_BYTES);
	codec_store_u64(f + 48, w->lsn_lo);
	codec_store_u64(f + 56, w->lsn_hi);
	codec_store_u64(f + 64, w->total);
	codec_store_u64(f + 72, index_offset);
	codec_store_u64(f + 80, w->index.len);
	codec_store_u32(f + 88, layer_crc(w->file_id, index_offset, w->index.data, w->index.len));
	codec_store_u32(f + 92, w->nblocks);
	codec_store_u32(f + LAYER_FOOTER - 8,
					layer_crc(w->file_id, w->offset, f, LAYER_FOOTER - 8));
	codec_store_u32(f + LAYER_FOOTER - 4, LAYER_FOOTER_MAGIC);
	put_bytes(w, f, sizeof(f));
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
	uint64		index_offset;
	bool		synced;

	close_block(w);
	index_offset = w->offset;
	put_bytes(w, w->index.data, w->index.len);
	put_footer(w, index_offset);
	flush_buffer(w);
	synced = sync_file(w);

	file->id = w->file_id;
	file->bytes = w->offset;
	file->entries = w->total;
	file->lsn_lo = w->lsn_lo;
	file->lsn_hi = w->lsn_hi;
	memcpy(file->first_key, w->first_key, NEON_KEY_ENCODED_SIZE);
	neon_key_encode(&w->prev, file->last_key);
	w->finished = synced;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(w->context);
	return synced;
}
