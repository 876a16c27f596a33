/*-------------------------------------------------------------------------
 *
 * timefn.c
 *	  Times and positions: LSN of a time, the live source's position, a layer
 *	  on demand, and the view of sources.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "controlat.h"
#include "funcapi.h"
#include "history.h"
#include "ingest_private.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_lsn.h"
#include "neon_receive.h"
#include "pgstat.h"
#include "source.h"
#include "sqlutil.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#define SOURCE_QUERY_TIMEOUT_MS	10000
#define CHECKPOINT_POLL_MS		50
#define CHECKPOINT_WAIT_MS		600000

/*
 * A transaction that is committed now: its end lies behind every transaction
 * that was acknowledged before, also asynchronously, and is flushed.
 */
#define CURRENT_LSN_SQL \
	"SET synchronous_commit = local; " \
	"SELECT pg_catalog.pg_logical_emit_message(true, 'neon_pageserver', '')"

/* ---- lsn_for_timestamp ---- */

PG_FUNCTION_INFO_V1(neon_lsn_for_timestamp);

/* lsn_for_timestamp(tenant, timeline, timestamptz) returns pg_lsn */
Datum
neon_lsn_for_timestamp(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	TimestampTz when = PG_GETARG_TIMESTAMPTZ(2);
	TimestampTz commit_time;
	XLogRecPtr	lsn;
	bool		in_future;

	timeline_check_readable(tl);
	ingest_catch_up(tl);
	history_check_time(tl, when);
	if (!control_lsn_for_timestamp(tl, when, &lsn, &commit_time, &in_future))
	{
		/* what its ancestors had of that time may be gone */
		for (Timeline *ancestor = tl->ancestor; ancestor != NULL; ancestor = ancestor->ancestor)
			history_check_time(ancestor, when);
		ereport(NOTICE, (errmsg("the timeline's history begins after that time")));
		PG_RETURN_NULL();
	}
	if (in_future)
		ereport(NOTICE,
				(errmsg("the timeline's history ends before that time"),
				 errdetail("Its last commit is of %s.", timestamptz_to_str(commit_time))));
	PG_RETURN_LSN(lsn);
}

/* ---- the live source's position ---- */

/* Asks and closes the connection, whatever happens. */
static char *
query_and_close(Receiver *receiver, const char *sql, char **problem)
{
	char	   *volatile text = NULL;

	PG_TRY();
	{
		text = receiver_query(receiver, sql, SOURCE_QUERY_TIMEOUT_MS, problem);
	}
	PG_CATCH();
	{
		receiver_close(receiver);
		PG_RE_THROW();
	}
	PG_END_TRY();
	receiver_close(receiver);
	return text;
}

XLogRecPtr
ingest_current_lsn(Timeline *tl)
{
	const ReceiverOptions options = {
		.application_name = SOURCE_APPLICATION_NAME,
		.passfile = ingest_passfile,
	};
	SourceTarget target;
	Receiver   *receiver;
	char	   *problem = NULL;
	char	   *text = NULL;
	XLogRecPtr	lsn;

	if (!ingest_source_connected(tl) || !source_get_target(tl, &target))
		return InvalidXLogRecPtr;
	receiver = receiver_connect(target.conninfo[0], &options, SOURCE_QUERY_TIMEOUT_MS, &problem);
	if (receiver)
		text = query_and_close(receiver, CURRENT_LSN_SQL, &problem);
	if (!neon_lsn_parse(text, &lsn))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not ask the writer of the timeline for its position"),
				 errdetail_internal("%s", text ? text : problem)));
	return lsn;
}

/* ---- timeline_checkpoint ---- */

static void
checkpoint_as_owner(Ingest *ingest, void *arg)
{
	ingest_flush(ingest, INGEST_FLUSH_WAIT);
}

/* Waits until the worker has done it; false if there is no worker (any more). */
static bool
checkpoint_by_worker(Timeline *tl, XLogRecPtr target)
{
	TimestampTz end = TimestampTzPlusMilliseconds(neon_clock(), CHECKPOINT_WAIT_MS);

	while (timeline_disk_consistent_lsn(tl) < target)
	{
		CHECK_FOR_INTERRUPTS();
		if (!source_request_flush(tl))
			return false;
		/* what has been frozen is written here, so that its error is ours */
		(void) store_flush_frozen(tl);
		if (neon_clock() > end)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("the timeline's worker did not write a layer in time")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 CHECKPOINT_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	return true;
}

void
ingest_checkpoint(Timeline *tl)
{
	ingest_catch_up(tl);
	if (!checkpoint_by_worker(tl, timeline_last_record_lsn(tl)))
		ingest_with_ownership(tl, checkpoint_as_owner, NULL);
}

PG_FUNCTION_INFO_V1(neon_timeline_checkpoint);

/* timeline_checkpoint(tenant, timeline) returns pg_lsn: disk_consistent_lsn */
Datum
neon_timeline_checkpoint(PG_FUNCTION_ARGS)
{
	Timeline   *tl;

	sql_refuse_transaction_block("timeline_checkpoint");
	check_superuser("timeline_checkpoint");
	tl = sql_open_timeline(fcinfo, 0, 1);
	timeline_check_readable(tl);
	ingest_checkpoint(tl);
	PG_RETURN_LSN(timeline_disk_consistent_lsn(tl));
}

/* ---- the view of sources ---- */

static Datum
timestamp_or_null(TimestampTz at, bool *isnull)
{
	*isnull = at == 0;
	return TimestampTzGetDatum(at);
}

static Datum
lsn_or_null(XLogRecPtr lsn, bool *isnull)
{
	*isnull = XLogRecPtrIsInvalid(lsn);
	return LSNGetDatum(lsn);
}

static void
put_source_row(Timeline *tl, void *arg)
{
	IngestSourceInfo info;
	Datum		values[10];
	bool		nulls[10] = {false};

	if (!ingest_get_source(tl, &info))
		return;
	values[0] = sql_id_datum(&tl->id.tenant);
	values[1] = sql_id_datum(&tl->id.timeline);
	values[2] = Int32GetDatum((int32) info.term);
	values[3] = BoolGetDatum(info.connected);
	values[4] = lsn_or_null(info.received_lsn, &nulls[4]);
	values[5] = lsn_or_null(info.reported_lsn, &nulls[5]);
	values[6] = timestamp_or_null(info.last_message, &nulls[6]);
	values[7] = Int32GetDatum(info.worker_pid);
	nulls[7] = info.worker_pid == 0;
	values[8] = CStringGetTextDatum(info.last_error);
	nulls[8] = info.last_error[0] == '\0';
	values[9] = timestamp_or_null(info.last_error_time, &nulls[9]);
	sql_put_row(arg, values, nulls);
}

PG_FUNCTION_INFO_V1(neon_sources_info);

Datum
neon_sources_info(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	timeline_foreach(put_source_row, fcinfo);
	return (Datum) 0;
}
