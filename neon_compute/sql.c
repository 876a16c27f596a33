/*-------------------------------------------------------------------------
 *
 * sql.c
 *	  SQL functions of the extension "neon": what this compute is, branches.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "coordinator.h"
#include "lease.h"
#include "miscadmin.h"
#include "neon.h"
#include "pageserver.h"
#include "quorum.h"
#include "replication/message.h"
#include "sql.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/tuplestore.h"

#define NEON_VERSION	"1.0"

NEON_SQL_FUNCTION(neon_sql_tenant_id);
NEON_SQL_FUNCTION(neon_sql_timeline_id);
NEON_SQL_FUNCTION(neon_sql_version);
NEON_SQL_FUNCTION(neon_sql_status);
NEON_SQL_FUNCTION(neon_sql_safekeepers);
NEON_SQL_FUNCTION(neon_sql_branch_create);
NEON_SQL_FUNCTION(neon_sql_branches);

TupleDesc
result_row_type(FunctionCallInfo fcinfo)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return BlessTupleDesc(desc);
}

static const char *
kind_name(NeonEndpointKind kind)
{
	switch (kind)
	{
		case NEON_PRIMARY:
			return "primary";
		case NEON_STATIC:
			return "static";
		case NEON_EPHEMERAL:
			return "ephemeral";
	}
	return "unknown";
}

Datum
neon_sql_tenant_id(PG_FUNCTION_ARGS)
{
	char		hex[NEON_ID_HEXLEN + 1];

	PG_RETURN_TEXT_P(cstring_to_text(neon_id_format(&neon_boot.tenant_id, hex)));
}

Datum
neon_sql_timeline_id(PG_FUNCTION_ARGS)
{
	char		hex[NEON_ID_HEXLEN + 1];

	PG_RETURN_TEXT_P(cstring_to_text(neon_id_format(&neon_boot.timeline_id, hex)));
}

Datum
neon_sql_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text("neon " NEON_VERSION " on PostgreSQL " PG_VERSION));
}

Datum
neon_sql_status(PG_FUNCTION_ARGS)
{
	TupleDesc	desc = result_row_type(fcinfo);
	bool		primary = neon_boot.kind == NEON_PRIMARY;
	bool		writes = neon_boot.kind != NEON_STATIC;
	XLogRecPtr	insert = writes ? GetXLogInsertRecPtr() : InvalidXLogRecPtr;
	StorageState state;
	char		held_back[512] = "";
	Datum		values[14];
	bool		nulls[14] = {false};

	storage_state(&state);
	values[0] = CStringGetTextDatum(neon_boot.endpoint);
	values[1] = CStringGetTextDatum(kind_name(neon_boot.kind));
	values[2] = Int64GetDatum((int64) neon_boot.term);
	values[3] = LSNGetDatum(neon_boot.boot_lsn);
	values[4] = LSNGetDatum(insert);
	nulls[4] = !writes;
	values[5] = LSNGetDatum(state.flush_lsn);
	values[6] = Int64GetDatum(insert > state.flush_lsn ? (int64) (insert - state.flush_lsn) : 0);
	values[7] = BoolGetDatum(state.streaming);
	nulls[5] = nulls[6] = nulls[7] = !primary;
	values[8] = BoolGetDatum(neon_fully_hydrated());
	values[9] = CStringGetTextDatum(state.problem);
	nulls[9] = state.problem[0] == '\0';
	nulls[10] = nulls[11] = nulls[12] = !quorum_mode();
	if (quorum_mode())
	{
		values[10] = LSNGetDatum(quorum_pageserver_lsn());
		values[11] = Int32GetDatum(quorum_applied_generation());
		values[12] = Int32GetDatum(lease_left_ms());
	}
	nulls[13] = !storage_needed() || !throttle_describe(held_back, sizeof(held_back));
	values[13] = CStringGetTextDatum(held_back);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

Datum
neon_sql_safekeepers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemberStatus status[NEON_MEMBERS_UNION_MAX];
	int			n = quorum_status(status);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < n; i++)
	{
		const MemberStatus *s = &status[i];
		Datum		values[8];
		bool		nulls[8] = {false};

		values[0] = Int32GetDatum(s->member.id);
		values[1] = CStringGetTextDatum(s->member.node);
		values[2] = CStringGetTextDatum(s->member.host);
		values[3] = Int32GetDatum(s->member.port);
		values[4] = BoolGetDatum(s->streaming);
		values[5] = LSNGetDatum(s->flush_lsn);
		nulls[5] = s->flush_lsn == InvalidXLogRecPtr;
		values[6] = CStringGetTextDatum(s->problem);
		nulls[6] = s->problem[0] == '\0';
		values[7] = Int64GetDatum((int64) s->lag_bytes);
		nulls[7] = nulls[5];
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ----------
 * Branches
 * ----------
 */

