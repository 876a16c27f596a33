/*-------------------------------------------------------------------------
 *
 * module.c
 *	  A server with nothing of the pageserver but its redo pool.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"

#include "redopool_private.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

PG_FUNCTION_INFO_V1(redo_slots);
PG_FUNCTION_INFO_V1(redo_stats);

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(redopool_shmem_size());
}

static void
startup_shmem(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	redopool_shmem_init();
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	redopool_define_gucs();
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
	redopool_register_worker();
}

/* redo_slots() returns table(slot int, state text, pid int, generation bigint, tenant text) */
Datum
redo_slots(PG_FUNCTION_ARGS)
{
	static const char *const states[] = {"empty", "starting", "idle", "leased", "retired"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(&redo_pool->lock, LW_SHARED);
	for (i = 0; i < redo_pool->nslots; i++)
	{
		RedoSlot   *slot = &redo_pool->slots[i];
		Datum		values[5];
		bool		nulls[5] = {0};
		char		hex[NEON_ID_HEXLEN + 1];

		values[0] = Int32GetDatum(i);
		values[1] = CStringGetTextDatum(states[slot->state]);
		values[2] = Int32GetDatum(slot->child);
		values[3] = Int64GetDatum(slot->generation);
		values[4] = CStringGetTextDatum(neon_id_format(&slot->tenant, hex));
		nulls[4] = !slot->used;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	LWLockRelease(&redo_pool->lock);
	return (Datum) 0;
}

/* redo_stats() returns table(name text, value bigint) */
Datum
redo_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	RedoPoolStats stats;
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	redopool_get_stats(&stats);
	{
		const struct
		{
			const char *name;
			uint64		value;
		}			rows[] = {
			{"batches", stats.batches},
			{"pages", stats.pages},
			{"failed_pages", stats.failed_pages},
			{"started", stats.started},
			{"failed_starts", stats.failed_starts},
			{"died", stats.died},
			{"replaced", stats.replaced},
		};

		for (i = 0; i < lengthof(rows); i++)
		{
			Datum		values[2];
			bool		nulls[2] = {0};

			values[0] = CStringGetTextDatum(rows[i].name);
			values[1] = Int64GetDatum(rows[i].value);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}
