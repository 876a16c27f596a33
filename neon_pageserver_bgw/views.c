/*-------------------------------------------------------------------------
 *
 * views.c
 *	  What the views tenants, timelines and stat_pageserver show.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compactclaim.h"
#include "fmgr.h"
#include "funcapi.h"
#include "history.h"
#include "hotpages.h"
#include "ingest.h"
#include "redopool.h"
#include "service.h"
#include "sqlutil.h"
#include "store.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/pg_lsn.h"

PG_FUNCTION_INFO_V1(neon_timelines_info);
PG_FUNCTION_INFO_V1(neon_branches);
PG_FUNCTION_INFO_V1(neon_stat_pageserver_info);

#define TIMELINE_COLUMNS	24
#define BRANCH_COLUMNS		7

/* A row that is filled from left to right. */
typedef struct RowBuilder
{
	FunctionCallInfo fcinfo;
	Datum		values[TIMELINE_COLUMNS];
	bool		nulls[TIMELINE_COLUMNS];
	int			n;
} RowBuilder;

typedef void (*RowFunction) (Timeline *tl, void *arg);

typedef struct BranchScan
{
	FunctionCallInfo fcinfo;
	NeonId		tenant;
} BranchScan;

static const char *
state_name(TimelineState state)
{
	switch (state)
	{
		case TIMELINE_ACTIVE:
			return "active";
		case TIMELINE_READONLY:
			return "readonly";
		case TIMELINE_DAMAGED:
			return "damaged";
		case TIMELINE_DELETING:
			return "deleting";
		case TIMELINE_CREATING:
			return "creating";
		case TIMELINE_UNUSED:
			break;
	}
	return "gone";
}

static void
add(RowBuilder *row, Datum value)
{
	row->nulls[row->n] = false;
	row->values[row->n++] = value;
}

static void
add_null(RowBuilder *row)
{
	row->nulls[row->n++] = true;
}

static void
add_lsn(RowBuilder *row, XLogRecPtr lsn)
{
	if (XLogRecPtrIsInvalid(lsn))
		add_null(row);
	else
		add(row, LSNGetDatum(lsn));
}

static void
add_text(RowBuilder *row, const char *text)
{
	if (text[0] == '\0')
		add_null(row);
	else
		add(row, CStringGetTextDatum(text));
}

static void
add_id(RowBuilder *row, const NeonId *id)
{
	if (neon_id_is_zero(id))
		add_null(row);
	else
		add(row, sql_id_datum(id));
}

/* Identity and place, the columns that both functions begin with. */
static void
add_origin(RowBuilder *row, Timeline *tl)
{
	char		name[NEON_NAME_MAX];

	timeline_get_name(tl, name);
	add_id(row, &tl->id.timeline);
	add_text(row, name);
	add_id(row, &tl->id.ancestor);
	add_lsn(row, tl->id.ancestor_lsn);
	add_lsn(row, tl->id.start_lsn);
	add_lsn(row, timeline_last_record_lsn(tl));
}

/* The horizon and its time; both null while all history is there. */
static void
add_cutoff(RowBuilder *row, Timeline *tl)
{
	TimestampTz time;
	XLogRecPtr	cutoff = history_cutoff(tl, &time);

	add_lsn(row, cutoff);
	if (XLogRecPtrIsInvalid(cutoff))
		add_null(row);
	else
		add(row, TimestampTzGetDatum(time));
}

/* Why it is refused or read-only; null if it is not. */
static void
add_detail(RowBuilder *row, Timeline *tl)
{
	char		detail[TIMELINE_DETAIL_MAX];

	timeline_get_detail(tl, detail);
	if (detail[0] != '\0')
		add_text(row, detail);
	else
		add_null(row);
}

