/*-------------------------------------------------------------------------
 *
 * append.c
 *	  Writes given WAL to a safekeeper's timeline as the receiver would.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "jump.h"
#include "neon_sqlutil.h"
#include "skwal.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(neon_sk_test_append);
PG_FUNCTION_INFO_V1(neon_sk_test_close);
PG_FUNCTION_INFO_V1(neon_sk_test_refresh);
PG_FUNCTION_INFO_V1(neon_sk_test_read);
PG_FUNCTION_INFO_V1(neon_sk_test_trim);
PG_FUNCTION_INFO_V1(neon_sk_test_jump);

static SkTimeline *
timeline_arg(FunctionCallInfo fcinfo)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	NeonId		timeline = sql_id_arg(fcinfo, 1, "timeline");

	return sk_open(&tenant, &timeline);
}

Datum
neon_sk_test_append(PG_FUNCTION_ARGS)
{
	SkTimeline *tl = timeline_arg(fcinfo);
	XLogRecPtr	lsn = PG_GETARG_LSN(3);
	bytea	   *data = PG_GETARG_BYTEA_PP(4);
	SkReader   *reader;
	XLogRecPtr	end;
	const char *problem;

	sk_begin_write(tl, PG_GETARG_INT32(2), "test");
	reader = skreader_open(tl, sk_flush_lsn(tl));
	skwal_write(tl, lsn, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data));
	end = skreader_follow(reader, lsn + VARSIZE_ANY_EXHDR(data), &problem);
	skreader_close(reader);
	if (problem)
		ereport(NOTICE, (errmsg("%s", problem)));
	skwal_sync(tl);
	if (!sk_advance_flush(tl, end) || !sk_note_acked(tl, end))
		ereport(ERROR,
				(errcode(ERRCODE_NS_SUPERSEDED),
				 errmsg("writing was stopped")));
	sk_end_write(tl);
	PG_RETURN_LSN(sk_flush_lsn(tl));
}

Datum
neon_sk_test_close(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(sk_close_cleanly(timeline_arg(fcinfo)));
}

Datum
neon_sk_test_refresh(PG_FUNCTION_ARGS)
{
	sk_refresh(timeline_arg(fcinfo));
	PG_RETURN_VOID();
}

Datum
neon_sk_test_read(PG_FUNCTION_ARGS)
{
	int			len = PG_GETARG_INT32(3);
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	if (!skwal_read(timeline_arg(fcinfo), PG_GETARG_LSN(2), VARDATA(result), len))
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(result);
}

Datum
neon_sk_test_trim(PG_FUNCTION_ARGS)
{
	SkTimeline *tl = timeline_arg(fcinfo);
	XLogRecPtr	wal_start;

	sk_lock(tl);
	wal_start = skwal_remove_below(tl, PG_GETARG_LSN(2));
	sk_unlock(tl);
	PG_RETURN_LSN(wal_start);
}

Datum
neon_sk_test_jump(PG_FUNCTION_ARGS)
{
	SkTimeline *tl = timeline_arg(fcinfo);
	bytea	   *data = PG_GETARG_BYTEA_PP(9);
	SkBeginning b;

	b.wal_start = PG_GETARG_LSN(3);
	b.first_record = PG_GETARG_LSN(4);
	b.commit_lsn = PG_GETARG_LSN(5);
	b.term.term = PG_GETARG_INT32(6);
	b.term.start = PG_GETARG_LSN(7);
	b.boot_id = sql_id_arg(fcinfo, 8, "boot id");
	b.data = VARDATA_ANY(data);
	b.len = VARSIZE_ANY_EXHDR(data);
	PG_RETURN_BOOL(sk_jump(tl, PG_GETARG_INT32(2), &b));
}