static char *
format_lsn(XLogRecPtr lsn)
{
	return psprintf("%X/%X", LSN_FORMAT_ARGS(lsn));
}

/*
 * An LSN above everything that was acknowledged before the call.  The end of
 * a record of our own: the pageserver reaches exactly that, while the insert
 * position may already lie behind the header of a page still to come.
 */
static XLogRecPtr
mark_now(void)
{
	const char *message = "branch";

	return LogLogicalMessage("neon", message, strlen(message), false);
}

static XLogRecPtr
branch_point(FunctionCallInfo fcinfo)
{
	if (neon_boot.kind == NEON_PRIMARY)
	{
		XLogRecPtr	now = mark_now();
		XLogRecPtr	lsn = PG_ARGISNULL(1) ? now : PG_GETARG_LSN(1);

		if (lsn > now)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("LSN %s is in the future", format_lsn(lsn)),
					 errdetail("The WAL of this compute ends at %s.", format_lsn(now))));
		XLogFlush(Min(lsn, now));
		return lsn;
	}
	if (!PG_ARGISNULL(1))
		return PG_GETARG_LSN(1);
	if (neon_boot.kind == NEON_EPHEMERAL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the changes of an ephemeral endpoint are not stored and cannot be branched"),
				 errhint("Give an LSN, at most %s.", format_lsn(neon_boot.boot_lsn))));
	return neon_boot.boot_lsn;
}

static void
wait_for_pageserver(XLogRecPtr lsn)
{
	const char *params[] = {neon_tenant_id_setting, neon_timeline_id_setting, format_lsn(lsn),
	psprintf("%d milliseconds", neon_fetch_timeout)};
	List	   *rows = pageserver_call("SELECT neon_pageserver.wait_lsn($1, $2, $3::pg_lsn, $4::interval)",
									   4, params, neon_fetch_timeout + 1000);
	char	  **row = rows != NIL ? linitial(rows) : NULL;

	if (row == NULL || row[0] == NULL || strcmp(row[0], "t") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("pageserver %s has not received the WAL up to %s in time",
						pageserver_address(), format_lsn(lsn)),
				 errhint("Look at neon.status, and try again.")));
}

/* The pageserver's half of a branch is done whatever becomes of a transaction. */
static void
refuse_transaction_block(const char *what)
{
	if (IsTransactionBlock() || IsSubTransaction())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", what)));
}

Datum
neon_sql_branch_create(PG_FUNCTION_ARGS)
{
	TupleDesc	desc = result_row_type(fcinfo);
	XLogRecPtr	lsn;
	char	  **row;
	List	   *rows;
	Datum		values[2];
	bool		nulls[2] = {false};

	refuse_transaction_block("neon.branch_create");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the branch needs a name")));
	lsn = branch_point(fcinfo);
	if (neon_boot.kind == NEON_PRIMARY)
		wait_for_pageserver(lsn);
	{
		const char *params[] = {neon_tenant_id_setting, text_to_cstring(PG_GETARG_TEXT_PP(0)),
		neon_timeline_id_setting, format_lsn(lsn)};

		rows = pageserver_call("SELECT timeline_id, lsn FROM neon_pageserver.branch_create($1, $2, $3, $4::pg_lsn)",
							   4, params, neon_fetch_timeout);
	}
	if (list_length(rows) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("pageserver %s did not describe the new branch", pageserver_address())));
	row = linitial(rows);
	values[0] = CStringGetTextDatum(row[0]);
	values[1] = DirectFunctionCall1(pg_lsn_in, CStringGetDatum(row[1]));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

Datum
neon_sql_branches(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const char *params[] = {neon_tenant_id_setting, neon_timeline_id_setting};
	AttInMetadata *meta;
	List	   *rows;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	meta = TupleDescGetAttInMetadata(rsinfo->setDesc);
	rows = pageserver_call("SELECT timeline_id, name, ancestor_id, ancestor_lsn, start_lsn,"
						   " last_record_lsn, state, timeline_id = $2"
						   " FROM neon_pageserver.branches($1) ORDER BY name",
						   2, params, neon_fetch_timeout);
	foreach(lc, rows)
		tuplestore_puttuple(rsinfo->setResult, BuildTupleFromCStrings(meta, lfirst(lc)));
	return (Datum) 0;
}
