/*-------------------------------------------------------------------------
 *
 * writer.c
 *	  The last writer of a timeline.
 *
 * The record of it in the manifest is the source of terms.  It is changed by
 * compare-and-set while the timeline's ownership is held and all stored WAL is
 * indexed, so "up to where was it written" has one answer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "controlat.h"
#include "funcapi.h"
#include "ingest_private.h"
#include "miscadmin.h"
#include "neon_receive.h"
#include "source.h"
#include "sqlutil.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "walstore.h"
#include "writer.h"

uint32
writer_term_arg(FunctionCallInfo fcinfo, int argno)
{
	int32		term = PG_GETARG_INT32(argno);

	if (term < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("term must not be negative")));
	return (uint32) term;
}

/*
 * Terms of a branch go on above those that are in its history: the control
 * state names the last one of it.
 */
uint32
writer_highest_term(Timeline *tl, const TimelineWriter *writer)
{
	uint32		term = Max(writer->term, timeline_term(tl, NULL));
	ControlState state;

	if (tl->ancestor && control_find(tl, tl->id.start_lsn, &state))
		term = Max(term, state.term);
	return term;
}

void
writer_check_term(Timeline *tl, const TimelineWriter *writer, uint32 term)
{
	uint32		highest = Max(writer->term, timeline_term(tl, NULL));

	if (term < highest)
		ereport(ERROR,
				(errcode(ERRCODE_NEON_SUPERSEDED),
				 errmsg("superseded by term %u", highest),
				 errdetail("The last writer of the timeline is endpoint \"%s\".",
						   writer->endpoint)));
}

/* ---- writer_get ---- */

PG_FUNCTION_INFO_V1(neon_writer_get);

static void
put_writer_row(FunctionCallInfo fcinfo, const TimelineWriter *writer)
{
	Datum		values[7];
	bool		nulls[7] = {false};

	values[0] = CStringGetTextDatum(writer->endpoint);
	values[1] = sql_id_datum(&writer->boot_id);
	values[2] = Int32GetDatum((int32) writer->term);
	values[3] = LSNGetDatum(writer->boot_lsn);
	values[4] = CStringGetTextDatum(writer->pgdata);
	values[5] = CStringGetTextDatum(writer->machine_boot_id);
	values[6] = LSNGetDatum(writer->drained_lsn);
	nulls[6] = XLogRecPtrIsInvalid(writer->drained_lsn);
	sql_put_row(fcinfo, values, nulls);
}

/* writer_get(tenant, timeline): no row if nobody ever wrote */
Datum
neon_writer_get(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	TimelineWriter writer;

	InitMaterializedSRF(fcinfo, 0);
	timeline_get_writer(tl, &writer);
	if (writer.term != 0)
		put_writer_row(fcinfo, &writer);
	return (Datum) 0;
}

/* ---- writer_acquire ---- */

typedef struct AcquireArgs
{
	Timeline   *tl;
	uint32		expected_term;
	TimelineWriter next;
} AcquireArgs;

static void
text_arg_into(FunctionCallInfo fcinfo, int argno, const char *what, char *buf, size_t size)
{
	char	   *text = sql_text_arg(fcinfo, argno, what);

	if (strlen(text) >= size)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long", what),
				 errdetail("It has %zu bytes, at most %zu are possible.", strlen(text), size - 1)));
	strlcpy(buf, text, size);
}

static void
check_predecessor(const TimelineWriter *last, uint32 expected_term)
{
	if (last->term != expected_term)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the last writer has term %u, not %u", last->term, expected_term),
				 errhint("Another endpoint was started at the same time.")));
	if (last->term != 0 && XLogRecPtrIsInvalid(last->drained_lsn))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("endpoint \"%s\" is the writer of this timeline", last->endpoint),
				 errdetail("It has term %u and has not been drained.", last->term),
				 errhint("Stop that endpoint first.")));
}

static void
check_position(Ingest *ingest, const TimelineWriter *last, XLogRecPtr boot_lsn)
{
	XLogRecPtr	end = ingest_state(ingest)->lsn;

	if (last->term != 0 && last->drained_lsn != end)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the timeline ends at %X/%X, but its last writer was drained at %X/%X",
						LSN_FORMAT_ARGS(end), LSN_FORMAT_ARGS(last->drained_lsn))));
	if (boot_lsn != end)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot boot at %X/%X: the timeline ends at %X/%X",
						LSN_FORMAT_ARGS(boot_lsn), LSN_FORMAT_ARGS(end))));
}

