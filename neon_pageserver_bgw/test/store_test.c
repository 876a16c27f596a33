/*-------------------------------------------------------------------------
 *
 * store_test.c
 *	  The store against a model in memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "neon_id.h"
#include "storemodel.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(neon_test_store_model);
PG_FUNCTION_INFO_V1(neon_test_store_read);

uint32
draw(Model *m, uint32 n)
{
	return (uint32) pg_prng_uint64_range(&m->random, 0, n - 1);
}

NeonId
make_id(uint64 seed, uint32 n)
{
	NeonId		id;

	memset(&id, 0x5a, sizeof(id));
	memcpy(id.b, &seed, sizeof(seed));
	memcpy(id.b + 12, &n, sizeof(n));
	return id;
}

char *
make_bytes(uint32 fill, uint32 len)
{
	char	   *data = palloc(len + 1);

	for (uint32 i = 0; i < len; i++)
		data[i] = (char) (fill * 31 + i * 7 + (i >> 8));
	return data;
}

NeonKey
page_key(uint32 rel, uint32 fork, BlockNumber blk)
{
	return neon_key(NEON_KEY_PAGE, 1663, 5, 1000 + rel, fork, blk);
}

NeonKey
size_key(uint32 rel, uint32 fork)
{
	return neon_key(NEON_KEY_SIZE, 1663, 5, 1000 + rel, fork, 0);
}

static NeonKey
blob_key(uint32 i)
{
	return neon_key(NEON_KEY_TWOPHASE, 0, 0, 0, 0, i);
}

/* ---- the model ---- */

static ModelVersion *
add_version(ModelTimeline *t, NeonKey key, XLogRecPtr start, XLogRecPtr end)
{
	ModelVersion *v;

	if (t->n == t->max)
	{
		t->max = Max(1024, t->max * 2);
		t->v = t->v ? repalloc_huge(t->v, t->max * sizeof(ModelVersion)) :
			MemoryContextAllocHuge(CurrentMemoryContext, t->max * sizeof(ModelVersion));
	}
	v = &t->v[t->n++];
	memset(v, 0, sizeof(*v));
	v->key = key;
	v->start = start;
	v->lsn = end;
	return v;
}

/* Replays its changes from the root on. */
void
model_size(Model *m, int t, const NeonKey *key, XLogRecPtr lsn, BlockNumber *nblocks,
		   bool *exists)
{
	ModelTimeline *mt = &m->t[t];

	if (mt->ancestor >= 0)
		model_size(m, mt->ancestor, key, Min(lsn, mt->ancestor_lsn), nblocks, exists);
	for (int i = 0; i < mt->n; i++)
	{
		ModelVersion *v = &mt->v[i];

		if (v->key.kind != NEON_KEY_SIZE || v->lsn > lsn || neon_key_cmp(&v->key, key) != 0)
			continue;
		*nblocks = v->blocks;
		*exists = !v->dropped;
	}
}

XLogRecPtr
model_floor(Model *m, int t, const NeonKey *key, XLogRecPtr lsn, BlockNumber blk)
{
	ModelTimeline *mt = &m->t[t];
	XLogRecPtr	floor = 0;

	if (mt->ancestor >= 0)
		floor = model_floor(m, mt->ancestor, key, Min(lsn, mt->ancestor_lsn), blk);
	for (int i = 0; i < mt->n; i++)
	{
		ModelVersion *v = &mt->v[i];

		if (v->cut && v->blocks <= blk && v->lsn <= lsn && neon_key_cmp(&v->key, key) == 0)
			floor = Max(floor, v->lsn);
	}
	return floor;
}

ModelVersion *
model_newest(Model *m, int t, const NeonKey *key, XLogRecPtr above, XLogRecPtr lsn)
{
	ModelTimeline *mt = &m->t[t];

	for (int i = mt->n - 1; i >= 0; i--)
	{
		ModelVersion *v = &mt->v[i];

		if (v->lsn <= lsn && v->lsn > above && neon_key_cmp(&v->key, key) == 0)
			return v;
	}
	if (mt->ancestor >= 0)
		return model_newest(m, mt->ancestor, key, above, Min(lsn, mt->ancestor_lsn));
	return NULL;
}

/* ---- comparison ---- */

void
differs(const NeonKey *key, int t, XLogRecPtr lsn, const char *what)
{
	elog(ERROR, "key %02x %u/%u block %u of timeline %d at %X/%X: %s", key->kind, key->rel,
		 key->fork, key->blk, t, LSN_FORMAT_ARGS(lsn), what);
}

