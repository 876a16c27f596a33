/*-------------------------------------------------------------------------
 *
 * ingestsizes.c
 *	  Latest sizes of forks, in the memory of the process that ingests.
 *
 * An entry is read from the store when it is first touched.  What the record
 * at hand changes is noted in a list and put once, at the record's end.  All
 * entries may be dropped when everything is published: see sizes_trim().  The
 * forks that the last records were about are found without the hash table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest_private.h"
#include "utils/memutils.h"

/* Entries that are kept in memory (about 60 bytes each, and their cuts). */
#define MAX_ENTRIES		200000

typedef struct SizeEntry
{
	NeonKey		key;
	BlockNumber nblocks;
	bool		dropped;		/* or never existed */
	bool		changed;		/* is in the list of the record at hand */
	uint8		ncuts;
	SizeCut    *cuts;			/* NULL if none */
} SizeEntry;

/* Where the entry of a fork is noted when it was looked up. */
static inline SizeEntry **
recent_place(Ingest *ingest, const NeonKey *key)
{
	return &ingest->recent_sizes[(key->rel * 3 + key->fork + key->db) % SIZES_RECENT];
}

/* ---- between entries and the value type ---- */

static void
entry_get(const SizeEntry *entry, RelSize *size)
{
	relsize_init(size);
	size->nblocks = entry->nblocks;
	size->dropped = entry->dropped;
	size->ncuts = entry->ncuts;
	if (entry->ncuts > 0)
		memcpy(size->cuts, entry->cuts, entry->ncuts * sizeof(SizeCut));
}

static void
entry_set(Ingest *ingest, SizeEntry *entry, const RelSize *size)
{
	entry->nblocks = size->nblocks;
	entry->dropped = size->dropped;
	if (entry->cuts)
		pfree(entry->cuts);
	entry->cuts = NULL;
	entry->ncuts = size->ncuts;
	if (size->ncuts > 0)
	{
		entry->cuts = MemoryContextAlloc(ingest->context, size->ncuts * sizeof(SizeCut));
		memcpy(entry->cuts, size->cuts, size->ncuts * sizeof(SizeCut));
	}
}

/* A fork that nobody made. */
static void
size_of_nothing(RelSize *size)
{
	relsize_init(size);
	size->nblocks = 0;
	size->dropped = true;
}

/*
 * The stored value, also of a dropped fork, whose cuts still hide its old
 * pages from a new one of the same name.
 */
static void
read_stored(Ingest *ingest, const NeonKey *key, RelSize *size)
{
	StoreChain	chain;

	size_of_nothing(size);
	store_get(ingest->tl, key, 1, ingest_known_lsn(ingest), &chain);
	if (chain.found != STORE_FOUND || chain.nversions < 1 ||
		chain.versions[0].value_kind != NEON_VALUE_SIZE)
		return;
	if (!relsize_decode(chain.versions[0].data, chain.versions[0].len, size))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored size of relation %u/%u/%u is malformed",
						key->spc, key->db, key->rel)));
}

static SizeEntry *
entry_for(Ingest *ingest, const NeonKey *key)
{
	SizeEntry **recent = recent_place(ingest, key);
	SizeEntry  *entry = *recent;
	RelSize		size;
	bool		found;

	if (entry != NULL && neon_key_cmp(&entry->key, key) == 0)
		return entry;
	entry = hash_search(ingest->sizes, key, HASH_FIND, NULL);
	if (entry)
	{
		*recent = entry;
		return entry;
	}
	read_stored(ingest, key, &size);
	entry = hash_search(ingest->sizes, key, HASH_ENTER, &found);
	entry->changed = false;
	entry->cuts = NULL;
	entry_set(ingest, entry, &size);
	return entry;
}

static void
mark_changed(Ingest *ingest, SizeEntry *entry)
{
	if (entry->changed)
		return;
	if (ingest->nchanged == ingest->max_changed)
	{
		ingest->max_changed *= 2;
		ingest->changed = repalloc_huge(ingest->changed,
										ingest->max_changed * sizeof(SizeEntry *));
	}
	entry->changed = true;
	ingest->changed[ingest->nchanged++] = entry;
}

