/*-------------------------------------------------------------------------
 *
 * localsql.c
 *	  SQL functions of the extension "neon" about the local copy: how much of
 *	  it is here, who fetches what, hydration.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "files.h"
#include "hydration.h"
#include "localstat.h"
#include "map.h"
#include "miscadmin.h"
#include "neon.h"
#include "sql.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/relmapper.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

NEON_SQL_FUNCTION(neon_sql_stat_local);
NEON_SQL_FUNCTION(neon_sql_stat_backends);
NEON_SQL_FUNCTION(neon_sql_stat_reset);
NEON_SQL_FUNCTION(neon_sql_local_relations);
NEON_SQL_FUNCTION(neon_sql_hydrate);
NEON_SQL_FUNCTION(neon_sql_hydration_progress);

/* ----------
 * Counters
 * ----------
 */

static Datum
milliseconds(uint64 us)
{
	return Float8GetDatum(us / 1000.0);
}

Datum
neon_sql_stat_local(PG_FUNCTION_ARGS)
{
	TupleDesc	desc = result_row_type(fcinfo);
	NeonLocalStats stats;
	TimestampTz reset = local_reset_time();
	Datum		values[14];
	bool		nulls[14] = {false};

	neon_local_stats(&stats);
	values[0] = Int64GetDatum((int64) stats.hits);
	values[1] = Int64GetDatum((int64) stats.misses);
	values[2] = Int64GetDatum((int64) stats.fetched_pages);
	values[3] = Int64GetDatum((int64) stats.fetched_bytes);
	values[4] = Int64GetDatum((int64) stats.evicted_chunks);
	values[5] = Int64GetDatum((int64) stats.present_bytes);
	values[6] = Int64GetDatum((int64) stats.limit_bytes);
	nulls[6] = stats.limit_bytes == 0;
	values[7] = Int64GetDatum((int64) stats.absent_bytes);
	values[8] = Int64GetDatum((int64) local_total(LOCAL_FETCHES));
	values[9] = Int64GetDatum((int64) local_total(LOCAL_READ_AHEAD_HITS));
	values[10] = Int64GetDatum((int64) local_total(LOCAL_RETRIES));
	values[11] = Int64GetDatum((int64) local_total(LOCAL_FAILURES));
	values[12] = milliseconds(local_total(LOCAL_WAIT_US));
	values[13] = TimestampTzGetDatum(reset);
	nulls[13] = reset == 0;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

Datum
neon_sql_stat_backends(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < local_nslots(); i++)
	{
		LocalProcess p;
		const char *wait;
		Datum		values[14];
		bool		nulls[14] = {false};

		if (!local_process(i, &p))
			continue;
		wait = local_wait_name(p.wait);
		values[0] = Int32GetDatum(p.pid);
		values[1] = Int64GetDatum((int64) p.counter[LOCAL_HITS]);
		values[2] = Int64GetDatum((int64) p.counter[LOCAL_MISSES]);
		values[3] = Int64GetDatum((int64) p.counter[LOCAL_READ_AHEAD_HITS]);
		values[4] = Int64GetDatum((int64) p.counter[LOCAL_FETCHES]);
		values[5] = Int64GetDatum((int64) p.counter[LOCAL_FETCHED_PAGES]);
		values[6] = Int64GetDatum((int64) p.counter[LOCAL_FETCHED_BYTES]);
		values[7] = Int64GetDatum((int64) p.counter[LOCAL_RETRIES]);
		values[8] = Int64GetDatum((int64) p.counter[LOCAL_FAILURES]);
		values[9] = milliseconds(p.counter[LOCAL_WAIT_US]);
		values[10] = wait ? CStringGetTextDatum(wait) : (Datum) 0;
		nulls[10] = wait == NULL;
		nulls[11] = nulls[12] = nulls[13] = !p.needs_block;
		if (p.needs_block)
		{
			values[11] = CStringGetTextDatum(relpathperm(p.rnode, p.forknum));
			values[12] = Int64GetDatum((int64) p.blkno);
			values[13] = milliseconds(p.needs_us);
		}
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
neon_sql_stat_reset(PG_FUNCTION_ARGS)
{
	local_reset();
	PG_RETURN_VOID();
}

/* ----------
 * Relations
 * ----------
 */

static RelFileNode
class_rnode(Form_pg_class class)
{
	RelFileNode rnode;

	rnode.spcNode = OidIsValid(class->reltablespace) ? class->reltablespace : MyDatabaseTableSpace;
	rnode.dbNode = class->relisshared ? InvalidOid : MyDatabaseId;
	rnode.relNode = OidIsValid(class->relfilenode) ? class->relfilenode :
		RelationMapOidToFilenode(class->oid, class->relisshared);
	return rnode;
}

/* Blocks of all forks, and those of them that are not here.  No relation is locked. */
static void
count_relation(RelFileNode rnode, uint64 *blocks, uint64 *absent)
{
	*blocks = *absent = 0;
	for (ForkNumber forknum = 0; forknum <= MAX_FORKNUM; forknum++)
	{
		MapFork    *fork = map_lookup(rnode, forknum);
		uint64		size = files_blocks(rnode, forknum);

		*blocks += size;
		if (fork != NULL)
		{
			uint64		here;
			uint64		not_here;

			map_count_fork_blocks(fork, &here, &not_here);
			*absent += Min(not_here, size);
		}
	}
}

static void
put_relation(ReturnSetInfo *rsinfo, Form_pg_class class)
{
	uint64		blocks;
	uint64		absent;
	Datum		values[4];
	bool		nulls[4] = {false};

	count_relation(class_rnode(class), &blocks, &absent);
	values[0] = ObjectIdGetDatum(class->oid);
	values[1] = CharGetDatum(class->relkind);
	values[2] = Int64GetDatum((int64) (blocks * BLCKSZ));
	values[3] = Int64GetDatum((int64) ((blocks - absent) * BLCKSZ));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Temporary relations are no part of what is stored. */
Datum
neon_sql_local_relations(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Relation	classes = table_open(RelationRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(classes, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	InitMaterializedSRF(fcinfo, 0);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_class class = (Form_pg_class) GETSTRUCT(tuple);

		CHECK_FOR_INTERRUPTS();
		if (RELKIND_HAS_STORAGE(class->relkind) && class->relpersistence != RELPERSISTENCE_TEMP)
			put_relation(rsinfo, class);
	}
	systable_endscan(scan);
	table_close(classes, AccessShareLock);
	return (Datum) 0;
}

/* ----------
 * Hydration
 * ----------
 */

Datum
neon_sql_hydrate(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_INT64((int64) neon_hydrate_all());
	PG_RETURN_INT64((int64) neon_hydrate_relation(PG_GETARG_OID(0)));
}

Datum
neon_sql_hydration_progress(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < hydration_nslots(); i++)
	{
		HydrationProgress p;
		Datum		values[8];
		bool		nulls[8] = {false};

		if (!hydration_progress(i, &p))
			continue;
		values[0] = Int32GetDatum(p.pid);
		values[1] = CStringGetTextDatum(hydration_kind_name(p.kind));
		values[2] = CStringGetTextDatum(p.flushing ? "flushing files" : "fetching");
		values[3] = TimestampTzGetDatum(p.started);
		values[4] = Int64GetDatum((int64) p.total);
		values[5] = Int64GetDatum((int64) (p.total - p.left));
		values[6] = Int64GetDatum((int64) p.fetched);
		nulls[7] = !p.reading;
		if (p.reading)
			values[7] = CStringGetTextDatum(relpathperm(p.rnode, p.forknum));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
