/*-------------------------------------------------------------------------
 *
 * rebase.c
 *	  Rewriting a partition at the horizon: what no reader may ask for goes.
 *
 * Below the horizon only the history points are read, and they cut a key's
 * versions into intervals (point before, point].  What an interval leaves is
 * the state at its end: a few records, if that is cheap to read, else a page
 * image.  The newest state at or below the horizon goes into the base image
 * file, with the LSN of the version that made it: it serves every point since
 * then too, so a key that did not change since a point costs nothing for it.
 * Versions above the horizon stay as they are.  Of a page that redo cannot make
 * all versions stay: see rebase_write().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compact_private.h"
#include "miscadmin.h"
#include "timeblock.h"
#include "utils/memutils.h"

/* An interval keeps its records if they are not more than an image would be. */
#define CHEAP_BYTES		2500

/* Versions of a key in one interval, from the newest base in it on. */
typedef struct Stretch
{
	int			end;			/* position of its end in the list of LSNs; -1: none */
	List	   *versions;		/* StoreVersion; NIL if they are too many to keep */
	uint32		n;
	Size		bytes;
	bool		based;			/* begins with a base */
	bool		image;			/* is one page image and nothing else */
	XLogRecPtr	last_lsn;
} Stretch;

typedef struct Rebase
{
	PartitionJob *job;
	CompactOutput *newer;		/* versions above the horizon */
	CompactOutput *base;		/* pages */
	CompactOutput *kept;		/* all else */
	int			nlsns;			/* points, then the horizon */
	XLogRecPtr *lsns;
	ForkSizes  *sizes;
	const List *whole;			/* NeonKey, sorted: pages that cannot be made */
	int			next_whole;

	MemoryContext context;		/* of one key */
	NeonKey		key;
	bool		is_whole;		/* all versions of it stay */
	Stretch		current;
	uint32		chain;			/* records kept since the last base that was */
	uint64		keys;
} Rebase;

static bool
is_page(const NeonKey *key)
{
	return key->kind == NEON_KEY_PAGE || key->kind == NEON_KEY_SLRU;
}

static uint32
longest_chain(void)
{
	return store_compaction_image_chain > 0 ? store_compaction_image_chain : PG_UINT32_MAX;
}

/* ---- intervals ---- */

