/*-------------------------------------------------------------------------
 *
 * coordinator.c
 *	  Keeps the storage streaming from this compute.
 *
 * A worker of a primary.  It makes the slot that holds the WAL the storage
 * does not have yet, asks the pageserver to stream from it, and asks again
 * when nothing streams.  What the storage has is the slot's restart_lsn,
 * which the stock walsender sets from the reported flush position.  (In
 * quorum mode the worker's loop is quorum_worker.c's.  The
 * worker of a static endpoint starts only if somebody promoted the server,
 * and shuts it down.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "coordinator.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "pageserver.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "quorum.h"
#include "replication/slot.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "walkeep.h"

#define SUPERSEDED_SQLSTATE		"NS001"
#define TICK_STARTING_MS		10
#define TICK_ALONE_MS			100
#define TICK_RUNNING_MS			200
#define STREAM_GONE_MS			1000
#define MAX_BACKOFF_MS			5000
#define REQUEST_TIMEOUT_MS		15000

/* In shared memory.  Zero is "not yet" for everything. */
typedef struct CoordinatorShared
{
	pg_atomic_uint64 flush_lsn; /* the storage has WAL up to here; only rises */
	pg_atomic_uint32 admitted;	/* never falls */
	pg_atomic_uint32 streaming;
	pg_atomic_uint32 superseded;	/* 1, or the term of who took over */
	pg_atomic_uint32 dozing;	/* the coordinator wants to hear of commits */
	ConditionVariable admission;	/* broadcast when admitted is set */
	slock_t		mutex;			/* protects the fields below */
	Latch	   *latch;			/* the coordinator's, NULL if it does not run */
	char		problem[256];	/* why the storage does not stream, or "" */
} CoordinatorShared;

static CoordinatorShared *shared = NULL;

/* The coordinator's own state. */
static struct
{
	TimestampTz gone_since;		/* 0 while something streams */
	TimestampTz next_request;
	int			backoff_ms;
	bool		slot_seen;		/* the slot existed in this process's life */
	bool		told_streaming; /* the state that was logged last */
	char		told_problem[256];
	MemoryContext context;		/* of one request */
}			own;

extern PGDLLEXPORT void neon_coordinator_main(Datum arg);

bool
storage_needed(void)
{
#ifdef NEON_TESTING
	if (neon_test_reference_dir[0] != '\0')
		return false;
#endif
	return neon_boot.kind == NEON_PRIMARY;
}

void
coordinator_request_shmem(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(CoordinatorShared)));
}

void
coordinator_shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon coordinator", sizeof(CoordinatorShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(CoordinatorShared));
		pg_atomic_init_u64(&shared->flush_lsn, 0);
		pg_atomic_init_u32(&shared->admitted, storage_needed() ? 0 : 1);
		pg_atomic_init_u32(&shared->streaming, 0);
		pg_atomic_init_u32(&shared->superseded, 0);
		pg_atomic_init_u32(&shared->dozing, 0);
		ConditionVariableInit(&shared->admission);
		SpinLockInit(&shared->mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
coordinator_register_worker(void)
{
	BackgroundWorker worker;

	if (!storage_needed() && neon_boot.kind != NEON_STATIC)
		return;
	library_worker(&worker, "neon", "neon_coordinator_main", "neon coordinator");
	RegisterBackgroundWorker(&worker);
}

/* ----------
 * For any process
 * ----------
 */

/* Position and use of the slot; false if it does not exist. */
static bool
read_slot(XLogRecPtr *restart_lsn, bool *active)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(NEON_STORAGE_SLOT, true);

	if (slot == NULL)
		return false;
	SpinLockAcquire(&slot->mutex);
	*restart_lsn = slot->data.restart_lsn;
	*active = slot->active_pid != 0;
	SpinLockRelease(&slot->mutex);
	return true;
}

void
coordinator_raise_flush_lsn(XLogRecPtr lsn)
{
	uint64		old = pg_atomic_read_u64(&shared->flush_lsn);

	while (old < lsn &&
		   !pg_atomic_compare_exchange_u64(&shared->flush_lsn, &old, lsn))
		;
}

XLogRecPtr
storage_flush_lsn(void)
{
	XLogRecPtr	restart_lsn;
	bool		active;

	if (quorum_mode())
		coordinator_raise_flush_lsn(quorum_flush_lsn());
	else if (storage_needed() && read_slot(&restart_lsn, &active))
		coordinator_raise_flush_lsn(restart_lsn);
	return pg_atomic_read_u64(&shared->flush_lsn);
}

XLogRecPtr
storage_known_flush_lsn(void)
{
	return pg_atomic_read_u64(&shared->flush_lsn);
}

void
storage_state(StorageState *state)
{
	state->flush_lsn = storage_flush_lsn();
	state->admitted = pg_atomic_read_u32(&shared->admitted) != 0;
	state->streaming = pg_atomic_read_u32(&shared->streaming) != 0;
	SpinLockAcquire(&shared->mutex);
	strlcpy(state->problem, shared->problem, sizeof(state->problem));
	SpinLockRelease(&shared->mutex);
}

