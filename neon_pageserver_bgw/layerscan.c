/*-------------------------------------------------------------------------
 *
 * layerscan.c
 *	  Walking over a range of keys of a layer file.
 *
 * A delta file is read block by block, an image file by its directory.  The
 * scan has its own copy of the block that it is in: the caches may be used by
 * others between two calls.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "layerread_private.h"
#include "utils/memutils.h"

/* An entry, and where it lies. */
typedef struct PlacedEntry
{
	LayerEntry	e;				/* bytes: NULL or not, they are gone */
	uint64		block;
	uint32		block_len;
	uint32		position;		/* of the bytes in the raw block */
} PlacedEntry;

struct LayerScan
{
	LayerFile  *layer;
	uint8		lo[NEON_KEY_ENCODED_SIZE];
	uint8		hi[NEON_KEY_ENCODED_SIZE];
	bool		without_hi;		/* hi itself is not in the range */
	XLogRecPtr	upto;
	bool		ended;
	uint8	   *data;			/* copy of the block being read */
	uint32		datasize;

	/* delta */
	uint64		block;			/* being read */
	uint32		block_len;
	LayerEntries entries;
	bool		pending;		/* next holds the first entry of the next key */
	PlacedEntry next;

	/* image */
	uint32		number;			/* of the directory block */
	LayerDirectory directory;

	PlacedEntry found;			/* what layer_scan_next delivered */
	char	   *large;			/* what layer_scan_version delivered last, if it was palloc'd */
};

static bool
behind_range(const LayerScan *scan, const uint8 *key)
{
	int			cmp = memcmp(key, scan->hi, NEON_KEY_ENCODED_SIZE);

	return scan->without_hi ? cmp >= 0 : cmp > 0;
}

/* ---- delta files ---- */

/* Goes to the block of entries at or behind an offset. */
static void
read_entries(LayerScan *scan, uint64 offset)
{
	LayerFile  *layer = scan->layer;

	while (offset < layer->footer.directory_offset)
	{
		LayerBlock	b;
		const uint8 *raw = layer_block_at(layer, offset, 0, &b, &scan->block_len);

		if (b.type == LAYER_BLOCK_ENTRIES)
		{
			if (scan->datasize < b.raw)
			{
				scan->data = repalloc(scan->data, b.raw);
				scan->datasize = b.raw;
			}
			memcpy(scan->data, raw, b.raw);
			scan->block = offset;
			layer_entries_begin(&scan->entries, &layer->footer, scan->data, b.raw);
			return;
		}
		if (b.type != LAYER_BLOCK_MORE)
			layer_corrupted(layer, offset, "A block has a wrong type.");
		offset += scan->block_len;
	}
	scan->ended = true;
}

/* The next entry in the range of keys; false when it is over. */
static bool
next_entry(LayerScan *scan, PlacedEntry *p)
{
	const char *problem;

	while (!scan->ended)
	{
		if (!layer_entries_next(&scan->entries, &p->e, &problem))
		{
			if (problem)
				layer_corrupted(scan->layer, scan->block, problem);
			read_entries(scan, scan->block + scan->block_len);
			continue;
		}
		if (memcmp(p->e.key, scan->lo, NEON_KEY_ENCODED_SIZE) < 0)
			continue;
		if (behind_range(scan, p->e.key))
			scan->ended = true;
		else
		{
			p->block = scan->block;
			p->block_len = scan->block_len;
			p->position = p->e.bytes ? p->e.bytes - scan->data : 0;
			return true;
		}
	}
	return false;
}

static bool
next_in_delta(LayerScan *scan)
{
	bool		have = false;
	PlacedEntry p;

	for (;;)
	{
		if (scan->pending)
			p = scan->next;
		else if (!next_entry(scan, &p))
			break;
		scan->pending = false;
		if (have && memcmp(p.e.key, scan->found.e.key, NEON_KEY_ENCODED_SIZE) != 0)
		{
			scan->next = p;
			scan->pending = true;
			break;
		}
		if (p.e.lsn <= scan->upto)
		{
			scan->found = p;
			have = true;
		}
	}
	return have;
}

/* ---- image files ---- */

