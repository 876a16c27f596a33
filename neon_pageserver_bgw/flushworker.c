/*-------------------------------------------------------------------------
 *
 * flushworker.c
 *	  Workers that write frozen indexes to layer files, so that ingest goes on
 *	  meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "init.h"
#include "miscadmin.h"
#include "neon_library.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "store_private.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#define IDLE_MS			10000
#define FIRST_RETRY_MS	1000

typedef struct FlushShared
{
	ConditionVariable work_cv;
} FlushShared;

static int	flush_workers = 2;
static FlushShared *flush_shared = NULL;

extern PGDLLEXPORT void flushworker_main(Datum arg);

void
flushworker_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.flush_workers",
							"Number of processes that write layer files.",
							NULL, &flush_workers, 2, 1, 64,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

Size
flushworker_shmem_size(void)
{
	return sizeof(FlushShared);
}

void
flushworker_shmem_init(void)
{
	bool		found;

	flush_shared = ShmemInitStruct("neon flush workers", sizeof(FlushShared), &found);
	if (!found)
		ConditionVariableInit(&flush_shared->work_cv);
}

void
flushworker_register_workers(void)
{
	library_register_workers("neon_pageserver", "flushworker_main", "neon layer writer", flush_workers);
}

void
flushworker_wake(void)
{
	ConditionVariableBroadcast(&flush_shared->work_cv);
}

/* Outside a transaction an error is only logged; what it held is let go. */
void
store_recover_from_error(MemoryContext context)
{
	MemoryContextSwitchTo(context);
	EmitErrorReport();
	FlushErrorState();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	AtEOXact_Files(false);
}

/* One timeline; false if it failed. */
static bool
flush_guarded(const NeonId *tenant, const NeonId *timeline, MemoryContext context)
{
	volatile bool ok = true;

	PG_TRY();
	{
		Timeline   *tl = timeline_open(tenant, timeline, true);

		if (tl != NULL)
			(void) store_flush_frozen(tl);
	}
	PG_CATCH();
	{
		store_recover_from_error(context);
		ok = false;
	}
	PG_END_TRY();
	MemoryContextReset(context);
	return ok;
}

/* Everything that is frozen and that nobody writes; false if anything failed. */
static bool
flush_all_frozen(MemoryContext context)
{
	bool		ok = true;

	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);
		NeonId		tenant = s->id.tenant;
		NeonId		timeline = s->id.timeline;

		CHECK_FOR_INTERRUPTS();
		if (s->has_frozen && s->flusher_pid == 0 &&
			pg_atomic_read_u32(&s->state) == TIMELINE_ACTIVE)
			ok &= flush_guarded(&tenant, &timeline, context);
	}
	return ok;
}

static bool
something_is_frozen(void)
{
	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);

		if (s->has_frozen && s->flusher_pid == 0 &&
			pg_atomic_read_u32(&s->state) == TIMELINE_ACTIVE)
			return true;
	}
	return false;
}

void
flushworker_main(Datum arg)
{
	MemoryContext context;
	int			retry_ms = FIRST_RETRY_MS;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	context = AllocSetContextCreate(TopMemoryContext, "neon layer writer", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	for (;;)
	{
		bool		ok;

		/* a sleep for work does not end with the signal: before the work that ends it */
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		ok = flush_all_frozen(context);
		timeline_close_files(false);
		ConditionVariablePrepareToSleep(&flush_shared->work_cv);
		if (!ok || !something_is_frozen())
			(void) ConditionVariableTimedSleep(&flush_shared->work_cv, ok ? IDLE_MS : retry_ms,
											   PG_WAIT_EXTENSION);
		retry_ms = ok ? FIRST_RETRY_MS : Min(retry_ms * 2, IDLE_MS);
		ConditionVariableCancelSleep();
		CHECK_FOR_INTERRUPTS();
	}
}
