/*-------------------------------------------------------------------------
 *
 * storeget.c
 *	  Reading: versions of keys as of an LSN.
 *
 * Versions come from the open index, then from the layer files, newest first,
 * then the same in the ancestors.  The open index is looked at first: what is
 * flushed meanwhile is then seen twice and dropped by its LSN, never missed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "crashnote.h"
#include "framecache.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/fd.h"
#include "store_private.h"
#include "utils/memutils.h"
#include "walstore.h"
#include "walvalue.h"

/* ---- the list of files ---- */

StoreFiles *
store_private(Timeline *tl)
{
	if (tl->store_private == NULL)
		tl->store_private = MemoryContextAllocZero(TopMemoryContext, sizeof(StoreFiles));
	return tl->store_private;
}

/* Takes over a file that is open already. */
static LayerFile *
already_open(StoreFiles *sf, uint64 id)
{
	for (int i = 0; i < sf->nfiles; i++)
	{
		if (sf->files[i].mf.id == id)
		{
			LayerFile  *open = sf->files[i].open;

			sf->files[i].open = NULL;
			return open;
		}
	}
	return NULL;
}

/*
 * Open files that are no longer in a list.  A scan of this process may be in
 * the midst of them, so they are closed when there is none.
 */
static List *retired = NIL;
static int	scans = 0;

static void
close_retired(void)
{
	ListCell   *lc;

	if (scans > 0)
		return;
	foreach(lc, retired)
		layer_close(lfirst(lc));
	list_free(retired);
	retired = NIL;
}

static void
retire_files(StoreFiles *sf)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	for (int i = 0; i < sf->nfiles; i++)
	{
		if (sf->files[i].open)
			retired = lappend(retired, sf->files[i].open);
	}
	MemoryContextSwitchTo(old);
	close_retired();
	if (sf->context)
		MemoryContextDelete(sf->context);
	sf->context = NULL;
	sf->files = NULL;
	sf->map = NULL;
	sf->nfiles = 0;
}

void
store_scan_begins(void)
{
	scans++;
}

void
store_scan_ends(void)
{
	scans--;
	close_retired();
}

static void
reload_files(Timeline *tl, StoreFiles *sf)
{
	uint32		version = pg_atomic_read_u32(&tl->shared->map_version);
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "neon layer map",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old;
	Manifest   *m;
	LayerMap   *map;
	StoreFile  *files;

	pg_read_barrier();
	MemoryContextSetParent(context, CurrentMemoryContext);	/* until it is complete */
	m = timeline_read_manifest(tl);
	old = MemoryContextSwitchTo(context);
	map = layermap_make(m);
	files = MemoryContextAllocHuge(context, Max(map->nfiles, 1) * sizeof(StoreFile));
	MemoryContextSwitchTo(old);
	for (int i = 0; i < map->nfiles; i++)
	{
		files[i].mf = map->files[i];
		files[i].open = already_open(sf, map->files[i].id);
	}
	MemoryContextSetParent(context, TopMemoryContext);
	retire_files(sf);
	sf->context = context;
	sf->files = files;
	sf->map = map;
	sf->nfiles = map->nfiles;
	sf->version = version;
	manifest_free(m);
}

StoreFiles *
store_files(Timeline *tl)
{
	StoreFiles *sf = store_private(tl);

	if (sf->files == NULL || sf->version != pg_atomic_read_u32(&tl->shared->map_version))
		reload_files(tl, sf);
	return sf;
}

/* Of files that were not removed the list is made again, and they are opened again. */
void
store_close_read(Timeline *tl, bool all)
{
	StoreFiles *sf = tl->store_private;

	if (sf != NULL && (all || sf->version != pg_atomic_read_u32(&tl->shared->map_version)))
		retire_files(sf);
}

LayerFile *
store_file_open(Timeline *tl, StoreFile *file)
{
	if (file->open == NULL)
		file->open = layer_open(tl, &file->mf);
	if (file->open == NULL &&
		store_private(tl)->version == pg_atomic_read_u32(&tl->shared->map_version))
		layer_missing(tl, &file->mf);
	return file->open;
}

bool
store_file_reaches(const StoreFile *file, XLogRecPtr upto)
{
	/* Of an image file lsn_lo is the oldest version, of a delta file it is below. */
	return file->mf.type == LAYER_IMAGE ? file->mf.lsn_lo <= upto : file->mf.lsn_lo < upto;
}

