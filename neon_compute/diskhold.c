/*-------------------------------------------------------------------------
 *
 * diskhold.c
 *	  Holding those who need local disk space when little is left.
 *
 * What a transaction has written cannot be dropped before it has ended, nor
 * before all have that ran at the same time.  So if everybody were held when
 * there is no space, nobody would ever go on.  Those who have changed nothing
 * yet, for whom the evictor does not wait, are held first; those who have may
 * use what is left, end, and so make room; so may those for whom
 * somebody waits.  Only when that is used up, too, all are held, and fail
 * after neon.fetch_timeout.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "coordinator.h"
#include "diskhold.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_testpoint.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "postmaster/interrupt.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proclist.h"
#include "storage/shmem.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"
#include "vacuumpart.h"

#define MEGABYTE			(1024 * 1024)
#define POLL_INTERVAL_MS	10
#define PAUSE_MS			1
#define QUIET_MS			1000
#define WRITER_PAUSE_US		5000

/* What a process has changed, of which the evictor has to know. */
typedef struct Changer
{
	pg_atomic_uint64 begin_lsn; /* a transaction without a number had begun no change then */
	pg_atomic_uint32 lxid;		/* which one; stored after begin_lsn */
	pg_atomic_uint32 builds;	/* runs a command that may build indexes without a number */
} Changer;

typedef struct HoldShared
{
	pg_atomic_uint64 holds;		/* how often somebody was held */
	pg_atomic_uint32 waiting;	/* who is held now */
	Changer		changers[FLEXIBLE_ARRAY_MEMBER];	/* by process number */
} HoldShared;

static HoldShared *shared = NULL;

/* What the evictor found of a process when it looked last. */
typedef struct Watched
{
	LocalTransactionId lxid;
	XLogRecPtr	begin;			/* this transaction had changed nothing before; 0: not known */
} Watched;

static struct
{
	Watched    *procs;			/* by process number; NULL before the first look */
	XLogRecPtr	looked_at;		/* where WAL was inserted just before the last look */
}			watch;

/* Where this process is held. */
static struct
{
	const char *page;			/* where the page goes that it reads, or NULL */
	XLogRecPtr	since;			/* the insert position when that began */
}			held;

static ProcessUtility_hook_type prev_process_utility = NULL;

