/*-------------------------------------------------------------------------
 *
 * evict.c
 *	  Dropping chunks from local disk, so that it stays below its limit.
 *
 * A worker.  What it may drop: a chunk that was never written here, one whose
 * pages were last changed before the first of two samples, and of others the
 * pages that were not changed since such a sample.  They are taken like this:
 *
 *	H1 = insert position; V = transactions that run now and may have changed a
 *		page so that it is not in the WAL (diskhold.h); H1 is at most where it is
 *		known of one of V that it had changed nothing yet
 *	wait until all of V have ended of which that is not known
 *	H2 = insert position
 *	wait until the pageserver has the WAL up to H2
 *
 * Then whatever changed the pages that were written before H1 has ended: all
 * of it is in the WAL below H2, and a page that is asked for as of H2 or later
 * has it.  README.md says why one sample is not enough.
 *
 * What is dropped first is decided by a hand that goes round the chunks: those
 * that were read since it came by last are left this time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "commands/sequence.h"
#include "coordinator.h"
#include "diskhold.h"
#include "evict.h"
#include "files.h"
#include "fmgr.h"
#include "map.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_durable.h"
#include "neon_library.h"
#include "neon_testpoint.h"
#include "neon_walend.h"
#include "pageserver.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "quorum.h"
#include "reference.h"
#include "replication/message.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "vacuumpart.h"

#define TICK_IDLE_MS		200
#define TICK_BUSY_MS		20
#define MEASURE_MIN_US		1000000 /* from one count of the files to the next */
#define PART_MIN_US			200000	/* the same of the map */
#define MEASURE_FACTOR		20	/* times as long as it took */
#define REMINDER_US			60000000
#define SETTLED_US			5000000
#define LAG_US				1000000 /* so long without what is waited for the pageserver is to blame */
#define FORGET_CHUNKS		4096	/* that are looked at each time */
#define VACUUM_IS_MUCH		16	/* this part of the space */
#define MEGABYTE			(1024 * 1024)

/* What a sequence's page has at its end. */
#define SEQ_MAGIC			0x1717
#define SEQ_SPECIAL_AT		(BLCKSZ - MAXALIGN(sizeof(uint32)))

/* A transaction that ran when the first sample was taken. */
typedef struct Running
{
	int			procno;
	LocalTransactionId lxid;
	XLogRecPtr	begin;			/* 0: not known, so its end is awaited */
} Running;

static struct
{
	XLogRecPtr	h1;				/* 0: there is no sample */
	XLogRecPtr	h2;				/* 0: transactions that are awaited still run */
	TimestampTz h2_at;			/* when h2 was set */
	Running    *running;
	int			nrunning;
	XLogRecPtr	last_insert;	/* where the last sample was taken */
	bool		limited;		/* its H1 was before that */
	XLogRecPtr	clean_before;	/* the largest H1 of a pair of samples that is complete */
}			rule;

/* Where the hand is. */
static struct
{
	uint64		fork;
	BlockNumber block;
	Oid			db;				/* whose lock is held, or InvalidOid */
	bool		vacuum_runs;	/* one did when this round began */
	Oid			pinned;			/* that could not be had in this round, or InvalidOid */
}			hand;

/* Room for a chunk. */
static char *pages = NULL;

extern PGDLLEXPORT void neon_evictor_main(Datum arg);

void
evict_register_worker(void)
{
	BackgroundWorker worker;

	evict_install_test_points();
	if (neon_local_size_limit == 0)
		return;
	library_worker(&worker, "neon", "neon_evictor_main", "neon evictor");
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	RegisterBackgroundWorker(&worker);
}

/* ----------
 * The rule
 * ----------
 */

/*
 * Whose transaction this is, or 0 if it need not be waited for.  A prepared
 * transaction has no process; it changes nothing any more.
 */
static int
runner_pid(const Running *r)
{
	const PGPROC *proc = &ProcGlobal->allProcs[r->procno];

	return proc->lxid == r->lxid && disk_may_have_unfinished(r->procno) ? proc->pid : 0;
}

