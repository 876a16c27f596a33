/*-------------------------------------------------------------------------
 *
 * layer_test.c
 *	  Layer files against a model in memory, and with every byte changed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "common/pg_prng.h"
#include "fmgr.h"
#include "layerfile.h"
#include "miscadmin.h"
#include "neon_layercheck.h"
#include "storage/fd.h"
#include "timeline_shared.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define LSN_LO		((XLogRecPtr) 0x10000000)
#define LSN_RANGE	4000		/* in units of 8 bytes, for a key of few versions */

PG_FUNCTION_INFO_V1(neon_test_layer_model);
PG_FUNCTION_INFO_V1(neon_test_layer_flips);

typedef struct LayerModel
{
	pg_prng_state random;
	bool		image;
	XLogRecPtr	lsn_hi;
	int			nkeys;
	NeonKey    *keys;
	int		   *first;			/* version of each key; nkeys + 1 */
	int			n;
	int			max;
	StoreVersion *v;
} LayerModel;

static uint32
draw(LayerModel *m, uint32 n)
{
	return (uint32) pg_prng_uint64_range(&m->random, 0, n - 1);
}

/* ---- the model ---- */

static int
compare_keys(const void *a, const void *b)
{
	return neon_key_cmp(a, b);
}

/* Pages in runs and alone, sizes of many forks, and the other kinds. */
static NeonKey
draw_key(LayerModel *m)
{
	uint32		rel = 16384 + draw(m, 5);

	switch (draw(m, m->image ? 3 : 6))
	{
		case 0:
			return neon_key(NEON_KEY_PAGE, 1663, 5, rel, draw(m, 3), draw(m, 400));
		case 1:
			return neon_key(NEON_KEY_PAGE, 1663, 5, rel, 0, (uint32) pg_prng_uint64(&m->random));
		case 2:
			return neon_key(NEON_KEY_SLRU, draw(m, 4), 0, 0, 0, draw(m, 200));
		case 3:
			return neon_key(NEON_KEY_SIZE, 1663, 5, draw(m, 20000), draw(m, 4), 0);
		case 4:
			return neon_key(NEON_KEY_TWOPHASE, 0, 0, 0, 0, (uint32) pg_prng_uint64(&m->random));
		default:
			return neon_key(NEON_KEY_FILE, 0, draw(m, 1000000), draw(m, 1000000), draw(m, 256),
							(uint32) pg_prng_uint64(&m->random));
	}
}

static void
make_keys(LayerModel *m, int n)
{
	int			unique = 0;

	m->keys = MemoryContextAllocHuge(CurrentMemoryContext, n * sizeof(NeonKey));
	for (int i = 0; i < n; i++)
		m->keys[i] = draw_key(m);
	qsort(m->keys, n, sizeof(NeonKey), compare_keys);
	for (int i = 0; i < n; i++)
	{
		if (i == 0 || neon_key_cmp(&m->keys[i], &m->keys[unique - 1]) != 0)
			m->keys[unique++] = m->keys[i];
	}
	m->nkeys = unique;
}

static uint32
draw_length(LayerModel *m, uint8 kind)
{
	if (kind == NEON_VALUE_TOMBSTONE)
		return 0;
	if (kind == NEON_VALUE_IMAGE)
		return BLCKSZ;
	if (draw(m, 500) == 0)
		return draw(m, 700000);
	return draw(m, 20) == 0 ? draw(m, 9000) : draw(m, 200);
}

static void
make_version(LayerModel *m, XLogRecPtr lsn)
{
	static const uint8 kinds[] = {NEON_VALUE_WAL, NEON_VALUE_WAL, NEON_VALUE_WAL, NEON_VALUE_WAL,
	NEON_VALUE_WAL, NEON_VALUE_WAL, NEON_VALUE_IMAGE, NEON_VALUE_SIZE, NEON_VALUE_TOMBSTONE, NEON_VALUE_BLOB};
	StoreVersion *v;
	char	   *data;
	bool		random;

	if (m->n == m->max)
	{
		m->max = Max(1024, m->max * 2);
		m->v = m->v ? repalloc_huge(m->v, m->max * sizeof(StoreVersion)) :
			MemoryContextAllocHuge(CurrentMemoryContext, m->max * sizeof(StoreVersion));
	}
	v = &m->v[m->n++];
	memset(v, 0, sizeof(*v));
	v->lsn = lsn;
	v->value_kind = m->image ? NEON_VALUE_IMAGE : kinds[draw(m, lengthof(kinds))];
	if (v->value_kind == NEON_VALUE_WAL)
		v->start = lsn - 8 * (1 + draw(m, 100));
	v->base = v->value_kind != NEON_VALUE_WAL || draw(m, 12) == 0;
	v->len = draw_length(m, v->value_kind);
	data = palloc(v->len + 1);
	random = draw(m, 2) == 0;
	for (uint32 i = 0; i < v->len; i++)
		data[i] = random ? (char) pg_prng_uint32(&m->random) : (char) (i / 50);
	v->data = data;
}

