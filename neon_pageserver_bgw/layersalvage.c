/*-------------------------------------------------------------------------
 *
 * layersalvage.c
 *	  A layer file whose data are whole is made again from them.
 *
 * Most of what a file says besides its data follows from these and from the
 * manifest: of a delta file header, directory, fences and footer; of an image
 * file header, fences and footer, as the keys of its pages are in the directory
 * only.  The manifest says how many versions there are, so what lies behind the
 * last one is never taken for data.  Every block that is used has a CRC that
 * covers the file's id and the block's place.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>

#include "layersalvage.h"
#include "neon_layerformat.h"
#include "storage/fd.h"

typedef struct Salvage
{
	const ManifestFile *mf;
	File		file;
	LayerWriter *writer;		/* NULL: only look */
	uint64		offset;			/* of the next block */
	LayerBlock	b;				/* the last one */
	uint8	   *stored;			/* LAYER_BLOCK_HEADER + LAYER_RAW_MAX bytes */
	uint8	   *raw;			/* LAYER_RAW_MAX bytes */
	StringInfoData large;		/* a large value */
	uint64		versions;
	uint8		last_key[NEON_KEY_ENCODED_SIZE];
} Salvage;

static bool
read_at(Salvage *s, uint64 offset, void *buf, size_t len)
{
	if (offset > s->mf->bytes || len > s->mf->bytes - offset)
		return false;
	return layer_read_range(s->file, offset, buf, len);
}

/* ---- blocks ---- */

/* Only its header, which is not verified yet; the next one lies behind it. */
static bool
skip_block(Salvage *s)
{
	if (!read_at(s, s->offset, s->stored, LAYER_BLOCK_HEADER) ||
		layer_block_decode(s->stored, &s->b) != NULL)
		return false;
	s->offset += LAYER_BLOCK_HEADER + s->b.stored;
	return true;
}

static bool
next_block(Salvage *s, LayerBlockType type)
{
	uint64		offset = s->offset;

	if (!skip_block(s) ||
		!read_at(s, offset, s->stored, s->offset - offset) ||
		layer_block_unpack(s->mf->id, offset, s->stored, s->offset - offset, &s->b, s->raw) != NULL)
		return false;
	return s->b.type == type;
}

/* ---- versions ---- */

/* They must be those that the manifest tells of. */
static bool
take_version(Salvage *s, const uint8 *key, const StoreVersion *v)
{
	NeonKey		decoded;

	if (s->versions == 0 && memcmp(key, s->mf->first_key, NEON_KEY_ENCODED_SIZE) != 0)
		return false;
	if (!neon_key_decode(key, &decoded))
		return false;
	memcpy(s->last_key, key, NEON_KEY_ENCODED_SIZE);
	s->versions++;
	if (s->writer != NULL)
		layer_writer_add(s->writer, &decoded, v);
	return true;
}

/* From the blocks behind its entry. */
static bool
read_large(Salvage *s, uint32 len)
{
	if (len > s->mf->bytes * LAYER_MAX_RATIO)
		return false;
	resetStringInfo(&s->large);
	while ((uint32) s->large.len < len)
	{
		if (!next_block(s, LAYER_BLOCK_MORE) || s->b.raw > len - s->large.len)
			return false;
		appendBinaryStringInfo(&s->large, (const char *) s->raw, s->b.raw);
	}
	return true;
}

static bool
take_entry(Salvage *s, const LayerEntry *e)
{
	StoreVersion v = {0};

	v.lsn = e->lsn;
	v.start = e->start;
	v.value_kind = e->kind;
	v.base = e->base;
	v.len = e->len;
	v.data = (const char *) e->bytes;
	if (e->bytes == NULL)
	{
		if (!read_large(s, e->len))
			return false;
		v.data = s->large.data;
	}
	return take_version(s, e->key, &v);
}

/* ---- files ---- */

static bool
salvage_delta(Salvage *s)
{
	LayerFooter f = {.lsn_lo = s->mf->lsn_lo,.lsn_hi = s->mf->lsn_hi};

	while (s->versions < s->mf->entries)
	{
		LayerEntries it;
		LayerEntry	e;
		const char *problem = NULL;

		if (!next_block(s, LAYER_BLOCK_ENTRIES))
			return false;
		layer_entries_begin(&it, &f, s->raw, s->b.raw);
		while (layer_entries_next(&it, &e, &problem))
		{
			/* a large value's blocks take the place of this one, whose last entry it is */
			bool		last = e.bytes == NULL;

			if (!take_entry(s, &e))
				return false;
			if (last)
				break;
		}
		if (problem != NULL)
			return false;
	}
	return true;
}

static bool
take_page(Salvage *s, const LayerPlace *place)
{
	StoreVersion v = {.value_kind = NEON_VALUE_IMAGE,.base = true,.len = BLCKSZ};

	if (place->offset != s->offset || !next_block(s, LAYER_BLOCK_PAGE))
		return false;
	v.lsn = codec_load_u64(s->raw);
	v.data = (const char *) s->raw + sizeof(uint64);
	return v.lsn >= s->mf->lsn_lo && v.lsn <= s->mf->lsn_hi && take_version(s, place->key, &v);
}

/* The directory begins behind the last page, and says which pages these are. */
static bool
salvage_image(Salvage *s)
{
	static const uint8 lowest[NEON_KEY_ENCODED_SIZE];
	uint8		block[LAYER_META_BLOCK];
	uint64		directory;

	for (uint64 i = 0; i < s->mf->entries; i++)
	{
		if (!skip_block(s))
			return false;
	}
	directory = s->offset;
	s->offset = LAYER_HEADER;
	for (uint32 number = 0; s->versions < s->mf->entries; number++)
	{
		uint64		at = directory + (uint64) number * LAYER_META_BLOCK;
		LayerDirectory it;
		LayerPlace	place;
		const char *problem = NULL;

		if (!read_at(s, at, block, sizeof(block)) ||
			layer_directory_check(block, s->mf->id, at, number) != NULL)
			return false;
		layer_directory_seek(&it, block, lowest);
		while (layer_directory_next(&it, &place, &problem))
		{
			if (s->versions >= s->mf->entries || !take_page(s, &place))
				return false;
		}
		if (problem != NULL)
			return false;
	}
	return s->offset == directory;
}

static bool
salvage_open(Salvage *s)
{
	bool		done;

	s->offset = LAYER_HEADER;
	s->stored = palloc(LAYER_BLOCK_HEADER + LAYER_RAW_MAX);
	s->raw = palloc(LAYER_RAW_MAX);
	initStringInfo(&s->large);
	done = s->mf->type == LAYER_IMAGE ? salvage_image(s) : salvage_delta(s);
	done = done && s->versions == s->mf->entries &&
		memcmp(s->last_key, s->mf->last_key, NEON_KEY_ENCODED_SIZE) == 0;
	pfree(s->large.data);
	pfree(s->raw);
	pfree(s->stored);
	return done;
}

bool
layer_salvage(Timeline *tl, const ManifestFile *mf, LayerWriter *writer)
{
	Salvage		s = {.mf = mf,.writer = writer};
	char		path[MAXPGPATH];
	volatile bool done = false;

	layer_path(&tl->id, mf, path);
	s.file = PathNameOpenFile(path, O_RDONLY | PG_BINARY);
	if (s.file < 0)
		return false;
	PG_TRY();
	{
		done = salvage_open(&s);
	}
	PG_FINALLY();
	{
		FileClose(s.file);
	}
	PG_END_TRY();
	return done;
}
