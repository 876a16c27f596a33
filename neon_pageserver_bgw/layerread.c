/*-------------------------------------------------------------------------
 *
 * layerread.c
 *	  Reading layer files: opening, blocks, the versions of one key.
 *
 * An open file has its fences in this process's memory (18 bytes per 8 kB of
 * directory).  Directory blocks and data blocks are in small caches that all
 * files share; a block is verified when it comes in.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>

#include "layerread_private.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "rebuild.h"
#include "timeline_shared.h"
#include "utils/memutils.h"

#define CACHED_DIRECTORIES	256
#define CACHED_BLOCKS		256
/* Larger ones are not cached. */
#define CACHED_BLOCK_SIZE	(2 * LAYER_BLOCK_TARGET)

typedef struct CachedDirectory
{
	LayerFile  *layer;			/* NULL: unused */
	uint32		number;
	uint8	   *data;			/* LAYER_META_BLOCK bytes */
} CachedDirectory;

typedef struct CachedBlock
{
	LayerFile  *layer;
	uint64		offset;
	uint32		len;			/* stored, with the header */
	LayerBlock	block;
	uint8	   *raw;			/* CACHED_BLOCK_SIZE bytes */
} CachedBlock;

static CachedDirectory directories[CACHED_DIRECTORIES];
static CachedBlock blocks[CACHED_BLOCKS];

/* of this process; a block as it is stored, and a raw one */
static uint8 *stored_block = NULL;
static uint8 *raw_block = NULL;

/* ---- damage ---- */

static void pg_attribute_noreturn()
corrupted(Timeline *tl, const ManifestFile *file, uint64 offset, const char *what)
{
	char		path[MAXPGPATH];

	layer_path(&tl->id, file, path);
	rebuild_note_damage(tl, file->id);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" is corrupted", path),
			 errdetail("At offset " UINT64_FORMAT ": %s", offset, what)));
}

void
layer_corrupted(LayerFile *layer, uint64 offset, const char *what)
{
	corrupted(layer->tl, &layer->mf, offset, what);
}

void
layer_missing(Timeline *tl, const ManifestFile *file)
{
	timeline_check(tl);			/* a deletion may be the reason */
	corrupted(tl, file, 0, "It is not there.");
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
			layer_corrupted(layer, offset, psprintf("It cannot be read: %s.", strerror(errno)));
		if (n == 0)
			layer_corrupted(layer, offset, "The file ends too early.");
		done += n;
	}
}

bool
layer_read_range(File file, uint64 offset, void *buf, size_t len)
{
	char	   *p = buf;

	CHECK_FOR_INTERRUPTS();
	while (len > 0)
	{
		int			n = FileRead(file, p, len, offset, PG_WAIT_EXTENSION);

		if (n <= 0)
			return false;
		p += n;
		offset += n;
		len -= n;
	}
	return true;
}

/* ---- opening ---- */

static void
check_format_version(LayerFile *layer, uint16 version)
{
	char		path[MAXPGPATH];

	if (version == 0 || version == LAYER_VERSION)
		return;
	layer_path(&layer->tl->id, &layer->mf, path);
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("file \"%s\" has version %u, which this library cannot read", path, version),
			 errhint("Use the version of neon_pageserver that wrote it, or a newer one.")));
}

static void
load_header(LayerFile *layer)
{
	LayerHeader h;
	uint8		buf[LAYER_HEADER];
	const char *problem;

	read_at(layer, buf, sizeof(buf), 0);
	if ((problem = layer_header_decode(buf, &h)) != NULL)
	{
		check_format_version(layer, h.version);
		layer_corrupted(layer, 0, problem);
	}
	if (h.file_id != layer->mf.id || h.generation != layer->mf.generation ||
		h.type != layer->mf.type || !neon_id_equal(&h.tenant, &layer->tl->id.tenant) ||
		!neon_id_equal(&h.timeline, &layer->tl->id.timeline))
		layer_corrupted(layer, 0, "The header is another file's.");
}