static bool
key_in_file(const StoreFile *file, const uint8 *encoded)
{
	return memcmp(encoded, file->mf.first_key, NEON_KEY_ENCODED_SIZE) >= 0 &&
		memcmp(encoded, file->mf.last_key, NEON_KEY_ENCODED_SIZE) <= 0;
}

/* ---- one key ---- */

/* Walk over the files that may have versions of a key, newest first. */
typedef struct FilesOfKey
{
	StoreFiles *sf;
	const uint8 *key;
	VersionRange range;
	const MapPartition *partition;
	int			next_wide;
	int			next_own;
	XLogRecPtr	above;			/* versions of the file are wanted above this */
} FilesOfKey;

static FilesOfKey
files_of_key(StoreFiles *sf, const uint8 *key, VersionRange range)
{
	FilesOfKey	it = {sf, key, range, layermap_find(sf->map, key)};

	return it;
}

static bool
file_may_have(const StoreFile *file, const FilesOfKey *it, XLogRecPtr upto)
{
	return file->mf.lsn_hi > it->above && store_file_reaches(file, upto) &&
		key_in_file(file, it->key);
}

/* NULL at the end.  What wide files have up to the partition's upto, its own files have. */
static StoreFile *
next_file(FilesOfKey *it, XLogRecPtr upto)
{
	const LayerMap *map = it->sf->map;

	it->above = Max(it->range.above, it->partition->upto);
	while (it->next_wide < map->nwide)
	{
		StoreFile  *file = &it->sf->files[map->wide[it->next_wide++]];

		if (file->mf.lsn_hi <= it->above)
			it->next_wide = map->nwide;
		else if (file_may_have(file, it, upto))
			return file;
	}
	it->above = it->range.above;
	while (it->next_own < it->partition->nfiles)
	{
		StoreFile  *file = &it->sf->files[it->partition->files[it->next_own++]];

		if (file_may_have(file, it, upto))
			return file;
	}
	return NULL;
}

/* The open and the frozen index: two layers that have no LSN in common. */
static bool
collect_open(Timeline *tl, const NeonKey *key, VersionRange range, VersionList *list)
{
	TimelineShared *s = tl->shared;
	OpenKey    *k;
	bool		ended = false;

	LWLockAcquire(&s->index_lock, LW_SHARED);
	timeline_check(tl);
	if ((k = openlayer_find(&s->open, key)) != NULL)
		ended = openlayer_collect(&s->open, k, tl, range, list);
	if (!ended && (k = openlayer_find(&s->frozen, key)) != NULL)
		ended = openlayer_collect(&s->frozen, k, tl, range, list);
	LWLockRelease(&s->index_lock);
	return ended;
}

/* What was found already is not wanted again. */
static XLogRecPtr
below_last(const VersionList *list, int first, XLogRecPtr upto)
{
	return list->n > first ? Min(upto, list->v[list->n - 1].lsn - 1) : upto;
}

/*
 * In the timeline itself; true if the search is over.  *again: a file is gone,
 * as others were written in its place, and the search must begin anew.
 */
static bool
try_collect_own(Timeline *tl, const NeonKey *key, VersionRange range, VersionList *list,
				bool *again)
{
	uint8		encoded[NEON_KEY_ENCODED_SIZE];
	int			first = list->n;
	StoreFiles *sf;
	FilesOfKey	files;
	StoreFile  *file;

	if (collect_open(tl, key, range, list))
		return true;
	sf = store_files(tl);
	neon_key_encode(key, encoded);
	files = files_of_key(sf, encoded, range);
	while ((file = next_file(&files, below_last(list, first, range.upto))) != NULL)
	{
		VersionRange wanted = {below_last(list, first, range.upto), files.above};

		if (store_file_open(tl, file) == NULL)
		{
			*again = true;
			return false;
		}
		if (layer_collect(file->open, key, wanted, list))
			return true;
	}
	return false;
}

static bool
collect_own(Timeline *tl, const NeonKey *key, VersionRange range, VersionList *list)
{
	int			first = list->n;
	bool		again;
	bool		ended;

	do
	{
		list->n = first;
		again = false;
		ended = try_collect_own(tl, key, range, list, &again);
	} while (again);
	return ended;
}

bool
store_collect(Timeline *tl, const NeonKey *key, VersionRange range, VersionList *list)
{
	for (; tl != NULL; tl = tl->ancestor)
	{
		if (collect_own(tl, key, range, list))
			return true;
		range.upto = Min(range.upto, tl->id.ancestor_lsn);
		if (range.upto <= range.above)
			return false;
	}
	return false;
}

/* ---- lengths of chains ---- */

