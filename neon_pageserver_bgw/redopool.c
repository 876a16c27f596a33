/*-------------------------------------------------------------------------
 *
 * redopool.c
 *	  Leases of redo children, and redo_apply().
 *
 * A child is the work of one tenant: records are run by code that trusts
 * them, so after the first batch a child's memory may be the tenant's.  A
 * backend prefers a child that served its tenant, takes a fresh one else, and
 * if there is none has an idle child replaced.
 *
 * Fairness: who replaces a child reserves the new one.  A waiter without
 * reservation that has waited for FAIR_MS goes before everybody.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "redopool_private.h"

#define FAIR_MS			100
/* Look again now and then, even if nobody says that something changed. */
#define WAIT_STEP_MS	500
/* A page is given to so many children before it is blamed for their death. */
#define MAX_ATTEMPTS	3
/* So many children in a row, besides all that may have died idle, may be of no use. */
#define MAX_IDLE_ROUNDS 5

RedoPool   *redo_pool = NULL;
int			redo_workers = 2;
int			redo_timeout = 60000;

/* This process's lease; -1 if none. */
static int	my_slot = -1;
static bool exit_callback_set = false;

/* ---- set-up ---- */

void
redopool_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.redo_workers",
							"Sets the number of WAL redo processes.",
							NULL,
							&redo_workers,
							2, 1, REDO_MAX_WORKERS,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.redo_timeout",
							"Sets the time after which a batch of pages given to a WAL redo process fails.",
							"The process is replaced. It is also the longest time to wait for a free process.",
							&redo_timeout,
							60000, 100, INT_MAX / 2,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
}

