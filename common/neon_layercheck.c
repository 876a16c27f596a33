/*-------------------------------------------------------------------------
 *
 * neon_layercheck.c
 *	  Reading a whole layer file: everything that it claims is verified, and
 *	  shown to who wants to see it.
 *
 * The directory is walked key by key, and the data is read along with it: each
 * block must be where the last one ended, and have exactly the entries that the
 * directory tells of.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "neon_layercheck.h"

typedef struct Check
{
	const LayerSource *source;
	const LayerVisitor *visitor;
	LayerProblem *problem;
	LayerHeader header;
	LayerFooter footer;

	uint64		offset;			/* where the next data block is */
	uint64		block;			/* the last one read */
	LayerBlock	b;
	uint8	   *stored;			/* LAYER_BLOCK_HEADER + LAYER_RAW_MAX bytes */
	uint8	   *raw;			/* LAYER_RAW_MAX bytes */
	LayerEntries entries;		/* of it, if it is one of entries */
	bool		have;			/* entry is one that no key has claimed yet */
	LayerEntry	entry;
	uint8	   *large;			/* a large value */
	uint32		large_size;

	uint8		fences[LAYER_META_BLOCK];
	uint32		fences_read;	/* blocks of them */
	uint32		fence_count;

	uint64		keys;
	uint64		versions;
	uint64		images;
	uint64		raw_bytes;
	uint64		image_bytes;
	uint8		last_key[NEON_KEY_ENCODED_SIZE];
} Check;

static bool
fail(Check *c, uint64 offset, const char *what)
{
	c->problem->offset = offset;
	c->problem->what = what;
	return false;
}

static bool
read_at(Check *c, uint64 offset, void *buf, size_t len)
{
	if (offset > c->source->size || len > c->source->size - offset)
		return fail(c, offset, "The file ends too early.");
	if (!c->source->read(c->source->arg, offset, buf, len))
		return fail(c, offset, "The file cannot be read here.");
	return true;
}

/* ---- the ends of the file ---- */

static bool
check_ends(Check *c)
{
	uint8		buf[LAYER_FOOTER];
	uint64		end = c->source->size - LAYER_FOOTER;
	const char *what;

	if (c->source->size < LAYER_HEADER + LAYER_FOOTER)
		return fail(c, 0, "The file is too short.");
	if (!read_at(c, 0, buf, LAYER_HEADER))
		return false;
	if ((what = layer_header_decode(buf, &c->header)) != NULL)
	{
		if (c->header.version != LAYER_VERSION)
			c->problem->version = c->header.version;
		return fail(c, 0, what);
	}
	if (!read_at(c, end, buf, LAYER_FOOTER))
		return false;
	if ((what = layer_footer_decode(buf, c->header.file_id, end, &c->footer)) != NULL)
		return fail(c, end, what);
	if (c->footer.type != c->header.type || c->footer.flags != c->header.flags)
		return fail(c, end, "The footer is another file's.");
	if (c->visitor->begin)
		c->visitor->begin(&c->header, &c->footer, c->visitor->arg);
	c->offset = LAYER_HEADER;
	return true;
}

static bool
check_counts(Check *c)
{
	const LayerFooter *f = &c->footer;

	if (c->have || c->offset != f->directory_offset)
		return fail(c, c->block, "The directory does not have all the data.");
	if (c->keys != f->keys || c->versions != f->versions || c->images != f->images ||
		c->raw_bytes != f->raw_bytes || c->image_bytes != f->image_bytes ||
		memcmp(c->last_key, f->last_key, NEON_KEY_ENCODED_SIZE) != 0)
		return fail(c, c->source->size - LAYER_FOOTER, "The footer's counts are wrong.");
	return true;
}

static bool
check_file_crc(Check *c)
{
	uint64		end = c->source->size - LAYER_FOOTER;
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	for (uint64 at = 0; at < end;)
	{
		size_t		n = Min(end - at, LAYER_RAW_MAX);

		if (!read_at(c, at, c->raw, n))
			return false;
		COMP_CRC32C(crc, c->raw, n);
		at += n;
	}
	FIN_CRC32C(crc);
	return crc == c->footer.file_crc ? true : fail(c, end, "The file has a wrong CRC.");
}

/* ---- data ---- */

/* The next block, which must have this stored length (0: any). */
static bool
next_block(Check *c, uint32 len)
{
	const char *what;

	if (c->offset >= c->footer.directory_offset)
		return fail(c, c->offset, "A block lies behind the data.");
	if (len == 0)
	{
		if (!read_at(c, c->offset, c->stored, LAYER_BLOCK_HEADER))
			return false;
		if ((what = layer_block_decode(c->stored, &c->b)) != NULL)
			return fail(c, c->offset, what);
		len = LAYER_BLOCK_HEADER + c->b.stored;
	}
	if (len > c->footer.directory_offset - c->offset)
		return fail(c, c->offset, "A block lies behind the data.");
	if (!read_at(c, c->offset, c->stored, len))
		return false;
	what = layer_block_unpack(c->header.file_id, c->offset, c->stored, len, &c->b, c->raw);
	if (what != NULL)
		return fail(c, c->offset, what);
	c->block = c->offset;
	c->offset += len;
	c->raw_bytes += c->b.raw;
	if (c->visitor->block)
		c->visitor->block(c->block, &c->b, c->visitor->arg);
	return true;
}