/* A transaction of V, which H1 is to be before, or which is awaited. */
static void
add_running(int procno, LocalTransactionId lxid)
{
	XLogRecPtr	begin = disk_begin_lsn(procno, lxid);

	rule.running[rule.nrunning++] = (Running)
	{
		.procno = procno,.lxid = lxid,.begin = begin
	};
	if (begin != InvalidXLogRecPtr && !NEON_TEST_BUG("one_sample"))
		rule.h1 = Min(rule.h1, begin);
}

static void
take_first_sample(void)
{
	rule.h2 = InvalidXLogRecPtr;
	rule.nrunning = 0;
	/* while nobody writes WAL, what was written now is not before now */
	if (disk_used() >= disk_evict_from() && !rule.limited &&
		GetXLogInsertRecPtr() == rule.last_insert)
		(void) LogLogicalMessage("neon", "", 0, false);
	rule.h1 = rule.last_insert = GetXLogInsertRecPtr();

	LWLockAcquire(ProcArrayLock, LW_SHARED);
	for (int i = 0; i < ProcGlobal->allProcCount; i++)
	{
		const PGPROC *proc = &ProcGlobal->allProcs[i];
		LocalTransactionId lxid = proc->lxid;

		if (proc->pid != 0 && lxid != InvalidLocalTransactionId && disk_may_have_unfinished(i))
			add_running(i, lxid);
	}
	LWLockRelease(ProcArrayLock);
	rule.limited = rule.h1 < rule.last_insert;
}

/* Is none left that is awaited? */
static bool
have_ended(void)
{
	int			left = 0;
	bool		awaited = false;

	LWLockAcquire(ProcArrayLock, LW_SHARED);
	for (int i = 0; i < rule.nrunning; i++)
	{
		if (runner_pid(&rule.running[i]) == 0)
			continue;
		awaited |= rule.running[i].begin == InvalidXLogRecPtr;
		rule.running[left++] = rule.running[i];
	}
	LWLockRelease(ProcArrayLock);
	rule.nrunning = left;
	return !awaited;
}

/* What the pageserver has. */
static XLogRecPtr
pageserver_lsn(void)
{
	return quorum_mode() ? quorum_pageserver_lsn() : storage_flush_lsn();
}

/*
 * Goes on as far as it can without waiting.  A static endpoint writes nothing
 * but hint bits, an ephemeral one nothing that can be fetched.
 */
static void
advance_rule(void)
{
	if (neon_boot.kind != NEON_PRIMARY || reference_is_used())
	{
		rule.clean_before = neon_boot.kind == NEON_STATIC ? PG_UINT64_MAX : 1;
		map_set_clean_before(rule.clean_before);
		return;
	}
	if (rule.h1 == InvalidXLogRecPtr)
		take_first_sample();
	if (NEON_TEST_BUG("one_sample"))
		rule.nrunning = 0;
	if (rule.h1 <= rule.clean_before)
	{
		/* because of those that had begun before; the next sample may be of use */
		rule.h1 = InvalidXLogRecPtr;
		return;
	}
	if (!have_ended())
		return;
	if (rule.h2 == InvalidXLogRecPtr)
	{
		rule.h2 = NEON_TEST_BUG("h1_only") ? rule.h1 : neon_end_of_wal();
		rule.h2_at = neon_clock();
		XLogFlush(rule.h2);
	}
	if (!NEON_TEST_BUG("no_second_sample"))
	{
		if (pageserver_lsn() < rule.h2 && !NEON_TEST_BUG("not_ingested"))
			return;
		disk_raise_request_lsn(rule.h2);
	}
	rule.clean_before = rule.h1 + (NEON_TEST_BUG("not_strict") ? 1 : 0);
	rule.h1 = InvalidXLogRecPtr;
	map_set_clean_before(rule.clean_before);
}

/*
 * Transactions that hinder most: those that are awaited, else who began first; pid
 * is of one of them.
 */
static int
count_hindering(int *pid)
{
	XLogRecPtr	oldest = rule.last_insert - 1;
	int			n = 0;

	*pid = 0;
	(void) have_ended();
	for (int i = 0; i < rule.nrunning; i++)
		oldest = Min(oldest, rule.running[i].begin);
	for (int i = 0; i < rule.nrunning; i++)
	{
		if (rule.running[i].begin > oldest)
			continue;
		*pid = runner_pid(&rule.running[i]);
		n++;
	}
	return n;
}