static int
max_procs(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

Size
redopool_shmem_size(void)
{
	return add_size(offsetof(RedoPool, waiters),
					mul_size(max_procs(), sizeof(RedoWaiter)));
}

void
redopool_shmem_init(void)
{
	bool		found;
	int			i;

	redo_pool = ShmemInitStruct("neon redo pool", redopool_shmem_size(), &found);
	if (!found)
	{
		memset(redo_pool, 0, redopool_shmem_size());
		LWLockInitialize(&redo_pool->lock, LWLockNewTrancheId());
		ConditionVariableInit(&redo_pool->changed);
		redo_pool->nslots = redo_workers;
		for (i = 0; i < redo_pool->nslots; i++)
			redo_pool->slots[i].holder = -1;
	}
	LWLockRegisterTranche(redo_pool->lock.tranche, "NeonRedoPool");
}

void
redopool_get_stats(RedoPoolStats *stats)
{
	LWLockAcquire(&redo_pool->lock, LW_SHARED);
	*stats = redo_pool->stats;
	LWLockRelease(&redo_pool->lock);
}

void
redopool_socket_path(int slot, char *path)
{
	snprintf(path, MAXPGPATH, "%s/%d/%s", REDO_DIR, slot, REDO_SOCKET_NAME);
}

void
redopool_wake_supervisor(void)
{
	if (redo_pool->supervisor != NULL)
		SetLatch(&redo_pool->supervisor->procLatch);
}

/* ---- waiting; all of these with the lock held ---- */

static RedoWaiter *
my_waiter(void)
{
	return &redo_pool->waiters[MyProc->pgprocno];
}

static void
start_waiting(void)
{
	RedoWaiter *me = my_waiter();

	if (me->ticket != 0)
		return;
	me->ticket = ++redo_pool->last_ticket;
	me->has_reservation = false;
	me->since = neon_clock();
	redo_pool->nwaiting++;
}

static void
stop_waiting(void)
{
	RedoWaiter *me = my_waiter();
	int			i;

	if (me->ticket == 0)
		return;
	for (i = 0; i < redo_pool->nslots; i++)
	{
		if (redo_pool->slots[i].reserved == me->ticket)
			redo_pool->slots[i].reserved = 0;
	}
	me->ticket = 0;
	me->has_reservation = false;
	redo_pool->nwaiting--;
}

/* Somebody came earlier, has waited long and has no child promised. */
static bool
elder_waits(void)
{
	TimestampTz now;
	uint64		my_ticket = my_waiter()->ticket;
	int			i;

	if (redo_pool->nwaiting == (my_ticket != 0 ? 1 : 0))
		return false;
	now = neon_clock();
	for (i = 0; i < max_procs(); i++)
	{
		RedoWaiter *w = &redo_pool->waiters[i];

		if (w->ticket != 0 && !w->has_reservation &&
			(my_ticket == 0 || w->ticket < my_ticket) &&
			TimestampDifferenceExceeds(w->since, now, FAIR_MS))
			return true;
	}
	return false;
}

static void
set_state(RedoSlot *slot, RedoSlotState state)
{
	slot->state = state;
	slot->changed = neon_clock();
}

/*
 * The idle child that suits the tenant best; *replace is set to the one that
 * could be replaced if there is none.  Both may be -1.
 */
static int
find_idle(const NeonId *tenant, int *replace)
{
	uint64		my_ticket = my_waiter()->ticket;
	int			fresh = -1;
	bool		coming = false;
	int			i;

	*replace = -1;
	for (i = 0; i < redo_pool->nslots; i++)
	{
		RedoSlot   *slot = &redo_pool->slots[i];

		if (slot->reserved != 0)
		{
			if (slot->reserved == my_ticket && slot->state == REDO_SLOT_IDLE)
				return i;
			continue;
		}
		if (slot->state != REDO_SLOT_IDLE)
			coming |= slot->state != REDO_SLOT_LEASED;
		else if (!slot->used)
			fresh = i;
		else if (neon_id_equal(&slot->tenant, tenant))
			return i;
		else if (*replace < 0 ||
				 slot->changed < redo_pool->slots[*replace].changed)
			*replace = i;
	}
	/* Rather wait for a child that is being started, if they start. */
	if (fresh >= 0 || my_waiter()->has_reservation ||
		(coming && redo_pool->failure[0] == '\0'))
		*replace = -1;
	return fresh;
}

/* Takes a child if there is one, else may order one.  -1 if none. */
static int
try_lease(const NeonId *tenant)
{
	RedoSlot   *slot;
	int			replace;
	int			found;

	if (!my_waiter()->has_reservation && elder_waits())
		return -1;
	found = find_idle(tenant, &replace);
	if (found < 0)
	{
		start_waiting();
		if (replace >= 0)
		{
			slot = &redo_pool->slots[replace];
			set_state(slot, REDO_SLOT_RETIRED);
			slot->reserved = my_waiter()->ticket;
			my_waiter()->has_reservation = true;
			redopool_wake_supervisor();
		}
		return -1;
	}
	slot = &redo_pool->slots[found];
	slot->holder = MyProc->pgprocno;
	slot->reserved = 0;
	slot->used = true;
	slot->tenant = *tenant;
	set_state(slot, REDO_SLOT_LEASED);
	stop_waiting();
	return found;
}

/* ---- leases ---- */

/* A process that ends in the middle leaves no lease and no ticket. */
static void
on_process_exit(int code, Datum arg)
{
	redopool_release(true);
	LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
	stop_waiting();
	LWLockRelease(&redo_pool->lock);
}

static void
report_no_child(void)
{
	char		failure[sizeof(redo_pool->failure)];
	bool		supervised;

	LWLockAcquire(&redo_pool->lock, LW_SHARED);
	strlcpy(failure, redo_pool->failure, sizeof(failure));
	supervised = redo_pool->supervisor != NULL;
	LWLockRelease(&redo_pool->lock);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("no WAL redo process became available within %d ms", redo_timeout),
			 !supervised ? errdetail("The worker that starts them is not running.") :
			 failure[0] ? errdetail("The last one could not be started: %s.", failure) :
			 errdetail("All %d processes are in use.", redo_pool->nslots),
			 !supervised || failure[0] ? errhint("The server log says more.") :
			 errhint("Consider increasing neon_pageserver.redo_workers.")));
}

