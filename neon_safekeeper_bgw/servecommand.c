/*-------------------------------------------------------------------------
 *
 * servecommand.c
 *	  Replication commands that answer with a row.
 *
 * Columns and error texts are those of the stock walsender: clients look at
 * them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog_internal.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/tuptable.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "serve_private.h"
#include "slot.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"

#define MAX_COLUMNS		4

/* A result of one row, built column by column. */
typedef struct Row
{
	TupleDesc	desc;
	Datum		values[MAX_COLUMNS];
	bool		nulls[MAX_COLUMNS];
	int			n;
} Row;

static void
row_begin(Row *row, int columns)
{
	row->desc = CreateTemplateTupleDesc(columns);
	row->n = 0;
}

static void
row_add(Row *row, const char *name, Oid type, Datum value, bool isnull)
{
	row->values[row->n] = value;
	row->nulls[row->n] = isnull;
	row->n++;
	TupleDescInitBuiltinEntry(row->desc, row->n, name, type, -1, 0);
}

/* NULL if value is NULL */
static void
row_add_text(Row *row, const char *name, const char *value)
{
	row_add(row, name, TEXTOID, value ? CStringGetTextDatum(value) : (Datum) 0, value == NULL);
}

static char *
lsn_text(XLogRecPtr lsn)
{
	return psprintf("%X/%X", LSN_FORMAT_ARGS(lsn));
}

static void
row_send(Row *row)
{
	TupOutputState *tstate = begin_tup_output_tupdesc(CreateDestReceiver(DestRemoteSimple),
													  row->desc, &TTSOpsVirtual);

	do_tup_output(tstate, row->values, row->nulls);
	end_tup_output(tstate);
}

void
serve_identify_system(Node *cmd)
{
	SkPositions p;
	Row			row;

	sk_get_positions(serve_session.tl, &p);
	row_begin(&row, 4);
	row_add_text(&row, "systemid", psprintf(UINT64_FORMAT, serve_session.tl->system_identifier));
	row_add(&row, "timeline", INT4OID, Int32GetDatum(SERVE_TLI), false);
	row_add_text(&row, "xlogpos", lsn_text(p.commit_lsn));
	row_add_text(&row, "dbname", NULL);
	row_send(&row);
}

/* Sizes as SHOW gives them. */
static char *
megabytes_text(uint32 bytes)
{
	uint32		mb = bytes / (1024 * 1024);

	return mb % 1024 == 0 ? psprintf("%uGB", mb / 1024) : psprintf("%uMB", mb);
}

void
serve_show(Node *cmd)
{
	const char *name = castNode(VariableShowStmt, cmd)->name;
	MemoryContext context = CurrentMemoryContext;
	Row			row;

	if (pg_strcasecmp(name, "wal_segment_size") == 0)
	{
		row_begin(&row, 1);
		row_add_text(&row, "wal_segment_size",
					 megabytes_text(serve_session.tl->wal_segment_size));
		row_send(&row);
		return;
	}
	StartTransactionCommand();	/* rights are looked up in catalogs */
	GetPGVariable(name, CreateDestReceiver(DestRemoteSimple));
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

void
serve_timeline_history(Node *cmd)
{
	TimeLineID	tli = castNode(TimeLineHistoryCmd, cmd)->timeline;
	char		path[MAXPGPATH];

	TLHistoryFilePath(path, tli);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FILE),
			 errmsg("could not open file \"%s\": %s", path, strerror(ENOENT)),
			 errdetail("All WAL of a Neon timeline is on PostgreSQL's timeline 1, which has no history.")));
}

void
serve_read_slot(Node *cmd)
{
	SkSlotInfo	slot;
	bool		known = skslot_get(serve_session.tl,
								   castNode(ReadReplicationSlotCmd, cmd)->slotname, &slot);
	bool		reserved = known && !XLogRecPtrIsInvalid(slot.restart_lsn);
	Row			row;

	row_begin(&row, 3);
	row_add_text(&row, "slot_type", known ? "physical" : NULL);
	row_add_text(&row, "restart_lsn", reserved ? lsn_text(slot.restart_lsn) : NULL);
	row_add(&row, "restart_tli", INT8OID, Int64GetDatum(SERVE_TLI), !reserved);
	row_send(&row);
}

static bool
reserve_wal_option(const CreateReplicationSlotCmd *cmd)
{
	bool		given = false;
	bool		reserve = false;
	ListCell   *lc;

	foreach(lc, cmd->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "reserve_wal") != 0 || given)
			ereport(ERROR,
					(errcode(ERRCODE_SYNTAX_ERROR),
					 errmsg("conflicting or redundant options")));
		given = true;
		reserve = defGetBoolean(option);
	}
	return reserve;
}

void
serve_create_slot(Node *cmd)
{
	CreateReplicationSlotCmd *create = castNode(CreateReplicationSlotCmd, cmd);
	Row			row;

	if (create->kind != REPLICATION_KIND_PHYSICAL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a safekeeper has physical replication slots only")));
	skslot_create(serve_session.tl, create->slotname, create->temporary,
				  reserve_wal_option(create));
	row_begin(&row, 4);
	row_add_text(&row, "slot_name", create->slotname);
	row_add_text(&row, "consistent_point", lsn_text(InvalidXLogRecPtr));
	row_add_text(&row, "snapshot_name", NULL);
	row_add_text(&row, "output_plugin", NULL);
	row_send(&row);
}

void
serve_drop_slot(Node *cmd)
{
	DropReplicationSlotCmd *drop = castNode(DropReplicationSlotCmd, cmd);

	skslot_drop(serve_session.tl, drop->slotname, drop->wait);
}

void
serve_base_backup(Node *cmd)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a safekeeper has WAL only, and no data directory to back up"),
			 errhint("Take the base backup from an endpoint of this timeline.")));
}