static void
check_version(const NeonKey *key, int t, XLogRecPtr lsn, const StoreVersion *got,
			  const ModelVersion *want)
{
	if (got->lsn != want->lsn || got->value_kind != want->kind || got->base != want->base)
		differs(key, t, lsn, psprintf("version %X/%X kind %d, expected %X/%X kind %d",
									  LSN_FORMAT_ARGS(got->lsn), got->value_kind,
									  LSN_FORMAT_ARGS(want->lsn), want->kind));
	if (want->kind == NEON_VALUE_WAL && got->start != want->start)
		differs(key, t, lsn, "wrong start");
	if (want->kind == NEON_VALUE_IMAGE || want->kind == NEON_VALUE_BLOB)
	{
		char	   *bytes = make_bytes(want->fill, want->len);

		if (got->len != want->len || memcmp(bytes, got->data, want->len) != 0)
			differs(key, t, lsn, "wrong bytes");
		pfree(bytes);
	}
	if (want->kind == NEON_VALUE_WAL)
	{
		XLogRecord *record = store_record(key, got);
		XLogRecord *expected = make_record(key, want->fill, want->wal_len);

		if (record->xl_tot_len != expected->xl_tot_len || record->xl_xid != expected->xl_xid ||
			record->xl_info != expected->xl_info || record->xl_rmid != expected->xl_rmid ||
			memcmp((char *) record + SizeOfXLogRecord, (char *) expected + SizeOfXLogRecord,
				   expected->xl_tot_len - SizeOfXLogRecord) != 0)
			differs(key, t, lsn, "another WAL record");
		pfree(record);
		pfree(expected);
	}
}

static void
check_key(Model *m, int t, const NeonKey *key, XLogRecPtr lsn)
{
	StoreChain	chain;
	StoreFound	want = key->kind == NEON_KEY_PAGE ? STORE_ZERO : STORE_MISSING;
	XLogRecPtr	above = 0;
	XLogRecPtr	upto = lsn;
	bool		has_base = false;
	int			n = 0;

	store_get(m->t[t].tl, key, 1, lsn, &chain);
	if (key->kind == NEON_KEY_PAGE)
	{
		NeonKey		sk = neon_key(NEON_KEY_SIZE, key->spc, key->db, key->rel, key->fork, 0);
		BlockNumber nblocks = 0;
		bool		exists = false;

		model_size(m, t, &sk, lsn, &nblocks, &exists);
		above = model_floor(m, t, &sk, lsn, key->blk);
		if (!exists)
			want = STORE_MISSING;
		if (!exists || key->blk >= nblocks)
			upto = 0;
	}
	while (upto > above)
	{
		ModelVersion *v = model_newest(m, t, key, above, upto);

		if (v == NULL || v->kind == NEON_VALUE_TOMBSTONE)
			break;
		want = STORE_FOUND;
		if (n >= chain.nversions)
			differs(key, t, lsn, psprintf("%d versions, expected more", chain.nversions));
		check_version(key, t, lsn, &chain.versions[n++], v);
		has_base = v->base;
		if (v->base)
			break;
		upto = v->lsn - 1;
	}
	if (chain.found != want || chain.nversions != n || (n > 0 && chain.has_base != has_base))
		differs(key, t, lsn, psprintf("found %d with %d versions, base %d, expected %d with %d, base %d",
									  chain.found, chain.nversions, chain.has_base, want, n,
									  has_base));
}

typedef struct ScanCheck
{
	Model	   *m;
	int			t;
	XLogRecPtr	lsn;
	NeonKey		last;
	int			n;
} ScanCheck;

static bool
scan_key(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	ScanCheck  *c = arg;
	ModelVersion *want = model_newest(c->m, c->t, key, 0, c->lsn);

	if (c->n > 0 && neon_key_cmp(&c->last, key) >= 0)
		differs(key, c->t, c->lsn, "scan is not in order");
	if (want == NULL || want->kind == NEON_VALUE_TOMBSTONE)
		differs(key, c->t, c->lsn, "scan finds what does not exist");
	check_version(key, c->t, c->lsn, newest, want);
	c->last = *key;
	c->n++;
	return true;
}

static int
count_keys(Model *m, int t, XLogRecPtr lsn, const NeonKey *keys, int nkeys)
{
	int			n = 0;

	for (int i = 0; i < nkeys; i++)
	{
		ModelVersion *v = model_newest(m, t, &keys[i], 0, lsn);

		if (v != NULL && v->kind != NEON_VALUE_TOMBSTONE)
			n++;
	}
	return n;
}