/* Records of the key in a file up to an LSN; *base: the chain ends there. */
static uint64
count_in_file(LayerFile *layer, const StoreFile *file, const NeonKey *key, VersionRange range,
			  bool *base)
{
	VersionList list = {0};
	uint64		n;

	if (file->mf.lsn_hi <= range.upto && file->mf.lsn_lo >= range.above)
		return layer_count_newer(layer, key, base);
	*base = layer_collect(layer, key, range, &list);
	n = list.n - (*base ? 1 : 0);
	versions_free(&list);
	return n;
}

/* In the timeline's own files; the same signs as try_collect_own. */
static uint64
try_count_own(Timeline *tl, const NeonKey *key, XLogRecPtr upto, bool *base, bool *again)
{
	StoreFiles *sf = store_files(tl);
	VersionRange range = {upto, InvalidXLogRecPtr};
	uint8		encoded[NEON_KEY_ENCODED_SIZE];
	FilesOfKey	files;
	StoreFile  *file;
	uint64		n = 0;

	neon_key_encode(key, encoded);
	files = files_of_key(sf, encoded, range);
	while (!*base && (file = next_file(&files, upto)) != NULL)
	{
		if (store_file_open(tl, file) == NULL)
		{
			*again = true;
			return 0;
		}
		range.above = files.above;
		n += count_in_file(file->open, file, key, range, base);
	}
	return n;
}

uint64
store_count_in_files(Timeline *tl, const NeonKey *key, XLogRecPtr upto)
{
	uint64		total = 0;
	bool		base = false;

	for (; tl != NULL && !base; tl = tl->ancestor)
	{
		uint64		n;
		bool		again;

		do
		{
			again = false;
			base = false;
			n = try_count_own(tl, key, upto, &base, &again);
		} while (again);
		total += n;
		upto = Min(upto, tl->id.ancestor_lsn);
	}
	return total;
}

/* ---- records ---- */

static void
check_record_end(const StoreVersion *version, XLogRecPtr end)
{
	if (end != version->lsn)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored WAL record at %X/%X ends at %X/%X instead of %X/%X",
						LSN_FORMAT_ARGS(version->start), LSN_FORMAT_ARGS(end),
						LSN_FORMAT_ARGS(version->lsn))));
}

XLogRecord *
store_record(const NeonKey *key, const StoreVersion *version)
{
	XLogRecord *record;
	XLogRecPtr	end;
	const char *problem;

	if (version->data != NULL)
	{
		record = walvalue_decode(version->data, version->len, key, &problem);
		if (record == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the WAL record at %X/%X in a layer file is malformed",
							LSN_FORMAT_ARGS(version->start)),
					 errdetail("%s", problem)));
		return record;
	}
	if (version->record != NULL)
		return version->record;
	record = walstore_record(version->timeline, version->start, &end);
	check_record_end(version, end);
	return record;
}

/*
 * Reads the records that are not in files.  False if one of them is by now: it
 * was flushed, and its WAL removed, after the version was found.
 */
static bool
load_records(VersionList *list)
{
	for (int i = 0; i < list->n; i++)
	{
		StoreVersion *v = &list->v[i];
		const char *problem;
		XLogRecPtr	end;

		if (v->value_kind != NEON_VALUE_WAL || v->data != NULL)
			continue;
		if (i % 64 == 0)
			CHECK_FOR_INTERRUPTS();
		v->record = walstore_try_record(v->timeline, v->start, &end, &problem);
		if (v->record != NULL)
			check_record_end(v, end);
		else if (timeline_disk_consistent_lsn(v->timeline) >= v->lsn)
			return false;
		else
			v->record = walstore_record(v->timeline, v->start, &end);	/* the error */
	}
	return true;
}

/* ---- sizes ---- */

bool
store_size_at(Timeline *tl, const NeonKey *size_key, XLogRecPtr lsn, RelSize *size)
{
	VersionRange range = {lsn, InvalidXLogRecPtr};
	VersionList list = {0};
	StoreVersion *v;
	bool		exists = false;

	relsize_init(size);
	timeline_check_readable(tl);
	if (!store_collect(tl, size_key, range, &list))
		return false;
	v = &list.v[0];
	if (v->value_kind == NEON_VALUE_SIZE)
	{
		if (!relsize_decode(v->data, v->len, size))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the size of fork %u of relation %u/%u/%u is malformed",
							size_key->fork, size_key->spc, size_key->db, size_key->rel)));
		exists = !size->dropped;
	}
	if (v->data)
		pfree(unconstify(char *, v->data));
	pfree(list.v);
	return exists;
}

