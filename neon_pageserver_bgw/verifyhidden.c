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
 *	  So it is at each history point below base_lsn, for a rewrite leaves the
 *	  state there too: a version that is not newer than the point, and not older
 *	  than the newest one of the wide files that is not.  The point is one since
 *	  before the rewrite, for none can be made below the horizon.
 *
 * All files are opened in a turn (compactclaim.h), in which they are there; those
 * that go afterwards are read to their end.  A point may go meanwhile, and the
 * sizes there with it: what seems to be missing at one counts if it is still one.
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
	int			npoints;		/* below base_lsn */
	XLogRecPtr *points;			/* these; then as of when pages are alive at base_lsn */
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

/* The first of the ascending LSNs that is not below; n: all are. */
static int
first_not_below(const XLogRecPtr *lsns, int n, XLogRecPtr lsn)
{
	int			low = 0;
	int			high = n;

	while (low < high)
	{
		int			mid = (low + high) / 2;

		if (lsns[mid] < lsn)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Is there a version in [lo, hi]? */
static bool
own_has(const Hidden *h, XLogRecPtr lo, XLogRecPtr hi)
{
	int			i = first_not_below(h->lsns, h->nlsns, lo);

	return i < h->nlsns && h->lsns[i] <= hi;
}

static void
note_missing(Hidden *h, const NeonKey *key, XLogRecPtr lsn)
{
	if (h->missing++ > 0)
		return;
	h->key = *key;
	h->lsn = lsn;
}

static bool
is_still_point(const Hidden *h, XLogRecPtr lsn)
{
	RetentionSet *set = history_retention(h->tl);
	bool		found = false;

	for (int i = 0; i < set->npoints && !found; i++)
		found = set->points[i] == lsn;
	pfree(set);
	return found;
}

/*
 * A rewrite at base_lsn has left the state that the version made, the newest one
 * up to the i-th point (npoints: up to base_lsn), if that was alive there.
 */
static void
check_state(Hidden *h, const NeonKey *key, int i, XLogRecPtr lsn)
{
	XLogRecPtr	at = i < h->npoints ? h->points[i] : h->p->base_lsn;
	XLogRecPtr	floor;

	if (lsn == InvalidXLogRecPtr || key->kind == NEON_KEY_TIME || own_has(h, lsn, at) ||
		!fork_sizes_alive(h->sizes, key, i, lsn, &floor))
		return;
	if (i == h->npoints || is_still_point(h, at))
		note_missing(h, key, lsn);
}

static void
check_key(Hidden *h)
{
	NeonKey		key = h->wide.key;
	XLogRecPtr	state = InvalidXLogRecPtr;	/* the newest one up to the point-th point */
	int			point = 0;

	collect_own(h, &key);
	for (; h->wide.left && neon_key_cmp(&h->wide.key, &key) == 0; advance(&h->wide))
	{
		XLogRecPtr	lsn = h->wide.version.lsn;
		int			next;

		CHECK_FOR_INTERRUPTS();
		if (lsn > h->p->base_lsn)
		{
			if (!own_has(h, lsn, lsn))
				note_missing(h, &key, lsn);
			continue;
		}
		/* a state that lasted over several points is looked at by the first one */
		next = first_not_below(h->points, h->npoints, lsn);
		if (next != point)
			check_state(h, &key, point, state);
		point = next;
		state = lsn;
	}
	if (point < h->npoints)
		check_state(h, &key, point, state);
	check_state(h, &key, h->npoints, state);
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

/* Of the timeline as it is in this turn; the points that a rewrite had to leave. */
static void
take_points(Hidden *h, XLogRecPtr disk_consistent_lsn)
{
	RetentionSet *set = history_retention(h->tl);

	h->points = palloc((set->npoints + 1) * sizeof(XLogRecPtr));
	h->npoints = 0;
	while (h->npoints < set->npoints && set->points[h->npoints] < h->p->base_lsn)
	{
		h->points[h->npoints] = set->points[h->npoints];
		h->npoints++;
	}
	h->points[h->npoints] = disk_consistent_lsn;
	pfree(set);
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
		take_points(h, m->disk_consistent_lsn);
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
			h->sizes = fork_sizes_begin(tl, h->npoints + 1, h->points);
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