static int
all_keys(NeonKey *keys)
{
	int			n = 0;

	for (int r = 0; r < NRELS; r++)
		for (int f = 0; f < NFORKS; f++)
		{
			keys[n++] = size_key(r, f);
			for (int b = 0; b < NBLOCKS; b++)
				keys[n++] = page_key(r, f, b);
		}
	for (int i = 0; i < NBLOBS; i++)
		keys[n++] = blob_key(i);
	return n;
}

static void
check_scan(Model *m, int t, XLogRecPtr lsn)
{
	ScanCheck	c = {m, t, lsn};
	NeonKey		lo = neon_key(NEON_KEY_CONTROL, 0, 0, 0, 0, 0);
	NeonKey		hi = neon_key(NEON_KEY_FILE, PG_UINT32_MAX, PG_UINT32_MAX, PG_UINT32_MAX, 255,
							  PG_UINT32_MAX);
	NeonKey		keys[NRELS * NFORKS * (NBLOCKS + 1) + NBLOBS];
	int			want;

	store_scan(m->t[t].tl, &lo, &hi, lsn, scan_key, &c);
	want = count_keys(m, t, lsn, keys, all_keys(keys));
	if (c.n != want)
		elog(ERROR, "scan of timeline %d at %X/%X: %d keys, expected %d", t,
			 LSN_FORMAT_ARGS(lsn), c.n, want);
}

/*
 * Up to where the store has the timeline's history by now.  What was in no file
 * when the server stopped is gone, of ancestors too: no WAL has it.
 */
static XLogRecPtr
history_end(Model *m, int t)
{
	ModelTimeline *mt = &m->t[t];
	XLogRecPtr	end;

	if (mt->ancestor >= 0)
	{
		end = history_end(m, mt->ancestor);
		if (end < mt->ancestor_lsn)
			return end;
	}
	return Min(timeline_last_record_lsn(mt->tl), mt->next);
}

/* An LSN of the timeline's history that the store has by now. */
static XLogRecPtr
draw_lsn(Model *m, int t)
{
	XLogRecPtr	hi = history_end(m, t);

	if (draw(m, 3) == 0)
		return hi;
	return START_LSN + (pg_prng_uint64_range(&m->random, 0, hi - START_LSN) & ~(uint64) 7);
}

NeonKey
draw_key(Model *m)
{
	uint32		rel = draw(m, NRELS);
	uint32		fork = draw(m, NFORKS);

	if (draw(m, 10) == 0)
		return blob_key(draw(m, NBLOBS));
	return page_key(rel, fork, draw(m, NBLOCKS));
}