static bool
show(Check *c, const LayerEntry *e, const uint8 *bytes)
{
	c->versions++;
	if (e->kind == NEON_VALUE_IMAGE)
		c->images++;
	if (c->visitor->version)
		c->visitor->version(e, bytes, c->visitor->arg);
	return true;
}

/* Collects a large value from the blocks behind its entry; *nblocks is their number. */
static bool
read_large(Check *c, uint32 len, uint32 *nblocks)
{
	uint32		done = 0;

	/* what the file cannot have is not asked memory for */
	if (len / LAYER_MAX_RATIO > c->source->size)
		return fail(c, c->block, "A value is longer than the file can have.");
	if (c->large_size < len)
	{
		if (c->large)
			pfree(c->large);
		c->large = palloc(len);
		c->large_size = len;
	}
	for (*nblocks = 0; done < len; (*nblocks)++)
	{
		if (!next_block(c, 0))
			return false;
		if (c->b.type != LAYER_BLOCK_MORE || c->b.raw > len - done)
			return fail(c, c->block, "A value is not continued where it should be.");
		memcpy(c->large + done, c->raw, c->b.raw);
		done += c->b.raw;
	}
	return true;
}

/* Fetches the next entry of the block of entries at hand into c->entry. */
static bool
next_entry(Check *c)
{
	const char *what;

	c->have = layer_entries_next(&c->entries, &c->entry, &what);
	return what == NULL ? true : fail(c, c->block, what);
}

static bool
begin_entries(Check *c)
{
	if (c->b.type != LAYER_BLOCK_ENTRIES)
		return fail(c, c->block, "A block has a wrong type.");
	layer_entries_begin(&c->entries, &c->footer, c->raw, c->b.raw);
	return next_entry(c);
}

typedef struct KeyCount
{
	bool		base;
	uint64		newer;
	uint32		more;			/* further blocks read */
	uint32		last_len;
	XLogRecPtr	last_lsn;
	bool		any;
} KeyCount;

static bool
count_entry(Check *c, KeyCount *n)
{
	const LayerEntry *e = &c->entry;

	if (n->any && e->lsn < n->last_lsn)
		return fail(c, c->block, "Versions are not in order.");
	if (e->kind == NEON_VALUE_IMAGE && e->len != BLCKSZ)
		return fail(c, c->block, "An image has a wrong length.");
	n->any = true;
	n->last_lsn = e->lsn;
	n->base |= e->base;
	n->newer = e->base ? 0 : n->newer + 1;
	return true;
}

/* The entries of a key in the block at hand. */
static bool
entries_of_key(Check *c, const LayerPlace *place, KeyCount *n)
{
	while (c->have && memcmp(c->entry.key, place->key, NEON_KEY_ENCODED_SIZE) == 0)
	{
		LayerEntry	e = c->entry;
		uint32		nblocks;

		if (!count_entry(c, n))
			return false;
		if (e.bytes == NULL)
		{
			if (!read_large(c, e.len, &nblocks))
				return false;
			n->more += nblocks;
			c->have = false;
			return show(c, &e, c->large);
		}
		show(c, &e, e.bytes);
		if (!next_entry(c))
			return false;
	}
	return true;
}

static bool
check_delta_key(Check *c, const LayerPlace *place)
{
	KeyCount	n = {0};

	/* It begins in the block at hand if that has entries left, else in the next one. */
	if (!c->have && (!next_block(c, place->len) || !begin_entries(c)))
		return false;
	if (c->block != place->offset || c->offset - c->block != place->len)
		return fail(c, c->block, "The directory has another place for a key.");
	if (memcmp(c->entry.key, place->key, NEON_KEY_ENCODED_SIZE) != 0)
		return fail(c, c->block, "The directory has another key than the data.");
	if (!entries_of_key(c, place, &n))
		return false;
	while (n.more < place->more)
	{
		uint32		len = place->more <= LAYER_LISTED_BLOCKS ? place->more_len[n.more] : 0;
		uint64		before = c->versions;

		n.more++;
		if (c->have)
			return fail(c, c->block, "A key goes on behind the next one.");
		if (!next_block(c, len) || !begin_entries(c) || !entries_of_key(c, place, &n))
			return false;
		if (c->versions == before)
			return fail(c, c->block, "A block does not have the key that it should.");
	}
	if (n.more != place->more || !n.any || n.base != place->base || n.newer != place->newer ||
		(n.more > 0 && (c->offset - place->offset != place->len + place->more_bytes ||
						c->offset - c->block != place->last_len)))
		return fail(c, place->offset, "The directory tells another thing of a key than the data.");
	return true;
}