static void
put_timeline(Timeline *tl, void *arg)
{
	RowBuilder	row = {.fcinfo = arg};
	TimelineWriter writer;
	XLogRecPtr	boot_record_end;
	uint32		term = timeline_term(tl, &boot_record_end);

	timeline_get_writer(tl, &writer);
	add_id(&row, &tl->id.tenant);
	add_origin(&row, tl);
	add_lsn(&row, timeline_flush_lsn(tl));
	add_lsn(&row, timeline_disk_consistent_lsn(tl));
	add_null(&row);				/* remote storage is not there */
	add(&row, Int64GetDatum(timeline_logical_size(tl)));
	add(&row, Int64GetDatum(store_physical_size(tl)));
	add_text(&row, state_name(timeline_state(tl)));
	add(&row, Int64GetDatum(Max(term, writer.term)));
	add_text(&row, writer.endpoint);
	add(&row, BoolGetDatum(ingest_source_connected(tl)));
	add(&row, DirectFunctionCall3(numeric_in,
								  CStringGetDatum(psprintf(UINT64_FORMAT, tl->id.system_identifier)),
								  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	add(&row, Int32GetDatum(tl->id.wal_segment_size));
	add(&row, BoolGetDatum(tl->id.data_checksums));
	add(&row, Int64GetDatum((int64) timeline_members_generation(tl)));
	add_cutoff(&row, tl);
	add_detail(&row, tl);
	add(&row, Int64GetDatum((int64) store_compaction_debt(tl)));
	Assert(row.n == TIMELINE_COLUMNS);
	sql_put_row(row.fcinfo, row.values, row.nulls);
}

/* A timeline that is deleted while we look has no row. */
static void
put_unless_gone(Timeline *tl, RowFunction put, void *arg)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		put(tl, arg);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_UNDEFINED_OBJECT)
			PG_RE_THROW();
		FlushErrorState();
		MemoryContextSwitchTo(context);
	}
	PG_END_TRY();
}

static void
put_timeline_if_there(Timeline *tl, void *arg)
{
	put_unless_gone(tl, put_timeline, arg);
}

Datum
neon_timelines_info(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	timeline_foreach(put_timeline_if_there, fcinfo);
	return (Datum) 0;
}

static void
put_branch(Timeline *tl, void *arg)
{
	BranchScan *scan = arg;
	RowBuilder	row = {.fcinfo = scan->fcinfo};

	if (!neon_id_equal(&tl->id.tenant, &scan->tenant))
		return;
	add_origin(&row, tl);
	add_text(&row, state_name(timeline_state(tl)));
	Assert(row.n == BRANCH_COLUMNS);
	sql_put_row(row.fcinfo, row.values, row.nulls);
}

static void
put_branch_if_there(Timeline *tl, void *arg)
{
	put_unless_gone(tl, put_branch, arg);
}

Datum
neon_branches(PG_FUNCTION_ARGS)
{
	BranchScan	scan = {.fcinfo = fcinfo};

	scan.tenant = sql_id_arg(fcinfo, 0, "tenant");
	check_tenant_access(&scan.tenant);
	InitMaterializedSRF(fcinfo, 0);
	timeline_foreach(put_branch_if_there, &scan);
	return (Datum) 0;
}

static void
put_stat(FunctionCallInfo fcinfo, const char *name, uint64 value)
{
	Datum		values[2];
	bool		nulls[2] = {false, false};

	values[0] = CStringGetTextDatum(name);
	values[1] = Int64GetDatum((int64) value);
	sql_put_row(fcinfo, values, nulls);
}

Datum
neon_stat_pageserver_info(PG_FUNCTION_ARGS)
{
	RedoPoolStats redo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < SERVE_NUM_COUNTERS; i++)
		put_stat(fcinfo, service_counter_name(i), service_counter_value(i));
	redopool_get_stats(&redo);
	put_stat(fcinfo, "redo_batches", redo.batches);
	put_stat(fcinfo, "redo_pages", redo.pages);
	put_stat(fcinfo, "redo_failed_pages", redo.failed_pages);
	put_stat(fcinfo, "redo_processes_started", redo.started);
	put_stat(fcinfo, "redo_processes_failed_to_start", redo.failed_starts);
	put_stat(fcinfo, "redo_processes_died", redo.died);
	put_stat(fcinfo, "redo_processes_replaced", redo.replaced);
	put_stat(fcinfo, "hot_pages_waiting", hotpages_waiting());
	put_stat(fcinfo, "compaction_jobs_running", compactclaim_count());
	return (Datum) 0;
}