/* The first LSN of the list that is not below; nlsns: the version is above the horizon. */
static int
interval_of(const Rebase *r, XLogRecPtr lsn)
{
	int			lo = 0;
	int			hi = r->nlsns;

	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (r->lsns[mid] < lsn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void
empty_interval(Stretch *interval)
{
	memset(interval, 0, sizeof(*interval));
	interval->end = -1;
}

static void
add_to_interval(Rebase *r, const StoreVersion *v)
{
	Stretch    *in = &r->current;
	MemoryContext old;

	if (v->base)
	{
		int			end = in->end;

		list_free(in->versions);
		empty_interval(in);
		in->end = end;
		in->based = true;
	}
	in->image = v->base && v->value_kind == NEON_VALUE_IMAGE;
	in->n++;
	in->bytes += v->len;
	in->last_lsn = v->lsn;
	/* too many are not collected: an image is made */
	if (is_page(&r->key) && in->n > 1 && (in->n > longest_chain() || in->bytes > CHEAP_BYTES))
	{
		list_free(in->versions);
		in->versions = NIL;
		return;
	}
	old = MemoryContextSwitchTo(r->context);
	in->versions = lappend(in->versions, compact_copy_version(v));
	MemoryContextSwitchTo(old);
}

/* ---- what stays ---- */

static void
keep_versions(Rebase *r, const List *versions, CompactOutput *out)
{
	ListCell   *lc;

	foreach(lc, versions)
		compact_output_add(out, &r->key, lfirst(lc));
}

/* Those that a truncation took away. */
static void
drop_cut(Stretch *in, XLogRecPtr floor)
{
	while (in->versions != NIL && ((StoreVersion *) linitial(in->versions))->lsn <= floor)
	{
		in->versions = list_delete_first(in->versions);
		in->n--;
		in->based = true;		/* what is left is applied to zeros */
	}
}

/* Is the key one of the commits of a stretch of WAL that nobody may ask for? */
static bool
is_past_time(const Rebase *r)
{
	uint64		number = (uint64) r->key.rel << 32 | r->key.blk;
	XLogRecPtr	start = number * TIMEBLOCK_SPAN;
	int			first = interval_of(r, start + 1);

	/* the list ends with the horizon */
	return r->key.kind == NEON_KEY_TIME && first < r->nlsns &&
		r->lsns[first] > start + TIMEBLOCK_SPAN;
}

/* The state at the end of the interval, for a history point. */
static void
keep_for_point(Rebase *r)
{
	Stretch    *in = &r->current;
	XLogRecPtr	floor = InvalidXLogRecPtr;

	if (is_past_time(r))
		return;
	if (!is_page(&r->key))
	{
		keep_versions(r, in->versions, r->kept);
		return;
	}
	if (!fork_sizes_alive(r->sizes, &r->key, in->end, in->last_lsn, &floor))
	{
		r->chain = 0;
		return;
	}
	drop_cut(in, floor);
	if (in->versions != NIL &&
		(in->image || (in->based ? in->n : r->chain + in->n) <= longest_chain()))
	{
		keep_versions(r, in->versions, r->kept);
		r->chain = in->based ? in->n : r->chain + in->n;
	}
	else
	{
		compact_output_page(r->kept, &r->key, in->last_lsn, r->lsns[in->end], false);
		r->chain = 0;
	}
}

/* The newest state at or below the horizon. */
static void
keep_for_horizon(Rebase *r)
{
	Stretch    *in = &r->current;
	XLogRecPtr	horizon = r->lsns[r->nlsns - 1];
	XLogRecPtr	floor;

	if (!is_page(&r->key) ||
		!fork_sizes_alive(r->sizes, &r->key, r->nlsns - 1, in->last_lsn, &floor))
	{
		/* a page that is gone since: the point at the interval's end may have it */
		if (!is_page(&r->key) || in->end < r->nlsns - 1)
			keep_for_point(r);
	}
	else if (in->image && in->versions != NIL)
		keep_versions(r, in->versions, r->base);
	else
		compact_output_page(r->base, &r->key, in->last_lsn, horizon, false);
}

/* ---- one key ---- */

static void
end_key(Rebase *r)
{
	if (r->current.end >= 0)
		keep_for_horizon(r);
	MemoryContextReset(r->context);
	empty_interval(&r->current);
}

static void
add_version(Rebase *r, const StoreVersion *v)
{
	int			end = interval_of(r, v->lsn);

	if (end < r->nlsns && r->is_whole)
	{
		compact_output_add(r->kept, &r->key, v);
		return;
	}
	if (end == r->nlsns)
	{
		compact_output_add(r->newer, &r->key, v);
		return;
	}
	if (r->current.end >= 0 && end != r->current.end)
	{
		keep_for_point(r);
		empty_interval(&r->current);
	}
	r->current.end = end;
	add_to_interval(r, v);
}

/* Keys come in order, in the list too. */
static bool
stays_whole(Rebase *r)
{
	while (r->next_whole < list_length(r->whole))
	{
		int			cmp = neon_key_cmp(list_nth(r->whole, r->next_whole), &r->key);

		if (cmp >= 0)
			return cmp == 0;
		r->next_whole++;
	}
	return false;
}

static void
write_keys(Rebase *r)
{
	NeonKey		key;
	StoreVersion v;

	empty_interval(&r->current);
	while (compact_input_next(r->job->input, &key, &v))
	{
		if (r->keys == 0 || neon_key_cmp(&key, &r->key) != 0)
		{
			CHECK_FOR_INTERRUPTS();
			if (r->keys > 0)
				end_key(r);
			if (partition_job_ends(r->job, &key, r->keys))
				return;
			r->key = key;
			r->is_whole = stays_whole(r);
			r->chain = 0;
			r->keys++;
		}
		add_version(r, &v);
	}
	end_key(r);
}

/* ---- the job ---- */

static CompactOutput *
begin_output(Rebase *r, LayerType type, XLogRecPtr lsn_lo, XLogRecPtr lsn_hi)
{
	CompactOutput *out = palloc(sizeof(CompactOutput));

	compact_output_begin(out, r->job->tl, type, lsn_lo, lsn_hi, 0);
	r->job->outputs = lappend(r->job->outputs, out);
	return out;
}

static int
compare_keys(const ListCell *a, const ListCell *b)
{
	return neon_key_cmp(lfirst(a), lfirst(b));
}

/*
 * Outputs are searched in this order: above the horizon, its state, what is
 * older.  Of a point between two versions of a page the base has the newer one.
 */
List *
rebase_write(PartitionJob *job, XLogRecPtr lsn_lo, XLogRecPtr lsn_hi, List *whole)
{
	List	   *failed = NIL;
	Rebase	   *r = palloc0(sizeof(Rebase));
	const RetentionSet *retention = job->retention;
	ListCell   *lc;

	list_sort(whole, compare_keys);
	r->job = job;
	r->whole = whole;
	r->lsns = palloc((retention->npoints + 1) * sizeof(XLogRecPtr));
	for (int i = 0; i < retention->npoints && retention->points[i] < job->horizon; i++)
		r->lsns[r->nlsns++] = retention->points[i];
	r->lsns[r->nlsns++] = job->horizon;
	r->sizes = fork_sizes_begin(job->tl, r->nlsns, r->lsns);
	r->context = AllocSetContextCreate(CurrentMemoryContext, "neon rebase key",
									   ALLOCSET_DEFAULT_SIZES);
	r->newer = begin_output(r, LAYER_DELTA, job->horizon, Max(lsn_hi, job->horizon));
	r->base = begin_output(r, LAYER_IMAGE, lsn_lo, job->horizon);
	r->kept = begin_output(r, LAYER_DELTA, lsn_lo, job->horizon);
	write_keys(r);
	foreach(lc, job->outputs)
	{
		compact_output_finish(lfirst(lc));
		failed = list_concat(failed, ((CompactOutput *) lfirst(lc))->failed);
	}
	return failed;
}