/* Why nothing that was written lately can be dropped; returns a pid or 0. */
static int
describe_running(char *buf, size_t size)
{
	bool		lags = rule.h1 != InvalidXLogRecPtr && rule.h2 != InvalidXLogRecPtr &&
		neon_clock() - rule.h2_at > LAG_US;
	int			pid = 0;
	int			nhindering = lags ? 0 : count_hindering(&pid);

	if (OidIsValid(hand.pinned))
		snprintf(buf, size, "the files of database %u are being copied", hand.pinned);
	else if (neon_boot.kind == NEON_EPHEMERAL)
		snprintf(buf, size, "what an ephemeral endpoint has written is nowhere else");
	else if (pid != 0 && nhindering > 1)
		snprintf(buf, size, "%d transactions have not ended, one of them of process %d",
				 nhindering, pid);
	else if (pid != 0)
		snprintf(buf, size, "a transaction of process %d has not ended", pid);
	else if (lags)
		snprintf(buf, size, "pageserver %s has the WAL up to %X/%X only, not to %X/%X",
				 pageserver_address(), LSN_FORMAT_ARGS(pageserver_lsn()), LSN_FORMAT_ARGS(rule.h2));
	else
		snprintf(buf, size, "it is used up faster than it becomes free");
	return pid;
}

/* Returns the process with most temporary files, if these are half of it at least, or 0. */
static int
describe_only_here(char *buf, size_t size, uint64 only_here)
{
	int			pid;
	uint64		most;
	uint64		counted = disk_temporary_bytes(&pid, &most);
	uint64		temporary = Min(counted, only_here);

	if (temporary < only_here / 2)
		pid = 0;
	snprintf(buf, size, "%llu MB are used by what is only here, %llu MB of them by temporary files",
			 (unsigned long long) (only_here / MEGABYTE), (unsigned long long) (temporary / MEGABYTE));
	if (pid != 0)
		snprintf(buf + strlen(buf), size - strlen(buf), ", %llu MB of these by process %d",
				 (unsigned long long) (most / MEGABYTE), pid);
	return pid;
}

/*
 * Why nothing more can be dropped; returns a pid or 0.  If what is only here does
 * not leave enough by itself, nobody else is to blame.
 */
static int
describe_blocker(char *buf, size_t size)
{
	uint64		absent;
	uint64		only_here = disk_only_here(&absent);
	int			pid;

	if (only_here >= disk_evict_from())
		return describe_only_here(buf, size, only_here);
	pid = describe_running(buf, size);
	if (vacuumpart_changed() >= disk_evict_from() / VACUUM_IS_MUCH)
		snprintf(buf + strlen(buf), size - strlen(buf), "; VACUUM has changed %llu MB that cannot be dropped yet",
				 (unsigned long long) (vacuumpart_changed() / MEGABYTE));
	if (only_here >= disk_evict_from() / 2)
	{
		int			owner;

		strlcat(buf, "; ", size);
		owner = describe_only_here(buf + strlen(buf), size - strlen(buf), only_here);
		pid = pid != 0 ? pid : owner;
	}
	return pid;
}

/* ----------
 * Dropping
 * ----------
 */

/* Where space is given back; nothing here may throw. */
typedef struct Hole
{
	const MapFork *fork;
	BlockNumber start;			/* of the chunk */
	int			fd;
	int			error;			/* errno, or 0 */
} Hole;

static void
punch_hole(void *arg, BlockNumber start, uint32 nblocks)
{
	Hole	   *hole = arg;
	int			rc;

	do
	{
		rc = fallocate(hole->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					   (off_t) (start % RELSEG_SIZE) * BLCKSZ, (off_t) nblocks * BLCKSZ);
	} while (rc != 0 && errno == EINTR);
	if (rc != 0)
		hole->error = errno;
}

/* Does a VACUUM run? */
static bool
vacuum_runs(void)
{
	bool		runs = false;

	LWLockAcquire(ProcArrayLock, LW_SHARED);
	for (int i = 0; i < ProcGlobal->allProcCount && !runs; i++)
		runs = (ProcGlobal->allProcs[i].statusFlags & PROC_IN_VACUUM) != 0;
	LWLockRelease(ProcArrayLock);
	return runs;
}

/*
 * Has one of the pages a mark by which a VACUUM of a B-tree knows that the
 * page was split meanwhile?  It is in no WAL record.  Other kinds of pages may
 * be taken for one, which only keeps them.  true if they cannot be read.
 */
