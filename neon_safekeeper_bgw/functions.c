/*-------------------------------------------------------------------------
 *
 * functions.c
 *	  The SQL functions that are the protocol's messages: arguments in,
 *	  decisions of election.h and manage.h, rows out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "election.h"
#include "fmgr.h"
#include "funcapi.h"
#include "manage.h"
#include "neon_sqlutil.h"
#include "receivers.h"
#include "skwal.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(neon_sk_node_uuid);
PG_FUNCTION_INFO_V1(neon_sk_timeline_create);
PG_FUNCTION_INFO_V1(neon_sk_promise);
PG_FUNCTION_INFO_V1(neon_sk_elected);
PG_FUNCTION_INFO_V1(neon_sk_commit);
PG_FUNCTION_INFO_V1(neon_sk_release);
PG_FUNCTION_INFO_V1(neon_sk_members);
PG_FUNCTION_INFO_V1(neon_sk_timeline_delete);
PG_FUNCTION_INFO_V1(neon_sk_positions);
PG_FUNCTION_INFO_V1(neon_sk_timelines_info);

#define MAX_COLUMNS		16

/* A row that is filled from left to right. */
typedef struct Row
{
	Datum		values[MAX_COLUMNS];
	bool		nulls[MAX_COLUMNS];
	int			n;
} Row;

/* ---- arguments ---- */

static void
check_not_null(FunctionCallInfo fcinfo, int argno, const char *what)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
}

static uint32
term_arg(FunctionCallInfo fcinfo, int argno)
{
	check_not_null(fcinfo, argno, "term");
	if (PG_GETARG_INT32(argno) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a term must not be negative")));
	return (uint32) PG_GETARG_INT32(argno);
}

/* An interval as milliseconds, at most a day. */
static int
timeout_arg(FunctionCallInfo fcinfo, int argno)
{
	const Interval *timeout;
	int64		ms;

	check_not_null(fcinfo, argno, "timeout");
	timeout = PG_GETARG_INTERVAL_P(argno);
	ms = timeout->time / 1000 + ((int64) timeout->day + 30 * (int64) timeout->month) * 86400000;
	return (int) Min(Max(ms, 0), 86400000);
}

static uint64
generation_arg(FunctionCallInfo fcinfo, int argno)
{
	check_not_null(fcinfo, argno, "generation");
	return (uint64) PG_GETARG_INT64(argno);
}

static XLogRecPtr
lsn_arg(FunctionCallInfo fcinfo, int argno, const char *what)
{
	check_not_null(fcinfo, argno, what);
	return PG_GETARG_LSN(argno);
}

static void
history_arg(FunctionCallInfo fcinfo, int argno, SkHistory *history)
{
	char	   *problem;

	check_not_null(fcinfo, argno, "history");
	if (!skhistory_from_jsonb(PG_GETARG_JSONB_P(argno), history, &problem))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid history of terms"),
				 errdetail_internal("%s", problem)));
}

static void
config_arg(FunctionCallInfo fcinfo, int argno, SkConfig *config)
{
	char	   *problem;

	check_not_null(fcinfo, argno, "configuration");
	if (!skconfig_from_jsonb(PG_GETARG_JSONB_P(argno), config, &problem))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid configuration of members"),
				 errdetail_internal("%s", problem)));
}

static SkTimeline *
timeline_arg(FunctionCallInfo fcinfo)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	NeonId		timeline = sql_id_arg(fcinfo, 1, "timeline");

	return sk_open(&tenant, &timeline);
}

/* ---- rows ---- */

static void
add(Row *row, Datum value)
{
	row->values[row->n++] = value;
}

static void
add_lsn(Row *row, XLogRecPtr lsn)
{
	row->nulls[row->n] = XLogRecPtrIsInvalid(lsn);
	row->values[row->n++] = LSNGetDatum(lsn);
}

static void
add_text(Row *row, const char *text)
{
	row->nulls[row->n] = text[0] == '\0';
	row->values[row->n++] = CStringGetTextDatum(text);
}

static void
add_jsonb(Row *row, const char *json)
{
	add(row, DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
}

static Datum
row_datum(FunctionCallInfo fcinfo, Row *row)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	Assert(desc->natts == row->n);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), row->values, row->nulls));
}

