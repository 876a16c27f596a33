/*-------------------------------------------------------------------------
 *
 * storegc_test.c
 *	  Compaction and a moving horizon against the model: pages as a whole, as
 *	  their versions are replaced by images.
 *
 * The records of the model are no PostgreSQL records; what one does to a page
 * is defined here, and compaction in this process uses that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "compact_private.h"
#include "fmgr.h"
#include "historygc.h"
#include "miscadmin.h"
#include "sqlutil.h"
#include "storemodel.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(neon_test_store_gc);
PG_FUNCTION_INFO_V1(neon_test_store_gc_read);
PG_FUNCTION_INFO_V1(neon_test_store_act);
PG_FUNCTION_INFO_V1(neon_test_hide_versions);

#define MAX_LEASES	32
#define EXTRA_BRANCH 100

typedef struct Lease
{
	int			t;
	NeonId		id;
} Lease;

static pg_prng_state gc_random;
static uint64 jobs;
static Lease leases[MAX_LEASES];
static int	nleases;

/* What was asked for, as by timeline_compact(), on one timeline at a time. */
static CompactDemand demand;
static int	demand_of;

static uint32
draw_gc(uint32 n)
{
	return (uint32) pg_prng_uint64_range(&gc_random, 0, n - 1);
}

/* ---- what a record does ---- */

static void
apply_fill(uint32 fill, char *page)
{
	uint32		before = hash_bytes((unsigned char *) page, BLCKSZ);
	char	   *bytes = make_bytes(before ^ (fill * 7919), BLCKSZ);

	memcpy(page, bytes, BLCKSZ);
	pfree(bytes);
}

static bool
apply_records(Timeline *tl, const NeonKey *key, const char *base, const StoreVersion *records,
			  int n, char *page)
{
	if (base)
		memcpy(page, base, BLCKSZ);
	else
		memset(page, 0, BLCKSZ);
	for (int i = 0; i < n; i++)
	{
		XLogRecord *record;

		/* one that makes the page anew */
		if (records[i].base)
			memset(page, 0, BLCKSZ);
		record = store_record(key, &records[i]);
		apply_fill(record->xl_xid, page);
		pfree(record);
	}
	return true;
}

static void
page_of_chain(const NeonKey *key, const StoreChain *chain, char *page)
{
	memset(page, 0, BLCKSZ);
	if (chain->found != STORE_FOUND)
		return;
	for (int i = chain->nversions - 1; i >= 0; i--)
	{
		const StoreVersion *v = &chain->versions[i];
		char		before[BLCKSZ];

		memcpy(before, page, BLCKSZ);
		if (v->value_kind == NEON_VALUE_IMAGE)
			memcpy(page, v->data, BLCKSZ);
		else
			apply_records(NULL, key, before, v, 1, page);
	}
}

/* Pages that compaction finds it cannot make; the model can. */
static bool
is_unmakeable(const NeonKey *key)
{
	return key->blk % 11 == 5;
}

static bool
apply_if_makeable(Timeline *tl, const NeonKey *key, const char *base, const StoreVersion *records,
				  int n, char *page)
{
	return !is_unmakeable(key) && apply_records(tl, key, base, records, n, page);
}

static void
read_model_pages(Timeline *tl, const NeonKey *keys, int n, XLogRecPtr lsn, char *pages,
				 PageResult *results)
{
	StoreChain *chains = palloc(n * sizeof(StoreChain));

	store_get(tl, keys, n, lsn, chains);
	for (int i = 0; i < n; i++)
	{
		page_of_chain(&keys[i], &chains[i], pages + (Size) i * BLCKSZ);
		results[i].ok = !is_unmakeable(&keys[i]);
		strcpy(results[i].sqlstate, unpack_sql_state(ERRCODE_DATA_CORRUPTED));
		results[i].message = "the model says so";
	}
}

/* ---- comparison ---- */

