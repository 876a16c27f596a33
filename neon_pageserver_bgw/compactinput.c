/*-------------------------------------------------------------------------
 *
 * compactinput.c
 *	  What compaction reads: versions of many files, by key, then LSN.
 *
 * A source is a list of files that follow each other by key, read front to
 * back with one block in memory; a heap merges the sources.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compact_private.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"

typedef struct Source
{
	CompactInput *input;
	const List *files;			/* ManifestFile */
	ListCell   *next;
	XLogRecPtr	above;			/* versions in (above, upto] are wanted */
	XLogRecPtr	upto;
	LayerFile  *layer;
	LayerScan  *scan;
	NeonKey		key;			/* current */
	StoreVersion version;
} Source;

struct CompactInput
{
	Timeline   *tl;
	uint8		first_key[NEON_KEY_ENCODED_SIZE];
	uint8		end_key[NEON_KEY_ENCODED_SIZE];
	List	   *sources;
	binaryheap *heap;			/* NULL: not begun */
	bool		advance;		/* the first source was delivered */
};

CompactInput *
compact_input_begin(Timeline *tl, const uint8 *first_key, const uint8 *end_key)
{
	CompactInput *input = palloc0(sizeof(CompactInput));

	input->tl = tl;
	memcpy(input->first_key, first_key, NEON_KEY_ENCODED_SIZE);
	memcpy(input->end_key, end_key, NEON_KEY_ENCODED_SIZE);
	return input;
}

void
compact_input_add(CompactInput *input, const List *files, XLogRecPtr above, XLogRecPtr upto)
{
	Source	   *source = palloc0(sizeof(Source));

	source->input = input;
	source->files = files;
	source->next = list_head(files);
	source->above = above;
	source->upto = upto;
	input->sources = lappend(input->sources, source);
}

static void
open_next(Source *source)
{
	CompactInput *input = source->input;
	const ManifestFile *file = lfirst(source->next);

	source->layer = layer_open(input->tl, file);
	if (source->layer == NULL)
		layer_missing(input->tl, file);
	source->scan = layer_scan_begin_versions(source->layer, input->first_key, input->end_key);
	source->next = lnext(source->files, source->next);
}

static void
close_source(Source *source)
{
	if (source->scan)
		layer_scan_end(source->scan);
	source->scan = NULL;
	if (source->layer)
		layer_close(source->layer);
	source->layer = NULL;
}

/* To the next version; false at the end. */
static bool
advance(Source *source)
{
	for (;;)
	{
		while (source->scan != NULL &&
			   layer_scan_version(source->scan, &source->key, &source->version))
		{
			if (source->version.lsn > source->above && source->version.lsn <= source->upto)
				return true;
			CHECK_FOR_INTERRUPTS();
		}
		close_source(source);
		if (source->next == NULL)
			return false;
		open_next(source);
	}
}

/* binaryheap has the largest first.  An image stands behind the record that ends there. */
static int
compare_sources(Datum a, Datum b, void *arg)
{
	const Source *x = (const Source *) DatumGetPointer(a);
	const Source *y = (const Source *) DatumGetPointer(b);
	int			cmp = neon_key_cmp(&y->key, &x->key);

	if (cmp != 0)
		return cmp;
	if (x->version.lsn != y->version.lsn)
		return x->version.lsn < y->version.lsn ? 1 : -1;
	return (x->version.value_kind == NEON_VALUE_WAL) - (y->version.value_kind == NEON_VALUE_WAL);
}

static void
begin_heap(CompactInput *input)
{
	ListCell   *lc;

	input->heap = binaryheap_allocate(Max(list_length(input->sources), 1), compare_sources, NULL);
	foreach(lc, input->sources)
	{
		if (advance(lfirst(lc)))
			binaryheap_add_unordered(input->heap, PointerGetDatum(lfirst(lc)));
	}
	binaryheap_build(input->heap);
}

bool
compact_input_next(CompactInput *input, NeonKey *key, StoreVersion *version)
{
	Source	   *source;

	if (input->heap == NULL)
		begin_heap(input);
	if (input->advance)
	{
		source = (Source *) DatumGetPointer(binaryheap_first(input->heap));
		if (advance(source))
			binaryheap_replace_first(input->heap, PointerGetDatum(source));
		else
			(void) binaryheap_remove_first(input->heap);
		input->advance = false;
	}
	if (binaryheap_empty(input->heap))
		return false;
	source = (Source *) DatumGetPointer(binaryheap_first(input->heap));
	*key = source->key;
	*version = source->version;
	input->advance = true;
	return true;
}

void
compact_input_end(CompactInput *input)
{
	ListCell   *lc;

	foreach(lc, input->sources)
		close_source(lfirst(lc));
}