static bool
check_image_key(Check *c, const LayerPlace *place)
{
	LayerEntry	e = {0};

	if (c->offset != place->offset)
		return fail(c, c->offset, "The directory has another place for a key.");
	if (!next_block(c, place->len))
		return false;
	e.lsn = codec_load_u64(c->raw);
	if (c->b.type != LAYER_BLOCK_PAGE || place->more > 0 || !place->base || place->newer != 0)
		return fail(c, c->block, "The directory tells another thing of a key than the data.");
	if (e.lsn < c->footer.lsn_lo || e.lsn > c->footer.lsn_hi)
		return fail(c, c->block, "A page has an impossible LSN.");
	memcpy(e.key, place->key, NEON_KEY_ENCODED_SIZE);
	e.kind = NEON_VALUE_IMAGE;
	e.base = true;
	e.len = BLCKSZ;
	e.bytes = c->raw + 8;
	c->image_bytes += c->offset - c->block;
	return show(c, &e, e.bytes);
}

/* ---- the directory ---- */

static bool
check_key(Check *c, uint64 offset, const LayerPlace *place)
{
	if (c->keys == 0 ? memcmp(place->key, c->footer.first_key, NEON_KEY_ENCODED_SIZE) != 0 :
		memcmp(place->key, c->last_key, NEON_KEY_ENCODED_SIZE) <= 0)
		return fail(c, offset, "Keys are not in order.");
	memcpy(c->last_key, place->key, NEON_KEY_ENCODED_SIZE);
	c->keys++;
	if (c->visitor->key)
		c->visitor->key(place, c->visitor->arg);
	return c->header.type == LAYER_IMAGE ? check_image_key(c, place) : check_delta_key(c, place);
}

/* The fence of a directory block must be its first key. */
static bool
check_fence(Check *c, uint32 number, const uint8 *key)
{
	uint32		i = number % LAYER_FENCES;
	const char *what;

	if (i == 0)
	{
		uint64		at = c->footer.fence_offset + (uint64) c->fences_read * LAYER_META_BLOCK;
		uint32		expected = Min(c->footer.directory_blocks - number, LAYER_FENCES);

		if (!read_at(c, at, c->fences, LAYER_META_BLOCK))
			return false;
		what = layer_fences_check(c->fences, c->header.file_id, at, c->fences_read, &c->fence_count);
		if (what != NULL)
			return fail(c, at, what);
		if (c->fence_count != expected)
			return fail(c, at, "A block of fences has a wrong count.");
		c->fences_read++;
	}
	if (memcmp(layer_fence(c->fences, i), key, NEON_KEY_ENCODED_SIZE) != 0)
		return fail(c, c->footer.fence_offset, "A fence is not the first key of its block.");
	return true;
}

static bool
check_directory_block(Check *c, uint32 number)
{
	static const uint8 first_key[NEON_KEY_ENCODED_SIZE] = {0};
	uint64		offset = c->footer.directory_offset + (uint64) number * LAYER_META_BLOCK;
	uint8		block[LAYER_META_BLOCK];
	LayerDirectory it;
	LayerPlace	place;
	uint32		nkeys = 0;
	const char *what;

	if (!read_at(c, offset, block, sizeof(block)))
		return false;
	if ((what = layer_directory_check(block, c->header.file_id, offset, number)) != NULL)
		return fail(c, offset, what);
	layer_directory_seek(&it, block, first_key);
	while (layer_directory_next(&it, &place, &what))
	{
		if (nkeys++ == 0 && !check_fence(c, number, place.key))
			return false;
		if (!check_key(c, offset, &place))
			return false;
	}
	if (what != NULL)
		return fail(c, offset, what);
	return nkeys == codec_load_u16(block + 8) ? true :
		fail(c, offset, "A block of the directory has a wrong count.");
}

bool
layer_check(const LayerSource *source, const LayerVisitor *visitor, LayerProblem *problem)
{
	Check	   *c = palloc0(sizeof(Check));
	bool		ok;

	memset(problem, 0, sizeof(*problem));
	c->source = source;
	c->visitor = visitor;
	c->problem = problem;
	c->stored = palloc(LAYER_BLOCK_HEADER + LAYER_RAW_MAX);
	c->raw = palloc(LAYER_RAW_MAX);
	ok = check_ends(c);
	for (uint32 i = 0; ok && i < c->footer.directory_blocks; i++)
		ok = check_directory_block(c, i);
	ok = ok && check_counts(c) && check_file_crc(c);
	if (c->large)
		pfree(c->large);
	pfree(c->raw);
	pfree(c->stored);
	pfree(c);
	return ok;
}
