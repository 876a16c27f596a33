/*-------------------------------------------------------------------------
 *
 * slotfunc.c
 *	  Replication slots in SQL: the view replication_slots, creating and
 *	  dropping by an administrator.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "neon_sqlutil.h"
#include "retain.h"
#include "slot.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

PG_FUNCTION_INFO_V1(neon_sk_create_slot);
PG_FUNCTION_INFO_V1(neon_sk_drop_slot);
PG_FUNCTION_INFO_V1(neon_sk_slots);

#define SLOT_COLUMNS	9

static SkTimeline *
timeline_of_args(FunctionCallInfo fcinfo, const char *function)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	NeonId		timeline = sql_id_arg(fcinfo, 1, "timeline");

	check_superuser(function);
	sql_refuse_transaction_block(function);
	return sk_open(&tenant, &timeline);
}

/* create_physical_replication_slot(tenant, timeline, slot_name, immediately_reserve) */
Datum
neon_sk_create_slot(PG_FUNCTION_ARGS)
{
	SkTimeline *tl = timeline_of_args(fcinfo, "create_physical_replication_slot");

	skslot_create(tl, sql_text_arg(fcinfo, 2, "slot_name"), false,
				  !PG_ARGISNULL(3) && PG_GETARG_BOOL(3));
	PG_RETURN_VOID();
}

/* drop_replication_slot(tenant, timeline, slot_name) */
Datum
neon_sk_drop_slot(PG_FUNCTION_ARGS)
{
	SkTimeline *tl = timeline_of_args(fcinfo, "drop_replication_slot");

	skslot_drop(tl, sql_text_arg(fcinfo, 2, "slot_name"), false);
	PG_RETURN_VOID();
}

/* ---- the view ---- */

typedef struct SlotList
{
	SkSlotInfo *slot;
	int			n;
	int			size;
} SlotList;

/* Called under a lock: the list has its memory already. */
static void
add_to_list(const SkSlotInfo *slot, void *arg)
{
	SlotList   *list = arg;

	if (list->n < list->size)
		list->slot[list->n] = *slot;
	list->n++;
}

static void
count_slot(const SkSlotInfo *slot, void *arg)
{
	((SlotList *) arg)->size++;
}

static void
list_slots(SlotList *list)
{
	memset(list, 0, sizeof(*list));
	skslot_foreach(NULL, count_slot, list);
	list->size += 16;			/* made in between */
	list->slot = palloc(list->size * sizeof(SkSlotInfo));
	skslot_foreach(NULL, add_to_list, list);
	list->n = Min(list->n, list->size);
}

/* As pg_replication_slots says it; NULL if nothing was reserved. */
static const char *
wal_status(const SkSlotInfo *slot, int64 safe)
{
	if (!XLogRecPtrIsInvalid(slot->invalidated_at))
		return "lost";
	if (XLogRecPtrIsInvalid(slot->restart_lsn) && !slot->unreadable)
		return NULL;
	return safe < 0 ? "unreserved" : "reserved";
}

static void
put_slot(FunctionCallInfo fcinfo, const SkSlotInfo *slot)
{
	Datum		values[SLOT_COLUMNS];
	bool		nulls[SLOT_COLUMNS] = {false};
	int64		safe = 0;
	bool		limited = retain_slot_allowance(slot, &safe);
	const char *status = wal_status(slot, limited ? safe : 0);

	values[0] = sql_id_datum(&slot->tenant);
	values[1] = sql_id_datum(&slot->timeline);
	values[2] = NameGetDatum(&slot->name);
	values[3] = BoolGetDatum(slot->temporary);
	values[4] = BoolGetDatum(slot->active_pid != 0);
	values[5] = Int32GetDatum(slot->active_pid);
	nulls[5] = slot->active_pid == 0;
	values[6] = LSNGetDatum(slot->restart_lsn);
	nulls[6] = XLogRecPtrIsInvalid(slot->restart_lsn);
	nulls[7] = status == NULL;
	if (status)
		values[7] = CStringGetTextDatum(status);
	values[8] = Int64GetDatum(safe);
	nulls[8] = !limited || status == NULL || strcmp(status, "lost") == 0;
	sql_put_row(fcinfo, values, nulls);
}

/* slots(): a row for each slot of each timeline */
Datum
neon_sk_slots(PG_FUNCTION_ARGS)
{
	SlotList	list;

	InitMaterializedSRF(fcinfo, 0);
	list_slots(&list);
	for (int i = 0; i < list.n; i++)
		put_slot(fcinfo, &list.slot[i]);
	return (Datum) 0;
}