static void
read_directory(LayerScan *scan, uint32 number)
{
	if (number >= scan->layer->footer.directory_blocks)
	{
		scan->ended = true;
		return;
	}
	memcpy(scan->data, layer_directory_at(scan->layer, number), LAYER_META_BLOCK);
	scan->number = number;
	layer_directory_seek(&scan->directory, scan->data, scan->lo);
}

/* The page at a place as an entry; false if it is newer than what is wanted. */
static bool
page_entry(LayerScan *scan, const LayerPlace *place, PlacedEntry *p)
{
	LayerFile  *layer = scan->layer;
	XLogRecPtr	lsn = layer->footer.lsn_lo;

	if (layer->footer.lsn_lo != layer->footer.lsn_hi)
	{
		LayerBlock	b;
		uint32		len;
		const uint8 *raw = layer_block_at(layer, place->offset, place->len, &b, &len);

		if (b.type != LAYER_BLOCK_PAGE)
			layer_corrupted(layer, place->offset, "A block has a wrong type.");
		lsn = codec_load_u64(raw);
	}
	memset(p, 0, sizeof(*p));
	memcpy(p->e.key, place->key, NEON_KEY_ENCODED_SIZE);
	p->e.lsn = lsn;
	p->e.kind = NEON_VALUE_IMAGE;
	p->e.base = true;
	p->e.len = BLCKSZ;
	p->e.bytes = scan->data;	/* not NULL: no large value */
	p->block = place->offset;
	p->block_len = place->len;
	p->position = 8;
	return lsn <= scan->upto;
}

static bool
next_in_image(LayerScan *scan)
{
	LayerPlace	place;
	const char *problem;

	while (!scan->ended)
	{
		if (!layer_directory_next(&scan->directory, &place, &problem))
		{
			if (problem)
				layer_corrupted(scan->layer, scan->layer->footer.directory_offset +
								(uint64) scan->number * LAYER_META_BLOCK, problem);
			read_directory(scan, scan->number + 1);
		}
		else if (behind_range(scan, place.key))
			scan->ended = true;
		else if (memcmp(place.key, scan->lo, NEON_KEY_ENCODED_SIZE) >= 0 &&
				 page_entry(scan, &place, &scan->found))
			return true;
	}
	return false;
}

/* ---- both ---- */

/* The first block of entries that may be in the range. */
static uint64
first_block(LayerScan *scan, int64 number)
{
	LayerDirectory it;
	LayerPlace	place;
	const char *problem;

	place.offset = LAYER_HEADER;
	layer_directory_seek(&it, layer_directory_at(scan->layer, number), scan->lo);
	while (layer_directory_next(&it, &place, &problem))
	{
		if (memcmp(place.key, scan->lo, NEON_KEY_ENCODED_SIZE) >= 0)
			return place.offset;
	}
	if (problem)
		layer_corrupted(scan->layer, scan->layer->footer.directory_offset +
						number * LAYER_META_BLOCK, problem);
	/* the first key of the next directory block; this one's last block may begin it */
	return place.offset;
}

static LayerScan *
begin_scan(LayerFile *layer, const uint8 *lo, const uint8 *hi, bool without_hi, XLogRecPtr upto)
{
	LayerScan  *scan = palloc0(sizeof(LayerScan));
	int64		number;

	scan->layer = layer;
	memcpy(scan->lo, lo, NEON_KEY_ENCODED_SIZE);
	memcpy(scan->hi, hi, NEON_KEY_ENCODED_SIZE);
	scan->without_hi = without_hi;
	scan->upto = upto;
	scan->datasize = LAYER_META_BLOCK;
	scan->data = palloc(scan->datasize);
	number = Max(layer_find_directory(layer, scan->lo), 0);
	if (layer->mf.type == LAYER_IMAGE)
		read_directory(scan, number);
	else
		read_entries(scan, first_block(scan, number));
	return scan;
}

/* The first key >= key; false if there is none. */
static bool
find_from(LayerFile *layer, const uint8 *key, LayerPlace *place)
{
	uint32		number = Max(layer_find_directory(layer, key), 0);

	for (; number < layer->footer.directory_blocks; number++)
	{
		LayerDirectory it;
		const char *problem;

		layer_directory_seek(&it, layer_directory_at(layer, number), key);
		while (layer_directory_next(&it, place, &problem))
		{
			if (memcmp(place->key, key, NEON_KEY_ENCODED_SIZE) >= 0)
				return true;
		}
		if (problem)
			layer_corrupted(layer, layer->footer.directory_offset +
							(uint64) number * LAYER_META_BLOCK, problem);
	}
	return false;
}