static void
acquire_as_owner(Ingest *ingest, void *arg)
{
	AcquireArgs *args = arg;
	TimelineWriter last;
	uint32		highest;

	timeline_get_writer(args->tl, &last);
	check_predecessor(&last, args->expected_term);
	highest = Max(writer_highest_term(args->tl, &last), ingest_state(ingest)->term);
	if (args->next.term <= highest)
		ereport(ERROR,
				(errcode(ERRCODE_NEON_SUPERSEDED),
				 errmsg("superseded by term %u", highest),
				 errdetail("A new writer needs a higher term, not %u.", args->next.term)));
	check_position(ingest, &last, args->next.boot_lsn);
	timeline_set_writer(args->tl, &args->next);
}

/* Where a quorum elects the writer, nobody is made it here. */
static void
refuse_with_safekeepers(Timeline *tl)
{
	if (timeline_members_generation(tl) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this timeline has safekeepers, which elect its writer"),
				 errhint("Use \"neon endpoint start\"; if safekeepers are being added, repeat \"neon safekeeper add\" first.")));
}

PG_FUNCTION_INFO_V1(neon_writer_acquire);

/*
 * writer_acquire(tenant, timeline, expected_term, new_term, endpoint, boot_id,
 *				  boot_lsn, pgdata, machine_boot_id)
 */
Datum
neon_writer_acquire(PG_FUNCTION_ARGS)
{
	AcquireArgs args;

	memset(&args, 0, sizeof(args));
	sql_refuse_transaction_block("writer_acquire");
	check_superuser("writer_acquire");
	args.tl = sql_open_timeline(fcinfo, 0, 1);
	args.expected_term = writer_term_arg(fcinfo, 2);
	args.next.term = writer_term_arg(fcinfo, 3);
	text_arg_into(fcinfo, 4, "endpoint", args.next.endpoint, sizeof(args.next.endpoint));
	args.next.boot_id = sql_id_arg(fcinfo, 5, "boot_id");
	args.next.boot_lsn = PG_GETARG_LSN(6);
	text_arg_into(fcinfo, 7, "pgdata", args.next.pgdata, sizeof(args.next.pgdata));
	text_arg_into(fcinfo, 8, "machine_boot_id", args.next.machine_boot_id,
				  sizeof(args.next.machine_boot_id));
	if (args.next.term == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("term of a writer must be positive")));
	refuse_with_safekeepers(args.tl);
	source_clear(args.tl);
	ingest_with_ownership(args.tl, acquire_as_owner, &args);
	PG_RETURN_VOID();
}

/* ---- writer_drained, writer_abandon ---- */

typedef struct DrainArgs
{
	Timeline   *tl;
	NeonId		boot_id;
	XLogRecPtr	lsn;
	bool		abandon;
} DrainArgs;

static void
check_drain(Ingest *ingest, const DrainArgs *args, const TimelineWriter *writer)
{
	XLogRecPtr	end = ingest_state(ingest)->lsn;

	if (writer->term == 0 || !neon_id_equal(&writer->boot_id, &args->boot_id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this boot is not the last writer of the timeline")));
	if (args->lsn == end)
		return;
	if (args->abandon)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the stored WAL ends at %X/%X, not at %X/%X",
						LSN_FORMAT_ARGS(end), LSN_FORMAT_ARGS(args->lsn)),
				 errdetail("Whatever endpoint \"%s\" wrote behind that position will be lost.",
						   writer->endpoint),
				 errhint("To accept that, give %X/%X as the LSN.", LSN_FORMAT_ARGS(end))));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the WAL of endpoint \"%s\" is said to end at %X/%X, but what is stored ends at %X/%X",
					writer->endpoint, LSN_FORMAT_ARGS(args->lsn), LSN_FORMAT_ARGS(end))));
}

static void
drain_as_owner(Ingest *ingest, void *arg)
{
	DrainArgs  *args = arg;
	Timeline   *tl = args->tl;
	TimelineWriter writer;

	timeline_get_writer(tl, &writer);
	if (writer.term != 0 && neon_id_equal(&writer.boot_id, &args->boot_id) &&
		!XLogRecPtrIsInvalid(writer.drained_lsn) && writer.drained_lsn == args->lsn)
		return;					/* asked again */
	check_drain(ingest, args, &writer);
	ingest_rest(ingest);
	if (timeline_flush_lsn(tl) < args->lsn)
		timeline_set_flush_lsn(tl, args->lsn);
	ingest_flush(ingest, INGEST_FLUSH_BEGIN);
	writer.drained_lsn = args->lsn;
	timeline_set_writer(tl, &writer);
}