static void
model_page(Model *m, int t, const NeonKey *key, XLogRecPtr lsn, char *page)
{
	NeonKey		sk = neon_key(NEON_KEY_SIZE, key->spc, key->db, key->rel, key->fork, 0);
	XLogRecPtr	above = model_floor(m, t, &sk, lsn, key->blk);
	BlockNumber nblocks = 0;
	bool		exists = false;
	List	   *chain = NIL;
	ListCell   *lc;
	ModelVersion *v;

	memset(page, 0, BLCKSZ);
	model_size(m, t, &sk, lsn, &nblocks, &exists);
	if (!exists || key->blk >= nblocks)
		return;
	while (lsn > above && (v = model_newest(m, t, key, above, lsn)) != NULL)
	{
		chain = lcons(v, chain);
		if (v->base)
			break;
		lsn = v->lsn - 1;
	}
	foreach(lc, chain)
	{
		v = lfirst(lc);
		if (v->kind == NEON_VALUE_IMAGE)
			memcpy(page, make_bytes(v->fill, BLCKSZ), BLCKSZ);
		else
			apply_fill(v->fill, page);
	}
}

static void
check_page(Model *m, int t, const NeonKey *key, XLogRecPtr lsn)
{
	char	   *want = palloc(BLCKSZ);
	char	   *got = palloc(BLCKSZ);
	StoreChain	chain;

	model_page(m, t, key, lsn, want);
	store_get(m->t[t].tl, key, 1, lsn, &chain);
	page_of_chain(key, &chain, got);
	if (memcmp(want, got, BLCKSZ) != 0)
		differs(key, t, lsn, psprintf("another page, made from %d versions (found %d, base %d)",
									  chain.nversions, chain.found, chain.has_base));
}

static void
check_blob(Model *m, int t, const NeonKey *key, XLogRecPtr lsn)
{
	ModelVersion *want = model_newest(m, t, key, 0, lsn);
	StoreChain	chain;

	store_get(m->t[t].tl, key, 1, lsn, &chain);
	if (want == NULL || want->kind == NEON_VALUE_TOMBSTONE)
	{
		if (chain.found != STORE_MISSING)
			differs(key, t, lsn, "is there, and should not be");
	}
	else if (chain.found != STORE_FOUND || chain.versions[0].len != want->len ||
			 memcmp(chain.versions[0].data, make_bytes(want->fill, want->len), want->len) != 0)
		differs(key, t, lsn, "another value");
}

static void
check_size(Model *m, int t, const NeonKey *key, XLogRecPtr lsn)
{
	NeonKey		sk = neon_key(NEON_KEY_SIZE, key->spc, key->db, key->rel, key->fork, 0);
	BlockNumber nblocks = 0;
	bool		exists = false;
	RelSize		size;

	model_size(m, t, &sk, lsn, &nblocks, &exists);
	if (store_size_at(m->t[t].tl, &sk, lsn, &size) != exists ||
		(exists && size.nblocks != nblocks))
		differs(&sk, t, lsn, "another size");
}

/*
 * The timeline that has an LSN of t's history as its own, and whether it may be
 * read there; *lsn: drawn.
 */
static bool
draw_readable(Model *m, int t, XLogRecPtr *lsn)
{
	ModelTimeline *mt = &m->t[t];
	RetentionSet *set = history_retention(mt->tl);
	XLogRecPtr	horizon = Max(history_cutoff(mt->tl, NULL), START_LSN);
	XLogRecPtr	last = Min(timeline_last_record_lsn(mt->tl), mt->next);

	if (mt->ancestor >= 0)
		horizon = Max(horizon, mt->ancestor_lsn);
	*lsn = last;
	if (last < horizon)
		return false;
	switch (draw_gc(4))
	{
		case 0:
			return true;
		case 1:
			if (set->npoints == 0)
				return true;
			*lsn = set->points[draw_gc(set->npoints)];
			return mt->ancestor < 0 || *lsn >= mt->ancestor_lsn;
		case 2:
			*lsn = horizon;
			return true;
		default:
			*lsn = horizon + (pg_prng_uint64_range(&gc_random, 0, last - horizon) & ~(uint64) 7);
			return true;
	}
}

/* A point may be gone since it was drawn; what is readable stays so while it is read. */
static bool
is_readable(Timeline *tl, XLogRecPtr lsn, XLogRecPtr cutoff)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool readable = false;

	PG_TRY();
	{
		history_check(tl, lsn, cutoff, ERRCODE_INVALID_PARAMETER_VALUE);
		readable = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (geterrcode() != ERRCODE_INVALID_PARAMETER_VALUE)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return readable;
}