static void
check_some(Model *m, int lookups, int scans)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "check",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int i = 0; i < lookups + scans; i++)
	{
		int			t = draw(m, m->ntimelines);
		NeonKey		key = draw_key(m);
		XLogRecPtr	lsn = draw_lsn(m, t);

		if (i < lookups)
			check_key(m, t, &key, lsn);
		else
			check_scan(m, t, lsn);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* ---- steps ---- */

static bool
is_there(Model *m, const NeonId *id)
{
	Timeline   *tl = timeline_open(&m->tenant, id, true);

	return tl != NULL && (m->apply || timeline_state(tl) != TIMELINE_CREATING);
}

static void
open_timeline(Model *m, int t)
{
	NeonId		id = make_id(m->seed, t + 1);
	ModelTimeline *mt = &m->t[t];

	/* until the other session made it, with what it begins with */
	for (int i = 0; i < 600 && !is_there(m, &id); i++)
	{
		pg_usleep(50000);
		CHECK_FOR_INTERRUPTS();
	}
	mt->tl = timeline_open(&m->tenant, &id, false);
	if (m->apply && !timeline_acquire_ownership(mt->tl, true, 5000))
		elog(ERROR, "could not own the timeline");
	mt->durable = timeline_last_record_lsn(mt->tl);
	mt->next = mt->ancestor >= 0 ? mt->ancestor_lsn : START_LSN;
}

void
make_root(Model *m)
{
	TimelineIdentity id = {0};
	char		dir[MAXPGPATH];
	StoreImport *imp;
	NeonKey		key = blob_key(0);
	char	   *bytes = make_bytes(7, 500);
	Timeline   *tl;

	id.tenant = m->tenant;
	id.timeline = make_id(m->seed, 1);
	id.start_lsn = START_LSN;
	id.start_prev = START_LSN - 64;
	id.system_identifier = 1;
	id.wal_segment_size = TEST_SEGMENT;
	id.server_version_num = PG_VERSION_NUM;
	timeline_path(&id.tenant, &id.timeline, NULL, dir);
	if (m->apply && !tenant_exists(&m->tenant))
	{
		tenant_create_dir(&m->tenant);
		timeline_create_root(&id, "root");
		tl = timeline_open(&id.tenant, &id.timeline, false);
		if (!timeline_acquire_ownership(tl, true, 5000))
			elog(ERROR, "could not own the timeline");
		imp = store_import_begin(tl, START_LSN);
		store_import_put(imp, &key, NEON_VALUE_BLOB, bytes, 500);
		store_import_finish(imp);
		timeline_finish_root(tl);
	}
	m->ntimelines = 1;
	m->t[0].ancestor = -1;
	open_timeline(m, 0);
	{
		ModelVersion *v = add_version(&m->t[0], key, 0, START_LSN);

		v->kind = NEON_VALUE_BLOB;
		v->base = true;
		v->len = 500;
		v->fill = 7;
	}
}

static void
make_branch(Model *m, int from)
{
	int			t = m->ntimelines;
	NeonId		id = make_id(m->seed, t + 1);
	ModelTimeline *parent = &m->t[from];
	ModelTimeline *mt = &m->t[t];

	memset(mt, 0, sizeof(*mt));
	mt->ancestor = from;
	mt->ancestor_lsn = parent->next;
	memcpy(mt->size, parent->size, sizeof(mt->size));
	if (m->apply && timeline_open(&m->tenant, &id, true) == NULL)
	{
		store_publish(parent->tl, parent->last_start, parent->next);
		timeline_create_branch(parent->tl, &id, psprintf("branch%d", t), parent->next,
							   parent->last_start);
	}
	m->ntimelines++;
	open_timeline(m, t);
}

/* A put of one step, into the model and, if it is new, the store's array. */
typedef struct Step
{
	ModelTimeline *t;
	XLogRecPtr	start;
	XLogRecPtr	end;
	uint32		wal_len;		/* of the record between them */
	StorePut	puts[8];
	int			nputs;
	ModelVersion page;			/* if that is a WAL record; else wal_len is 0 */
} Step;

static void
step_put(Step *s, const ModelVersion *v, void *data)
{
	StorePut   *p = &s->puts[s->nputs++];

	p->key = v->key;
	p->value_kind = v->kind;
	p->base = v->base;
	p->data = data;
	p->len = v->len;
}

static void
step_size(Step *s, NeonKey key, RelSize *size, bool cut)
{
	ModelVersion *v = add_version(s->t, key, s->start, s->end);
	StringInfoData buf;

	v->kind = NEON_VALUE_SIZE;
	v->base = true;
	v->cut = cut;
	v->dropped = size->dropped;
	v->blocks = size->nblocks;
	initStringInfo(&buf);
	relsize_encode(size, &buf);
	v->len = buf.len;
	step_put(s, v, buf.data);
}

static void
step_page(Model *m, Step *s)
{
	uint32		rel = draw(m, NRELS);
	uint32		fork = draw(m, NFORKS);
	/* a few pages are hot */
	BlockNumber blk = draw(m, 3) == 0 ? draw(m, 3) : draw(m, NBLOCKS);
	RelSize    *size = &s->t->size[rel][fork];
	ModelVersion *v;

	if (relsize_extend(size, blk + 1))
		step_size(s, size_key(rel, fork), size, false);
	v = add_version(s->t, page_key(rel, fork, blk), s->start, s->end);
	v->kind = draw(m, 30) == 0 ? NEON_VALUE_IMAGE : NEON_VALUE_WAL;
	v->base = v->kind == NEON_VALUE_IMAGE || draw(m, 15) == 0;
	v->len = v->kind == NEON_VALUE_IMAGE ? BLCKSZ : 0;
	v->fill = draw(m, 1000000);
	v->wal_len = s->wal_len;
	step_put(s, v, v->len ? make_bytes(v->fill, v->len) : NULL);
	s->page = v->kind == NEON_VALUE_WAL ? *v : (ModelVersion) {0};
}

static void
step_cut(Model *m, Step *s)
{
	uint32		rel = draw(m, NRELS);
	uint32		fork = draw(m, NFORKS);
	RelSize    *size = &s->t->size[rel][fork];

	if (draw(m, 4) == 0)
		relsize_drop(size, s->end);
	else
		relsize_truncate(size, s->end, draw(m, size->nblocks + 1));
	step_size(s, size_key(rel, fork), size, true);
}

static void
step_blob(Model *m, Step *s)
{
	ModelVersion *v = add_version(s->t, blob_key(draw(m, NBLOBS)), s->start, s->end);

	v->base = true;
	v->kind = draw(m, 5) == 0 ? NEON_VALUE_TOMBSTONE : NEON_VALUE_BLOB;
	if (v->kind == NEON_VALUE_BLOB)
		v->len = draw(m, 20) == 0 ? draw(m, MAX_BLOB) : draw(m, 1000);
	v->fill = draw(m, 1000000);
	step_put(s, v, v->kind == NEON_VALUE_BLOB ? make_bytes(v->fill, v->len) : NULL);
}

static void
one_step(Model *m, MemoryContext scratch)
{
	Step		s = {0};
	MemoryContext model_context;
	uint32		what = draw(m, 100);
	uint32		flush = draw(m, 300);
	uint32		branch = draw(m, 3000);
	int			t = draw(m, m->ntimelines);
	uint32		publish = draw(m, 3);

	s.t = &m->t[t];
	s.start = behind_header(s.t->next);
	s.wal_len = 90 + (draw(m, 300) == 0 ? draw(m, 300000) : draw(m, 700));
	s.end = end_of_record(s.start, s.wal_len);
	model_context = MemoryContextSwitchTo(scratch);
	MemoryContextSwitchTo(model_context);
	if (what < 85)
		step_page(m, &s);
	else if (what < 90)
		step_cut(m, &s);
	else
		step_blob(m, &s);
	s.t->next = s.end;
	s.t->last_start = s.start;
	if (m->apply && s.end > s.t->durable)
	{
		if (s.page.wal_len > 0)
		{
			XLogRecord *record = make_record(&s.page.key, s.page.fill, s.page.wal_len);

			store_wal(s.t->tl, s.start, (char *) record, s.wal_len);
			pfree(record);
		}
		store_put(s.t->tl, s.start, s.end, s.puts, s.nputs);
		if (publish != 0)
			store_publish(s.t->tl, s.start, s.end);
		if (flush == 0)
			store_flush(s.t->tl);
		else if (flush < 4)
			store_flush_start(s.t->tl);
	}
	for (int i = 0; i < s.nputs; i++)
	{
		if (s.puts[i].data)
			pfree(unconstify(void *, s.puts[i].data));
	}
	if (branch == 0 && m->ntimelines < MAX_TIMELINES)
		make_branch(m, draw(m, m->ntimelines));
}

Model *
run_steps(uint64 seed, int steps, bool apply, bool check, void (*after_step) (Model *m, int i))
{
	Model	   *m = palloc0(sizeof(Model));

	m->seed = seed;
	m->apply = apply;
	m->after_step = after_step;
	m->tenant = make_id(seed, 0);
	pg_prng_seed(&m->random, seed);
	make_root(m);
	for (int i = 0; i < steps; i++)
	{
		CHECK_FOR_INTERRUPTS();
		one_step(m, CurrentMemoryContext);
		if (m->after_step)
			m->after_step(m, i);
		if (check && i % 500 == 499)
		{
			pg_prng_state saved = m->random;

			check_some(m, 20, 1);
			m->random = saved;
		}
	}
	if (apply)
		for (int t = 0; t < m->ntimelines; t++)
			store_publish(m->t[t].tl, m->t[t].last_start, m->t[t].next);
	return m;
}

/* store_model(seed, steps, lookups): runs the steps, then compares. */
Datum
neon_test_store_model(PG_FUNCTION_ARGS)
{
	uint64		seed = PG_GETARG_INT64(0);
	int			steps = PG_GETARG_INT32(1);
	int			lookups = PG_GETARG_INT32(2);
	Model	   *m = run_steps(seed, steps, true, true, NULL);
	int			n = 0;

	check_some(m, lookups, 5);
	for (int t = 0; t < m->ntimelines; t++)
	{
		n += m->t[t].n;
		timeline_release_ownership(m->t[t].tl);
	}
	PG_RETURN_INT32(n);
}

/* store_read(seed, steps, lookups): compares only, while another one runs or ran the steps. */
Datum
neon_test_store_read(PG_FUNCTION_ARGS)
{
	uint64		seed = PG_GETARG_INT64(0);
	int			steps = PG_GETARG_INT32(1);
	int			lookups = PG_GETARG_INT32(2);
	Model	   *m = run_steps(seed, steps, false, false, NULL);

	pg_prng_seed(&m->random, seed ^ MyProcPid);
	check_some(m, lookups, lookups / 100);
	PG_RETURN_INT32(lookups);
}