static const char *
state_name(const SkPositions *p)
{
	switch (p->status)
	{
		case SK_ACTIVE:
			return p->member ? "active" : "learner";
		case SK_DAMAGED:
			return "damaged";
		case SK_UNOPENED:
			return "idle";
		case SK_DELETED:
		case SK_UNUSED:
			break;
	}
	return "deleted";
}

/* ---- messages ---- */

Datum
neon_sk_node_uuid(PG_FUNCTION_ARGS)
{
	return sql_id_datum(sk_node());
}

static void
create_state(FunctionCallInfo fcinfo, SkState *st)
{
	memset(st, 0, sizeof(*st));
	st->tenant = sql_id_arg(fcinfo, 0, "tenant");
	st->timeline = sql_id_arg(fcinfo, 1, "timeline");
	check_not_null(fcinfo, 2, "system identifier");
	st->system_identifier = (uint64) PG_GETARG_INT64(2);
	check_not_null(fcinfo, 3, "segment size");
	st->wal_segment_size = (uint32) PG_GETARG_INT32(3);
	check_not_null(fcinfo, 4, "WAL timeline");
	st->tli = (uint32) PG_GETARG_INT32(4);
	st->start_lsn = lsn_arg(fcinfo, 5, "start LSN");
	st->promised = term_arg(fcinfo, 6);
	history_arg(fcinfo, 7, &st->history);
	config_arg(fcinfo, 8, &st->config);
}

static void
check_create(const SkState *st)
{
	const char *problem = NULL;

	if (!IsValidWalSegSize(st->wal_segment_size))
		problem = "The segment size is not a power of two between 1 MB and 1 GB.";
	else if (st->tli != 1)
		problem = "PostgreSQL's timeline must be 1.";
	else if (st->system_identifier == 0)
		problem = "The system identifier must not be 0.";
	else if (st->start_lsn < st->wal_segment_size || st->start_lsn % MAXIMUM_ALIGNOF != 0)
		problem = "No WAL record can end at the start LSN.";
	else if (st->history.entry[0].start > st->start_lsn)
		problem = "The history begins above the start LSN.";
	else if (skhistory_last(&st->history)->term > st->promised)
		problem = "The history has a term above the given one.";
	else if (st->config.floor > st->promised)
		problem = "The term is below the configuration's floor.";
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the timeline cannot be created"),
				 errdetail_internal("%s", problem)));
}

Datum
neon_sk_timeline_create(PG_FUNCTION_ARGS)
{
	SkState		st;
	bytea	   *head = PG_ARGISNULL(9) ? NULL : PG_GETARG_BYTEA_PP(9);

	check_superuser("timeline_create");
	sql_refuse_transaction_block("timeline_create");
	create_state(fcinfo, &st);
	check_create(&st);
	sk_create(&st, head ? VARDATA_ANY(head) : NULL, head ? VARSIZE_ANY_EXHDR(head) : 0);
	PG_RETURN_VOID();
}

Datum
neon_sk_promise(PG_FUNCTION_ARGS)
{
	SkPromise	result;
	Row			row = {.n = 0};

	check_superuser("promise");
	sql_refuse_transaction_block("promise");
	sk_promise(timeline_arg(fcinfo), generation_arg(fcinfo, 2), term_arg(fcinfo, 3),
			   sql_text_arg(fcinfo, 4, "launcher"), &result);
	add(&row, Int32GetDatum(result.positions.promised));
	add(&row, Int32GetDatum(result.positions.last_log_term));
	add_lsn(&row, result.positions.flush_lsn);
	add_lsn(&row, result.positions.commit_lsn);
	add_jsonb(&row, skhistory_to_json(&result.state.history));
	add_jsonb(&row, skconfig_to_json(&result.state.config));
	add(&row, Int32GetDatum(result.lease_left_ms));
	add_text(&row, result.last_writer);
	return row_datum(fcinfo, &row);
}