/* May clients be let in now? */
static bool
is_admitted(void)
{
	return pg_atomic_read_u32(&shared->admitted) != 0;
}

bool
storage_wait_admission(int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), timeout_ms);

	if (is_admitted())
		return true;
	ConditionVariablePrepareToSleep(&shared->admission);
	while (!is_admitted() && neon_clock() < deadline)
	{
		/* now and then in any case: the coordinator may have to be started again */
		(void) ConditionVariableTimedSleep(&shared->admission, 50, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return is_admitted();
}

static void
wake_coordinator(void)
{
	Latch	   *latch;

	SpinLockAcquire(&shared->mutex);
	latch = shared->latch;
	SpinLockRelease(&shared->mutex);
	if (latch)
		SetLatch(latch);
}

void
neon_superseded(uint32 term)
{
	if (!storage_needed())
		return;
	pg_atomic_write_u32(&shared->superseded, Max(term, 1));
	wake_coordinator();
}

void
coordinator_notice_commit(void)
{
	if (pg_atomic_read_u32(&shared->dozing) != 0 &&
		pg_atomic_exchange_u32(&shared->dozing, 0) != 0)
		wake_coordinator();
}

/* ----------
 * The worker
 * ----------
 */

static void
clear_latch(int code, Datum arg)
{
	SpinLockAcquire(&shared->mutex);
	shared->latch = NULL;
	SpinLockRelease(&shared->mutex);
}

void
coordinator_set_dozing(bool dozing)
{
	pg_atomic_write_u32(&shared->dozing, dozing ? 1 : 0);
}

void
coordinator_set_streaming(bool streaming)
{
	pg_atomic_write_u32(&shared->streaming, streaming ? 1 : 0);
}

void
coordinator_set_problem(const char *text)
{
	SpinLockAcquire(&shared->mutex);
	strlcpy(shared->problem, text, sizeof(shared->problem));
	SpinLockRelease(&shared->mutex);
}

/*
 * Makes the slot at the boot record, or where the storage was if somebody
 * dropped it, so that no checkpoint removes WAL that the storage lacks.
 */
static void
create_slot(void)
{
	XLogRecPtr	lsn = Max(neon_boot.boot_record_lsn, storage_known_flush_lsn());

	if (!coordinator_create_slot(NEON_STORAGE_SLOT, lsn))
		ereport(WARNING,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("WAL that the pageserver does not have was removed"),
				 errdetail("The pageserver has the WAL up to %X/%X.", LSN_FORMAT_ARGS(lsn))));
	if (own.slot_seen)
		ereport(LOG,
				(errmsg("created replication slot \"%s\" again", NEON_STORAGE_SLOT),
				 errdetail("Somebody dropped it, which may lose data.")));
	own.slot_seen = true;
}

bool
coordinator_create_slot(const char *name, XLogRecPtr lsn)
{
	XLogSegNo	segno;

	ReplicationSlotCreate(name, false, RS_PERSISTENT, false);
	SpinLockAcquire(&MyReplicationSlot->mutex);
	MyReplicationSlot->data.restart_lsn = lsn;
	SpinLockRelease(&MyReplicationSlot->mutex);
	ReplicationSlotMarkDirty();
	ReplicationSlotsComputeRequiredLSN();
	ReplicationSlotSave();
	ReplicationSlotRelease();

	XLByteToSeg(lsn, segno, wal_segment_size);
	return XLogGetLastRemovedSegno() < segno;
}

