/*-------------------------------------------------------------------------
 *
 * storescan.c
 *	  Reading a range: the newest version of every key as of an LSN.
 *
 * A merge of sources that are each sorted by key: of each level of ancestry
 * the open index (copied when the scan begins) and the layer files.  A scan for
 * what changed since an LSN leaves out what is not newer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "store_private.h"
#include "utils/memutils.h"

typedef struct OpenItem
{
	NeonKey		key;
	StoreVersion version;
} OpenItem;

typedef struct ScanSource
{
	NeonKey		key;			/* current */
	StoreVersion version;
	LayerScan  *layer;			/* NULL: items */
	OpenItem   *items;
	uint32		nitems;
	uint32		next;
} ScanSource;

typedef struct Scan
{
	NeonKey		lo;
	NeonKey		hi;
	XLogRecPtr	above;			/* versions at or below this are not wanted */
	MemoryContext caller;		/* where callbacks run */
	int			nsources;
	int			maxsources;
	ScanSource *sources;
} Scan;

static ScanSource *
add_source(Scan *scan)
{
	ScanSource *source;

	if (scan->nsources == scan->maxsources)
	{
		scan->maxsources = Max(16, scan->maxsources * 2);
		scan->sources = scan->sources ?
			repalloc(scan->sources, scan->maxsources * sizeof(ScanSource)) :
			palloc(scan->maxsources * sizeof(ScanSource));
	}
	source = &scan->sources[scan->nsources++];
	memset(source, 0, sizeof(*source));
	return source;
}

static int
compare_items(const void *a, const void *b)
{
	return neon_key_cmp(&((const OpenItem *) a)->key, &((const OpenItem *) b)->key);
}

/* Keys of one of the open index's lists; index_lock is held. */
static void
copy_list(Timeline *tl, const OpenLayer *open, const Scan *scan, bool pages, XLogRecPtr upto,
		  ScanSource *source, uint32 *max)
{
	for (OpenKey *k = openlayer_first(open, pages); k != NULL; k = openlayer_next(k))
	{
		uint64		ref;
		OpenItem   *item;

		if (neon_key_cmp(&k->key, &scan->lo) < 0 || neon_key_cmp(&k->key, &scan->hi) > 0 ||
			!openlayer_newest(open, k, upto, &ref))
			continue;
		if (source->nitems == *max)
		{
			*max = Max(64, *max * 2);
			source->items = source->items ?
				repalloc_huge(source->items, *max * sizeof(OpenItem)) :
				MemoryContextAllocHuge(CurrentMemoryContext, *max * sizeof(OpenItem));
		}
		item = &source->items[source->nitems++];
		item->key = k->key;
		openlayer_decode(open, ref, scan->above == InvalidXLogRecPtr, &item->version);
		item->version.timeline = tl;
		if (item->version.lsn <= scan->above)
			source->nitems--;
	}
}

static void
add_index(Scan *scan, Timeline *tl, const OpenLayer *open, XLogRecPtr upto)
{
	ScanSource *source = add_source(scan);
	uint32		max = 0;

	if (scan->lo.kind <= NEON_KEY_PAGE && scan->hi.kind >= NEON_KEY_PAGE)
		copy_list(tl, open, scan, true, upto, source, &max);
	if (scan->lo.kind != NEON_KEY_PAGE || scan->hi.kind != NEON_KEY_PAGE)
		copy_list(tl, open, scan, false, upto, source, &max);
	if (source->nitems > 0)
		qsort(source->items, source->nitems, sizeof(OpenItem), compare_items);
}

static void
add_open(Scan *scan, Timeline *tl, XLogRecPtr upto)
{
	LWLockAcquire(&tl->shared->index_lock, LW_SHARED);
	timeline_check(tl);
	add_index(scan, tl, &tl->shared->open, upto);
	add_index(scan, tl, &tl->shared->frozen, upto);
	LWLockRelease(&tl->shared->index_lock);
}

/* False if a file is gone, as others were written in its place. */
static bool
add_files(Scan *scan, Timeline *tl, XLogRecPtr upto)
{
	StoreFiles *sf = store_files(tl);
	uint8		lo[NEON_KEY_ENCODED_SIZE];
	uint8		hi[NEON_KEY_ENCODED_SIZE];

	neon_key_encode(&scan->lo, lo);
	neon_key_encode(&scan->hi, hi);
	for (int i = 0; i < sf->nfiles; i++)
	{
		StoreFile  *file = &sf->files[i];

		if (!store_file_reaches(file, upto) || file->mf.lsn_hi <= scan->above ||
			memcmp(hi, file->mf.first_key, NEON_KEY_ENCODED_SIZE) < 0 ||
			memcmp(lo, file->mf.last_key, NEON_KEY_ENCODED_SIZE) > 0)
			continue;
		if (store_file_open(tl, file) == NULL)
			return false;
		add_source(scan)->layer = layer_scan_begin(file->open, &scan->lo, &scan->hi, upto);
	}
	return true;
}

