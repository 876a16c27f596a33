/*-------------------------------------------------------------------------
 *
 * layerread.c
 *	  Reading layer files.
 *
 * An open file has its index in this process's memory (38 bytes per 8 kB of
 * entries) and its entry blocks in a small cache shared by all files.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "neon_codec.h"
#include "layerfile.h"
#include "layerformat.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "timeline_shared.h"
#include "utils/memutils.h"

#define CACHED_BLOCKS	256

typedef struct IndexEntry
{
	uint64		offset;
	XLogRecPtr	lsn;
	uint32		len;
	uint8		key[NEON_KEY_ENCODED_SIZE];
} IndexEntry;

struct LayerFile
{
	Timeline   *tl;
	ManifestFile mf;
	File		file;
	uint32		nblocks;
	IndexEntry *index;
};

/* A verified entry block. */
typedef struct CachedBlock
{
	LayerFile  *layer;			/* NULL: unused */
	uint32		block;
	uint16		nentries;
	uint16		nrestarts;
	uint32		entries_len;	/* payload without the restarts */
	uint8	   *data;			/* LAYER_BLOCK_MAX bytes */
} CachedBlock;

typedef struct Entry
{
	NeonKey		key;
	XLogRecPtr	lsn;
	XLogRecPtr	start;
	uint8		kind;
	bool		base;
	uint32		len;
	const uint8 *bytes;			/* in the block, or NULL: at offset */
	uint64		offset;
	uint32		crc;
} Entry;

static CachedBlock cache[CACHED_BLOCKS];

/* ---- damage ---- */

/* Takes the timeline out of service and reports. */
static void
corrupted(LayerFile *layer, uint64 offset, const char *what)
{
	char		path[MAXPGPATH];
	char		why[TIMELINE_DETAIL_MAX];

	layer_path(&layer->tl->id, layer->mf.id, path);
	snprintf(why, sizeof(why), "File \"%s\" at offset " UINT64_FORMAT ": %s", path, offset, what);
	timeline_set_damaged(layer->tl, why);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" is corrupted", path),
			 errdetail("At offset " UINT64_FORMAT ": %s", offset, what)));
}

static void
read_at(LayerFile *layer, void *buf, size_t len, uint64 offset)
{
	size_t		done = 0;

	while (done < len)
	{
		int			n = FileRead(layer->file, (char *) buf + done, len - done, offset + done,
								 PG_WAIT_EXTENSION);

		if (n < 0)
			corrupted(layer, offset, psprintf("It cannot be read: %s.", strerror(errno)));
		if (n == 0)
			corrupted(layer, offset, "The file ends too early.");
		done += n;
	}
}

/* ---- opening ---- */

static void
check_version(LayerFile *layer, uint16 version)
{
	char		path[MAXPGPATH];

	if (version == LAYER_VERSION)
		return;
	layer_path(&layer->tl->id, layer->mf.id, path);
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("file \"%s\" has version %u, which this library cannot read", path, version),
			 errhint("Use the version of neon_pageserver that wrote it, or a newer one.")));
}

static void
check_header(LayerFile *layer)
{
	uint8		h[LAYER_HEADER];

	read_at(layer, h, sizeof(h), 0);
	if (codec_load_u32(h) != LAYER_MAGIC ||
		codec_load_u32(h + LAYER_HEADER - 4) != layer_crc(layer->mf.id, 0, h, LAYER_HEADER - 4))
		corrupted(layer, 0, "The header is bad.");
	check_version(layer, codec_load_u16(h + 4));
	if (codec_load_u64(h + 8) != layer->mf.id ||
		memcmp(h + 16, layer->tl->id.tenant.b, NEON_ID_BYTES) != 0 ||
		memcmp(h + 32, layer->tl->id.timeline.b, NEON_ID_BYTES) != 0)
		corrupted(layer, 0, "The header is another file's.");
}