/* This compute may write no more: stop without a checkpoint, at once. */
void
coordinator_stop_server(void)
{
	kill(PostmasterPid, SIGQUIT);
	for (;;)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT, 1000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

void
coordinator_stop_superseded(const char *who)
{
	ereport(LOG,
			(errmsg("%s", who),
			 errdetail("Another compute writes this timeline; endpoint \"%s\" with term %u shuts down.",
					   neon_boot.endpoint, neon_boot.term),
			 errhint("To have it write the timeline in place of that one, use \"neon endpoint start %s --take-over\".",
					 neon_boot.endpoint)));
	coordinator_stop_server();
}

/* A static endpoint's recovery never ends, so somebody ended it. */
static void
stop_promoted(void)
{
	ereport(LOG,
			(errmsg("a static endpoint cannot be promoted"),
			 errdetail("Nothing would store what it writes; endpoint \"%s\" shuts down.", neon_boot.endpoint),
			 errhint("Use \"neon timeline branch\" or \"neon endpoint start --ephemeral\".")));
	coordinator_stop_server();
}

static void
check_superseded(void)
{
	uint32		term = pg_atomic_read_u32(&shared->superseded);

	if (term > 1)
		coordinator_stop_superseded(psprintf("superseded by term %u", term));
	if (term == 1)
		coordinator_stop_superseded("superseded by a later term");
}

void
coordinator_admit(const char *who)
{
	if (is_admitted() || storage_known_flush_lsn() < neon_boot.boot_record_end)
		return;
	pg_atomic_write_u32(&shared->admitted, 1);
	ConditionVariableBroadcast(&shared->admission);
	ereport(LOG,
			(errmsg("%s has the boot record, clients are admitted", who)));
}

static void
note_streaming(bool streaming, TimestampTz now)
{
	if (streaming)
	{
		own.gone_since = 0;
		own.next_request = now;
		own.backoff_ms = 0;
		if (!own.told_streaming)
		{
			coordinator_set_problem("");
			own.told_problem[0] = '\0';
			ereport(LOG,
					(errmsg("pageserver %s streams the WAL of this compute", pageserver_address())));
		}
	}
	else
	{
		if (own.gone_since == 0)
			own.gone_since = now;
		if (own.told_streaming)
			ereport(LOG,
					(errmsg("pageserver %s no longer streams the WAL of this compute", pageserver_address()),
					 errdetail("It has the WAL up to %X/%X.", LSN_FORMAT_ARGS(storage_known_flush_lsn()))));
	}
	own.told_streaming = streaming;
	coordinator_set_streaming(streaming);
}

bool
coordinator_check_signals(void)
{
	bool		reload = ConfigReloadPending;

	if (ShutdownRequestPending)
		proc_exit(0);
	if (reload)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	throttle_publish_limits();
	check_superseded();
	return reload;
}

/*
 * One look at everything.  Called in the main loop and while a request waits
 * for its answer, so that neither admission nor shutdown waits for that.
 */
static void
tick(void)
{
	XLogRecPtr	restart_lsn;
	bool		active;

	(void) coordinator_check_signals();
	if (!read_slot(&restart_lsn, &active))
	{
		create_slot();
		return;
	}
	own.slot_seen = true;
	coordinator_raise_flush_lsn(restart_lsn);
	note_streaming(active, neon_clock());
	if (!is_admitted())
		coordinator_admit(psprintf("pageserver %s", pageserver_address()));
	throttle_report(neon_boottime_ms());
	walkeep_check_consumers(restart_lsn, neon_boottime_ms());
}

static void
request_failed(const PageserverError *error)
{
	if (strcmp(error->sqlstate, SUPERSEDED_SQLSTATE) == 0)
		coordinator_stop_superseded(error->message);
	coordinator_set_problem(error->message);
	if (strncmp(own.told_problem, error->message, sizeof(own.told_problem) - 1) == 0)
		return;
	strlcpy(own.told_problem, error->message, sizeof(own.told_problem));
	ereport(LOG,
			(errmsg("could not have the WAL of this compute streamed: %s", error->message),
			 error->detail ? errdetail("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}

/* Asks the pageserver to stream from here. */
static void
request_stream(void)
{
	/* a reload during the call may free the setting */
	const char *params[4] = {neon_tenant_id_setting, neon_timeline_id_setting,
	psprintf("%u", neon_boot.term), pstrdup(neon_storage_conninfo)};
	PageserverError error;
	List	   *rows;

	if (!pageserver_query("neon_coordinator",
						  "SELECT neon_pageserver.timeline_source($1, $2, $3::int4, ARRAY[$4::text])",
						  4, params, REQUEST_TIMEOUT_MS, tick, &rows, &error))
		request_failed(&error);
	own.backoff_ms = Min(Max(own.backoff_ms * 2, STREAM_GONE_MS), MAX_BACKOFF_MS);
	own.next_request = TimestampTzPlusMilliseconds(neon_clock(), own.backoff_ms);
}

/* Is it time to ask (again)?  At once after the start, later after a while. */
static bool
request_due(void)
{
	TimestampTz now = neon_clock();
	int			patience = own.next_request == 0 ? 0 : STREAM_GONE_MS;

	return own.gone_since != 0 && now >= own.next_request &&
		now >= TimestampTzPlusMilliseconds(own.gone_since, patience);
}

static void
setup_worker(void)
{
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();

	memset(&own, 0, sizeof(own));
	own.context = AllocSetContextCreate(TopMemoryContext, "neon coordinator", ALLOCSET_DEFAULT_SIZES);
	on_shmem_exit(clear_latch, 0);
	SpinLockAcquire(&shared->mutex);
	shared->latch = MyLatch;
	SpinLockRelease(&shared->mutex);
}

static int
tick_interval(void)
{
	if (pg_atomic_read_u32(&shared->admitted) == 0)
		return TICK_STARTING_MS;
	return own.told_streaming ? TICK_RUNNING_MS : TICK_ALONE_MS;
}

void
neon_coordinator_main(Datum arg)
{
	setup_worker();
	if (neon_boot.kind == NEON_STATIC)
		stop_promoted();
	if (quorum_mode())
		quorum_worker_main();
	for (;;)
	{
		MemoryContextSwitchTo(own.context);
		MemoryContextReset(own.context);
		tick();
		if (request_due())
			request_stream();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT,
						 tick_interval(), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