/* A few keys are hot: thousands of versions, more blocks than the directory lists. */
static void
make_versions(LayerModel *m, bool hot)
{
	XLogRecPtr	lsn = LSN_LO;
	int			n = hot ? 20000 : draw(m, 30) == 0 ? draw(m, 300) : draw(m, 4);

	if (m->image)
	{
		make_version(m, LSN_LO + 8 * draw(m, LSN_RANGE));
		return;
	}
	for (int i = 0; i <= n; i++)
	{
		lsn += 8 * (1 + draw(m, LSN_RANGE / (n + 1) + 1));
		make_version(m, lsn);
		/* an image stands behind the record of the same LSN */
		if (m->v[m->n - 1].value_kind == NEON_VALUE_WAL && draw(m, 50) == 0)
		{
			make_version(m, lsn);
			m->v[m->n - 1].value_kind = NEON_VALUE_BLOB;
			m->v[m->n - 1].start = InvalidXLogRecPtr;
			m->v[m->n - 1].base = true;
		}
	}
}

static void
make_model(LayerModel *m, int nkeys)
{
	int			hot;

	make_keys(m, nkeys);
	hot = draw(m, m->nkeys);
	m->first = palloc((m->nkeys + 1) * sizeof(int));
	for (int i = 0; i < m->nkeys; i++)
	{
		CHECK_FOR_INTERRUPTS();
		m->first[i] = m->n;
		make_versions(m, i == hot && nkeys > 1000);
	}
	m->first[m->nkeys] = m->n;
	m->lsn_hi = LSN_LO;
	for (int i = 0; i < m->n; i++)
		m->lsn_hi = Max(m->lsn_hi, m->v[i].lsn);
}

static void
write_model(LayerModel *m, Timeline *tl, ManifestFile *file)
{
	LayerWriter *w = layer_writer_begin(&tl->id, m->image ? LAYER_IMAGE : LAYER_DELTA,
										timeline_new_file_id(tl), LSN_LO, m->lsn_hi);

	for (int k = 0; k < m->nkeys; k++)
	{
		for (int i = m->first[k]; i < m->first[k + 1]; i++)
			layer_writer_add(w, &m->keys[k], &m->v[i]);
	}
	if (!layer_writer_finish(w, file))
		elog(ERROR, "a sync failed");
	if (file->entries != m->n)
		elog(ERROR, "the file has another number of versions");
}

/* ---- comparison ---- */

static void
check_version(const NeonKey *key, const StoreVersion *got, const StoreVersion *want, bool loaded)
{
	if (got->lsn != want->lsn || got->start != want->start || got->value_kind != want->value_kind ||
		got->base != want->base || got->len != want->len ||
		(loaded && want->len > 0 && memcmp(got->data, want->data, want->len) != 0))
		elog(ERROR, "key %02x %u block %u: version at %X/%X of kind %u and %u bytes, expected %X/%X, %u, %u",
			 key->kind, key->rel, key->blk, LSN_FORMAT_ARGS(got->lsn), got->value_kind, got->len,
			 LSN_FORMAT_ARGS(want->lsn), want->value_kind, want->len);
}