static uint32
max_procs(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

static Size
shared_size(void)
{
	return MAXALIGN(offsetof(HoldShared, changers) + max_procs() * sizeof(Changer));
}

void
diskhold_request_shmem(void)
{
	RequestAddinShmemSpace(shared_size());
}

void
diskhold_shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon disk holds", shared_size(), &found);
	if (!found)
	{
		pg_atomic_init_u64(&shared->holds, 0);
		pg_atomic_init_u32(&shared->waiting, 0);
		for (uint32 i = 0; i < max_procs(); i++)
		{
			pg_atomic_init_u64(&shared->changers[i].begin_lsn, InvalidXLogRecPtr);
			pg_atomic_init_u32(&shared->changers[i].lxid, InvalidLocalTransactionId);
			pg_atomic_init_u32(&shared->changers[i].builds, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Before it builds an index CONCURRENTLY, and after it, a command waits until other
 * transactions have ended, which may be held for space.  Then all that it has
 * built is in the WAL, and what it builds next is newer than this look.
 */
static bool
waits_for_transactions(const PGPROC *proc)
{
	return *(volatile const uint32 *) &proc->wait_event_info ==
		(PG_WAIT_LOCK | LOCKTAG_VIRTUALTRANSACTION) && !NEON_TEST_BUG("waits_build");
}

bool
disk_may_have_unfinished(int procno)
{
	const PGPROC *proc = &ProcGlobal->allProcs[procno];

	return TransactionIdIsValid(proc->xid) ||
		(pg_atomic_read_u32(&shared->changers[procno].builds) != 0 && !waits_for_transactions(proc) &&
		 !NEON_TEST_BUG("no_builds"));
}

/*
 * Not while this process builds indexes: what it has built so far is not in the
 * WAL, and it may have no number.
 */
void
disk_store_begin(void)
{
	Changer    *me = &shared->changers[MyProc->pgprocno];

	if ((TransactionIdIsValid(GetTopTransactionIdIfAny()) && !NEON_TEST_BUG("late_begin")) ||
		(pg_atomic_read_u32(&me->builds) != 0 && !NEON_TEST_BUG("note_builds")))
		return;
	pg_atomic_write_u64(&me->begin_lsn, GetXLogInsertRecPtr());
	pg_write_barrier();
	pg_atomic_write_u32(&me->lxid, MyProc->lxid);
}

static XLogRecPtr
noted_begin(int procno, LocalTransactionId lxid)
{
	Changer    *changer = &shared->changers[procno];

	if (pg_atomic_read_u32(&changer->lxid) != lxid)
		return InvalidXLogRecPtr;
	pg_read_barrier();
	return pg_atomic_read_u64(&changer->begin_lsn);
}

/*
 * The position is taken first: who has nothing unfinished after it, or another
 * transaction than before it, changes nothing that is older.
 */
void
disk_watch_begins(void)
{
	XLogRecPtr	now = GetXLogInsertRecPtr();

	if (watch.procs == NULL)
		watch.procs = MemoryContextAllocZero(TopMemoryContext,
											 ProcGlobal->allProcCount * sizeof(Watched));
	for (int i = 0; i < ProcGlobal->allProcCount; i++)
	{
		LocalTransactionId lxid = *(volatile const LocalTransactionId *) &ProcGlobal->allProcs[i].lxid;

		pg_read_barrier();
		if (NEON_TEST_BUG("late_look") || !disk_may_have_unfinished(i))
			watch.procs[i] = (Watched) {lxid, now};
		else if (lxid != watch.procs[i].lxid)
			watch.procs[i] = (Watched) {lxid, NEON_TEST_BUG("look_now") ? now : watch.looked_at};
	}
	watch.looked_at = now;
}

static XLogRecPtr
seen_begin(int procno, LocalTransactionId lxid)
{
	if (watch.procs == NULL || NEON_TEST_BUG("no_look"))
		return InvalidXLogRecPtr;
	return watch.procs[procno].lxid == lxid ? watch.procs[procno].begin : watch.looked_at;
}

XLogRecPtr
disk_begin_lsn(int procno, LocalTransactionId lxid)
{
	XLogRecPtr	noted = noted_begin(procno, lxid);
	XLogRecPtr	seen = seen_begin(procno, lxid);

	if (NEON_TEST_BUG("no_begin") || NEON_TEST_BUG("h1_only"))
		return InvalidXLogRecPtr;
	return Max(noted, seen);
}

uint32
disk_waiting(void)
{
	return pg_atomic_read_u32(&shared->waiting);
}

uint64
disk_holds(void)
{
	return pg_atomic_read_u64(&shared->holds);
}

/* ----------
 * Holding
 * ----------
 */

/* Does somebody wait for it who may have changed something before this process was held? */
static bool
lock_hinders(const LOCK *lock)
{
	const PGPROC *waiter = (const PGPROC *) lock->waitProcs.links.next;

	for (int i = 0; i < lock->waitProcs.size; i++)
	{
		if (disk_may_have_unfinished(waiter->pgprocno) &&
			noted_begin(waiter->pgprocno, waiter->lxid) < held.since)
			return true;
		waiter = (const PGPROC *) waiter->links.next;
	}
	return false;
}

/* This process, or the one that it works for. */
static PGPROC *
session_proc(void)
{
	return MyProc->lockGroupLeader ? MyProc->lockGroupLeader : MyProc;
}

static bool
has_lock_that_hinders(void)
{
	PGPROC	   *me = session_proc();
	bool		found = false;

	for (int i = 0; i < NUM_LOCK_PARTITIONS && !found; i++)
	{
		LWLock	   *mutex = LockHashPartitionLockByIndex(i);
		SHM_QUEUE  *list = &me->myProcLocks[i];
		PROCLOCK   *mine;

		LWLockAcquire(mutex, LW_SHARED);
		mine = (PROCLOCK *) SHMQueueNext(list, list, offsetof(PROCLOCK, procLink));
		while (mine != NULL && !found)
		{
			found = mine->holdMask != 0 && lock_hinders(mine->tag.myLock);
			mine = (PROCLOCK *) SHMQueueNext(list, &mine->procLink, offsetof(PROCLOCK, procLink));
		}
		LWLockRelease(mutex);
	}
	return found;
}

/* Does anybody wait for the page that this process is reading?  He cannot be told why. */
static bool
page_is_awaited(void)
{
	ConditionVariable *cv;
	bool		awaited;

	if (held.page < BufferBlocks || held.page >= BufferBlocks + (Size) NBuffers * BLCKSZ)
		return false;
	cv = &BufferIOCVArray[(held.page - BufferBlocks) / BLCKSZ].cv;
	SpinLockAcquire(&cv->mutex);
	awaited = !proclist_is_empty(&cv->wakeup);
	SpinLockRelease(&cv->mutex);
	return awaited;
}

/* Who waits for this process may be the one for whose end it waits. */
static bool
others_wait_for_me(void)
{
	return (page_is_awaited() || has_lock_that_hinders()) && !NEON_TEST_BUG("waited_for");
}

static bool
used_to_hold(void)
{
	return disk_used() >= disk_hold_from();
}

static bool
used_to_full(void)
{
	return disk_used() >= disk_full_from();
}

static bool
must_not_begin(void)
{
	return used_to_full() || (used_to_hold() && !others_wait_for_me());
}

static bool
vacuum_must_wait(void)
{
	return vacuumpart_is_used_up() && !others_wait_for_me();
}

static void
report_no_room(const char *what)
{
	char		blocker[DISK_BLOCKER_SIZE];
	XLogRecPtr	clean_before;
	int			pid = disk_read_blocker(blocker, sizeof(blocker), &clean_before);
	char		self[64] = "";

	if (blocker[0] == '\0')
		strlcpy(blocker, "it is used up faster than it becomes free", sizeof(blocker));
	if (pid == session_proc()->pid)
		snprintf(self, sizeof(self), " Process %d is this session.", pid);
	ereport(ERROR,
			(errcode(ERRCODE_DISK_FULL),
			 errmsg("%s", what),
			 errdetail("%llu MB are in use; the limit (neon.local_size_limit) is %d MB. For %d ms no space became free: %s.%s",
					   (unsigned long long) (disk_used() / MEGABYTE), disk_limit_kb() / 1024,
					   neon_fetch_timeout, blocker, self),
			 errhint("The view neon.local_disk shows what hinders it. End long transactions, write less in one, end queries with large temporary files, empty unlogged tables, or raise \"neon.local_size_limit\".")));
}

static void
nap(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Waits while it is so, at most ms; returns whether it still is. */
static bool
wait_while(bool (*is_so) (void), int ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), ms);

	while (is_so())
	{
		if (neon_clock() >= deadline)
			return true;
		disk_wake_evictor();
		nap(POLL_INTERVAL_MS);
	}
	return false;
}

static void
end_hold(int code, Datum arg)
{
	(void) pg_atomic_fetch_sub_u32(&shared->waiting, 1);
}

/* Throws after ms, with this message. */
static void
hold_while(bool (*is_so) (void), int ms, const char *what)
{
	(void) pg_atomic_fetch_add_u64(&shared->holds, 1);
	(void) pg_atomic_fetch_add_u32(&shared->waiting, 1);
	PG_ENSURE_ERROR_CLEANUP(end_hold, (Datum) 0);
	{
		if (wait_while(is_so, ms))
			report_no_room(what);
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_hold, (Datum) 0);
	end_hold(0, (Datum) 0);
}

static void
note_hold(const char *page)
{
	held.page = page;
	held.since = GetXLogInsertRecPtr();
}

/* Who has changed something, or is waited for, is only slowed as long as that is possible. */
void
disk_wait_for_room(const char *page)
{
	bool		unfinished;

	if (likely(!used_to_hold()))
		return;
	disk_wake_evictor();
	if (!throttle_may_wait())
		return;
	note_hold(page);
	unfinished = disk_may_have_unfinished(MyProc->pgprocno);
	if (unfinished ? used_to_full() : must_not_begin())
		hold_while(unfinished ? used_to_full : must_not_begin, neon_fetch_timeout,
				   "the limit of local disk space is reached");
	else
		nap(PAUSE_MS);
}

/*
 * A short wait is nothing to be told; in the rest of the time the evictor says what
 * hinders it, for the error.  To truncate a table VACUUM takes a lock that gives
 * it a number: then it would wait for its own end.
 */
void
disk_wait_for_vacuum_part(const char *page)
{
	int			quiet = Min(QUIET_MS, neon_fetch_timeout / 2);

	if (!vacuumpart_must_wait() || !throttle_may_wait() ||
		(disk_may_have_unfinished(MyProc->pgprocno) && !NEON_TEST_BUG("numbered_vacuum")))
		return;
	note_hold(page);
	if (wait_while(vacuum_must_wait, quiet))
		hold_while(vacuum_must_wait, neon_fetch_timeout - quiet,
				   "VACUUM has used up its part of the local disk space");
}

/* The last checkpoint writes to a directory that nobody will use. */
void
disk_pause_writer(void)
{
	if (!disk_is_limited || ShutdownRequestPending || disk_used() < disk_full_from())
		return;
	disk_wake_evictor();
	pg_usleep(WRITER_PAUSE_US);
}

bool
disk_is_short(void)
{
	return disk_is_limited && used_to_hold();
}

/* ----------
 * Building indexes
 * ----------
 */

static void
set_builds(int code, Datum value)
{
	pg_atomic_write_u32(&shared->changers[MyProc->pgprocno].builds, DatumGetUInt32(value));
	pg_memory_barrier();
}

/* CREATE INDEX and REINDEX, which CONCURRENTLY build without a transaction number. */
static void
marked_process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
					   ProcessUtilityContext context, ParamListInfo params,
					   QueryEnvironment *env, DestReceiver *dest, QueryCompletion *completion)
{
	ProcessUtility_hook_type run = prev_process_utility ? prev_process_utility : standard_ProcessUtility;
	uint32		before;

	disk_note_begin();
	if (!IsA(pstmt->utilityStmt, IndexStmt) && !IsA(pstmt->utilityStmt, ReindexStmt))
	{
		run(pstmt, query, read_only_tree, context, params, env, dest, completion);
		return;
	}
	/* a function of an index that is built may run such a command itself */
	before = pg_atomic_read_u32(&shared->changers[MyProc->pgprocno].builds);
	set_builds(0, UInt32GetDatum(1));
	PG_ENSURE_ERROR_CLEANUP(set_builds, UInt32GetDatum(before));
	{
		run(pstmt, query, read_only_tree, context, params, env, dest, completion);
	}
	PG_END_ENSURE_ERROR_CLEANUP(set_builds, UInt32GetDatum(before));
	set_builds(0, UInt32GetDatum(before));
}

void
diskhold_install(void)
{
	if (neon_local_size_limit == 0)
		return;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = marked_process_utility;
}
