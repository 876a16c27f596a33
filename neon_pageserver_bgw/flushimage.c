/*-------------------------------------------------------------------------
 *
 * flushimage.c
 *	  Page images that a flush adds so that chains of records stay short.
 *
 * A page wants one if its chain since the last base is long.  How much of the
 * chain lies in older layers is asked only for a part of the pages, drawn in
 * proportion to their new records, which bounds chains without a lookup for
 * each page.  A page that cannot be made is skipped: its records remain.
 *
 * Images take longer than all else of a flush.  When the next index is half
 * full, WAL is about to wait: then they are left to compaction, but for chains
 * that are much longer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "flushimage.h"
#include "read.h"
#include "storage/condition_variable.h"
#include "store_private.h"
#include "utils/memutils.h"

#define IMAGE_BATCH		32

/* Chains that get an image in any case: so many times image_chain. */
#define LAG_FACTOR		8

struct FlushImages
{
	Timeline   *tl;
	const OpenLayer *frozen;
	FlushKey   *keys;
	uint32		nkeys;
	XLogRecPtr	cut;
	bool		broken;			/* no page can be made at all */
	bool		lags;			/* the next index fills meanwhile */
	NeonKey		size_key;		/* of the fork asked for last */
	bool		exists;
	RelSize		size;
	uint32		batch[IMAGE_BATCH]; /* keys whose pages are loaded */
	int			nbatch;
	PageResult	results[IMAGE_BATCH];
	char	   *pages;
	uint32		made;
	MemoryContext context;		/* of a batch, reset before the next one */
};

typedef struct ChainCount
{
	XLogRecPtr	cut;
	uint32		n;				/* records since the last base */
	bool		base;
	XLogRecPtr	last;			/* LSN of the newest version */
} ChainCount;

static void
count_ref(const OpenLayer *open, uint64 ref, void *arg)
{
	ChainCount *count = arg;
	StoreVersion v;

	openlayer_decode(open, ref, false, &v);
	if (v.lsn > count->cut)
		return;
	if (v.value_kind != NEON_VALUE_WAL)
		count->n = 0;
	else
		count->n = v.base ? 1 : count->n + 1;
	count->base |= v.base;
	count->last = v.lsn;
}

/* Is the version at lsn still the page at the cut, or was it cut away since? */
static bool
still_there(FlushImages *images, const NeonKey *key, XLogRecPtr lsn)
{
	NeonKey		size_key = neon_key(NEON_KEY_SIZE, key->spc, key->db, key->rel, key->fork, 0);

	if (neon_key_cmp(&size_key, &images->size_key) != 0)
	{
		images->exists = store_size_at(images->tl, &size_key, images->cut, &images->size);
		images->size_key = size_key;
	}
	return images->exists && key->blk < images->size.nblocks &&
		lsn > relsize_floor(&images->size, key->blk);
}

static bool
is_chain_long(FlushImages *images, FlushKey *key, const ChainCount *count, uint32 limit)
{
	uint32		draw;

	if (count->n >= limit)
		return true;
	if (count->base || count->n == 0)
		return false;
	draw = hash_bytes((const unsigned char *) &key->key, sizeof(NeonKey)) ^
		hash_bytes_uint32((uint32) (images->cut >> 3));
	if (draw % limit >= count->n)
		return false;
	return count->n + store_count_in_files(images->tl, &key->key, images->cut) >= limit;
}

static FlushImage
image_wanted(FlushImages *images, FlushKey *key)
{
	ChainCount	count = {images->cut, 0, false, InvalidXLogRecPtr};
	FlushImage	image = FLUSH_NO_IMAGE;

	if (key->key.kind != NEON_KEY_PAGE || key->open->nrefs == 0)
		return FLUSH_NO_IMAGE;
	openlayer_visit(images->frozen, key->open, count_ref, &count);
	if (is_chain_long(images, key, &count, (uint32) store_image_chain * LAG_FACTOR))
		image = FLUSH_NEEDS_IMAGE;
	else if (is_chain_long(images, key, &count, store_image_chain))
		image = FLUSH_WANTS_IMAGE;
	if (image != FLUSH_NO_IMAGE && !still_there(images, &key->key, count.last))
		return FLUSH_NO_IMAGE;
	return image;
}

