/*-------------------------------------------------------------------------
 *
 * pagefuncs.c
 *	  Small SQL functions on a timeline's history: get_page, wait_lsn,
 *	  lease_lsn.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "history.h"
#include "ingest.h"
#include "read.h"
#include "sqlutil.h"
#include "store.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(neon_get_page);
PG_FUNCTION_INFO_V1(neon_wait_lsn);
PG_FUNCTION_INFO_V1(neon_lease_lsn);
PG_FUNCTION_INFO_V1(neon_lease_release);

/* ereport(ERROR) unless lsn is in the history that is here. */
static void
check_in_history(Timeline *tl, XLogRecPtr lsn)
{
	XLogRecPtr	start = sql_history_start(tl);
	XLogRecPtr	end = timeline_last_record_lsn(tl);

	if (lsn < start)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("LSN %X/%X is before the start of the timeline's history",
						LSN_FORMAT_ARGS(lsn)),
				 errdetail("It starts at %X/%X.", LSN_FORMAT_ARGS(start))));
	if (lsn > end)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("LSN %X/%X is in the future", LSN_FORMAT_ARGS(lsn)),
				 errdetail("The timeline ends at %X/%X.", LSN_FORMAT_ARGS(end))));
}

/* ereport(ERROR) unless the fork exists at lsn and has the block. */
static void
check_block_exists(Timeline *tl, const NeonKey *page, XLogRecPtr lsn)
{
	RelFileNode rnode = {page->spc, page->db, page->rel};
	NeonKey		key = neon_size_key(rnode, (ForkNumber) page->fork);
	char	   *path = relpathperm(rnode, (ForkNumber) page->fork);
	RelSize		size;

	if (!store_size_at(tl, &key, lsn, &size))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("relation %s does not exist at LSN %X/%X", path,
						LSN_FORMAT_ARGS(lsn))));
	if (page->blk >= size.nblocks)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("block %u is beyond the end of relation %s at LSN %X/%X",
						page->blk, path, LSN_FORMAT_ARGS(lsn)),
				 errdetail("The relation has %u blocks.", size.nblocks)));
}

Datum
neon_get_page(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	RelFileNode rnode = {PG_GETARG_OID(2), PG_GETARG_OID(3), PG_GETARG_OID(4)};
	int32		fork = PG_GETARG_INT32(5);
	int64		blk = PG_GETARG_INT64(6);
	XLogRecPtr	lsn = PG_GETARG_LSN(7);
	bytea	   *result;
	NeonKey		key;

	if (fork < 0 || fork > MAX_FORKNUM)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid fork number %d", fork),
				 errhint("Forks are 0 (main), 1 (fsm), 2 (vm) and 3 (init).")));
	if (blk < 0 || blk > MaxBlockNumber)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid block number")));
	timeline_check_readable(tl);
	ingest_catch_up(tl);
	check_in_history(tl, lsn);

	result = palloc(VARHDRSZ + BLCKSZ);
	SET_VARSIZE(result, VARHDRSZ + BLCKSZ);
	key = neon_page_key(rnode, (ForkNumber) fork, (BlockNumber) blk);
	history_read_begin_at(tl, lsn);
	check_block_exists(tl, &key, lsn);
	read_page(tl, &key, lsn, VARDATA(result));
	history_read_end();
	PG_RETURN_BYTEA_P(result);
}

/* Returns whether the LSN has been reached, after a start first by what is stored. */
Datum
neon_wait_lsn(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	XLogRecPtr	lsn = PG_GETARG_LSN(2);
	int64		ms = sql_interval_us(PG_GETARG_INTERVAL_P(3), "timeout") / 1000;

	timeline_check_readable(tl);
	ingest_catch_up(tl);
	PG_RETURN_BOOL(timeline_last_record_lsn(tl) >= lsn ||
				   timeline_wait_lsn(tl, lsn, Min(ms, PG_INT32_MAX)));
}

/* A lease holds the timeline's own history; what is older is its ancestor's. */
static void
check_lease_lsn(const Timeline *tl, XLogRecPtr lsn)
{
	if (lsn < tl->id.start_lsn)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("LSN %X/%X is before the start of the branch", LSN_FORMAT_ARGS(lsn)),
				 errdetail("It starts at %X/%X.", LSN_FORMAT_ARGS(tl->id.start_lsn)),
				 errhint("Lease the LSN of the branch that it comes from.")));
}

/* Returns until when the LSN stays readable. */
Datum
neon_lease_lsn(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	XLogRecPtr	lsn;
	int64		length;
	NeonId		id;

	sql_refuse_transaction_block("lease_lsn");
	if (PG_ARGISNULL(2) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lsn and duration must not be null")));
	lsn = PG_GETARG_LSN(2);
	timeline_check_readable(tl);
	ingest_catch_up(tl);
	check_in_history(tl, lsn);
	check_lease_lsn(tl, lsn);
	length = sql_interval_us(PG_GETARG_INTERVAL_P(3), "duration");
	if (!PG_ARGISNULL(4))
		id = sql_id_arg(fcinfo, 4, "lease");
	else if (!neon_id_generate(&id))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random id")));
	PG_RETURN_TIMESTAMPTZ(history_lease(tl, &id, lsn, length));
}

/* False if there is no such lease, or it is gone already. */
Datum
neon_lease_release(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	NeonId		id = sql_id_arg(fcinfo, 2, "lease");

	sql_refuse_transaction_block("lease_release");
	timeline_check_readable(tl);
	PG_RETURN_BOOL(history_release_lease(tl, &id));
}