static void
load_index(LayerFile *layer, uint64 offset, uint64 len, uint32 crc)
{
	uint8	   *raw = MemoryContextAllocHuge(CurrentMemoryContext, len + 1);

	read_at(layer, raw, len, offset);
	if (layer_crc(layer->mf.id, offset, raw, len) != crc)
		corrupted(layer, offset, "The index has a wrong CRC.");
	layer->index = MemoryContextAllocHuge(TopMemoryContext,
										  (Size) layer->nblocks * sizeof(IndexEntry) + 1);
	for (uint32 i = 0; i < layer->nblocks; i++)
	{
		const uint8 *p = raw + (size_t) i * LAYER_INDEX_ENTRY;
		IndexEntry *e = &layer->index[i];

		e->offset = codec_load_u64(p);
		e->len = codec_load_u32(p + 8);
		memcpy(e->key, p + 12, NEON_KEY_ENCODED_SIZE);
		e->lsn = codec_load_u64(p + 12 + NEON_KEY_ENCODED_SIZE);
		if (e->len > LAYER_BLOCK_MAX || e->offset >= offset)
			corrupted(layer, offset, "The index is bad.");
	}
	pfree(raw);
}

static void
load_footer(LayerFile *layer)
{
	uint8		f[LAYER_FOOTER];
	uint64		at = layer->mf.bytes - LAYER_FOOTER;
	uint64		index_offset;
	uint64		index_len;

	read_at(layer, f, sizeof(f), at);
	if (codec_load_u32(f) != LAYER_FOOTER_MAGIC ||
		codec_load_u32(f + LAYER_FOOTER - 8) !=
		layer_crc(layer->mf.id, at, f, LAYER_FOOTER - 8))
		corrupted(layer, at, "The footer is bad.");
	check_version(layer, codec_load_u16(f + 4));
	index_offset = codec_load_u64(f + 72);
	index_len = codec_load_u64(f + 80);
	layer->nblocks = codec_load_u32(f + 92);
	if (codec_load_u64(f + 48) != layer->mf.lsn_lo || codec_load_u64(f + 56) != layer->mf.lsn_hi ||
		index_len != (uint64) layer->nblocks * LAYER_INDEX_ENTRY ||
		index_offset > at || index_len != at - index_offset)
		corrupted(layer, at, "The footer contradicts the manifest.");
	load_index(layer, index_offset, index_len, codec_load_u32(f + 88));
}

LayerFile *
layer_open(Timeline *tl, const ManifestFile *mf)
{
	LayerFile  *layer = MemoryContextAllocZero(TopMemoryContext, sizeof(LayerFile));
	char		path[MAXPGPATH];

	layer->tl = tl;
	layer->mf = *mf;
	layer_path(&tl->id, mf->id, path);
	layer->file = PathNameOpenFile(path, O_RDONLY | PG_BINARY);
	if (layer->file < 0)
	{
		timeline_check(tl);		/* a deletion may be the reason */
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not open file \"%s\": %m", path)));
		corrupted(layer, 0, psprintf("It cannot be opened: %s.", strerror(errno)));
	}
	PG_TRY();
	{
		if (mf->bytes < LAYER_HEADER + LAYER_FOOTER ||
			FileSize(layer->file) != (off_t) mf->bytes)
			corrupted(layer, 0, "The file does not have the size that the manifest says.");
		check_header(layer);
		load_footer(layer);
	}
	PG_CATCH();
	{
		layer_close(layer);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return layer;
}

void
layer_close(LayerFile *layer)
{
	for (int i = 0; i < CACHED_BLOCKS; i++)
	{
		if (cache[i].layer == layer)
			cache[i].layer = NULL;
	}
	FileClose(layer->file);
	if (layer->index)
		pfree(layer->index);
	pfree(layer);
}

/* ---- blocks ---- */