static bool
has_cycle_ids(int fd, BlockNumber start)
{
	const int	special_at = BLCKSZ - MAXALIGN(sizeof(BTPageOpaqueData));
	ssize_t		n = durable_pread(fd, pages, MAP_CHUNK_BLOCKS * BLCKSZ,
								  (off_t) (start % RELSEG_SIZE) * BLCKSZ);

	for (ssize_t at = 0; at + BLCKSZ <= n; at += BLCKSZ)
	{
		const BTPageOpaqueData *opaque = (const BTPageOpaqueData *) (pages + at + special_at);

		if (((PageHeader) (pages + at))->pd_special == special_at &&
			opaque->btpo_cycleid != 0 && opaque->btpo_cycleid <= MAX_BT_CYCLE_ID)
			return true;
	}
	return n < 0;
}

/*
 * Has a sequence given numbers that are in a WAL record as given only together
 * with some that are not?  Fetched again it would skip those.  true if it cannot
 * be read.
 */
static bool
has_logged_ahead(int fd)
{
	Page		page = (Page) pages;
	ItemId		item = PageGetItemId(page, FirstOffsetNumber);
	HeapTupleHeader tuple;
	FormData_pg_sequence_data data;

	if (durable_pread(fd, pages, BLCKSZ, 0) != BLCKSZ)
		return true;
	if (((PageHeader) page)->pd_special != SEQ_SPECIAL_AT ||
		*(uint32 *) (pages + SEQ_SPECIAL_AT) != SEQ_MAGIC)
		return false;
	if (ItemIdGetOffset(item) + SizeofHeapTupleHeader > SEQ_SPECIAL_AT)
		return true;
	tuple = (HeapTupleHeader) (pages + ItemIdGetOffset(item));
	if (ItemIdGetOffset(item) + tuple->t_hoff + sizeof(data) > SEQ_SPECIAL_AT)
		return true;
	memcpy(&data, (char *) tuple + tuple->t_hoff, sizeof(data));
	return data.log_cnt != 0;
}

/* Has the chunk something that was written here and is in no WAL record? */
static bool
has_unlogged_marks(const Hole *hole)
{
	const MapFork *fork = hole->fork;

	if (pg_atomic_read_u64(&map_chunk(fork, hole->start)->dirty_lsn) == 0)
		return false;
	if (hand.vacuum_runs && !NEON_TEST_BUG("no_cycle_ids") &&
		has_cycle_ids(hole->fd, hole->start))
		return true;
	return fork->forknum == MAIN_FORKNUM && map_watermark(fork) == 1 &&
		!NEON_TEST_BUG("no_log_cnt") && has_logged_ahead(hole->fd);
}

static bool
must_stay(void *arg)
{
	return !NEON_TEST_BUG("early_look") && has_unlogged_marks(arg);
}

/* Keeps away who copies the files of the database; false if somebody does. */
static bool
lock_database(Oid db)
{
	if (db == hand.db)
		return true;
	if (OidIsValid(hand.db))
		disk_unlock_database(hand.db);
	hand.db = InvalidOid;
	/* the shared catalogs are in no database's directory */
	if (!OidIsValid(db))
		return true;
	if (disk_lock_database(db))
		hand.db = db;
	else
		hand.pinned = db;
	return hand.db == db;
}

static void
release_database(void)
{
	if (OidIsValid(hand.db))
		disk_unlock_database(hand.db);
	hand.db = InvalidOid;
}

/* Returns the number of bytes that were given back. */
static uint64
drop_chunk(const MapFork *fork, BlockNumber start)
{
	static bool told = false;
	RelFileNode rnode = fork->rnode;
	Hole		hole = {fork, start, -1, 0};
	const MapDropper dropper = {must_stay, punch_hole, &hole};
	uint32		blocks = 0;

	if (!lock_database(rnode.dbNode))
		return 0;
	hole.fd = files_open_segment(fork, start);
	if (hole.fd < 0)
		return 0;
	if (!NEON_TEST_BUG("early_look") || !has_unlogged_marks(&hole))
	{
		MAP_TEST_POINT(rnode, "drop_begins");
		blocks = map_drop_chunk(fork, rnode, start, rule.clean_before, &dropper);
	}
	CloseTransientFile(hole.fd);
	if (hole.error != 0 && !told)
	{
		errno = hole.error;
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not give back the space of a chunk of relation %s: %m",
						relpathperm(fork->rnode, fork->forknum))));
		told = true;
	}
	if (blocks > 0 && hole.error == 0)
		disk_note_dropped(blocks);
	return (uint64) blocks * BLCKSZ;
}

