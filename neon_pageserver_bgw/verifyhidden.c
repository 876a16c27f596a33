/*-------------------------------------------------------------------------
 *
 * verifyhidden.c
 *	  Versions that no reader finds, although files have them.
 *
 * A reader takes from wide files what is above a partition's upto, and trusts
 * that the partition's own files have the rest.  As long as a wide file is
 * there, that can be compared, key by key:
 *
 *	  Above the partition's base_lsn, at which it was rewritten last, nothing is
 *	  ever left out: its files have a version with the same LSN.
 *
 *	  At or below base_lsn the newest state is there: a version that is not older
 *	  than the newest one of the wide files.  Not so the page of a fork that had
 *	  been cut or dropped; what is alive now, and was not cut since that version,
 *	  had not been.  Nor times, of which the past goes.
 *
 * What base_lsn left of older states, for history points, is not compared.  All
 * files are opened in a turn (compactclaim.h), in which they are there; those
 * that go afterwards are read to their end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compact_private.h"
#include "compactclaim.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "verifyhidden.h"

/* Versions in key order, one at a time. */
typedef struct Side
{
	CompactInput *input;
	bool		left;			/* key and version are the next ones */
	NeonKey		key;
	StoreVersion version;
} Side;

typedef struct Hidden
{
	Timeline   *tl;
	const LayerMap *map;
	const MapPartition *p;
	XLogRecPtr	newest;			/* as of which pages are alive */
	Side		wide;
	Side		own;
	ForkSizes  *sizes;
	XLogRecPtr *lsns;			/* of the key's own versions, ascending */
	int			nlsns;
	int			maxlsns;
	uint64		missing;
	NeonKey		key;			/* of the first one that is */
	XLogRecPtr	lsn;
} Hidden;

static void
advance(Side *side)
{
	side->left = compact_input_next(side->input, &side->key, &side->version);
}

/* ---- one key ---- */

static void
note_own(Hidden *h, XLogRecPtr lsn)
{
	if (h->nlsns == h->maxlsns)
	{
		h->maxlsns = Max(h->maxlsns * 2, 64);
		h->lsns = h->lsns ? repalloc_huge(h->lsns, h->maxlsns * sizeof(XLogRecPtr)) :
			palloc(h->maxlsns * sizeof(XLogRecPtr));
	}
	h->lsns[h->nlsns++] = lsn;
}

static void
collect_own(Hidden *h, const NeonKey *key)
{
	h->nlsns = 0;
	while (h->own.left)
	{
		int			cmp = neon_key_cmp(&h->own.key, key);

		CHECK_FOR_INTERRUPTS();
		if (cmp > 0)
			break;
		if (cmp == 0)
			note_own(h, h->own.version.lsn);
		advance(&h->own);
	}
}

/* Is there a version in [lo, hi]? */
static bool
own_has(const Hidden *h, XLogRecPtr lo, XLogRecPtr hi)
{
	int			low = 0;
	int			high = h->nlsns;

	while (low < high)
	{
		int			mid = (low + high) / 2;

		if (h->lsns[mid] < lo)
			low = mid + 1;
		else
			high = mid;
	}
	return low < h->nlsns && h->lsns[low] <= hi;
}

static void
note_missing(Hidden *h, const NeonKey *key, XLogRecPtr lsn)
{
	if (h->missing++ > 0)
		return;
	h->key = *key;
	h->lsn = lsn;
}

/* Must a rewrite at a horizon have left the state that the version made? */
static bool
is_state(Hidden *h, const NeonKey *key, XLogRecPtr lsn)
{
	XLogRecPtr	floor;

	return key->kind != NEON_KEY_TIME && fork_sizes_alive(h->sizes, key, 0, lsn, &floor);
}

static void
check_key(Hidden *h)
{
	NeonKey		key = h->wide.key;
	XLogRecPtr	state = InvalidXLogRecPtr;

	collect_own(h, &key);
	for (; h->wide.left && neon_key_cmp(&h->wide.key, &key) == 0; advance(&h->wide))
	{
		XLogRecPtr	lsn = h->wide.version.lsn;

		CHECK_FOR_INTERRUPTS();
		if (lsn <= h->p->base_lsn)
			state = lsn;
		else if (!own_has(h, lsn, lsn))
			note_missing(h, &key, lsn);
	}
	if (state != InvalidXLogRecPtr && !own_has(h, state, h->p->base_lsn) &&
		is_state(h, &key, state))
		note_missing(h, &key, state);
}