static void
read_block(LayerFile *layer, uint32 block, CachedBlock *c)
{
	const IndexEntry *e = &layer->index[block];
	uint8		raw[LAYER_BLOCK_HEADER + LAYER_BLOCK_MAX];
	uint8		place[16];
	pg_crc32c	crc;

	read_at(layer, raw, LAYER_BLOCK_HEADER + e->len, e->offset);
	codec_store_u64(place, layer->mf.id);
	codec_store_u64(place + 8, e->offset);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, place, sizeof(place));
	COMP_CRC32C(crc, raw + 4, LAYER_BLOCK_HEADER - 4 + e->len);
	FIN_CRC32C(crc);
	if (crc != codec_load_u32(raw) || codec_load_u32(raw + 4) != e->len)
		corrupted(layer, e->offset, "A block of entries has a wrong CRC.");
	c->nentries = codec_load_u16(raw + 8);
	c->nrestarts = codec_load_u16(raw + 10);
	if (c->nrestarts == 0 || (size_t) c->nrestarts * 2 > e->len)
		corrupted(layer, e->offset, "A block of entries is malformed.");
	c->entries_len = e->len - c->nrestarts * 2;
	memcpy(c->data, raw + LAYER_BLOCK_HEADER, e->len);
}

static CachedBlock *
get_block(LayerFile *layer, uint32 block)
{
	CachedBlock *c = &cache[(layer->mf.id * 37 + block) % CACHED_BLOCKS];

	if (c->layer == layer && c->block == block)
		return c;
	if (c->data == NULL)
		c->data = MemoryContextAlloc(TopMemoryContext, LAYER_BLOCK_MAX);
	c->layer = NULL;
	read_block(layer, block, c);
	c->layer = layer;
	c->block = block;
	return c;
}

/* ---- entries ---- */

/* A position in a block. */
typedef struct BlockCursor
{
	LayerFile  *layer;
	Cursor		c;
	NeonKey		key;
	XLogRecPtr	lsn;
} BlockCursor;

static void
malformed(LayerFile *layer)
{
	corrupted(layer, 0, "An entry is malformed.");
}

static void
take_key(BlockCursor *b, uint8 tag)
{
	const uint8 *encoded;

	if (tag & LAYER_TAG_SAME_OBJECT)
		b->key.blk += (BlockNumber) cursor_varint(&b->c);
	else
	{
		encoded = cursor_bytes(&b->c, NEON_KEY_ENCODED_SIZE);
		if (encoded == NULL || !neon_key_decode(encoded, &b->key))
			malformed(b->layer);
	}
}

/* False at the end of the block. */
static bool
next_entry(BlockCursor *b, Entry *e)
{
	uint8		tag;

	if (cursor_left(&b->c) == 0)
		return false;
	tag = cursor_u8(&b->c);
	if (tag & LAYER_TAG_KEY)
	{
		take_key(b, tag);
		b->lsn = b->layer->mf.lsn_lo;
	}
	b->lsn += cursor_varint(&b->c);
	e->key = b->key;
	e->lsn = b->lsn;
	e->kind = (tag >> LAYER_TAG_KIND_SHIFT) & 7;
	e->base = (tag & LAYER_TAG_BASE) != 0;
	e->start = InvalidXLogRecPtr;
	e->len = 0;
	e->bytes = NULL;
	if (e->kind == NEON_VALUE_WAL)
		e->start = e->lsn - cursor_varint(&b->c);
	else
	{
		e->len = cursor_varint(&b->c);
		if (tag & LAYER_TAG_INLINE)
			e->bytes = cursor_bytes(&b->c, e->len);
		else
		{
			e->offset = cursor_varint(&b->c);
			e->crc = cursor_u32(&b->c);
		}
	}
	if (!b->c.ok || e->kind > NEON_VALUE_BLOB)
		malformed(b->layer);
	return true;
}

static void
cursor_at(BlockCursor *b, LayerFile *layer, const CachedBlock *block, uint32 offset)
{
	if (offset > block->entries_len)
		malformed(layer);
	memset(b, 0, sizeof(*b));
	b->layer = layer;
	b->c = cursor_over(block->data + offset, block->entries_len - offset);
}

static uint32
restart_offset(const CachedBlock *block, int i)
{
	return codec_load_u16(block->data + block->entries_len + i * 2);
}