/* ---- many keys ---- */

/* The size that the pages of a batch ask for again and again. */
typedef struct SizeMemo
{
	bool		valid;
	NeonKey		key;
	bool		exists;
	RelSize		size;
} SizeMemo;

static void
memo_size(Timeline *tl, const NeonKey *key, XLogRecPtr lsn, SizeMemo *memo)
{
	NeonKey		size_key = neon_key(NEON_KEY_SIZE, key->spc, key->db, key->rel, key->fork, 0);

	if (memo->valid && neon_key_cmp(&memo->key, &size_key) == 0)
		return;
	memo->key = size_key;
	memo->exists = store_size_at(tl, &size_key, lsn, &memo->size);
	memo->valid = true;
}

/* What the versions found mean. */
static void
finish_chain(const NeonKey *key, bool ended, VersionList *list, StoreChain *chain)
{
	if (ended && list->v[list->n - 1].value_kind == NEON_VALUE_TOMBSTONE)
	{
		list->n--;
		ended = false;
	}
	chain->has_base = ended;
	chain->nversions = list->n;
	chain->versions = list->v;
	if (list->n > 0)
		chain->found = STORE_FOUND;
	else
		chain->found = key->kind == NEON_KEY_PAGE ? STORE_ZERO : STORE_MISSING;
}

/*
 * The versions of a page: newer ones than the page that is in the cache, if one
 * is, and that as their base.
 */
static bool
collect_page(Timeline *tl, const NeonKey *key, VersionRange range, VersionList *list)
{
	static char page[BLCKSZ];
	XLogRecPtr	lsn;
	StoreVersion *v;
	char	   *copy;

	if (!framecache_get(tl, key, range.above, range.upto, page, &lsn))
		return store_collect(tl, key, range, list);
	copy = palloc(BLCKSZ);
	memcpy(copy, page, BLCKSZ);
	range.above = lsn;
	if (store_collect(tl, key, range, list))
	{
		pfree(copy);
		return true;
	}
	v = versions_add(list);
	v->lsn = lsn;
	v->value_kind = NEON_VALUE_IMAGE;
	v->base = true;
	v->len = BLCKSZ;
	v->data = copy;
	v->timeline = tl;
	return true;
}

static void
get_one(Timeline *tl, const NeonKey *key, XLogRecPtr lsn, SizeMemo *memo, StoreChain *chain)
{
	VersionRange range = {lsn, InvalidXLogRecPtr};
	VersionList list = {0};
	bool		ended;

	crashnote_set(tl, key, lsn);
	NEON_TEST_POINT("get");
	memset(chain, 0, sizeof(*chain));
	if (key->kind == NEON_KEY_PAGE)
	{
		memo_size(tl, key, lsn, memo);
		if (!memo->exists)
		{
			chain->found = STORE_MISSING;
			return;
		}
		if (key->blk >= memo->size.nblocks)
		{
			chain->found = STORE_ZERO;
			return;
		}
		range.above = relsize_floor(&memo->size, key->blk);
		finish_chain(key, collect_page(tl, key, range, &list), &list, chain);
		return;
	}
	do
	{
		list.n = 0;
		ended = store_collect(tl, key, range, &list);
	} while (!load_records(&list));
	finish_chain(key, ended, &list, chain);
}

void
store_get(Timeline *tl, const NeonKey *keys, int nkeys, XLogRecPtr lsn, StoreChain *chains)
{
	SizeMemo	memo = {0};

	timeline_check_readable(tl);
	for (int i = 0; i < nkeys; i++)
	{
		CHECK_FOR_INTERRUPTS();
		get_one(tl, &keys[i], lsn, &memo, &chains[i]);
	}
}

/* ---- bytes ---- */

uint64
store_compaction_debt(Timeline *tl)
{
	return pg_atomic_read_u64(&tl->shared->compaction_debt);
}

uint64
store_physical_size(Timeline *tl)
{
	uint64		bytes = pg_atomic_read_u64(&tl->shared->layer_bytes);
	char		path[MAXPGPATH];
	DIR		   *dir;
	struct dirent *de;

	timeline_path(&tl->id.tenant, &tl->id.timeline, "wal", path);
	dir = AllocateDir(path);
	if (dir == NULL)
		return bytes;
	while ((de = ReadDirExtended(dir, path, LOG)) != NULL)
	{
		if (de->d_name[0] != '.')
			bytes += tl->id.wal_segment_size;
	}
	FreeDir(dir);
	return bytes;
}