/* What a timeline has itself; begun anew when the files changed meanwhile. */
static void
add_timeline(Scan *scan, Timeline *tl, XLogRecPtr upto)
{
	int			nsources = scan->nsources;

	do
	{
		scan->nsources = nsources;
		add_open(scan, tl, upto);
	} while (!add_files(scan, tl, upto));
}

static void
add_timelines(Scan *scan, Timeline *tl, XLogRecPtr upto)
{
	for (; tl != NULL && upto > scan->above; tl = tl->ancestor)
	{
		add_timeline(scan, tl, upto);
		upto = Min(upto, tl->id.ancestor_lsn);
	}
}

/* Moves a source to its next key; false at its end. */
static bool
advance(ScanSource *source)
{
	if (source->layer)
		return layer_scan_next(source->layer, &source->key, &source->version);
	if (source->next >= source->nitems)
		return false;
	source->key = source->items[source->next].key;
	source->version = source->items[source->next].version;
	source->next++;
	return true;
}

/* binaryheap has the largest first. */
static int
compare_sources(Datum a, Datum b, void *arg)
{
	const ScanSource *x = (const ScanSource *) DatumGetPointer(a);
	const ScanSource *y = (const ScanSource *) DatumGetPointer(b);
	int			cmp = neon_key_cmp(&y->key, &x->key);

	if (cmp != 0)
		return cmp;
	return x->version.lsn == y->version.lsn ? 0 : (x->version.lsn > y->version.lsn ? 1 : -1);
}

/* Delivers one version; false if the callback wants no more. */
static bool
deliver(Scan *scan, ScanSource *source, StoreScanCallback cb, void *arg)
{
	NeonKey		key = source->key;
	StoreVersion version = source->version;
	MemoryContext context;
	bool		more;

	if (scan->above != InvalidXLogRecPtr)
	{
		/* keys only, whatever became of them */
		if (version.lsn <= scan->above)
			return true;
	}
	else if (version.value_kind == NEON_VALUE_TOMBSTONE)
		return true;
	else if (source->layer)
		layer_scan_load(source->layer, &version);
	context = MemoryContextSwitchTo(scan->caller);
	more = cb(&key, &version, arg);
	MemoryContextSwitchTo(context);
	if (source->layer && version.data)
		pfree(unconstify(char *, version.data));
	return more;
}

static void
merge(Scan *scan, StoreScanCallback cb, void *arg)
{
	binaryheap *heap = binaryheap_allocate(Max(scan->nsources, 1), compare_sources, NULL);
	NeonKey		last = {0};
	bool		first = true;
	bool		more = true;

	for (int i = 0; i < scan->nsources; i++)
	{
		if (advance(&scan->sources[i]))
			binaryheap_add_unordered(heap, PointerGetDatum(&scan->sources[i]));
	}
	binaryheap_build(heap);
	while (more && !binaryheap_empty(heap))
	{
		ScanSource *source = (ScanSource *) DatumGetPointer(binaryheap_first(heap));

		CHECK_FOR_INTERRUPTS();
		/* Of equal keys the newest version comes first. */
		if (first || neon_key_cmp(&source->key, &last) != 0)
		{
			last = source->key;
			first = false;
			more = deliver(scan, source, cb, arg);
		}
		if (advance(source))
			binaryheap_replace_first(heap, PointerGetDatum(source));
		else
			(void) binaryheap_remove_first(heap);
	}
	binaryheap_free(heap);
}

static void
run_scan(Timeline *tl, const NeonKey *lo, const NeonKey *hi, XLogRecPtr above, XLogRecPtr lsn,
		 StoreScanCallback cb, void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	Scan		scan = {0};

	timeline_check_readable(tl);
	context = AllocSetContextCreate(caller, "neon store scan", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	scan.caller = caller;
	scan.lo = *lo;
	scan.hi = *hi;
	scan.above = above;
	store_scan_begins();
	PG_TRY();
	{
		add_timelines(&scan, tl, lsn);
		merge(&scan, cb, arg);
	}
	PG_FINALLY();
	{
		store_scan_ends();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

void
store_scan(Timeline *tl, const NeonKey *lo, const NeonKey *hi, XLogRecPtr lsn,
		   StoreScanCallback cb, void *arg)
{
	run_scan(tl, lo, hi, InvalidXLogRecPtr, lsn, cb, arg);
}

void
store_scan_changed(Timeline *tl, const NeonKey *lo, const NeonKey *hi, XLogRecPtr above,
				   XLogRecPtr lsn, StoreScanCallback cb, void *arg)
{
	Assert(above != InvalidXLogRecPtr);
	run_scan(tl, lo, hi, above, lsn, cb, arg);
}