/* Where to begin to see all entries of the key: the last restart with a smaller key. */
static void
seek_in_block(BlockCursor *b, LayerFile *layer, const CachedBlock *block, const uint8 *key)
{
	int			lo = 0;
	int			hi = block->nrestarts - 1;

	while (lo < hi)
	{
		int			mid = (lo + hi + 1) / 2;
		uint32		offset = restart_offset(block, mid);

		if (offset + 1 + NEON_KEY_ENCODED_SIZE > block->entries_len)
			malformed(layer);
		if (memcmp(block->data + offset + 1, key, NEON_KEY_ENCODED_SIZE) < 0)
			lo = mid;
		else
			hi = mid - 1;
	}
	cursor_at(b, layer, block, restart_offset(block, lo));
}

/* Last block whose first entry is <= (key, lsn); -1 if there is none. */
static int64
find_block(const LayerFile *layer, const uint8 *key, XLogRecPtr lsn)
{
	int64		lo = -1;
	int64		hi = (int64) layer->nblocks - 1;

	while (lo < hi)
	{
		int64		mid = (lo + hi + 1) / 2;
		const IndexEntry *e = &layer->index[mid];
		int			cmp = memcmp(e->key, key, NEON_KEY_ENCODED_SIZE);

		if (cmp < 0 || (cmp == 0 && e->lsn <= lsn))
			lo = mid;
		else
			hi = mid - 1;
	}
	return lo;
}

/* The value's bytes, palloc'd. */
static char *
load_bytes(LayerFile *layer, const Entry *e)
{
	char	   *data;

	if (e->len > MaxAllocSize - 1 || (e->bytes == NULL && e->offset > layer->mf.bytes - e->len))
		malformed(layer);
	data = palloc(e->len + 1);
	data[e->len] = '\0';
	if (e->bytes != NULL)
		memcpy(data, e->bytes, e->len);
	else
	{
		read_at(layer, data, e->len, e->offset);
		if (layer_crc(layer->mf.id, e->offset, data, e->len) != e->crc)
			corrupted(layer, e->offset, "A value has a wrong CRC.");
	}
	return data;
}

static void
entry_to_version(LayerFile *layer, const Entry *e, bool load, StoreVersion *v)
{
	v->lsn = e->lsn;
	v->start = e->start;
	v->value_kind = e->kind;
	v->base = e->base;
	v->len = e->len;
	v->data = load && e->kind != NEON_VALUE_WAL ? load_bytes(layer, e) : NULL;
	v->timeline = layer->tl;
}

/* ---- one key ---- */

typedef struct EntryList
{
	int			n;
	int			max;
	Entry	   *e;
} EntryList;

/* Entries of the key in a block up to an LSN, oldest first. */
static void
entries_of_key(LayerFile *layer, CachedBlock *block, const NeonKey *key, const uint8 *encoded,
			   XLogRecPtr upto, EntryList *list)
{
	BlockCursor b;
	Entry		e;

	list->n = 0;
	seek_in_block(&b, layer, block, encoded);
	while (next_entry(&b, &e))
	{
		int			cmp = neon_key_cmp(&e.key, key);

		if (cmp < 0)
			continue;
		if (cmp > 0 || e.lsn > upto)
			break;
		if (list->n == list->max)
		{
			list->max = Max(64, list->max * 2);
			list->e = list->e ? repalloc(list->e, list->max * sizeof(Entry)) :
				MemoryContextAlloc(TopMemoryContext, list->max * sizeof(Entry));
		}
		list->e[list->n++] = e;
	}
}

bool
layer_collect(LayerFile *layer, const NeonKey *key, VersionRange range, VersionList *list)
{
	static EntryList found;
	uint8		encoded[NEON_KEY_ENCODED_SIZE];
	int64		block;

	neon_key_encode(key, encoded);
	for (block = find_block(layer, encoded, range.upto); block >= 0; block--)
	{
		entries_of_key(layer, get_block(layer, block), key, encoded, range.upto, &found);
		for (int i = found.n - 1; i >= 0; i--)
		{
			const Entry *e = &found.e[i];
			StoreVersion *v;

			if (e->lsn <= range.above)
				return false;
			v = versions_add(list);
			entry_to_version(layer, e, true, v);
			if (v->base)
				return true;
		}
		if (memcmp(layer->index[block].key, encoded, NEON_KEY_ENCODED_SIZE) != 0)
			break;
	}
	return false;
}