static void
load_footer(LayerFile *layer)
{
	LayerFooter *f = &layer->footer;
	const ManifestFile *mf = &layer->mf;
	uint64		offset = mf->bytes - LAYER_FOOTER;
	uint8		buf[LAYER_FOOTER];
	const char *problem;

	read_at(layer, buf, sizeof(buf), offset);
	if ((problem = layer_footer_decode(buf, mf->id, offset, f)) != NULL)
		layer_corrupted(layer, offset, problem);
	if (f->type != mf->type || f->lsn_lo != mf->lsn_lo || f->lsn_hi != mf->lsn_hi ||
		f->versions != mf->entries ||
		memcmp(f->first_key, mf->first_key, NEON_KEY_ENCODED_SIZE) != 0 ||
		memcmp(f->last_key, mf->last_key, NEON_KEY_ENCODED_SIZE) != 0)
		layer_corrupted(layer, offset, "The footer contradicts the manifest.");
}

static void
load_fences(LayerFile *layer)
{
	const LayerFooter *f = &layer->footer;
	uint8		buf[LAYER_META_BLOCK];
	uint32		done = 0;

	layer->fences = MemoryContextAllocHuge(TopMemoryContext,
										   (Size) f->directory_blocks * NEON_KEY_ENCODED_SIZE);
	for (uint32 i = 0; i < f->fence_blocks; i++)
	{
		uint64		offset = f->fence_offset + (uint64) i * LAYER_META_BLOCK;
		uint32		count;
		const char *problem;

		read_at(layer, buf, sizeof(buf), offset);
		if ((problem = layer_fences_check(buf, layer->mf.id, offset, i, &count)) != NULL)
			layer_corrupted(layer, offset, problem);
		if (count > f->directory_blocks - done)
			layer_corrupted(layer, offset, "There are more fences than directory blocks.");
		memcpy(layer->fences + (Size) done * NEON_KEY_ENCODED_SIZE, layer_fence(buf, 0),
			   count * NEON_KEY_ENCODED_SIZE);
		done += count;
	}
	if (done != f->directory_blocks)
		layer_corrupted(layer, f->fence_offset, "There are fewer fences than directory blocks.");
}