Datum
neon_sk_elected(PG_FUNCTION_ARGS)
{
	SkTimeline *tl;
	SkHistory	history;
	SkPositions p;
	Row			row = {.n = 0};

	check_superuser("elected");
	sql_refuse_transaction_block("elected");
	history_arg(fcinfo, 5, &history);
	tl = timeline_arg(fcinfo);
	sk_elected(tl, generation_arg(fcinfo, 2), term_arg(fcinfo, 3),
			   lsn_arg(fcinfo, 4, "X"), &history);
	sk_copy_to_x(tl, term_arg(fcinfo, 3), lsn_arg(fcinfo, 4, "X"),
				 PG_ARGISNULL(6) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(6)),
				 timeout_arg(fcinfo, 7));
	sk_get_positions(tl, &p);
	add_lsn(&row, p.flush_lsn);
	add(&row, BoolGetDatum(p.counts));
	return row_datum(fcinfo, &row);
}

Datum
neon_sk_commit(PG_FUNCTION_ARGS)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	SkPositions p;
	bool		granted;
	Row			row = {.n = 0};

	sk_check_tenant_role(&tenant, false);
	sql_refuse_transaction_block("commit");
	check_not_null(fcinfo, 5, "lease_ms");
	granted = sk_commit(timeline_arg(fcinfo), generation_arg(fcinfo, 2), term_arg(fcinfo, 3),
			  lsn_arg(fcinfo, 4, "LSN"), Max(PG_GETARG_INT32(5), 0), &p);
	add_lsn(&row, p.flush_lsn);
	add_lsn(&row, p.commit_lsn);
	add_lsn(&row, p.pageserver.received_lsn);
	add(&row, Int32GetDatum(p.promised));
	add(&row, Int32GetDatum(p.floor));
	add(&row, Int64GetDatum(p.generation));
	add(&row, BoolGetDatum(granted));
	add_text(&row, p.problem);
	return row_datum(fcinfo, &row);
}

Datum
neon_sk_release(PG_FUNCTION_ARGS)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");

	sk_check_tenant_role(&tenant, false);
	sql_refuse_transaction_block("release");
	sk_release(timeline_arg(fcinfo), generation_arg(fcinfo, 2), term_arg(fcinfo, 3));
	PG_RETURN_VOID();
}

Datum
neon_sk_members(PG_FUNCTION_ARGS)
{
	SkConfig	config;

	check_superuser("members");
	sql_refuse_transaction_block("members");
	config_arg(fcinfo, 3, &config);
	if (config.generation != generation_arg(fcinfo, 2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the configuration is of another generation")));
	sk_members(timeline_arg(fcinfo), &config);
	PG_RETURN_VOID();
}

Datum
neon_sk_timeline_delete(PG_FUNCTION_ARGS)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	NeonId		timeline = sql_id_arg(fcinfo, 1, "timeline");

	check_superuser("timeline_delete");
	sql_refuse_transaction_block("timeline_delete");
	sk_delete(&tenant, &timeline, generation_arg(fcinfo, 2),
			  !PG_ARGISNULL(3) && PG_GETARG_BOOL(3));
	PG_RETURN_VOID();
}

/* ---- positions ---- */

static void
put_positions(SkTimeline *tl, void *arg)
{
	Row			row = {.n = 0};
	SkPositions p;
	SkState		st;

	sk_get_positions(tl, &p);
	sk_get_state(tl, &st);
	if (p.status == SK_DELETED)
		return;
	add(&row, sql_id_datum(&tl->tenant));
	add(&row, sql_id_datum(&tl->timeline));
	add(&row, Int64GetDatum(p.generation));
	add(&row, Int32GetDatum(p.promised));
	add(&row, Int32GetDatum(p.last_log_term));
	add_lsn(&row, p.flush_lsn);
	add_lsn(&row, p.commit_lsn);
	add_lsn(&row, p.wal_start);
	add(&row, BoolGetDatum(p.counts));
	add_lsn(&row, p.pageserver.received_lsn);
	add(&row, Int32GetDatum(p.lease_left_ms));
	add_text(&row, st.launcher);
	add_text(&row, state_name(&p));
	add_lsn(&row, skpageserver_durable(&p.pageserver));
	sql_put_row(arg, row.values, row.nulls);
}

/* Whom nobody needs to ask again. */
static void
put_deleted(const NeonId *tenant, const NeonId *timeline, FunctionCallInfo fcinfo)
{
	Row			row = {.n = 0};

	memset(row.nulls, true, sizeof(row.nulls));
	row.values[0] = sql_id_datum(tenant);
	row.values[1] = sql_id_datum(timeline);
	row.values[12] = CStringGetTextDatum("deleted");
	row.nulls[0] = row.nulls[1] = row.nulls[12] = false;
	sql_put_row(fcinfo, row.values, row.nulls);
}

static void
put_if_active(SkTimeline *tl, void *arg)
{
	if (sk_recently_active(tl))
		put_positions(tl, arg);
}

static void
put_one(FunctionCallInfo fcinfo)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	NeonId		timeline = sql_id_arg(fcinfo, 1, "timeline");
	SkTimeline *tl;
	bool		deleted;

	sk_check_tenant_role(&tenant, true);
	tl = sk_open_unless_deleted(&tenant, &timeline, &deleted);
	if (tl != NULL)
		put_positions(tl, fcinfo);
	else if (deleted)
		put_deleted(&tenant, &timeline, fcinfo);
}