/* ---- one partition ---- */

/* Wide files with something that the partition hides; false if there are none. */
static bool
add_wide(Hidden *h)
{
	bool		any = false;

	for (int i = 0; i < h->map->nwide; i++)
	{
		ManifestFile *file = &h->map->files[h->map->wide[i]];

		if (file->lsn_lo >= h->p->upto || !layermap_overlaps(file, h->p))
			continue;
		compact_input_add(h->wide.input, list_make1(file), InvalidXLogRecPtr, h->p->upto);
		any = true;
	}
	return any;
}

static void
add_own(Hidden *h)
{
	for (int i = 0; i < h->p->nfiles; i++)
		compact_input_add(h->own.input, list_make1(&h->map->files[h->p->files[i]]),
						  InvalidXLogRecPtr, PG_UINT64_MAX);
}

/*
 * The first partition from first_key on that has something to compare, by the
 * list of files as it is now, with all of its files open.  False if none has.
 */
static bool
open_next(Hidden *h, const uint8 *first_key)
{
	bool		found = false;
	Manifest   *m;

	compactclaim_begin_turn(h->tl);
	m = timeline_read_manifest(h->tl);
	h->map = layermap_make(m);
	h->newest = m->disk_consistent_lsn;
	for (int i = 0; i < h->map->npartitions && !found; i++)
	{
		h->p = &h->map->partitions[i];
		if (memcmp(h->p->first_key, first_key, NEON_KEY_ENCODED_SIZE) < 0)
			continue;
		h->wide.input = compact_input_begin(h->tl, h->p->first_key, h->p->end_key);
		h->own.input = compact_input_begin(h->tl, h->p->first_key, h->p->end_key);
		found = add_wide(h);
	}
	if (found)
	{
		add_own(h);
		advance(&h->wide);
		advance(&h->own);
	}
	compactclaim_end_turn();
	return found;
}

static void
close_partition(Hidden *h)
{
	if (h->wide.input)
		compact_input_end(h->wide.input);
	if (h->own.input)
		compact_input_end(h->own.input);
	h->wide.input = h->own.input = NULL;
}

static char *
describe(const Hidden *h)
{
	return psprintf("Of the versions up to %X/%X a partition lacks " UINT64_FORMAT
					" that wide files have, the first one at %X/%X of key %u/%u/%u/%u/%u/%u: no reader finds them.",
					LSN_FORMAT_ARGS(h->p->upto), h->missing, LSN_FORMAT_ARGS(h->lsn), h->key.kind,
					h->key.spc, h->key.db, h->key.rel, h->key.fork, h->key.blk);
}

/* False if there is no other one; else *next is where the one behind it begins, or above all. */
static bool
check_partition(Timeline *tl, uint8 *next, char **problem)
{
	Hidden	   *h = palloc0(sizeof(Hidden));
	volatile bool found = false;

	h->tl = tl;
	*problem = NULL;
	PG_TRY();
	{
		found = open_next(h, next);
		if (found)
		{
			h->sizes = fork_sizes_begin(tl, 1, &h->newest);
			while (h->wide.left)
				check_key(h);
			memcpy(next, h->p->end_key, NEON_KEY_ENCODED_SIZE);
		}
	}
	PG_FINALLY();
	{
		compactclaim_end_turn();
		close_partition(h);
	}
	PG_END_TRY();
	if (h->missing > 0)
		*problem = describe(h);
	return found;
}

void
verify_hidden(Timeline *tl, void (*report) (void *arg, const char *problem), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "neon verify", ALLOCSET_DEFAULT_SIZES);
	uint8		next[NEON_KEY_ENCODED_SIZE] = {0};
	char	   *problem;
	bool		found;

	do
	{
		MemoryContextSwitchTo(context);
		found = check_partition(tl, next, &problem);
		MemoryContextSwitchTo(caller);
		if (problem)
			report(arg, problem);
		MemoryContextReset(context);
	} while (found);
	MemoryContextDelete(context);
}
