/*-------------------------------------------------------------------------
 *
 * branch.c
 *	  SQL functions that make, rename and delete branches.
 *
 * A branch is one manifest that names its ancestor and an LSN; nothing is
 * copied.  A user's LSN or time is rounded down to the end of a commit, abort
 * or prepare record, so that a branch never begins inside a transaction's
 * last record but where some transaction ended.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "controlat.h"
#include "funcapi.h"
#include "history.h"
#include "ingest.h"
#include "source.h"
#include "sqlutil.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(neon_branch_create);
PG_FUNCTION_INFO_V1(neon_round_lsn);
PG_FUNCTION_INFO_V1(neon_timeline_rename);
PG_FUNCTION_INFO_V1(neon_timeline_delete);

/* For WAL that the source has and we do not have yet. */
#define CATCH_UP_TIMEOUT_MS	30000

/* ---- finding timelines ---- */

/* By name or by id. */
static Timeline *
find_branch(const NeonId *tenant, const char *name)
{
	NeonId		id;
	Timeline   *tl;

	tl = neon_id_parse(name, &id) ? timeline_open(tenant, &id, true) :
		timeline_open_by_name(tenant, name);
	if (tl == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("branch \"%.64s\" does not exist", name),
				 errhint("\"neon timeline list\" shows the branches.")));
	return tl;
}

static void
check_new_name(const NeonId *tenant, const char *name)
{
	sql_check_branch_name(name);
	if (timeline_open_by_name(tenant, name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("branch \"%s\" already exists", name)));
}

/* ---- the branch point ---- */

/*
 * Where the history known here ends, after the live source's WAL up to now was
 * waited for.
 */
static XLogRecPtr
wait_for_source(Timeline *tl)
{
	XLogRecPtr	lsn = ingest_current_lsn(tl);

	if (XLogRecPtrIsInvalid(lsn))
		return InvalidXLogRecPtr;
	if (!timeline_wait_lsn(tl, lsn, CATCH_UP_TIMEOUT_MS))
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("WAL up to %X/%X did not arrive in time", LSN_FORMAT_ARGS(lsn)),
				 errdetail("The branch ends at %X/%X.",
						   LSN_FORMAT_ARGS(timeline_last_record_lsn(tl)))));
	return lsn;
}

/* A writer that may have WAL which is not here and is not to be asked. */
static bool
writer_is_unknown(Timeline *tl)
{
	TimelineWriter writer;

	timeline_get_writer(tl, &writer);
	return writer.term != 0 && XLogRecPtrIsInvalid(writer.drained_lsn);
}

static XLogRecPtr
point_now(Timeline *tl)
{
	XLogRecPtr	lsn = wait_for_source(tl);
	TimelineWriter writer;

	if (!XLogRecPtrIsInvalid(lsn))
		return lsn;
	if (writer_is_unknown(tl))
	{
		timeline_get_writer(tl, &writer);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("endpoint \"%s\" may have WAL that has not arrived, and is not connected",
						writer.endpoint),
				 errhint("Use \"neon timeline branch\", which fetches it, or give an LSN.")));
	}
	return timeline_last_record_lsn(tl);
}

static void
refuse_before_start(Timeline *tl, const char *what)
{
	char		name[NEON_NAME_MAX];
	char		ancestor[NEON_NAME_MAX] = "";

	timeline_get_name(tl, name);
	if (tl->ancestor)
		timeline_get_name(tl->ancestor, ancestor);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s is before the start of branch \"%s\"", what, name),
			 errdetail("It starts at %X/%X.", LSN_FORMAT_ARGS(tl->id.start_lsn)),
			 tl->ancestor ? errhint("Branch from its ancestor \"%s\" instead.", ancestor) :
			 errhint("Give an LSN or a time from its history.")));
}

static XLogRecPtr
point_at_lsn(Timeline *tl, XLogRecPtr lsn)
{
	char		what[64];

	snprintf(what, sizeof(what), "LSN %X/%X", LSN_FORMAT_ARGS(lsn));
	if (lsn < tl->id.start_lsn)
		refuse_before_start(tl, what);
	history_check(tl, lsn, history_cutoff(tl, NULL), ERRCODE_INVALID_PARAMETER_VALUE);
	if (lsn > timeline_last_record_lsn(tl))
	{
		XLogRecPtr	end = wait_for_source(tl);

		if (lsn > Max(end, timeline_last_record_lsn(tl)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s is in the future", what),
					 errdetail("The branch ends at %X/%X.",
							   LSN_FORMAT_ARGS(timeline_last_record_lsn(tl))),
					 errhint("Leave the LSN out to branch from the present end.")));
	}
	return lsn;
}