Datum
neon_sk_positions(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	if (!PG_ARGISNULL(0) || !PG_ARGISNULL(1))
		put_one(fcinfo);
	else
	{
		sk_check_storage_role();
		sk_foreach(false, put_if_active, fcinfo);
	}
	return (Datum) 0;
}

/* ---- the view ---- */

static char *
member_list(const SkMemberSet *set)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < set->n; i++)
		appendStringInfo(&buf, "%s%u", i ? "," : "", set->member[i].id);
	return buf.data;
}

/* A timeline that nobody needed yet is shown as its file has it. */
static bool
view_state(SkTimeline *tl, SkPositions *p, SkState *st)
{
	char		dir[MAXPGPATH];
	char	   *problem;

	sk_get_positions(tl, p);
	if (p->status == SK_DELETED)
		return false;
	sk_get_state(tl, st);
	if (p->status == SK_UNOPENED)
	{
		if (skstate_read(sk_path(tl, NULL, dir), st, &problem) != SK_STATE_OK)
		{
			/* opening it finds that it is damaged, and says so */
			(void) sk_open_if_known(&tl->tenant, &tl->timeline);
			sk_get_positions(tl, p);
			sk_get_state(tl, st);
			return true;
		}
		p->flush_lsn = InvalidXLogRecPtr;
		p->promised = st->promised;
		p->generation = st->config.generation;
		p->commit_lsn = st->commit_lsn;
		p->wal_start = st->wal_start;
	}
	return true;
}

static void
put_timeline(SkTimeline *tl, void *arg)
{
	Row			row = {.n = 0};
	SkPositions p;
	SkState		st;
	char		source[SK_HOST_MAX];
	char		retained_by[SK_HOST_MAX];
	char		detail[SK_DETAIL_MAX];

	if (!view_state(tl, &p, &st))
		return;
	SpinLockAcquire(&tl->shared->mutex);
	strlcpy(source, tl->shared->writer_source, sizeof(source));
	strlcpy(retained_by, tl->shared->retained_by, sizeof(retained_by));
	strlcpy(detail, tl->shared->detail[0] ? tl->shared->detail : tl->shared->problem,
			sizeof(detail));
	SpinLockRelease(&tl->shared->mutex);
	add(&row, sql_id_datum(&tl->tenant));
	add(&row, sql_id_datum(&tl->timeline));
	add_text(&row, state_name(&p));
	add(&row, Int64GetDatum(p.generation));
	add(&row, Int32GetDatum(p.promised));
	add(&row, Int32GetDatum(p.last_log_term));
	add_lsn(&row, p.flush_lsn);
	add_lsn(&row, p.commit_lsn);
	add_lsn(&row, p.wal_start);
	add_text(&row, psprintf("%s%s%s", member_list(&st.config.members),
							st.config.joint ? " -> " : "",
							st.config.joint ? member_list(&st.config.new_members) : ""));
	add_text(&row, source);
	add_text(&row, retained_by);
	add_lsn(&row, p.pageserver.received_lsn);
	add_text(&row, detail);
	sql_put_row(arg, row.values, row.nulls);
}

Datum
neon_sk_timelines_info(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	sk_foreach(false, put_timeline, fcinfo);
	return (Datum) 0;
}
