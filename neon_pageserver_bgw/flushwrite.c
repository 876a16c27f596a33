/*-------------------------------------------------------------------------
 *
 * flushwrite.c
 *	  The versions of an index over stored WAL, written into a layer file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "crashnote.h"
#include "flushimage.h"
#include "flushwrite.h"
#include "store_private.h"
#include "utils/memutils.h"
#include "walvalue.h"

static int
compare_flush_keys(const void *a, const void *b)
{
	return neon_key_cmp(&((const FlushKey *) a)->key, &((const FlushKey *) b)->key);
}

/* All keys that have versions, sorted; time blocks take the place of control state. */
static FlushKey *
sorted_keys(const OpenLayer *index, uint32 *n)
{
	FlushKey   *keys = MemoryContextAllocHuge(CurrentMemoryContext,
											  (Size) Max(index->nkeys, 1) * sizeof(FlushKey));

	*n = 0;
	for (int pages = 0; pages < 2; pages++)
	{
		for (OpenKey *k = openlayer_first(index, pages); k != NULL; k = openlayer_next(k))
		{
			if (k->nrefs == 0 || k->key.kind == NEON_KEY_CONTROL)
				continue;
			keys[*n].key = k->key;
			keys[*n].open = k;
			keys[*n].image = FLUSH_NO_IMAGE;
			(*n)++;
		}
	}
	qsort(keys, *n, sizeof(FlushKey), compare_flush_keys);
	return keys;
}

typedef struct WriteState
{
	IndexWrite *write;
	MemoryContext scratch;		/* of one version */
	const FlushKey *key;		/* being written */
	XLogRecPtr	last_lsn;		/* of its last version written */
} WriteState;

/* The record that an index entry refers to, as files have it. */
static void
load_wal(WriteState *state, StoreVersion *v)
{
	StringInfoData buf;

	v->timeline = state->write->tl;
	initStringInfo(&buf);
	walvalue_encode(store_record(&state->key->key, v), &state->key->key, &buf);
	v->data = buf.data;
	v->len = buf.len;
}

static void
write_ref(const OpenLayer *index, uint64 ref, void *arg)
{
	WriteState *state = arg;
	MemoryContext old = MemoryContextSwitchTo(state->scratch);
	StoreVersion v;

	openlayer_decode(index, ref, true, &v);
	if (v.value_kind == NEON_VALUE_WAL)
		load_wal(state, &v);
	layer_writer_add(state->write->writer, &state->key->key, &v);
	state->last_lsn = v.lsn;
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->scratch);
}

static void
write_image(WriteState *state, const char *page)
{
	StoreVersion v = {0};

	v.lsn = state->last_lsn;
	v.value_kind = NEON_VALUE_IMAGE;
	v.base = true;
	v.len = BLCKSZ;
	v.data = page;
	layer_writer_add(state->write->writer, &state->key->key, &v);
}

static void
write_keys(WriteState *state, FlushKey *keys, uint32 n, FlushImages *images)
{
	const IndexWrite *w = state->write;

	for (uint32 i = 0; i < n; i++)
	{
		const char *page;

		state->key = &keys[i];
		crashnote_set(w->tl, &keys[i].key, w->cut);
		openlayer_visit(w->index, keys[i].open, write_ref, state);
		if (keys[i].image != FLUSH_NO_IMAGE &&
			(page = flush_images_get(images, i)) != NULL)
			write_image(state, page);
		if (i % 64 == 0)
		{
			store_tick();
			timeline_check_writable(w->tl);
		}
	}
}

void
flush_write_index(IndexWrite *w)
{
	WriteState	state = {w};
	FlushKey   *keys = sorted_keys(w->index, &w->nkeys);
	FlushImages *images = NULL;

	state.scratch = AllocSetContextCreate(CurrentMemoryContext, "neon flush version",
										  ALLOCSET_DEFAULT_SIZES);
	if (w->images)
		images = flush_images_begin(w->tl, w->index, keys, w->nkeys, w->cut);
	write_keys(&state, keys, w->nkeys, images);
	w->nimages = images ? flush_images_made(images) : 0;
	if (images)
		flush_images_end(images);
	MemoryContextDelete(state.scratch);
	pfree(keys);
}