static void
check_key(LayerModel *m, LayerFile *layer, int k, VersionRange range)
{
	VersionList list = {0};
	bool		ended = layer_collect(layer, &m->keys[k], range, &list);
	bool		want_end = false;
	int			n = 0;

	for (int i = m->first[k + 1] - 1; i >= m->first[k] && !want_end; i--)
	{
		const StoreVersion *want = &m->v[i];

		if (want->lsn > range.upto || want->lsn <= range.above)
			continue;
		if (n >= list.n)
			elog(ERROR, "key %02x block %u: %d versions, expected more", m->keys[k].kind, m->keys[k].blk, list.n);
		check_version(&m->keys[k], &list.v[n++], want, true);
		want_end = want->base;
	}
	if (n != list.n || ended != want_end)
		elog(ERROR, "key %02x block %u: %d versions, end %d, expected %d, %d", m->keys[k].kind,
			 m->keys[k].blk, list.n, ended, n, want_end);
}

/* What the directory says without the data. */
static void
check_count(LayerModel *m, LayerFile *layer, int k)
{
	bool		base;
	bool		want_base = false;
	uint64		newer = layer_count_newer(layer, &m->keys[k], &base);
	uint64		want = 0;

	for (int i = m->first[k + 1] - 1; i >= m->first[k] && !want_base; i--)
	{
		want_base = m->v[i].base;
		want += want_base ? 0 : 1;
	}
	if (newer != want || base != want_base)
		elog(ERROR, "key %02x block %u: " UINT64_FORMAT " newer records, base %d, expected " UINT64_FORMAT ", %d",
			 m->keys[k].kind, m->keys[k].blk, newer, base, want, want_base);
}

static void
check_absent(LayerModel *m, LayerFile *layer, NeonKey key)
{
	VersionList list = {0};
	VersionRange range = {m->lsn_hi, 0};

	if (bsearch(&key, m->keys, m->nkeys, sizeof(NeonKey), compare_keys) != NULL)
		return;
	if (layer_collect(layer, &key, range, &list) || list.n != 0)
		elog(ERROR, "key %02x block %u is found, and was never written", key.kind, key.blk);
}

static VersionRange
draw_range(LayerModel *m)
{
	VersionRange range = {m->lsn_hi, 0};

	if (draw(m, 2) == 0)
		range.upto = LSN_LO + pg_prng_uint64_range(&m->random, 0, m->lsn_hi - LSN_LO);
	if (draw(m, 3) == 0)
		range.above = LSN_LO + pg_prng_uint64_range(&m->random, 0, m->lsn_hi - LSN_LO);
	return range;
}

/* The newest version of a key up to an LSN; NULL if there is none. */
static const StoreVersion *
newest(const LayerModel *m, int k, XLogRecPtr upto)
{
	for (int i = m->first[k + 1] - 1; i >= m->first[k]; i--)
	{
		if (m->v[i].lsn <= upto)
			return &m->v[i];
	}
	return NULL;
}

static void
check_scan(LayerModel *m, LayerFile *layer)
{
	int			from = draw(m, m->nkeys);
	int			to = from + draw(m, m->nkeys - from);
	VersionRange range = draw_range(m);
	LayerScan  *scan = layer_scan_begin(layer, &m->keys[from], &m->keys[to], range.upto);
	NeonKey		key;
	StoreVersion got;

	for (int k = from; k <= to; k++)
	{
		const StoreVersion *want = newest(m, k, range.upto);

		if (want == NULL)
			continue;
		if (!layer_scan_next(scan, &key, &got))
			elog(ERROR, "a scan ends before key %d", k);
		if (neon_key_cmp(&key, &m->keys[k]) != 0)
			elog(ERROR, "a scan is at another key than %d", k);
		layer_scan_load(scan, &got);
		check_version(&key, &got, want, want->value_kind != NEON_VALUE_WAL);
		if (got.data)
			pfree(unconstify(char *, got.data));
	}
	if (layer_scan_next(scan, &key, &got))
		elog(ERROR, "a scan does not end");
	layer_scan_end(scan);
}

