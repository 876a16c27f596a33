/*-------------------------------------------------------------------------
 *
 * catalogs.c
 *	  The system catalogs that a compute fetches first after its start.
 *
 * To log in, and to read the views that tell what is wrong, a session needs
 * pages of catalogs.  Whoever looks because the pageserver is away cannot fetch
 * them then.  So they are fetched at once: those that all databases share, and
 * those of the database "postgres" and of each database that was in use in the
 * life before.  What no session or view needs is left out.  A catalog that was
 * rewritten (VACUUM FULL) has another number and is not known here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_database_d.h"
#include "catalog/pg_depend_d.h"
#include "catalog/pg_description_d.h"
#include "catalog/pg_largeobject_d.h"
#include "catalog/pg_largeobject_metadata_d.h"
#include "catalog/pg_shdepend_d.h"
#include "catalog/pg_tablespace_d.h"
#include "catalogs.h"
#include "lib/stringinfo.h"
#include "map.h"
#include "nodes/pg_list.h"

/* Larger ones, and what is beyond the sum, are not worth it. */
#define FORK_MAX_BLOCKS		(32 * 1024 * 1024 / BLCKSZ)
#define TOTAL_MAX_BLOCKS	(64 * 1024 * 1024 / BLCKSZ)

static const Oid not_needed[] = {
	CollationRelationId, CollationNameEncNspIndexId, CollationOidIndexId,
	DependRelationId, DependDependerIndexId, DependReferenceIndexId,
	DescriptionRelationId, DescriptionObjIndexId,
	LargeObjectRelationId, LargeObjectLOidPNIndexId,
	LargeObjectMetadataRelationId, LargeObjectMetadataOidIndexId,
	SharedDependRelationId, SharedDependDependerIndexId, SharedDependReferenceIndexId
};

/* "postgres", and those with blocks in the list. */
static List *
databases(const WarmChunk *warm, uint32 n)
{
	List	   *dbs = list_make1_oid(PostgresDbOid);

	for (uint32 i = 0; i < n; i++)
	{
		/* the list is sorted by use, not by database, but there are few of them */
		if (warm[i].db != llast_oid(dbs))
			dbs = list_append_unique_oid(dbs, warm[i].db);
	}
	return dbs;
}

static bool
is_needed(const MapFork *fork, const List *dbs)
{
	const RelFileNode *rnode = &fork->rnode;

	if (rnode->relNode >= FirstGenbkiObjectId ||
		(fork->forknum != MAIN_FORKNUM && fork->forknum != VISIBILITYMAP_FORKNUM))
		return false;
	for (int i = 0; i < lengthof(not_needed); i++)
		if (rnode->relNode == not_needed[i])
			return false;
	return rnode->spcNode == GLOBALTABLESPACE_OID || list_member_oid(dbs, rnode->dbNode);
}

static void
append_fork(StringInfo out, const MapFork *fork, BlockNumber nblocks)
{
	WarmChunk	whole = {0};

	whole.spc = fork->rnode.spcNode;
	whole.db = fork->rnode.dbNode;
	whole.rel = fork->rnode.relNode;
	whole.fork = fork->forknum;
	/* bits beyond the end do no harm */
	memset(whole.blocks, 0xff, sizeof(whole.blocks));
	for (; (uint64) whole.chunk * MAP_CHUNK_BLOCKS < nblocks; whole.chunk++)
		appendBinaryStringInfo(out, (const char *) &whole, sizeof(whole));
}

uint32
catalog_chunks(const WarmChunk *warm, uint32 nwarm, const WarmChunk **chunks)
{
	List	   *dbs = databases(warm, nwarm);
	uint64		total = 0;
	StringInfoData out;

	initStringInfo(&out);
	for (uint64 i = 0; i < map_nforks(); i++)
	{
		const MapFork *fork = map_fork_at(i);
		BlockNumber nblocks = map_watermark(fork);

		if (nblocks > FORK_MAX_BLOCKS || total + nblocks > TOTAL_MAX_BLOCKS ||
			!is_needed(fork, dbs))
			continue;
		total += nblocks;
		append_fork(&out, fork, nblocks);
	}
	list_free(dbs);
	*chunks = (const WarmChunk *) out.data;
	return out.len / sizeof(WarmChunk);
}