/* The sum may be an estimate, so it must not wrap. */
static void
count_blocks(Ingest *ingest, BlockNumber before, BlockNumber after)
{
	int64		change = ((int64) after - (int64) before) * BLCKSZ;

	if (change < 0 && (uint64) -change > ingest->logical_size)
		ingest->logical_size = 0;
	else
		ingest->logical_size += change;
}

/* ---- changes ---- */

void
sizes_extend(Ingest *ingest, NeonKey key, BlockNumber nblocks)
{
	SizeEntry  *entry = entry_for(ingest, &key);

	if (!entry->dropped && nblocks <= entry->nblocks)
		return;
	if (nblocks > entry->nblocks)
	{
		count_blocks(ingest, entry->nblocks, nblocks);
		entry->nblocks = nblocks;
	}
	entry->dropped = false;
	mark_changed(ingest, entry);
}

/*
 * Zero extension is not logged, so a fork may be cut to more than is known of
 * it; then nothing that is stored goes away.
 */
void
sizes_truncate(Ingest *ingest, NeonKey key, BlockNumber nblocks)
{
	SizeEntry  *entry = entry_for(ingest, &key);
	RelSize		size;

	if (entry->dropped || nblocks >= entry->nblocks)
		return;
	count_blocks(ingest, entry->nblocks, nblocks);
	entry_get(entry, &size);
	relsize_truncate(&size, ingest->record->EndRecPtr, nblocks);
	entry_set(ingest, entry, &size);
	mark_changed(ingest, entry);
}

void
sizes_drop(Ingest *ingest, NeonKey key)
{
	SizeEntry  *entry = entry_for(ingest, &key);
	RelSize		size;

	if (entry->dropped)
		return;
	count_blocks(ingest, entry->nblocks, 0);
	entry_get(entry, &size);
	relsize_drop(&size, ingest->record->EndRecPtr);
	entry_set(ingest, entry, &size);
	mark_changed(ingest, entry);
}

/*
 * An import makes this fork at the end of the record at hand and stores the
 * size that is returned.  It keeps the cuts of an earlier fork of that name.
 */
void
sizes_import(Ingest *ingest, NeonKey key, BlockNumber nblocks, RelSize *size)
{
	SizeEntry  *entry = entry_for(ingest, &key);

	entry_get(entry, size);
	if (!size->dropped)
		relsize_drop(size, ingest->record->EndRecPtr - 1);
	relsize_create(size);
	relsize_extend(size, nblocks);
	count_blocks(ingest, entry->nblocks, nblocks);
	entry_set(ingest, entry, size);
}

/* ---- a whole database ---- */

typedef struct KeyList
{
	NeonKey    *keys;
	int			n;
	int			max;
} KeyList;

static bool
collect_existing(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	KeyList    *list = arg;
	RelSize		size;

	if (newest->value_kind != NEON_VALUE_SIZE ||
		!relsize_decode(newest->data, newest->len, &size) || size.dropped)
		return true;
	if (list->n == list->max)
	{
		list->max *= 2;
		list->keys = repalloc_huge(list->keys, list->max * sizeof(NeonKey));
	}
	list->keys[list->n++] = *key;
	return true;
}

/* Forks that the store does not know of yet. */
static void
drop_entries(Ingest *ingest, Oid spc, Oid db)
{
	HASH_SEQ_STATUS seq;
	SizeEntry  *entry;

	hash_seq_init(&seq, ingest->sizes);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		if (entry->key.spc == spc && entry->key.db == db)
			sizes_drop(ingest, entry->key);
	}
}