static XLogRecPtr
point_at_time(Timeline *tl, TimestampTz when)
{
	TimestampTz commit_time;
	XLogRecPtr	lsn;
	bool		in_future;

	if (when > GetCurrentTimestamp())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time %s is in the future", timestamptz_to_str(when)),
				 errhint("Leave the time out to branch from the present end.")));
	history_check_time(tl, when);
	if (!control_lsn_for_timestamp(tl, when, &lsn, &commit_time, &in_future))
		refuse_before_start(tl, psprintf("time %s", timestamptz_to_str(when)));
	if (in_future)
	{
		/* commits before that time may still be on their way */
		(void) point_now(tl);
		if (!control_lsn_for_timestamp(tl, when, &lsn, &commit_time, &in_future))
			refuse_before_start(tl, psprintf("time %s", timestamptz_to_str(when)));
	}
	return lsn;
}

/* Rounds down, but never below the start of the timeline. */
static void
round_point(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	if (lsn > tl->id.start_lsn)
		control_round_to_commit(tl, lsn, state);
	if (lsn <= tl->id.start_lsn || state->lsn < tl->id.start_lsn)
		control_at(tl, tl->id.start_lsn, state);
}

/* The point that the arguments of branch_create name, and its state. */
static void
branch_point(FunctionCallInfo fcinfo, Timeline *tl, ControlState *state)
{
	XLogRecPtr	lsn;

	if (!PG_ARGISNULL(3) && !PG_ARGISNULL(4))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only one of at_lsn and at_time may be given")));
	if (!PG_ARGISNULL(3))
		lsn = point_at_lsn(tl, PG_GETARG_LSN(3));
	else if (!PG_ARGISNULL(4))
		lsn = point_at_time(tl, PG_GETARG_TIMESTAMPTZ(4));
	else
		lsn = point_now(tl);
	round_point(tl, lsn, state);
}

/* ---- SQL functions ---- */

static NeonId
new_timeline_id(FunctionCallInfo fcinfo, const NeonId *tenant)
{
	NeonId		id;
	char		hex[NEON_ID_HEXLEN + 1];

	if (PG_ARGISNULL(5))
	{
		if (!neon_id_generate(&id))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random id")));
		return id;
	}
	id = sql_id_arg(fcinfo, 5, "timeline");
	if (timeline_open(tenant, &id, true) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("timeline %s already exists", neon_id_format(&id, hex))));
	return id;
}

Datum
neon_branch_create(PG_FUNCTION_ARGS)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	char	   *name = sql_text_arg(fcinfo, 1, "name");
	char	   *from = sql_text_arg(fcinfo, 2, "from_branch");
	Timeline   *ancestor;
	NeonId		id;
	ControlState state;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	check_tenant_access(&tenant);
	sql_refuse_transaction_block("branch_create");
	InitMaterializedSRF(fcinfo, 0);
	ancestor = find_branch(&tenant, from);
	check_new_name(&tenant, name);
	id = new_timeline_id(fcinfo, &tenant);
	timeline_check_readable(ancestor);
	ingest_catch_up(ancestor);
	branch_point(fcinfo, ancestor, &state);
	timeline_create_branch(ancestor, &id, name, state.lsn, state.prev);

	values[0] = sql_id_datum(&id);
	values[1] = LSNGetDatum(state.lsn);
	sql_put_row(fcinfo, values, nulls);
	return (Datum) 0;
}

/* What branch_create would make of an LSN: where a static endpoint boots. */
Datum
neon_round_lsn(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	ControlState state;

	timeline_check_readable(tl);
	ingest_catch_up(tl);
	round_point(tl, point_at_lsn(tl, PG_GETARG_LSN(2)), &state);
	PG_RETURN_LSN(state.lsn);
}

Datum
neon_timeline_rename(PG_FUNCTION_ARGS)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	char	   *from = sql_text_arg(fcinfo, 1, "from_name");
	char	   *to = sql_text_arg(fcinfo, 2, "to_name");
	Timeline   *tl;

	check_tenant_access(&tenant);
	sql_refuse_transaction_block("timeline_rename");
	tl = find_branch(&tenant, from);
	check_new_name(&tenant, to);
	timeline_rename(tl, to);
	PG_RETURN_VOID();
}

/*
 * A compute that streams is a writer.  Safekeepers stream with and without one,
 * and are asked whether there is one before the pageserver is.
 */
static void
refuse_live_writer(Timeline *tl)
{
	SourceTarget target;
	TimelineWriter writer;

	if (!ingest_source_connected(tl) || !source_get_target(tl, &target) ||
		target.kind != SOURCE_COMPUTE)
		return;
	timeline_get_writer(tl, &writer);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("endpoint \"%s\" is writing this timeline", writer.endpoint),
			 errhint("Stop the endpoint first.")));
}

Datum
neon_timeline_delete(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);

	sql_refuse_transaction_block("timeline_delete");
	refuse_live_writer(tl);
	source_clear(tl);
	timeline_drop(tl);
	PG_RETURN_VOID();
}