bool
layer_has_keys(LayerFile *layer, const uint8 *first_key, const uint8 *end_key)
{
	LayerPlace	place;

	return find_from(layer, first_key, &place) &&
		memcmp(place.key, end_key, NEON_KEY_ENCODED_SIZE) < 0;
}

/* Where the data of the first key >= key begins. */
static uint64
data_offset(LayerFile *layer, const uint8 *key)
{
	LayerPlace	place;

	return find_from(layer, key, &place) ? place.offset : layer->footer.directory_offset;
}

uint64
layer_bytes_between(LayerFile *layer, const uint8 *first_key, const uint8 *end_key)
{
	return data_offset(layer, end_key) - data_offset(layer, first_key);
}

LayerScan *
layer_scan_begin(LayerFile *layer, const NeonKey *lo, const NeonKey *hi, XLogRecPtr upto)
{
	uint8		encoded_lo[NEON_KEY_ENCODED_SIZE];
	uint8		encoded_hi[NEON_KEY_ENCODED_SIZE];

	neon_key_encode(lo, encoded_lo);
	neon_key_encode(hi, encoded_hi);
	return begin_scan(layer, encoded_lo, encoded_hi, false, upto);
}

LayerScan *
layer_scan_begin_versions(LayerFile *layer, const uint8 *first_key, const uint8 *end_key)
{
	return begin_scan(layer, first_key, end_key, true, PG_UINT64_MAX);
}

/* What was found, without its data. */
static void
deliver(LayerScan *scan, NeonKey *key, StoreVersion *version)
{
	const LayerEntry *e = &scan->found.e;

	if (!neon_key_decode(e->key, key))
		layer_corrupted(scan->layer, scan->found.block, "A key is malformed.");
	version->lsn = e->lsn;
	version->start = e->start;
	version->value_kind = e->kind;
	version->base = e->base;
	version->len = e->len;
	version->data = NULL;
	version->timeline = scan->layer->tl;
}

bool
layer_scan_next(LayerScan *scan, NeonKey *key, StoreVersion *version)
{
	if (!(scan->layer->mf.type == LAYER_IMAGE ? next_in_image(scan) : next_in_delta(scan)))
		return false;
	deliver(scan, key, version);
	return true;
}

bool
layer_scan_version(LayerScan *scan, NeonKey *key, StoreVersion *version)
{
	bool		image = scan->layer->mf.type == LAYER_IMAGE;

	if (scan->large)
		pfree(scan->large);
	scan->large = NULL;
	if (!(image ? next_in_image(scan) : next_entry(scan, &scan->found)))
		return false;
	deliver(scan, key, version);
	if (image)
		layer_scan_load(scan, version);
	else
		version->data = (const char *) scan->found.e.bytes;
	if (version->data == NULL)
		version->data = layer_load_large(scan->layer, scan->found.block + scan->found.block_len,
										 version->len);
	if (image || scan->found.e.bytes == NULL)
		scan->large = unconstify(char *, version->data);
	return true;
}

void
layer_scan_load(LayerScan *scan, StoreVersion *version)
{
	const PlacedEntry *p = &scan->found;
	const uint8 *raw;
	LayerBlock	b;
	uint32		len;
	char	   *data;

	if (p->e.kind == NEON_VALUE_WAL)
		return;
	if (p->e.bytes == NULL)
	{
		version->data = layer_load_large(scan->layer, p->block + p->block_len, p->e.len);
		return;
	}
	raw = layer_block_at(scan->layer, p->block, p->block_len, &b, &len);
	if (p->position > b.raw || p->e.len > b.raw - p->position)
		layer_corrupted(scan->layer, p->block, "A value is longer than its block.");
	data = palloc(p->e.len + 1);
	memcpy(data, raw + p->position, p->e.len);
	data[p->e.len] = '\0';
	version->data = data;
}

void
layer_scan_end(LayerScan *scan)
{
	if (scan->large)
		pfree(scan->large);
	pfree(scan->data);
	pfree(scan);
}