/* Looks at the chunk under the hand. */
static uint64
visit_chunk(const MapFork *fork, BlockNumber start)
{
	MapChunk   *chunk = map_chunk(fork, start);

	/* blocks may become present, under no lock, until the files are done */
	if (files_missing(fork))
		return 0;
	pg_read_barrier();
	if (map_chunk_droppable(fork, start, rule.clean_before) == 0)
		return 0;
	if (pg_atomic_read_u32(&chunk->gen) & MAP_GEN_USED)
	{
		(void) pg_atomic_fetch_and_u32(&chunk->gen, ~MAP_GEN_USED);
		return 0;
	}
	return drop_chunk(fork, start);
}

/* Moves the hand until so much is given back, or it has been everywhere twice. */
static uint64
drop_bytes(uint64 wanted)
{
	uint64		forks = 2 * map_nforks() + 1;
	uint64		freed = 0;

	hand.pinned = InvalidOid;
	hand.vacuum_runs = vacuum_runs();
	while (forks > 0 && freed < wanted)
	{
		const MapFork *fork;

		if (hand.fork >= map_nforks())
			hand.fork = 0;
		fork = map_fork_at(hand.fork);
		if (hand.block >= map_watermark(fork))
		{
			hand.block = 0;
			hand.fork++;
			forks--;
			continue;
		}
		freed += visit_chunk(fork, hand.block);
		hand.block += MAP_CHUNK_BLOCKS;
	}
	release_database();
	return freed;
}

/*
 * Goes on round the chunks, some at a time: what was changed long ago need not
 * count as changed any more when something else of the chunk is changed.
 */
static void
forget_changes(void)
{
	static uint64 number = 0;
	static BlockNumber block = 0;
	uint64		forks = map_nforks();

	for (int i = 0; i < FORGET_CHUNKS && forks > 0; i++)
	{
		const MapFork *fork;

		if (number >= map_nforks())
			number = 0;
		fork = map_fork_at(number);
		if (block >= map_watermark(fork))
		{
			block = 0;
			number++;
			forks--;
			continue;
		}
		map_forget_changed(fork, fork->rnode, block, rule.clean_before);
		block += MAP_CHUNK_BLOCKS;
	}
}

/* Returns whether there is still too much. */
static bool
make_room(void)
{
	uint64		used = disk_used();
	char		blocker[DISK_BLOCKER_SIZE] = "";
	int			pid = 0;

	if (used >= disk_evict_from())
		(void) drop_bytes(used - disk_evict_to());
	if (disk_used() >= disk_evict_from() || (disk_waiting() > 0 && vacuumpart_is_used_up()))
		pid = describe_blocker(blocker, sizeof(blocker));
	disk_set_blocker(blocker, pid, rule.clean_before);
	return blocker[0] != '\0';
}

/* ----------
 * The worker
 * ----------
 */

/* Somebody is held: said at the beginning, each minute, and when it is over. */
static void
report_waiting(TimestampTz now)
{
	static TimestampTz told_at = 0;
	static TimestampTz waited_at = 0;
	char		blocker[DISK_BLOCKER_SIZE];

	if (disk_waiting() > 0)
	{
		waited_at = now;
		if (told_at != 0 && now - told_at < REMINDER_US)
			return;
		(void) describe_blocker(blocker, sizeof(blocker));
		ereport(LOG,
				(errmsg("sessions are held for lack of local disk space: %s", blocker)));
		told_at = now;
	}
	else if (told_at != 0 && now - waited_at >= SETTLED_US)
	{
		ereport(LOG, (errmsg("sessions are no longer held for lack of local disk space")));
		told_at = 0;
	}
}

/* Not too often, and longer apart if it takes long. */
static void
do_if_due(TimestampTz *due, int64 apart_us, void (*action) (void))
{
	TimestampTz start = neon_clock();

	if (start < *due)
		return;
	action();
	*due = neon_clock() + Max(apart_us, (neon_clock() - start) * MEASURE_FACTOR);
}