static void
check_one(Model *m)
{
	int			t = draw_gc(m->ntimelines);
	pg_prng_state saved = m->random;
	XLogRecPtr	cutoff;
	XLogRecPtr	lsn;
	NeonKey		key;

	m->random = gc_random;
	key = draw_key(m);
	gc_random = m->random;
	m->random = saved;
	cutoff = history_read_begin(m->t[t].tl);
	if (draw_readable(m, t, &lsn) && is_readable(m->t[t].tl, lsn, cutoff))
	{
		if (key.kind == NEON_KEY_PAGE)
		{
			check_page(m, t, &key, lsn);
			check_size(m, t, &key, lsn);
		}
		else
			check_blob(m, t, &key, lsn);
	}
	history_read_end();
}

static void
check_some(Model *m, int lookups)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "check",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int i = 0; i < lookups; i++)
	{
		CHECK_FOR_INTERRUPTS();
		check_one(m);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* ---- the horizon and compaction between the steps ---- */

static bool
compact_one(Timeline *tl, bool forced)
{
	return forced ? compact_step(tl, &demand) == COMPACT_DONE : store_compact_once(tl, false);
}

static void
move_horizon(Model *m, int t)
{
	Timeline   *tl = m->t[t].tl;
	XLogRecPtr	lo = Max(history_cutoff(tl, NULL), tl->id.start_lsn);
	XLogRecPtr	hi = timeline_disk_consistent_lsn(tl);

	if (hi <= lo)
		return;
	(void) history_publish(tl, lo + 8 + (pg_prng_uint64_range(&gc_random, 0, hi - lo - 8) & ~(uint64) 7), 1);
}

static void
make_point(Model *m, int t)
{
	Timeline   *tl = m->t[t].tl;
	XLogRecPtr	lo = Max(history_cutoff(tl, NULL), tl->id.start_lsn);
	XLogRecPtr	hi = timeline_last_record_lsn(tl);
	NeonId		id = make_id(pg_prng_uint64(&gc_random), draw_gc(1000));

	if (hi <= lo || nleases == MAX_LEASES)
		return;
	leases[nleases].t = t;
	leases[nleases++].id = id;
	history_lease(tl, &id, lo + (pg_prng_uint64_range(&gc_random, 0, hi - lo) & ~(uint64) 7),
				  INT64CONST(3600) * 1000000);
}

static void
drop_point(Model *m)
{
	int			i;

	if (nleases == 0)
		return;
	i = draw_gc(nleases);
	(void) history_release_lease(m->t[leases[i].t].tl, &leases[i].id);
	leases[i] = leases[--nleases];
}

static void
between_steps(Model *m, int i)
{
	int			t = draw_gc(m->ntimelines);
	uint32		what = draw_gc(400);

	if (what == 0)
		move_horizon(m, t);
	else if (what == 1)
		make_point(m, t);
	else if (what == 2)
		store_flush(m->t[t].tl);
	else if (what == 3 && draw_gc(2) == 0)
		drop_point(m);
	else if (what < 7)
	{
		bool		forced = draw_gc(2) == 0;

		/* more may have come, and been merged, since */
		if (forced && (demand_of != t || draw_gc(4) == 0))
		{
			demand = compact_all_there_is(m->t[t].tl);
			demand_of = t;
		}
		for (int n = draw_gc(6); n > 0 && compact_one(m->t[t].tl, forced); n--)
			jobs++;
	}
	if (i % 500 == 499)
		check_some(m, 100);
}

/* Runs fn while compaction in this process makes the model's pages. */
static void
with_model_pages(void (*fn) (void *arg), void *arg)
{
	CompactPages saved = compact_pages;
	int			saved_threshold = store_compaction_threshold;
	int			saved_bytes = compact_history_bytes;

	compact_pages.read = read_model_pages;
	compact_pages.apply = apply_if_makeable;
	store_compaction_threshold = 3;
	compact_history_bytes = 1500;
	PG_TRY();
	{
		fn(arg);
	}
	PG_FINALLY();
	{
		compact_pages = saved;
		store_compaction_threshold = saved_threshold;
		compact_history_bytes = saved_bytes;
	}
	PG_END_TRY();
}

static void
release_all(Model *m)
{
	for (int t = 0; t < m->ntimelines; t++)
		timeline_release_ownership(m->t[t].tl);
}

typedef struct GcRun
{
	uint64		seed;
	int			steps;
	int			lookups;
} GcRun;

static void
run_gc(void *arg)
{
	GcRun	   *run = arg;
	Model	   *m = run_steps(run->seed, run->steps, true, false, between_steps);

	check_some(m, run->lookups);
	release_all(m);
}

/*
 * store_gc(seed, steps, lookups): runs the steps, with compaction and a horizon
 * that moves between them, and compares; the number of jobs.  The server's
 * own compaction must be off: its pages are PostgreSQL's.
 */
Datum
neon_test_store_gc(PG_FUNCTION_ARGS)
{
	GcRun		run = {PG_GETARG_INT64(0), PG_GETARG_INT32(1), PG_GETARG_INT32(2)};

	jobs = 0;
	nleases = 0;
	demand_of = -1;
	pg_prng_seed(&gc_random, run.seed + run.steps);
	with_model_pages(run_gc, &run);
	PG_RETURN_INT64(jobs);
}

/* ---- one thing at a time ---- */

/* The branch that no step makes: of the root, read only. */
static void
add_extra_branch(Model *m)
{
	NeonId		id = make_id(m->seed, EXTRA_BRANCH);
	Timeline   *tl = timeline_open(&m->tenant, &id, true);
	ModelTimeline *mt = &m->t[m->ntimelines];

	if (tl == NULL)
		return;
	memset(mt, 0, sizeof(*mt));
	mt->tl = tl;
	mt->ancestor = 0;
	mt->ancestor_lsn = mt->next = tl->id.start_lsn;
	m->ntimelines++;
}

static void
make_extra_branch(Model *m)
{
	NeonId		id = make_id(m->seed, EXTRA_BRANCH);
	ModelTimeline *root = &m->t[0];

	timeline_create_branch(root->tl, &id, "extra", root->next, root->last_start);
}

/* Something of its own, in a layer, that no read of the model meets. */
static void
fill_extra_branch(Model *m)
{
	NeonId		id = make_id(m->seed, EXTRA_BRANCH);
	Timeline   *tl = timeline_open(&m->tenant, &id, false);
	XLogRecPtr	start = behind_header(tl->id.start_lsn);
	XLogRecPtr	end = end_of_record(start, 100);
	StorePut	put = {0};

	if (!timeline_acquire_ownership(tl, true, 5000))
		elog(ERROR, "could not own the timeline");
	put.key = neon_key(NEON_KEY_TWOPHASE, 0, 0, 0, 0, NBLOBS + 1);
	put.value_kind = NEON_VALUE_BLOB;
	put.base = true;
	put.data = "filled";
	put.len = 6;
	store_put(tl, start, end, &put, 1);
	store_publish(tl, start, end);
	store_flush(tl);
	timeline_release_ownership(tl);
}

static void
compact_all(void *arg)
{
	Model	   *m = arg;

	for (int t = 0; t < m->ntimelines; t++)
	{
		for (int n = 0; n < 20 && store_compact_once(m->t[t].tl, true); n++)
			jobs++;
	}
}

/* A partition's horizon below which wide files still have something; 0: there is none. */
static XLogRecPtr
rewritten_at(Timeline *tl)
{
	LayerMap   *map = layermap_make(timeline_read_manifest(tl));

	for (int i = 0; i < map->npartitions; i++)
	{
		MapPartition *p = &map->partitions[i];

		for (int w = 0; w < map->nwide; w++)
		{
			ManifestFile *file = &map->files[map->wide[w]];

			if (layermap_overlaps(file, p) && file->lsn_hi <= p->base_lsn)
				return p->base_lsn;
		}
	}
	return 0;
}

/*
 * Plants a fault: one partition gets its part of the wide files and is rewritten,
 * while these are still there for the others; then there is a point below the
 * horizon, of which the rewrite knew nothing.
 */
static void
plant_point(void *arg)
{
	Model	   *m = arg;
	Timeline   *tl = m->t[0].tl;
	ManifestPoint point = {
		.kind = HISTORY_LEASE,
		.id = make_id(m->seed, EXTRA_BRANCH),
		.expires = PG_INT64_MAX,
		.length = INT64CONST(3600) * 1000000,
	};
	XLogRecPtr	start = tl->id.start_lsn;
	XLogRecPtr	horizon;
	StringInfoData body;

	(void) history_publish(tl, start + ((timeline_disk_consistent_lsn(tl) - start) / 4 * 3 & ~(uint64) 7), 1);
	while ((horizon = rewritten_at(tl)) == 0)
	{
		demand = compact_all_there_is(tl);
		if (jobs > 0)
			demand.upto = start;
		if (compact_step(tl, &demand) != COMPACT_DONE)
			elog(ERROR, "nothing was rewritten");
		jobs++;
	}
	point.lsn = start + ((horizon - start) / 2 & ~(uint64) 7);
	initStringInfo(&body);
	manifest_op_add_point(&body, &point);
	timeline_edit(tl, body.data, body.len);
}

static void
act(Model *m, const char *what)
{
	if (strcmp(what, "compact") == 0)
		with_model_pages(compact_all, m);
	else if (strcmp(what, "point") == 0)
		with_model_pages(plant_point, m);
	else if (strcmp(what, "branch") == 0)
		make_extra_branch(m);
	else if (strcmp(what, "fill") == 0)
		fill_extra_branch(m);
	else if (strcmp(what, "put") != 0)
	{
		for (int t = 0; t < m->ntimelines; t++)
		{
			if (strcmp(what, "flush") == 0)
				store_flush(m->t[t].tl);
			else if (strcmp(what, "horizon") == 0)
				move_horizon(m, t);
			else if (strcmp(what, "lease") == 0)
				make_point(m, t);
			else
				elog(ERROR, "unknown act \"%s\"", what);
		}
	}
}

/*
 * store_act(seed, steps, what): the steps that the store does not have yet, with
 * nothing between them, then one act on all timelines; the number of jobs.
 */
Datum
neon_test_store_act(PG_FUNCTION_ARGS)
{
	uint64		seed = PG_GETARG_INT64(0);
	int			steps = PG_GETARG_INT32(1);
	char	   *what = text_to_cstring(PG_GETARG_TEXT_PP(2));
	Model	   *m = run_steps(seed, steps, true, false, NULL);

	jobs = 0;
	nleases = 0;
	pg_prng_seed(&gc_random, seed + steps);
	act(m, what);
	release_all(m);
	PG_RETURN_INT64(jobs);
}

/* store_gc_read(seed, steps, lookups): compares only, while another session runs the steps. */
Datum
neon_test_store_gc_read(PG_FUNCTION_ARGS)
{
	uint64		seed = PG_GETARG_INT64(0);
	int			steps = PG_GETARG_INT32(1);
	int			lookups = PG_GETARG_INT32(2);
	Model	   *m = run_steps(seed, steps, false, false, NULL);

	pg_prng_seed(&gc_random, seed ^ MyProcPid);
	add_extra_branch(m);
	check_some(m, lookups);
	PG_RETURN_INT32(lookups);
}

/*
 * hide_versions(tenant, timeline): each partition says that its own files have
 * all that is in files, which is not so.
 */
Datum
neon_test_hide_versions(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	Manifest   *m = timeline_read_manifest(tl);
	ManifestPartition all = {.upto = m->disk_consistent_lsn};
	StringInfoData body;

	initStringInfo(&body);
	for (int i = 0; i < m->npartitions; i++)
	{
		m->partitions[i].upto = m->disk_consistent_lsn;
		manifest_op_partition(&body, &m->partitions[i]);
	}
	if (m->npartitions == 0)
		manifest_op_partition(&body, &all);
	timeline_edit(tl, body.data, body.len);
	store_announce_merge(tl, 0, 0);
	PG_RETURN_VOID();
}
