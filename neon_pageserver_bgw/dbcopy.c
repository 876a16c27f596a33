/*-------------------------------------------------------------------------
 *
 * dbcopy.c
 *	  A database made by copying files: CREATE DATABASE ... STRATEGY
 *	  file_copy, and ALTER DATABASE ... SET TABLESPACE.
 *
 * The record names only the two databases.  Everything of the source as of
 * the record is stored again under the copy's keys, as one import at the end
 * of the record.  The server has made a checkpoint before it, so what it
 * copied is what the WAL up to there says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "blobs.h"
#include "ingest_private.h"
#include "miscadmin.h"
#include "read.h"
#include "utils/memutils.h"

/* Pages made in one call of read_pages(). */
#define COPY_BATCH		64

typedef struct CopiedFork
{
	NeonKey		key;			/* of the source's size */
	BlockNumber nblocks;
} CopiedFork;

typedef struct DbCopy
{
	Ingest	   *ingest;
	Oid			spc;			/* of the copy */
	Oid			db;
	XLogRecPtr	lsn;			/* the source is read as of here */
	StoreImport *import;
	MemoryContext batch_context;
	CopiedFork *forks;
	int			nforks;
	int			max_forks;
} DbCopy;

static bool
collect_fork(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	DbCopy	   *copy = arg;
	RelSize		size;

	if (newest->value_kind != NEON_VALUE_SIZE ||
		!relsize_decode(newest->data, newest->len, &size) || size.dropped)
		return true;
	if (copy->nforks == copy->max_forks)
	{
		copy->max_forks *= 2;
		copy->forks = repalloc_huge(copy->forks, copy->max_forks * sizeof(CopiedFork));
	}
	copy->forks[copy->nforks].key = *key;
	copy->forks[copy->nforks].nblocks = size.nblocks;
	copy->nforks++;
	return true;
}

static void
collect_forks(DbCopy *copy, Oid src_spc, Oid src_db)
{
	NeonKey		lo = neon_key(NEON_KEY_SIZE, src_spc, src_db, 0, 0, 0);
	NeonKey		hi = neon_key(NEON_KEY_SIZE, src_spc, src_db, PG_UINT32_MAX,
							  MAX_FORKNUM, MaxBlockNumber);

	copy->max_forks = 1024;
	copy->forks = palloc(copy->max_forks * sizeof(CopiedFork));
	store_scan(copy->ingest->tl, &lo, &hi, copy->lsn, collect_fork, copy);
}

static NeonKey
copied_key(const DbCopy *copy, NeonKey key)
{
	key.spc = copy->spc;
	key.db = copy->db;
	return key;
}

static bool
is_zero_page(const char *page)
{
	const size_t *words = (const size_t *) page;
	int			i;

	for (i = 0; i < BLCKSZ / sizeof(size_t); i++)
	{
		if (words[i] != 0)
			return false;
	}
	return true;
}

/* Pages that are all zeros are not stored: that is what an absent one reads as. */
static void
copy_batch(DbCopy *copy, const CopiedFork *fork, BlockNumber first, int n)
{
	NeonKey    *keys = palloc(n * sizeof(NeonKey));
	char	   *pages = palloc(n * BLCKSZ);
	PageResult *results = palloc0(n * sizeof(PageResult));
	int			i;

	for (i = 0; i < n; i++)
		keys[i] = neon_key(NEON_KEY_PAGE, fork->key.spc, fork->key.db, fork->key.rel,
						   fork->key.fork, first + i);
	read_pages(copy->ingest->tl, keys, n, copy->lsn, pages, results);
	for (i = 0; i < n; i++)
	{
		NeonKey		key = copied_key(copy, keys[i]);

		if (!results[i].ok)
			ereport(ERROR,
					(errcode(MAKE_SQLSTATE(results[i].sqlstate[0], results[i].sqlstate[1],
										   results[i].sqlstate[2], results[i].sqlstate[3],
										   results[i].sqlstate[4])),
					 errmsg("could not copy block %u of relation %u/%u/%u: %s",
							keys[i].blk, keys[i].spc, keys[i].db, keys[i].rel,
							results[i].message)));
		if (!is_zero_page(pages + i * BLCKSZ))
			store_import_put(copy->import, &key, NEON_VALUE_IMAGE, pages + i * BLCKSZ, BLCKSZ);
	}
}

static void
copy_fork(DbCopy *copy, const CopiedFork *fork)
{
	NeonKey		key = copied_key(copy, fork->key);
	StringInfoData buf;
	BlockNumber blk;
	RelSize		size;

	for (blk = 0; blk < fork->nblocks; blk += COPY_BATCH)
	{
		MemoryContext old = MemoryContextSwitchTo(copy->batch_context);

		CHECK_FOR_INTERRUPTS();
		copy_batch(copy, fork, blk, Min(COPY_BATCH, fork->nblocks - blk));
		MemoryContextSwitchTo(old);
		MemoryContextReset(copy->batch_context);
	}
	sizes_import(copy->ingest, key, fork->nblocks, &size);
	initStringInfo(&buf);
	relsize_encode(&size, &buf);
	store_import_put(copy->import, &key, NEON_VALUE_SIZE, buf.data, buf.len);
	pfree(buf.data);
}

/* The relation map goes along; the copy does not depend on the source. */
static void
copy_database_blob(DbCopy *copy, Oid src_spc, Oid src_db)
{
	NeonKey		key = neon_key(NEON_KEY_DATABASE, src_spc, src_db, 0, 0, 0);
	DatabaseBlob *blob = palloc0(sizeof(DatabaseBlob));
	StoreChain	chain;
	StringInfoData buf;

	store_get(copy->ingest->tl, &key, 1, copy->lsn, &chain);
	if (chain.found == STORE_FOUND && chain.nversions > 0 &&
		chain.versions[0].value_kind == NEON_VALUE_BLOB &&
		!blob_get_database(chain.versions[0].data, chain.versions[0].len, blob))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored state of database %u is malformed", src_db)));
	blob->alias_spc = InvalidOid;
	blob->alias_db = InvalidOid;
	blob->alias_lsn = InvalidXLogRecPtr;
	initStringInfo(&buf);
	blob_put_database(&buf, blob);
	key = copied_key(copy, key);
	store_import_put(copy->import, &key, NEON_VALUE_BLOB, buf.data, buf.len);
}

void
dbcopy_run(Ingest *ingest, Oid spc, Oid db, Oid src_spc, Oid src_db)
{
	DbCopy		copy;
	int			i;

	ingest_publish_before(ingest);
	memset(&copy, 0, sizeof(copy));
	copy.ingest = ingest;
	copy.spc = spc;
	copy.db = db;
	copy.lsn = timeline_last_record_lsn(ingest->tl);
	copy.batch_context = AllocSetContextCreate(CurrentMemoryContext, "database copy",
											   ALLOCSET_DEFAULT_SIZES);
	collect_forks(&copy, src_spc, src_db);
	copy.import = store_import_begin(ingest->tl, ingest->record->EndRecPtr);
	for (i = 0; i < copy.nforks; i++)
		copy_fork(&copy, &copy.forks[i]);
	copy_database_blob(&copy, src_spc, src_db);
	store_import_finish(copy.import);
	MemoryContextDelete(copy.batch_context);
	pfree(copy.forks);
}