static void
set_vacuum_part(void)
{
	vacuumpart_set(neon_boot.kind == NEON_PRIMARY && !reference_is_used());
}

static void
make_buffers(void)
{
	rule.running = MemoryContextAlloc(TopMemoryContext,
									  ProcGlobal->allProcCount * sizeof(Running));
	pages = MemoryContextAlloc(TopMemoryContext, MAP_CHUNK_BLOCKS * BLCKSZ);
}

static void
leave(int code, Datum arg)
{
	disk_set_evictor(NULL);
}

void
neon_evictor_main(Datum arg)
{
	TimestampTz measure_due = 0;
	TimestampTz part_due = 0;
	MemoryContext context;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	make_buffers();
	context = AllocSetContextCreate(TopMemoryContext, "neon evictor", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	before_shmem_exit(leave, (Datum) 0);
	disk_set_evictor(MyLatch);

	for (;;)
	{
		bool		busy;

		CHECK_FOR_INTERRUPTS();
		/* started again, unless the server stops */
		if (ShutdownRequestPending)
			proc_exit(1);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		disk_publish_limit();
		do_if_due(&measure_due, MEASURE_MIN_US, disk_measure);
		do_if_due(&part_due, PART_MIN_US, set_vacuum_part);
		disk_watch_begins();
		vacuumpart_look();
		advance_rule();
		vacuumpart_settle(rule.clean_before);
		forget_changes();
		busy = make_room();
		report_waiting(neon_clock());
		MemoryContextReset(context);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 busy ? TICK_BUSY_MS : TICK_IDLE_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

#ifdef NEON_TESTING

/* ----------
 * For tests: the same in a session, step by step
 * ----------
 */

PG_FUNCTION_INFO_V1(neon_test_look);
PG_FUNCTION_INFO_V1(neon_test_sample);
PG_FUNCTION_INFO_V1(neon_test_evict);
extern PGDLLEXPORT Datum neon_test_look(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum neon_test_sample(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum neon_test_evict(PG_FUNCTION_ARGS);

/* Looks who runs which transaction. */
Datum
neon_test_look(PG_FUNCTION_ARGS)
{
	disk_watch_begins();
	PG_RETURN_VOID();
}

/* Takes the first sample, for the next neon_test_evict(); returns its H1. */
Datum
neon_test_sample(PG_FUNCTION_ARGS)
{
	if (rule.running == NULL)
		make_buffers();
	take_first_sample();
	PG_RETURN_LSN(rule.h1);
}

static uint64
drop_forks(Oid db, Oid rel, ForkNumber forknum)
{
	uint64		freed = 0;

	for (uint64 i = 0; i < map_nforks(); i++)
	{
		const MapFork *fork = map_fork_at(i);

		if (fork->forknum != forknum || fork->rnode.dbNode != db ||
			(rel != InvalidOid && fork->rnode.relNode != rel))
			continue;
		for (BlockNumber start = 0; start < map_watermark(fork); start += MAP_CHUNK_BLOCKS)
			freed += drop_chunk(fork, start);
	}
	return freed;
}

/*
 * (db, relfilenode or 0 for all, ms).  Waits so long for the samples to be
 * complete, then drops what may be; with 0 by the samples of before.  Returns
 * the number of blocks.
 */
Datum
neon_test_evict(PG_FUNCTION_ARGS)
{
	Oid			db = PG_GETARG_OID(0);
	Oid			rel = PG_GETARG_OID(1);
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), PG_GETARG_INT32(2));
	uint64		freed = 0;

	if (rule.running == NULL)
		make_buffers();
	while (neon_clock() < deadline)
	{
		CHECK_FOR_INTERRUPTS();
		advance_rule();
		if (rule.h1 == InvalidXLogRecPtr)
			break;
		pg_usleep(1000);
	}
	hand.vacuum_runs = vacuum_runs();
	/* main forks first */
	for (ForkNumber forknum = MAIN_FORKNUM; forknum <= MAX_FORKNUM; forknum++)
		freed += drop_forks(db, rel, forknum);
	release_database();
	PG_RETURN_INT64((int64) (freed / BLCKSZ));
}

#endif							/* NEON_TESTING */