static void
drain(FunctionCallInfo fcinfo, bool abandon, const char *function)
{
	DrainArgs	args;

	sql_refuse_transaction_block(function);
	check_superuser(function);
	args.tl = sql_open_timeline(fcinfo, 0, 1);
	args.boot_id = sql_id_arg(fcinfo, 2, "boot_id");
	args.lsn = PG_GETARG_LSN(3);
	args.abandon = abandon;
	source_clear(args.tl);
	ingest_with_ownership(args.tl, drain_as_owner, &args);
}

PG_FUNCTION_INFO_V1(neon_writer_drained);

/* writer_drained(tenant, timeline, boot_id, lsn) */
Datum
neon_writer_drained(PG_FUNCTION_ARGS)
{
	drain(fcinfo, false, "writer_drained");
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(neon_writer_abandon);

/* writer_abandon(tenant, timeline, boot_id, accept_lsn) */
Datum
neon_writer_abandon(PG_FUNCTION_ARGS)
{
	drain(fcinfo, true, "writer_abandon");
	PG_RETURN_VOID();
}

/* ---- timeline_source ---- */

/* Only the writer of the record may be a source, and only until it is drained. */
static void
check_source(Timeline *tl, uint32 term)
{
	TimelineWriter writer;

	timeline_get_writer(tl, &writer);
	if (writer.term == 0 && term == 0)
	{
		/* a plain PostgreSQL whose data directory the timeline was made from */
		check_superuser("timeline_source without a writer");
		return;
	}
	writer_check_term(tl, &writer, term);
	if (term != writer.term)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("term %u has not been acquired", term),
				 errdetail("The last writer has term %u.", writer.term)));
	if (!XLogRecPtrIsInvalid(writer.drained_lsn))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("endpoint \"%s\" has been drained at %X/%X",
						writer.endpoint, LSN_FORMAT_ARGS(writer.drained_lsn)),
				 errdetail("Its WAL is not accepted any more.")));
}

static char **
conninfo_arg(FunctionCallInfo fcinfo, int argno, int *n)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(argno);
	Datum	   *elems;
	bool	   *nulls;
	char	  **result;
	int			i;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, n);
	if (*n < 1 || *n > SOURCE_MAX_CONNINFO)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a timeline has between 1 and %d sources", SOURCE_MAX_CONNINFO)));
	result = palloc(*n * sizeof(char *));
	for (i = 0; i < *n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("connection string of a WAL source must not be null")));
		result[i] = TextDatumGetCString(elems[i]);
		receiver_check_conninfo(result[i], SOURCE_CONNINFO_SIZE);
	}
	return result;
}

/* Any term that is not over may name the safekeepers: they serve one history. */
static void
check_safekeeper_source(Timeline *tl, uint32 term)
{
	uint32		highest = timeline_term(tl, NULL);

	if (term < highest)
		ereport(ERROR,
				(errcode(ERRCODE_NEON_SUPERSEDED),
				 errmsg("superseded by term %u", highest)));
}

/* The kind that a timeline has, which an explicit argument may only confirm. */
static SourceKind
source_kind_arg(FunctionCallInfo fcinfo, int argno, Timeline *tl)
{
	char	   *name = sql_text_arg(fcinfo, argno, "kind");
	bool		quorum = timeline_members_generation(tl) > 0;

	if (strcmp(name, "auto") != 0 && strcmp(name, "compute") != 0 &&
		strcmp(name, "safekeeper") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown kind of WAL source \"%.64s\"", name),
				 errhint("Kinds are \"auto\", \"compute\" and \"safekeeper\".")));
	if (strcmp(name, quorum ? "compute" : "safekeeper") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 quorum ? errmsg("this timeline receives its WAL from safekeepers only") :
				 errmsg("this timeline has no safekeepers")));
	return quorum ? SOURCE_SAFEKEEPERS : SOURCE_COMPUTE;
}

PG_FUNCTION_INFO_V1(neon_timeline_source);

/* timeline_source(tenant, timeline, term, conninfo text[], kind) */
Datum
neon_timeline_source(PG_FUNCTION_ARGS)
{
	Timeline   *tl;
	SourceKind	kind;
	uint32		term;
	char	  **conninfo;
	int			n;

	sql_refuse_transaction_block("timeline_source");
	tl = sql_open_timeline(fcinfo, 0, 1);
	timeline_check_readable(tl);
	term = writer_term_arg(fcinfo, 2);
	conninfo = conninfo_arg(fcinfo, 3, &n);
	kind = source_kind_arg(fcinfo, 4, tl);
	if (kind == SOURCE_SAFEKEEPERS)
		check_safekeeper_source(tl, term);
	else
		check_source(tl, term);
	source_set(tl, kind, term, conninfo, n);
	PG_RETURN_VOID();
}