/* ---- ranges ---- */

struct LayerScan
{
	LayerFile  *layer;
	NeonKey		lo;
	NeonKey		hi;
	XLogRecPtr	upto;
	uint32		block;			/* being read */
	uint8	   *data;			/* copy of it */
	BlockCursor cursor;
	bool		ended;
	bool		pending;		/* next holds the first entry of the next key */
	Entry		next;
	uint8		next_inline[LAYER_INLINE_MAX];
	Entry		found;			/* what layer_scan_next delivered */
	uint8		found_inline[LAYER_INLINE_MAX];
};

/* Keeps an entry beyond the life of its block. */
static void
keep_entry(Entry *to, uint8 *bytes, const Entry *from)
{
	*to = *from;
	if (from->bytes != NULL)
	{
		memmove(bytes, from->bytes, from->len);
		to->bytes = bytes;
	}
}

/* The scan has its own copy: the cache may be used by others between two calls. */
static void
scan_block(LayerScan *scan)
{
	CachedBlock *c = get_block(scan->layer, scan->block);
	CachedBlock copy = *c;

	memcpy(scan->data, c->data, c->entries_len);
	copy.data = scan->data;
	cursor_at(&scan->cursor, scan->layer, &copy, 0);
}

LayerScan *
layer_scan_begin(LayerFile *layer, const NeonKey *lo, const NeonKey *hi, XLogRecPtr upto)
{
	LayerScan  *scan = palloc0(sizeof(LayerScan));
	uint8		encoded[NEON_KEY_ENCODED_SIZE];

	scan->layer = layer;
	scan->lo = *lo;
	scan->hi = *hi;
	scan->upto = upto;
	scan->data = palloc(LAYER_BLOCK_MAX);
	if (layer->nblocks == 0)
	{
		scan->ended = true;
		return scan;
	}
	neon_key_encode(lo, encoded);
	scan->block = Max(find_block(layer, encoded, 0), 0);
	scan_block(scan);
	return scan;
}

/* The next entry in the range of keys; false when it is over. */
static bool
scan_entry(LayerScan *scan, Entry *e)
{
	while (!scan->ended)
	{
		if (!next_entry(&scan->cursor, e))
		{
			if (++scan->block >= scan->layer->nblocks)
				scan->ended = true;
			else
				scan_block(scan);
			continue;
		}
		if (neon_key_cmp(&e->key, &scan->lo) < 0)
			continue;
		if (neon_key_cmp(&e->key, &scan->hi) > 0)
			scan->ended = true;
		else
		{
			if (e->bytes != NULL && e->len > LAYER_INLINE_MAX)
				malformed(scan->layer);
			return true;
		}
	}
	return false;
}

bool
layer_scan_next(LayerScan *scan, NeonKey *key, StoreVersion *version)
{
	bool		have = false;
	Entry		e;

	for (;;)
	{
		if (scan->pending)
			keep_entry(&e, scan->found_inline, &scan->next);
		else if (!scan_entry(scan, &e))
			break;
		scan->pending = false;
		if (have && neon_key_cmp(&e.key, &scan->found.key) != 0)
		{
			keep_entry(&scan->next, scan->next_inline, &e);
			scan->pending = true;
			break;
		}
		if (e.lsn <= scan->upto)
		{
			keep_entry(&scan->found, scan->found_inline, &e);
			have = true;
		}
	}
	if (!have)
		return false;
	*key = scan->found.key;
	entry_to_version(scan->layer, &scan->found, false, version);
	return true;
}

void
layer_scan_load(LayerScan *scan, StoreVersion *version)
{
	if (scan->found.kind != NEON_VALUE_WAL)
		version->data = load_bytes(scan->layer, &scan->found);
}

void
layer_scan_end(LayerScan *scan)
{
	pfree(scan->data);
	pfree(scan);
}