void
sizes_drop_database(Ingest *ingest, Oid spc, Oid db)
{
	NeonKey		lo = neon_key(NEON_KEY_SIZE, spc, db, 0, 0, 0);
	NeonKey		hi = neon_key(NEON_KEY_SIZE, spc, db, PG_UINT32_MAX, MAX_FORKNUM, MaxBlockNumber);
	KeyList		list = {.max = 1024};
	int			i;

	ingest_publish_before(ingest);
	list.keys = palloc(list.max * sizeof(NeonKey));
	store_scan(ingest->tl, &lo, &hi, ingest_known_lsn(ingest), collect_existing, &list);
	for (i = 0; i < list.n; i++)
		sizes_drop(ingest, list.keys[i]);
	if (ingest->aside)
		drop_entries(ingest, spc, db);
	pfree(list.keys);
}

/* ---- end of a record, of a batch ---- */

void
sizes_put_changed(Ingest *ingest)
{
	int			i;

	for (i = 0; i < ingest->nchanged; i++)
	{
		SizeEntry  *entry = ingest->changed[i];
		StringInfoData buf;
		RelSize		size;

		entry_get(entry, &size);
		initStringInfo(&buf);
		relsize_encode(&size, &buf);
		ingest_put(ingest, entry->key, NEON_VALUE_SIZE, true, buf.data, buf.len);
		entry->changed = false;
	}
	ingest->nchanged = 0;
}

static void
make_table(Ingest *ingest)
{
	HASHCTL		ctl = {.keysize = sizeof(NeonKey), .entrysize = sizeof(SizeEntry)};

	ctl.hcxt = ingest->context;
	memset(ingest->recent_sizes, 0, sizeof(ingest->recent_sizes));
	ingest->sizes = hash_create("ingest sizes", 1024, &ctl,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Everything is published: the store has all that the table knows. */
void
sizes_trim(Ingest *ingest)
{
	HASH_SEQ_STATUS seq;
	SizeEntry  *entry;

	if (ingest->nchanged > 0 || hash_get_num_entries(ingest->sizes) < MAX_ENTRIES)
		return;
	hash_seq_init(&seq, ingest->sizes);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		if (entry->cuts)
			pfree(entry->cuts);
	}
	hash_destroy(ingest->sizes);
	make_table(ingest);
}

/* ---- beginning ---- */

static bool
load_one(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	Ingest	   *ingest = arg;
	SizeEntry  *entry;
	RelSize		size;
	bool		found;

	if (newest->value_kind != NEON_VALUE_SIZE ||
		!relsize_decode(newest->data, newest->len, &size))
		return true;
	if (!size.dropped)
		count_blocks(ingest, 0, size.nblocks);
	if (hash_get_num_entries(ingest->sizes) >= MAX_ENTRIES / 2)
		return true;
	entry = hash_search(ingest->sizes, key, HASH_ENTER, &found);
	entry->changed = false;
	entry->cuts = NULL;
	entry_set(ingest, entry, &size);
	return true;
}

/*
 * The sum that the timeline knows is that of its last owner.  It is counted
 * anew once in a life of the server, and before a branch has WAL of its own,
 * which begins with its ancestor's present sum.
 */
void
sizes_load(Ingest *ingest)
{
	NeonKey		lo = neon_key(NEON_KEY_SIZE, 0, 0, 0, 0, 0);
	NeonKey		hi = neon_key(NEON_KEY_SIZE, PG_UINT32_MAX, PG_UINT32_MAX, PG_UINT32_MAX,
							  MAX_FORKNUM, MaxBlockNumber);

	make_table(ingest);
	ingest->max_changed = 64;
	ingest->changed = MemoryContextAlloc(ingest->context,
										 ingest->max_changed * sizeof(SizeEntry *));
	if (ingest->aside)
		return;
	if (ingest_is_recovered(ingest->tl) &&
		timeline_last_record_lsn(ingest->tl) != ingest->tl->id.start_lsn)
	{
		ingest->logical_size = timeline_logical_size(ingest->tl);
		return;
	}
	ingest->logical_size = 0;
	store_scan(ingest->tl, &lo, &hi, timeline_last_record_lsn(ingest->tl), load_one, ingest);
	timeline_set_logical_size(ingest->tl, ingest->logical_size);
}
