/*-------------------------------------------------------------------------
 *
 * memberfuncs.c
 *	  SQL functions for changing the members of a timeline: who they are, and
 *	  a learner that copies what is committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "election.h"
#include "funcapi.h"
#include "neon_receive.h"
#include "neon_sqlutil.h"
#include "receivers.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#define CONFIGURATION_COLUMNS	6
#define FOLLOW_MAX_MS			(60 * 1000)

PG_FUNCTION_INFO_V1(neon_sk_configuration);
PG_FUNCTION_INFO_V1(neon_sk_follow);

/* ---- configuration ---- */

static void
append_members(StringInfo buf, const SkMemberSet *set)
{
	char		node[NEON_ID_HEXLEN + 1];

	for (int i = 0; i < set->n; i++)
		appendStringInfo(buf, "%s%u:%s:%s:%u", i ? "," : "", set->member[i].id,
						 neon_id_format(&set->member[i].node, node),
						 set->member[i].host, set->member[i].port);
}

/* As a compute is told them; see neon_members.h. */
static char *
members_text(const SkConfig *config)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_members(&buf, &config->members);
	if (config->joint)
	{
		appendStringInfoChar(&buf, ';');
		append_members(&buf, &config->new_members);
	}
	return buf.data;
}

static Datum
json_datum(const char *json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

/*
 * configuration(tenant, timeline): generation, floor, members as text, the
 * configuration and the history as JSON, and up to where that is committed.
 */
Datum
neon_sk_configuration(PG_FUNCTION_ARGS)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	NeonId		timeline = sql_id_arg(fcinfo, 1, "timeline");
	SkState    *st = palloc(sizeof(SkState));
	TupleDesc	desc;
	Datum		values[CONFIGURATION_COLUMNS];
	bool		nulls[CONFIGURATION_COLUMNS] = {false};

	sk_check_tenant_role(&tenant, true);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	sk_get_state(sk_open(&tenant, &timeline), st);
	values[0] = Int64GetDatum(st->config.generation);
	values[1] = Int32GetDatum(st->config.floor);
	values[2] = CStringGetTextDatum(members_text(&st->config));
	values[3] = json_datum(skconfig_to_json(&st->config));
	values[4] = json_datum(skhistory_to_json(&st->history));
	values[5] = LSNGetDatum(st->commit_lsn);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* ---- learners ---- */

/* The history of the WAL below upto. */
static void
committed_history(Jsonb *jb, XLogRecPtr upto, SkHistory *history)
{
	char	   *problem = NULL;

	if (!skhistory_from_jsonb(jb, history, &problem))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid history of terms"),
				 errdetail_internal("%s", problem)));
	while (history->n > 1 && history->entry[history->n - 1].start > upto)
		history->n--;
}

static int
timeout_ms(const Interval *timeout)
{
	return (int) Min(Max(timeout->time / 1000, 0), FOLLOW_MAX_MS);
}

/*
 * follow(tenant, timeline, generation, history, upto, donor, timeout): a
 * learner copies WAL up to upto, which is committed, from the donor or another
 * member, for at most the timeout.
 */
Datum
neon_sk_follow(PG_FUNCTION_ARGS)
{
	NeonId		tenant;
	NeonId		timeline;
	SkTimeline *tl;
	SkHistory	history;
	SkPositions p;
	XLogRecPtr	upto = PG_GETARG_LSN(4);
	uint32		term;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	sql_refuse_transaction_block("follow");
	check_superuser("follow");
	tenant = sql_id_arg(fcinfo, 0, "tenant");
	timeline = sql_id_arg(fcinfo, 1, "timeline");
	committed_history(PG_GETARG_JSONB_P(3), upto, &history);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	tl = sk_open(&tenant, &timeline);
	term = sk_follow(tl, PG_GETARG_INT64(2), &history);
	sk_copy_to_x(tl, term, upto, sql_text_arg(fcinfo, 5, "donor"),
				 timeout_ms(PG_GETARG_INTERVAL_P(6)));
	(void) sk_raise_commit_copied(tl, upto);
	sk_get_positions(tl, &p);
	values[0] = LSNGetDatum(p.flush_lsn);
	values[1] = LSNGetDatum(p.commit_lsn);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