static void
check_model(LayerModel *m, LayerFile *layer)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "check", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int k = 0; k < m->nkeys; k++)
	{
		VersionRange all = {m->lsn_hi, 0};
		NeonKey		next = m->keys[k];

		CHECK_FOR_INTERRUPTS();
		check_key(m, layer, k, all);
		check_key(m, layer, k, draw_range(m));
		check_count(m, layer, k);
		next.blk++;
		check_absent(m, layer, next);
		check_absent(m, layer, draw_key(m));
		MemoryContextReset(context);
	}
	for (int i = 0; i < 20; i++)
	{
		check_scan(m, layer);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* ---- whole files ---- */

static bool
read_memory(void *arg, uint64 offset, void *buf, size_t len)
{
	memcpy(buf, (const char *) arg + offset, len);
	return true;
}

static bool
check_bytes(const char *bytes, uint64 size, LayerProblem *problem)
{
	LayerSource source = {read_memory, unconstify(char *, bytes), size};
	LayerVisitor visitor = {0};

	return layer_check(&source, &visitor, problem);
}

static char *
read_whole(const char *path, size_t size)
{
	char	   *bytes = MemoryContextAllocHuge(CurrentMemoryContext, size);
	FILE	   *f = AllocateFile(path, "rb");

	if (f == NULL || fread(bytes, 1, size, f) != size)
		elog(ERROR, "could not read \"%s\": %m", path);
	FreeFile(f);
	return bytes;
}

static Timeline *
timeline_arg(FunctionCallInfo fcinfo)
{
	NeonId		tenant;
	NeonId		timeline;

	if (!neon_id_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)), &tenant) ||
		!neon_id_parse(text_to_cstring(PG_GETARG_TEXT_PP(1)), &timeline))
		elog(ERROR, "not an id");
	return timeline_open(&tenant, &timeline, false);
}

static void
begin_model(FunctionCallInfo fcinfo, LayerModel *m, Timeline *tl, ManifestFile *file, char *path)
{
	memset(m, 0, sizeof(*m));
	pg_prng_seed(&m->random, PG_GETARG_INT64(2));
	m->image = PG_GETARG_BOOL(4);
	make_model(m, PG_GETARG_INT32(3));
	write_model(m, tl, file);
	layer_path(&tl->id, file, path);
}

/* layer_model(tenant, timeline, seed, keys, image): the number of versions. */
Datum
neon_test_layer_model(PG_FUNCTION_ARGS)
{
	Timeline   *tl = timeline_arg(fcinfo);
	LayerModel	m;
	LayerProblem problem;
	ManifestFile file;
	LayerFile  *layer;
	char		path[MAXPGPATH];

	begin_model(fcinfo, &m, tl, &file, path);
	layer = layer_open(tl, &file);
	check_model(&m, layer);
	layer_close(layer);
	if (!check_bytes(read_whole(path, file.bytes), file.bytes, &problem))
		elog(ERROR, "at " UINT64_FORMAT ": %s", problem.offset, problem.what);
	unlink(path);
	PG_RETURN_INT64(m.n);
}

/*
 * layer_flips(tenant, timeline, seed, keys, image): changes each byte of a
 * file, and cuts it after each; how many changes were made.  All must be seen.
 */
Datum
neon_test_layer_flips(PG_FUNCTION_ARGS)
{
	Timeline   *tl = timeline_arg(fcinfo);
	LayerModel	m;
	LayerProblem problem;
	ManifestFile file;
	char		path[MAXPGPATH];
	char	   *bytes;

	begin_model(fcinfo, &m, tl, &file, path);
	bytes = read_whole(path, file.bytes);
	unlink(path);
	for (uint64 i = 0; i < file.bytes; i++)
	{
		char		was = bytes[i];

		CHECK_FOR_INTERRUPTS();
		bytes[i] ^= 1 << draw(&m, 8);
		if (check_bytes(bytes, file.bytes, &problem))
			elog(ERROR, "byte " UINT64_FORMAT " of " UINT64_FORMAT " was changed and nothing noticed it", i, file.bytes);
		if (problem.what == NULL || problem.offset > i)
			elog(ERROR, "byte " UINT64_FORMAT " was changed, and at " UINT64_FORMAT ": %s", i,
				 problem.offset, problem.what ? problem.what : "nothing");
		bytes[i] = was;
		if (check_bytes(bytes, i, &problem))
			elog(ERROR, "the file was cut after " UINT64_FORMAT " bytes and nothing noticed it", i);
	}
	if (!check_bytes(bytes, file.bytes, &problem))
		elog(ERROR, "at " UINT64_FORMAT ": %s", problem.offset, problem.what);
	PG_RETURN_INT64(file.bytes);
}