/* What is damaged fails readers, and not the flush, which would fail again and again. */
static void
give_up(FlushImages *images, MemoryContext context)
{
	MemoryContextSwitchTo(context);
	if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_OPERATOR_INTERVENTION)
		PG_RE_THROW();
	EmitErrorReport();
	FlushErrorState();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	images->broken = true;
	images->nbatch = 0;
}

static void
mark_keys(FlushImages *images)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		for (uint32 i = 0; i < images->nkeys; i++)
		{
			images->keys[i].image = image_wanted(images, &images->keys[i]);
			if (i % 64 == 0)
				store_tick();
		}
	}
	PG_CATCH();
	{
		give_up(images, context);
	}
	PG_END_TRY();
}

FlushImages *
flush_images_begin(Timeline *tl, const OpenLayer *frozen, FlushKey *keys, uint32 nkeys,
				   XLogRecPtr cut)
{
	FlushImages *images = palloc0(sizeof(FlushImages));

	images->tl = tl;
	images->frozen = frozen;
	images->keys = keys;
	images->nkeys = nkeys;
	images->cut = cut;
	images->pages = palloc(IMAGE_BATCH * BLCKSZ);
	images->context = AllocSetContextCreate(CurrentMemoryContext, "neon flush images",
											ALLOCSET_DEFAULT_SIZES);
	if (store_image_chain > 0)
		mark_keys(images);
	return images;
}

/* Is the i-th key's image to be made, as things are now? */
static bool
is_due(FlushImages *images, uint32 i)
{
	return images->keys[i].image == FLUSH_NEEDS_IMAGE ||
		(images->keys[i].image == FLUSH_WANTS_IMAGE && !images->lags);
}

/* Makes the pages of the next keys from i on whose images are due. */
static void
load_batch(FlushImages *images, uint32 i)
{
	MemoryContext context = CurrentMemoryContext;
	NeonKey		keys[IMAGE_BATCH];

	/* the chains of the batch before, with all their records */
	MemoryContextReset(images->context);
	images->nbatch = 0;
	for (; i < images->nkeys && images->nbatch < IMAGE_BATCH; i++)
	{
		if (!is_due(images, i))
			continue;
		keys[images->nbatch] = images->keys[i].key;
		images->batch[images->nbatch++] = i;
	}
	PG_TRY();
	{
		MemoryContextSwitchTo(images->context);
		read_pages(images->tl, keys, images->nbatch, images->cut, images->pages,
				   images->results);
		MemoryContextSwitchTo(context);
	}
	PG_CATCH();
	{
		give_up(images, context);
	}
	PG_END_TRY();
}

const char *
flush_images_get(FlushImages *images, uint32 i)
{
	int			at;

	if (images->nbatch == 0 || images->batch[images->nbatch - 1] < i)
	{
		images->lags = images->lags || store_flush_lags(images->tl);
		if (images->broken || !is_due(images, i))
			return NULL;
		load_batch(images, i);
	}
	for (at = 0; at < images->nbatch; at++)
	{
		if (images->batch[at] == i)
			break;
	}
	if (at == images->nbatch)
		return NULL;
	if (!images->results[at].ok)
	{
		read_log_unmakeable(images->tl, &images->keys[i].key, images->cut, &images->results[at]);
		return NULL;
	}
	images->made++;
	return images->pages + at * BLCKSZ;
}

uint32
flush_images_made(FlushImages *images)
{
	return images->made;
}

void
flush_images_end(FlushImages *images)
{
	MemoryContextDelete(images->context);
	pfree(images->pages);
	pfree(images);
}
