/*-------------------------------------------------------------------------
 *
 * members.c
 *	  The safekeepers of a timeline: this instance is where their
 *	  configuration is decided, by compare-and-set on its generation.
 *
 * The members themselves keep a copy.  What is in the configuration matters
 * to them and to the launcher; here it is a JSON object with a generation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "controlat.h"
#include "funcapi.h"
#include "sqlutil.h"
#include "timeline_shared.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/pg_lsn.h"
#include "walstore.h"

/* Bytes of WAL that one call returns at most. */
#define WAL_READ_MAX	(64 * 1024 * 1024)

PG_FUNCTION_INFO_V1(neon_timeline_members);
PG_FUNCTION_INFO_V1(neon_timeline_members_get);
PG_FUNCTION_INFO_V1(neon_wal_read);

uint64
timeline_members_generation(Timeline *tl)
{
	timeline_check(tl);
	return pg_atomic_read_u64(&tl->shared->members_generation);
}

/* ---- the configuration ---- */

static void
invalid_config(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid configuration of safekeepers"),
			 errdetail("%s", detail)));
}

static JsonbValue *
config_field(Jsonb *config, const char *name)
{
	return getKeyJsonValueFromContainer(&config->root, name, strlen(name), NULL);
}

/* The generation that the configuration says it has. */
static uint64
config_generation(Jsonb *config)
{
	JsonbValue *generation;
	int64		value;

	if (!JB_ROOT_IS_OBJECT(config))
		invalid_config("It is no JSON object.");
	generation = config_field(config, "generation");
	if (generation == NULL || generation->type != jbvNumeric)
		invalid_config("It has no number \"generation\".");
	value = DatumGetInt64(DirectFunctionCall1(numeric_int8,
											  NumericGetDatum(generation->val.numeric)));
	if (value < 1)
		invalid_config("Its generation is not positive.");
	return (uint64) value;
}

static void
check_members(Jsonb *config)
{
	JsonbValue *members = config_field(config, "members");

	if (members == NULL || members->type != jbvBinary ||
		!JsonContainerIsArray(members->val.binary.data) ||
		JsonContainerSize(members->val.binary.data) < 1)
		invalid_config("It has no array \"members\".");
}

static void
set_members(Timeline *tl, uint64 generation, const char *config)
{
	StringInfoData body;

	initStringInfo(&body);
	manifest_op_members(&body, generation, config);
	timeline_edit(tl, body.data, body.len);
	pg_atomic_write_u64(&tl->shared->members_generation, generation);
	pfree(body.data);
}

/* Laptop mode ends only when what the last writer wrote is here. */
static void
check_drained(Timeline *tl)
{
	TimelineWriter writer;

	timeline_get_writer(tl, &writer);
	if (writer.term != 0 && XLogRecPtrIsInvalid(writer.drained_lsn))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("endpoint \"%s\" is the writer of this timeline", writer.endpoint),
				 errdetail("It has term %u and has not been drained.", writer.term),
				 errhint("Stop that endpoint first.")));
}

/*
 * timeline_members(tenant, timeline, expected_generation, config): the
 * generation of config must follow the expected one, which must be the one
 * that is stored.  The same configuration again is no error.
 */
Datum
neon_timeline_members(PG_FUNCTION_ARGS)
{
	Timeline   *tl;
	int64		expected = PG_GETARG_INT64(2);
	Jsonb	   *config = PG_GETARG_JSONB_P(3);
	uint64		generation = config_generation(config);
	uint64		stored;
	char	   *text;

	sql_refuse_transaction_block("timeline_members");
	check_superuser("timeline_members");
	tl = sql_open_timeline(fcinfo, 0, 1);
	timeline_check_readable(tl);
	check_members(config);
	text = JsonbToCString(NULL, &config->root, VARSIZE(config));
	if (strlen(text) >= MANIFEST_MEMBERS_MAX)
		invalid_config("It is too long.");
	if (expected < 0 || generation != (uint64) expected + 1)
		invalid_config("Its generation does not follow the expected one.");

	timeline_lock_writer(tl);
	stored = timeline_members_generation(tl);
	if (stored == generation && strcmp(timeline_read_manifest(tl)->members, text) == 0)
	{
		timeline_unlock_writer(tl);
		PG_RETURN_VOID();		/* asked again */
	}
	if (stored != (uint64) expected)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the configuration of safekeepers has generation " UINT64_FORMAT ", not " INT64_FORMAT,
						stored, expected),
				 errhint("Somebody else changed it: read it again.")));
	if (stored == 0)
		check_drained(tl);
	set_members(tl, generation, text);
	timeline_unlock_writer(tl);
	PG_RETURN_VOID();
}

/* timeline_members_get(tenant, timeline): no row in laptop mode */
Datum
neon_timeline_members_get(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	Manifest   *m;
	Datum		values[2];
	bool		nulls[2] = {false};

	InitMaterializedSRF(fcinfo, 0);
	timeline_check_readable(tl);
	m = timeline_read_manifest(tl);
	if (m->members_generation > 0)
	{
		values[0] = Int64GetDatum((int64) m->members_generation);
		values[1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(m->members));
		sql_put_row(fcinfo, values, nulls);
	}
	manifest_free(m);
	return (Datum) 0;
}

/* ---- stored WAL ---- */

/* Bytes of the timeline's WAL; those of a segment's beginning may be made. */
static bool
read_or_make(Timeline *tl, XLogRecPtr start, char *buf, uint32 len)
{
	ControlState state;

	if (walstore_read(tl, start, buf, len))
		return true;
	if (XLogSegmentOffset(start, tl->id.wal_segment_size) != 0 || len >= tl->id.wal_segment_size)
		return false;
	control_at(tl, start + len, &state);
	walstore_read_head(tl, start + len, state.prev, buf);
	return true;
}

/*
 * wal_read(tenant, timeline, start_lsn, length): the bytes of the timeline's
 * WAL, as they are in segment files; for the first segment of another copy.
 * What lies between a segment's start and the end of a transaction can be had
 * even if it is no longer stored: then it is records that do nothing.
 * ERROR if it is not stored otherwise.
 */
Datum
neon_wal_read(PG_FUNCTION_ARGS)
{
	Timeline   *tl;
	XLogRecPtr	start = PG_GETARG_LSN(2);
	int32		len = PG_GETARG_INT32(3);
	bytea	   *result;

	check_superuser("wal_read");
	tl = sql_open_timeline(fcinfo, 0, 1);
	timeline_check_readable(tl);
	if (len < 0 || len > WAL_READ_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("length must be between 0 and %d", WAL_READ_MAX)));
	result = palloc(VARHDRSZ + len);
	SET_VARSIZE(result, VARHDRSZ + len);
	if (start + len > timeline_flush_lsn(tl) || !read_or_make(tl, start, VARDATA(result), len))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("WAL between %X/%X and %X/%X is not stored",
						LSN_FORMAT_ARGS(start), LSN_FORMAT_ARGS(start + len)),
				 errdetail("The timeline has WAL up to %X/%X.",
						   LSN_FORMAT_ARGS(timeline_flush_lsn(tl)))));
	PG_RETURN_BYTEA_P(result);
}