LayerFile *
layer_open(Timeline *tl, const ManifestFile *mf)
{
	LayerFile  *layer;
	File		file;
	char		path[MAXPGPATH];

	layer_path(&tl->id, mf, path);
	file = PathNameOpenFile(path, O_RDONLY | PG_BINARY);
	if (file < 0)
	{
		if (errno == ENOENT)
			return NULL;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	}
	layer = MemoryContextAllocZero(TopMemoryContext, sizeof(LayerFile));
	layer->tl = tl;
	layer->mf = *mf;
	layer->file = file;
	PG_TRY();
	{
		if (mf->bytes < LAYER_HEADER + LAYER_FOOTER ||
			FileSize(layer->file) != (off_t) mf->bytes)
			layer_corrupted(layer, 0, "The file does not have the size that the manifest says.");
		load_header(layer);
		load_footer(layer);
		load_fences(layer);
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
	for (int i = 0; i < CACHED_DIRECTORIES; i++)
	{
		if (directories[i].layer == layer)
			directories[i].layer = NULL;
	}
	for (int i = 0; i < CACHED_BLOCKS; i++)
	{
		if (blocks[i].layer == layer)
			blocks[i].layer = NULL;
	}
	FileClose(layer->file);
	if (layer->fences)
		pfree(layer->fences);
	pfree(layer);
}

/* ---- the directory ---- */

static uint32
cache_slot(const LayerFile *layer, uint64 place, uint32 slots)
{
	uint64		h = layer->mf.id * UINT64CONST(0x9E3779B97F4A7C15) +
	(place + 1) * UINT64CONST(0xC2B2AE3D27D4EB4F);

	return (uint32) (h >> 32) % slots;
}

const uint8 *
layer_directory_at(LayerFile *layer, uint32 number)
{
	CachedDirectory *c = &directories[cache_slot(layer, number, CACHED_DIRECTORIES)];
	uint64		offset = layer->footer.directory_offset + (uint64) number * LAYER_META_BLOCK;
	const char *problem;

	if (c->layer == layer && c->number == number)
		return c->data;
	if (c->data == NULL)
		c->data = MemoryContextAlloc(TopMemoryContext, LAYER_META_BLOCK);
	c->layer = NULL;
	read_at(layer, c->data, LAYER_META_BLOCK, offset);
	if ((problem = layer_directory_check(c->data, layer->mf.id, offset, number)) != NULL)
		layer_corrupted(layer, offset, problem);
	c->layer = layer;
	c->number = number;
	return c->data;
}

int64
layer_find_directory(const LayerFile *layer, const uint8 *key)
{
	int64		lo = -1;
	int64		hi = (int64) layer->footer.directory_blocks - 1;

	while (lo < hi)
	{
		int64		mid = (lo + hi + 1) / 2;

		if (memcmp(layer->fences + mid * NEON_KEY_ENCODED_SIZE, key, NEON_KEY_ENCODED_SIZE) <= 0)
			lo = mid;
		else
			hi = mid - 1;
	}
	return lo;
}

/* Where the versions of a key are; false if it has none in this file. */
static bool
find_place(LayerFile *layer, const uint8 *key, LayerPlace *place)
{
	int64		number = layer_find_directory(layer, key);
	LayerDirectory it;
	const char *problem;

	if (number < 0)
		return false;
	layer_directory_seek(&it, layer_directory_at(layer, number), key);
	while (layer_directory_next(&it, place, &problem))
	{
		int			cmp = memcmp(place->key, key, NEON_KEY_ENCODED_SIZE);

		if (cmp >= 0)
			return cmp == 0;
	}
	if (problem)
		layer_corrupted(layer, layer->footer.directory_offset + number * LAYER_META_BLOCK, problem);
	return false;
}

/* ---- data blocks ---- */

/* Its stored length with the header, which is not verified. */
static uint32
length_at(LayerFile *layer, uint64 offset)
{
	uint8		h[LAYER_BLOCK_HEADER];
	LayerBlock	b;
	const char *problem;

	if (offset > layer->footer.directory_offset - LAYER_BLOCK_HEADER)
		layer_corrupted(layer, offset, "A block lies behind the data.");
	read_at(layer, h, sizeof(h), offset);
	if ((problem = layer_block_decode(h, &b)) != NULL)
		layer_corrupted(layer, offset, problem);
	return LAYER_BLOCK_HEADER + b.stored;
}

static void
read_block(LayerFile *layer, uint64 offset, uint32 len, LayerBlock *b)
{
	const char *problem;

	if (stored_block == NULL)
		stored_block = MemoryContextAlloc(TopMemoryContext, LAYER_BLOCK_HEADER + LAYER_RAW_MAX);
	if (raw_block == NULL)
		raw_block = MemoryContextAlloc(TopMemoryContext, LAYER_RAW_MAX);
	if (len > LAYER_BLOCK_HEADER + LAYER_RAW_MAX || offset < LAYER_HEADER ||
		offset > layer->footer.directory_offset || len > layer->footer.directory_offset - offset)
		layer_corrupted(layer, offset, "A block lies behind the data.");
	read_at(layer, stored_block, len, offset);
	problem = layer_block_unpack(layer->mf.id, offset, stored_block, len, b, raw_block);
	if (problem != NULL)
		layer_corrupted(layer, offset, problem);
}

const uint8 *
layer_block_at(LayerFile *layer, uint64 offset, uint32 len, LayerBlock *b, uint32 *len_found)
{
	CachedBlock *c = &blocks[cache_slot(layer, offset, CACHED_BLOCKS)];

	if (c->layer == layer && c->offset == offset && (len == 0 || c->len == len))
	{
		*b = c->block;
		*len_found = c->len;
		return c->raw;
	}
	if (len == 0)
		len = length_at(layer, offset);
	read_block(layer, offset, len, b);
	*len_found = len;
	if (b->raw > CACHED_BLOCK_SIZE)
		return raw_block;
	if (c->raw == NULL)
		c->raw = MemoryContextAlloc(TopMemoryContext, CACHED_BLOCK_SIZE);
	memcpy(c->raw, raw_block, b->raw);
	c->layer = layer;
	c->offset = offset;
	c->len = len;
	c->block = *b;
	return c->raw;
}

char *
layer_load_large(LayerFile *layer, uint64 offset, uint32 len)
{
	char	   *data;
	uint32		done = 0;

	/* what the file cannot have is not asked memory for */
	if (len >= MaxAllocSize || len / LAYER_MAX_RATIO > layer->mf.bytes)
		layer_corrupted(layer, offset, "A value is too long.");
	data = palloc(len + 1);
	while (done < len)
	{
		LayerBlock	b;
		uint32		stored;
		const uint8 *raw = layer_block_at(layer, offset, 0, &b, &stored);

		if (b.type != LAYER_BLOCK_MORE || b.raw > len - done)
			layer_corrupted(layer, offset, "A value is not continued where it should be.");
		memcpy(data + done, raw, b.raw);
		done += b.raw;
		offset += stored;
	}
	data[len] = '\0';
	return data;
}

/* ---- one key ---- */

/* The blocks that have versions of a key, oldest first. */
typedef struct KeyBlocks
{
	uint32		n;
	uint64	   *offset;			/* n + 1: the last one is the end */
} KeyBlocks;

static void
list_blocks(LayerFile *layer, const LayerPlace *place, KeyBlocks *list)
{
	uint64		offset = place->offset + place->len;

	if (place->more > layer->mf.bytes / LAYER_BLOCK_HEADER)
		layer_corrupted(layer, place->offset, "A key has more blocks than the file.");
	list->n = place->more + 1;
	list->offset = MemoryContextAllocHuge(CurrentMemoryContext,
										  ((Size) list->n + 1) * sizeof(uint64));
	list->offset[0] = place->offset;
	for (uint32 i = 0; i < place->more; i++)
	{
		list->offset[i + 1] = offset;
		offset += place->more <= LAYER_LISTED_BLOCKS ? place->more_len[i] :
			length_at(layer, offset);
	}
	list->offset[list->n] = offset;
	if (offset != place->offset + place->len + place->more_bytes)
		layer_corrupted(layer, place->offset, "The blocks of a key do not fit the directory.");
}

static const uint8 *
key_block(LayerFile *layer, const KeyBlocks *list, uint32 i, LayerBlock *b)
{
	uint32		len;

	return layer_block_at(layer, list->offset[i], list->offset[i + 1] - list->offset[i], b, &len);
}

/* The next entry of the key in a block, or false. */
static bool
next_of_key(LayerFile *layer, uint64 offset, LayerEntries *it, const uint8 *key, LayerEntry *e)
{
	const char *problem;

	while (layer_entries_next(it, e, &problem))
	{
		int			cmp = memcmp(e->key, key, NEON_KEY_ENCODED_SIZE);

		if (cmp >= 0)
			return cmp == 0;
	}
	if (problem)
		layer_corrupted(layer, offset, problem);
	return false;
}

/* LSN of the first entry of a block in the midst of a key's; 0 for one that only continues. */
static XLogRecPtr
first_lsn(LayerFile *layer, const KeyBlocks *list, uint32 i, const uint8 *key)
{
	LayerEntries it;
	LayerEntry	e;
	LayerBlock	b;
	const uint8 *raw = key_block(layer, list, i, &b);

	if (b.type != LAYER_BLOCK_ENTRIES)
		return 0;
	layer_entries_begin(&it, &layer->footer, raw, b.raw);
	if (!next_of_key(layer, list->offset[i], &it, key, &e))
		layer_corrupted(layer, list->offset[i], "A block does not have the key that it should.");
	return e.lsn;
}

/*
 * A block behind which there is nothing <= upto.  Blocks that continue a value
 * belong to the one before them.
 */
static uint32
last_block_upto(LayerFile *layer, const KeyBlocks *list, const uint8 *key, XLogRecPtr upto)
{
	uint32		lo = 0;
	uint32		hi = list->n - 1;

	if (upto >= layer->footer.lsn_hi)
		return hi;
	while (lo < hi)
	{
		uint32		mid = lo + (hi - lo + 1) / 2;
		uint32		m = mid;
		XLogRecPtr	lsn = 0;

		while (m > lo && (lsn = first_lsn(layer, list, m, key)) == 0)
			m--;
		if (m == lo || lsn <= upto)
			lo = mid;
		else
			hi = m - 1;
	}
	return lo;
}

/* Entries of a key in a block, without their bytes' block. */
typedef struct EntryList
{
	int			n;
	int			max;
	LayerEntry *e;
} EntryList;

/* Those up to an LSN, oldest first. */
static void
entries_upto(LayerFile *layer, uint64 offset, const uint8 *raw, const LayerBlock *b,
			 const uint8 *key, XLogRecPtr upto, EntryList *list)
{
	LayerEntries it;
	LayerEntry	e;

	list->n = 0;
	layer_entries_begin(&it, &layer->footer, raw, b->raw);
	while (next_of_key(layer, offset, &it, key, &e) && e.lsn <= upto)
	{
		if (list->n == list->max)
		{
			list->max = Max(64, list->max * 2);
			list->e = list->e ? repalloc(list->e, list->max * sizeof(LayerEntry)) :
				MemoryContextAlloc(TopMemoryContext, list->max * sizeof(LayerEntry));
		}
		list->e[list->n++] = e;
	}
}

/* behind is the end of the entry's block. */
static void
add_version(LayerFile *layer, const LayerEntry *e, uint64 behind, VersionList *list)
{
	char	   *data = NULL;
	StoreVersion *v;

	if (e->bytes == NULL)
		data = layer_load_large(layer, behind, e->len);
	else if (e->len > 0 || e->kind != NEON_VALUE_WAL)
	{
		/* a page is of a size that palloc() has at hand */
		data = palloc(e->kind == NEON_VALUE_IMAGE ? e->len : e->len + 1);
		memcpy(data, e->bytes, e->len);
		if (e->kind != NEON_VALUE_IMAGE)
			data[e->len] = '\0';
	}
	v = versions_add(list);
	v->lsn = e->lsn;
	v->start = e->start;
	v->value_kind = e->kind;
	v->base = e->base;
	v->len = e->len;
	v->data = data;
	v->timeline = layer->tl;
}

/* Versions in one block, newest first; true if the search is over. */
static bool
collect_block(LayerFile *layer, const KeyBlocks *blocks_of_key, uint32 i, const uint8 *key,
			  VersionRange range, VersionList *list, bool *ended)
{
	static EntryList found;
	LayerBlock	b;
	const uint8 *raw = key_block(layer, blocks_of_key, i, &b);

	if (b.type == LAYER_BLOCK_MORE)
		return false;
	if (b.type != LAYER_BLOCK_ENTRIES)
		layer_corrupted(layer, blocks_of_key->offset[i], "A block has a wrong type.");
	entries_upto(layer, blocks_of_key->offset[i], raw, &b, key, range.upto, &found);
	for (int k = found.n - 1; k >= 0; k--)
	{
		LayerEntry	e = found.e[k];

		if (e.lsn <= range.above)
			return true;
		add_version(layer, &e, blocks_of_key->offset[i + 1], list);
		if (e.base)
		{
			*ended = true;
			return true;
		}
		if (e.bytes == NULL)
		{
			/* Other blocks were read for it, perhaps to where this one was. */
			raw = key_block(layer, blocks_of_key, i, &b);
			entries_upto(layer, blocks_of_key->offset[i], raw, &b, key, range.upto, &found);
		}
	}
	return false;
}

/* Pages go past the cache of blocks: whoever gets one has it. */
static bool
collect_page(LayerFile *layer, const LayerPlace *place, VersionRange range, VersionList *list)
{
	LayerEntry	e = {0};
	LayerBlock	b;
	const uint8 *raw;

	read_block(layer, place->offset, place->len, &b);
	raw = raw_block;
	if (b.type != LAYER_BLOCK_PAGE)
		layer_corrupted(layer, place->offset, "A block has a wrong type.");
	e.lsn = codec_load_u64(raw);
	if (e.lsn < layer->footer.lsn_lo || e.lsn > layer->footer.lsn_hi)
		layer_corrupted(layer, place->offset, "A page has an impossible LSN.");
	if (e.lsn > range.upto || e.lsn <= range.above)
		return false;
	e.kind = NEON_VALUE_IMAGE;
	e.base = true;
	e.len = BLCKSZ;
	e.bytes = raw + 8;
	add_version(layer, &e, 0, list);
	return true;
}

uint64
layer_count_newer(LayerFile *layer, const NeonKey *key, bool *base)
{
	uint8		encoded[NEON_KEY_ENCODED_SIZE];
	LayerPlace	place;

	*base = false;
	neon_key_encode(key, encoded);
	if (!find_place(layer, encoded, &place))
		return 0;
	*base = place.base;
	return place.newer;
}

bool
layer_collect(LayerFile *layer, const NeonKey *key, VersionRange range, VersionList *list)
{
	uint8		encoded[NEON_KEY_ENCODED_SIZE];
	LayerPlace	place;
	KeyBlocks	key_blocks;
	bool		ended = false;

	neon_key_encode(key, encoded);
	if (!find_place(layer, encoded, &place))
		return false;
	if (layer->mf.type == LAYER_IMAGE)
		return collect_page(layer, &place, range, list);
	list_blocks(layer, &place, &key_blocks);
	for (int64 i = last_block_upto(layer, &key_blocks, encoded, range.upto); i >= 0; i--)
	{
		if (collect_block(layer, &key_blocks, i, encoded, range, list, &ended))
			break;
	}
	pfree(key_blocks.offset);
	return ended;
}