/* Waits until try_lease succeeds. */
static int
wait_for_lease(const NeonId *tenant, TimestampTz deadline)
{
	int			slot;

	ConditionVariablePrepareToSleep(&redo_pool->changed);
	for (;;)
	{
		LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
		start_waiting();
		slot = try_lease(tenant);
		LWLockRelease(&redo_pool->lock);
		if (slot >= 0)
			break;
		if (neon_clock() >= deadline)
			report_no_child();
		ConditionVariableTimedSleep(&redo_pool->changed, WAIT_STEP_MS, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return slot;
}

void
redopool_lease(const NeonId *tenant, RedoLease *lease)
{
	TimestampTz deadline;
	volatile int slot;

	Assert(my_slot < 0);
	if (!exit_callback_set)
	{
		/* not before_shmem_exit, whose callbacks callers may nest */
		on_shmem_exit(on_process_exit, (Datum) 0);
		exit_callback_set = true;
	}
	LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
	slot = try_lease(tenant);
	LWLockRelease(&redo_pool->lock);
	if (slot < 0)
	{
		deadline = TimestampTzPlusMilliseconds(neon_clock(), redo_timeout);
		PG_TRY();
		{
			slot = wait_for_lease(tenant, deadline);
		}
		PG_CATCH();
		{
			ConditionVariableCancelSleep();
			LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
			stop_waiting();
			LWLockRelease(&redo_pool->lock);
			ConditionVariableBroadcast(&redo_pool->changed);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	my_slot = lease->slot = slot;
	/* Nobody changes these while the slot is leased. */
	lease->generation = redo_pool->slots[slot].generation;
	lease->again = redo_pool->slots[slot].client == MyProcPid;
	redo_pool->slots[slot].client = MyProcPid;
}

void
redopool_release(bool broken)
{
	RedoSlot   *slot;

	if (my_slot < 0)
		return;
	slot = &redo_pool->slots[my_slot];
	my_slot = -1;
	LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
	Assert(slot->state == REDO_SLOT_LEASED && slot->holder == MyProc->pgprocno);
	slot->holder = -1;
	/* The supervisor has taken a dead child's number away. */
	if (broken || slot->child == 0)
	{
		set_state(slot, REDO_SLOT_RETIRED);
		redopool_wake_supervisor();
	}
	else
		set_state(slot, REDO_SLOT_IDLE);
	LWLockRelease(&redo_pool->lock);
	ConditionVariableBroadcast(&redo_pool->changed);
}

/* ---- batches ---- */

/* Blames the request that was in work when children died, or has it tried again. */
static void
note_death(RedoRequest *req, uint8 *attempts, bool *done)
{
	if (++*attempts < MAX_ATTEMPTS)
		return;
	*done = true;
	req->sqlerrcode = ERRCODE_INSUFFICIENT_RESOURCES;
	req->error = pstrdup("the WAL redo process died while it worked on the page");
}

/* What becomes of the requests of a batch. */
typedef struct Progress
{
	bool	   *done;			/* it has its result */
	bool	   *alone;			/* it failed beside others, so it is tried alone */
	uint8	   *attempts;		/* so many children died of it */
} Progress;

/* Did the page fail by itself?  Where a child died, or the time was over, it is not known. */
static bool
was_refused(const RedoRequest *req, bool done)
{
	return done && !req->ok && req->sqlerrcode != ERRCODE_INSUFFICIENT_RESOURCES;
}

/*
 * A wrong record may damage what a child has in memory, so that pages fail that
 * are right.  Where more than one failed, each is tried again alone; true if
 * this child should not do it.
 */
static bool
suspect_failures(RedoRequest *requests, const int *todo, int ntodo, Progress *progress)
{
	int			failed = 0;

	for (int i = 0; i < ntodo; i++)
		failed += was_refused(&requests[todo[i]], progress->done[todo[i]]);
	if (ntodo == 1)
		return failed > 0 && progress->alone[todo[0]];
	if (failed < 2)
		return false;
	for (int i = 0; i < ntodo; i++)
	{
		RedoRequest *req = &requests[todo[i]];

		if (!was_refused(req, progress->done[todo[i]]))
			continue;
		progress->done[todo[i]] = false;
		progress->alone[todo[i]] = true;
		req->error = NULL;
		req->sqlerrcode = 0;
	}
	return true;
}

/* One lease and what can be done with it. */
static void
run_round(const NeonId *tenant, uint32 wal_segment_size, RedoRequest *requests,
		  int *todo, int ntodo, Progress *progress)
{
	RedoLease	lease;

	redopool_lease(tenant, &lease);
	PG_TRY();
	{
		int			culprit = -1;
		bool		usable;

		usable = redobatch_run(&lease, wal_segment_size, requests, todo, ntodo,
							   progress->done, &culprit);
		if (culprit >= 0)
			note_death(&requests[culprit], &progress->attempts[culprit], &progress->done[culprit]);
		if (suspect_failures(requests, todo, ntodo, progress))
			usable = false;
		redopool_release(!usable);
	}
	PG_CATCH();
	{
		redobatch_cleanup();
		redopool_release(true);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static void
count_batch(const RedoRequest *requests, int n)
{
	int			failed = 0;
	int			i;

	for (i = 0; i < n; i++)
		failed += !requests[i].ok;
	LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
	redo_pool->stats.batches++;
	redo_pool->stats.pages += n;
	redo_pool->stats.failed_pages += failed;
	LWLockRelease(&redo_pool->lock);
}

/* All that have no result yet, but those that are tried alone; then one of these. */
static int
choose_work(const Progress *progress, int n, int *todo, int *left)
{
	int			ntodo = 0;
	int			lonely = -1;

	*left = 0;
	for (int i = 0; i < n; i++)
	{
		if (progress->done[i])
			continue;
		(*left)++;
		if (!progress->alone[i])
			todo[ntodo++] = i;
		else if (lonely < 0)
			lonely = i;
	}
	if (ntodo == 0 && lonely >= 0)
		todo[ntodo++] = lonely;
	return ntodo;
}

void
redo_apply(const NeonId *tenant, uint32 wal_segment_size, RedoRequest *requests, int n)
{
	Progress	progress;
	int		   *todo = palloc(n * sizeof(int));
	int			last_left = n + 1;
	int			idle_rounds = 0;
	int			i;

	if (redo_pool == NULL)
		elog(ERROR, "the redo pool is not set up");
	if (my_slot >= 0)
		elog(ERROR, "redo_apply() called from within redo_apply()");
	if (!IsValidWalSegSize(wal_segment_size))
		elog(ERROR, "invalid WAL segment size %u", wal_segment_size);

	for (i = 0; i < n; i++)
	{
		requests[i].ok = false;
		requests[i].error = NULL;
		requests[i].sqlerrcode = 0;
	}
	progress.done = palloc0(n * sizeof(bool));
	progress.alone = palloc0(n * sizeof(bool));
	progress.attempts = palloc0(n * sizeof(uint8));
	for (;;)
	{
		int			left;
		int			ntodo = choose_work(&progress, n, todo, &left);

		if (left == 0)
			break;
		idle_rounds = left < last_left ? 0 : idle_rounds + 1;
		if (idle_rounds >= redo_pool->nslots + MAX_IDLE_ROUNDS)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("WAL redo processes end before they do anything")));
		last_left = left;
		run_round(tenant, wal_segment_size, requests, todo, ntodo, &progress);
	}
	count_batch(requests, n);
	pfree(todo);
	pfree(progress.attempts);
	pfree(progress.alone);
	pfree(progress.done);
}
