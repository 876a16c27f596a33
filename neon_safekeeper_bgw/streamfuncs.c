/*-------------------------------------------------------------------------
 *
 * streamfuncs.c
 *	  SQL functions receive() and tail().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "fetch.h"
#include "funcapi.h"
#include "neon_receive.h"
#include "neon_sqlutil.h"
#include "receivers.h"
#include "skwal.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/pg_lsn.h"

#define TAIL_MAX_BYTES	(16 * 1024 * 1024)

static void
check_term(SkTimeline *tl, uint32 term)
{
	SkPositions p;

	sk_get_positions(tl, &p);
	if (p.promised > term || p.floor > term)
		ereport(ERROR,
				(errcode(ERRCODE_NS_SUPERSEDED),
				 errmsg("superseded by term %u", Max(p.promised, p.floor)),
				 sk_errdetail_state(tl)));
}

static uint32
term_arg(FunctionCallInfo fcinfo, int argno)
{
	int32		term = PG_GETARG_INT32(argno);

	if (term <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a term must be at least 1")));
	return (uint32) term;
}

PG_FUNCTION_INFO_V1(neon_sk_receive);

/* receive(tenant, timeline, generation, term, boot_id, conninfo) */
Datum
neon_sk_receive(PG_FUNCTION_ARGS)
{
	NeonId		tenant;
	NeonId		timeline;
	NeonId		boot_id;
	uint32		term;
	char	   *conninfo;
	SkTimeline *tl;

	sql_refuse_transaction_block("receive");
	tenant = sql_id_arg(fcinfo, 0, "tenant");
	timeline = sql_id_arg(fcinfo, 1, "timeline");
	sk_check_tenant_role(&tenant, false);
	term = term_arg(fcinfo, 3);
	boot_id = sql_id_arg(fcinfo, 4, "boot_id");
	conninfo = sql_text_arg(fcinfo, 5, "conninfo");
	receiver_check_conninfo(conninfo, RECEIVER_CONNINFO_SIZE);

	tl = sk_open(&tenant, &timeline);
	sk_check_healthy(tl);
	sk_check_compute_generation(tl, PG_GETARG_INT64(2));
	sk_check_member(tl);
	check_term(tl, term);
	/* a member that missed the election learns of the term first: the worker does that */
	receivers_order_stream(tl, term, &boot_id, conninfo);
	PG_RETURN_VOID();
}

bytea *
sk_read_tail(SkTimeline *tl, uint32 term, XLogRecPtr from, int max_bytes, SkState *st)
{
	SkPositions p;
	size_t		len = 0;
	bytea	   *data;

	sk_lock(tl);
	sk_get_positions(tl, &p);
	sk_get_state(tl, st);
	if (p.promised != term)
		ereport(ERROR,
				(errcode(p.promised > term ? ERRCODE_NS_SUPERSEDED :
						 ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the promised term is %u, not %u", p.promised, term),
				 sk_errdetail_state(tl)));
	if (p.flush_lsn > from)
		len = Min(p.flush_lsn - from, (uint64) max_bytes);
	data = palloc(VARHDRSZ + len);
	SET_VARSIZE(data, VARHDRSZ + len);
	if (len > 0 && (from < p.wal_start || !skwal_read(tl, from, VARDATA(data), len)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("WAL from %X/%X on is not here any more", LSN_FORMAT_ARGS(from)),
				 sk_errdetail_state(tl)));
	sk_unlock(tl);
	return data;
}

PG_FUNCTION_INFO_V1(neon_sk_tail);

/* tail(tenant, timeline, term, from_lsn, max_bytes) returns (history jsonb, data bytea) */
Datum
neon_sk_tail(PG_FUNCTION_ARGS)
{
	SkState    *st = palloc(sizeof(SkState));
	NeonId		tenant;
	NeonId		timeline;
	int32		max_bytes = PG_GETARG_INT32(4);
	SkTimeline *tl;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	bytea	   *data;

	sql_refuse_transaction_block("tail");
	sk_check_storage_role();
	tenant = sql_id_arg(fcinfo, 0, "tenant");
	timeline = sql_id_arg(fcinfo, 1, "timeline");
	if (max_bytes < 0 || max_bytes > TAIL_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_bytes must be between 0 and %d", TAIL_MAX_BYTES)));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	tl = sk_open(&tenant, &timeline);
	data = sk_read_tail(tl, term_arg(fcinfo, 2), PG_GETARG_LSN(3), max_bytes, st);
	values[0] = DirectFunctionCall1(jsonb_in, CStringGetDatum(skhistory_to_json(&st->history)));
	values[1] = PointerGetDatum(data);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
