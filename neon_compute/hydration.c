/*-------------------------------------------------------------------------
 *
 * hydration.c
 *	  Fetching whole relations, databases and everything, and how far it is.
 *
 * What is to be fetched is listed first, so that it is known how much it is.
 * A session does it as fast as it can; the worker "neon hydrator" fetches
 * system catalogs and what was in use when the life before this one ended, at
 * neon.prewarm_rate, and then everything, at neon.hydrate_rate.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalogs.h"
#include "diskhold.h"
#include "fetchqueue.h"
#include "files.h"
#include "hydrate.h"
#include "hydration.h"
#include "localdisk.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "saved.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* The worker tries again so long after an error. */
#define WORKER_RESTART_SECONDS	10

#define PACE_STEP_MS			1000

extern PGDLLEXPORT void neon_hydrator_main(Datum arg);

/* What one process hydrates; it alone writes.  Numbers are of blocks. */
typedef struct HydrationSlot
{
	pg_atomic_uint32 pid;		/* 0: nothing */
	pg_atomic_uint32 kind;
	pg_atomic_uint32 flushing;
	pg_atomic_uint64 started;	/* TimestampTz */
	pg_atomic_uint64 total;
	pg_atomic_uint64 later;		/* absent ones of forks after the present one */
	pg_atomic_uint64 fetched;
	pg_atomic_uint64 fork;		/* number in the map, plus 1 */
} HydrationSlot;

typedef struct ForkList
{
	uint64		n;
	uint64		size;
	MapFork   **forks;
	uint64	   *absent;			/* blocks of each when it was listed */
	uint64		total;			/* of all */
} ForkList;

typedef struct HydrationShared
{
	pg_atomic_uint32 worker;	/* 1: it is registered, so it runs or will */
} HydrationShared;

static HydrationShared *shared = NULL;
static HydrationSlot *slots = NULL;

/* Kilobytes a second; 0: the worker does not do it. */
static int	hydrate_rate = 0;
static int	prewarm_rate = 50 * 1024;

/* This process is the worker. */
static bool in_background = false;

/* ----------
 * Start
 * ----------
 */

void
hydration_define_gucs(void)
{
	DefineCustomIntVariable("neon.hydrate_rate",
							"Rate at which everything that is not here is fetched in the background.",
							"0 turns this off.",
							&hydrate_rate, 0, 0, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon.prewarm_rate",
							"Rate at which what was in use before the start is fetched after it.",
							"0 turns this off.",
							&prewarm_rate, 50 * 1024, 0, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
}

int
hydration_nslots(void)
{
	return MaxBackends;
}

void
hydration_request_shmem(void)
{
	RequestAddinShmemSpace(CACHELINEALIGN(sizeof(HydrationShared)));
	RequestAddinShmemSpace(mul_size(sizeof(HydrationSlot), hydration_nslots()));
}

void
hydration_shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon hydrator", sizeof(HydrationShared), &found);
	if (!found)
		pg_atomic_init_u32(&shared->worker, 1);
	slots = ShmemInitStruct("neon hydration", mul_size(sizeof(HydrationSlot), hydration_nslots()), &found);
	for (int i = 0; !found && i < hydration_nslots(); i++)
	{
		pg_atomic_init_u32(&slots[i].pid, 0);
		pg_atomic_init_u32(&slots[i].kind, 0);
		pg_atomic_init_u32(&slots[i].flushing, 0);
		pg_atomic_init_u64(&slots[i].started, 0);
		pg_atomic_init_u64(&slots[i].total, 0);
		pg_atomic_init_u64(&slots[i].later, 0);
		pg_atomic_init_u64(&slots[i].fetched, 0);
		pg_atomic_init_u64(&slots[i].fork, 0);
	}
	LWLockRelease(AddinShmemInitLock);
}

static void
fill_worker(BackgroundWorker *worker)
{
	library_worker(worker, "neon", "neon_hydrator_main", "neon hydrator");
	worker->bgw_start_time = BgWorkerStart_ConsistentState;
	worker->bgw_restart_time = WORKER_RESTART_SECONDS;
}

void
neon_hydration_register_worker(void)
{
	BackgroundWorker worker;

	fill_worker(&worker);
	RegisterBackgroundWorker(&worker);
}

/* Is there anything that the worker should fetch, once it has prewarmed? */
static bool
is_wanted(void)
{
	return hydrate_rate > 0 && !disk_is_limited && !map_is_hydrated();
}

void
neon_hydration_reloaded(void)
{
	BackgroundWorker worker;
	uint32		none = 0;

	if (!is_wanted() || !pg_atomic_compare_exchange_u32(&shared->worker, &none, 1))
		return;
	fill_worker(&worker);
	if (!RegisterDynamicBackgroundWorker(&worker, NULL))
	{
		pg_atomic_write_u32(&shared->worker, 0);
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("no background worker is free to fetch all data"),
				 errhint("Reload the settings again later, or increase max_worker_processes.")));
	}
}

/* ----------
 * What to fetch
 * ----------
 */

static void
forks_init(ForkList *list)
{
	memset(list, 0, sizeof(*list));
	list->size = 64;
	list->forks = palloc(list->size * sizeof(list->forks[0]));
	list->absent = palloc(list->size * sizeof(list->absent[0]));
}

static void
forks_free(ForkList *list)
{
	pfree(list->forks);
	pfree(list->absent);
}

static void
list_fork(ForkList *list, MapFork *fork)
{
	uint64		present;

	if (list->n == list->size)
	{
		list->size *= 2;
		list->forks = repalloc_huge(list->forks, list->size * sizeof(list->forks[0]));
		list->absent = repalloc_huge(list->absent, list->size * sizeof(list->absent[0]));
	}
	list->forks[list->n] = fork;
	map_count_fork_blocks(fork, &present, &list->absent[list->n]);
	list->total += list->absent[list->n];
	list->n++;
}

/* InvalidOid means all databases, or all tablespaces. */
static void
list_database(ForkList *list, Oid db, Oid spc)
{
	for (uint64 i = 0; i < map_nforks(); i++)
	{
		MapFork    *fork = map_fork_at(i);

		CHECK_FOR_INTERRUPTS();
		if ((db == InvalidOid || fork->rnode.dbNode == db) &&
			(spc == InvalidOid || fork->rnode.spcNode == spc))
			list_fork(list, fork);
	}
}

static void list_relation(ForkList *list, Oid relid);

static void
list_partitions(ForkList *list, Oid relid)
{
	ListCell   *lc;

	foreach(lc, find_inheritance_children(relid, AccessShareLock))
	{
		/* what a foreign server has is not ours */
		if (get_rel_relkind(lfirst_oid(lc)) != RELKIND_FOREIGN_TABLE)
			list_relation(list, lfirst_oid(lc));
	}
}

/*
 * The relation, its indexes and its TOAST table, or its partitions.  The locks
 * keep their files; they are released with the transaction's.
 */
static void
list_relation(ForkList *list, Oid relid)
{
	Relation	rel = relation_open(relid, AccessShareLock);

	if (RELKIND_HAS_PARTITIONS(rel->rd_rel->relkind))
	{
		relation_close(rel, NoLock);
		list_partitions(list, relid);
		return;
	}
	if (!RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation \"%s\" does not have storage", RelationGetRelationName(rel)),
				 errdetail_relkind_not_supported(rel->rd_rel->relkind)));
	if (RelationIsPermanent(rel))
	{
		for (ForkNumber forknum = 0; forknum <= MAX_FORKNUM; forknum++)
		{
			MapFork    *fork = map_lookup(rel->rd_node, forknum);

			if (fork)
				list_fork(list, fork);
		}
	}
	if (rel->rd_rel->relkind != RELKIND_INDEX && rel->rd_rel->relkind != RELKIND_SEQUENCE)
	{
		ListCell   *lc;

		foreach(lc, RelationGetIndexList(rel))
			list_relation(list, lfirst_oid(lc));
		if (OidIsValid(rel->rd_rel->reltoastrelid))
			list_relation(list, rel->rd_rel->reltoastrelid);
	}
	relation_close(rel, NoLock);
}

/* ----------
 * Progress
 * ----------
 */

static HydrationSlot *
my_slot(void)
{
	return &slots[MyProc->pgprocno];
}

static void
progress_begin(HydrationKind kind, uint64 total)
{
	HydrationSlot *slot = my_slot();

	pg_atomic_write_u32(&slot->kind, kind);
	pg_atomic_write_u32(&slot->flushing, 0);
	pg_atomic_write_u64(&slot->started, GetCurrentTimestamp());
	pg_atomic_write_u64(&slot->total, total);
	pg_atomic_write_u64(&slot->later, total);
	pg_atomic_write_u64(&slot->fetched, 0);
	pg_atomic_write_u64(&slot->fork, 0);
	pg_write_barrier();
	pg_atomic_write_u32(&slot->pid, MyProcPid);
}

static void
progress_end(void)
{
	pg_atomic_write_u32(&my_slot()->pid, 0);
}

bool
hydration_progress(int i, HydrationProgress *progress)
{
	HydrationSlot *slot = &slots[i];
	uint64		fork;

	memset(progress, 0, sizeof(*progress));
	progress->pid = pg_atomic_read_u32(&slot->pid);
	if (progress->pid == 0 || ProcGlobal->allProcs[i].pid != progress->pid)
		return false;
	pg_read_barrier();
	progress->kind = pg_atomic_read_u32(&slot->kind);
	progress->flushing = pg_atomic_read_u32(&slot->flushing) != 0;
	progress->started = pg_atomic_read_u64(&slot->started);
	progress->total = pg_atomic_read_u64(&slot->total);
	progress->fetched = pg_atomic_read_u64(&slot->fetched);
	progress->left = pg_atomic_read_u64(&slot->later);
	fork = pg_atomic_read_u64(&slot->fork);
	if (fork != 0)
	{
		const MapFork *current = map_fork_at(fork - 1);
		uint64		present;
		uint64		absent;

		map_count_fork_blocks(current, &present, &absent);
		progress->left += absent;
		progress->reading = true;
		progress->rnode = current->rnode;
		progress->forknum = current->forknum;
	}
	progress->left = Min(progress->left, progress->total);
	return true;
}

const char *
hydration_kind_name(HydrationKind kind)
{
	switch (kind)
	{
		case HYDRATION_RELATION:
			return "relation";
		case HYDRATION_DATABASE:
			return "database";
		case HYDRATION_ALL:
			return "all";
		case HYDRATION_BACKGROUND:
			return "background";
		case HYDRATION_PREWARM:
			return "prewarm";
	}
	return "unknown";
}

/* ----------
 * Fetching
 * ----------
 */

static void
reload_settings(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* For good: its slot of max_worker_processes is for others then. */
static void
end_worker(void)
{
	pg_atomic_write_u32(&shared->worker, 0);
	proc_exit(0);
}

/* In the worker; ends it quietly if it is asked to while it waits here. */
static void
worker_wait(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	if (ProcDiePending)
		end_worker();
	CHECK_FOR_INTERRUPTS();
	reload_settings();
}

/*
 * In the worker, after so many blocks came in the time since start: waits until
 * that was slow enough.  The rate may change meanwhile.
 */
static void
keep_pace(TimestampTz start, uint64 nblocks, const int *rate)
{
	while (in_background && *rate > 0)
	{
		int64		due = nblocks * (BLCKSZ / 1024) * 1000 / *rate;
		int64		elapsed = (neon_clock() - start) / 1000;

		if (elapsed >= due)
			return;
		worker_wait(Min(due - elapsed, PACE_STEP_MS));
	}
}

/* The first absent block at or after blkno. */
static BlockNumber
first_absent(const MapFork *fork, BlockNumber blkno)
{
	BlockNumber end = map_watermark(fork);

	while (blkno < end && map_present(map_chunk(fork, blkno), blkno))
		blkno++;
	return blkno < end ? blkno : InvalidBlockNumber;
}

/* Was the worker told to stop?  With a limit of disk space not everything can be here. */
static bool
turned_off(void)
{
	return in_background && (hydrate_rate == 0 || disk_is_limited);
}

/* Reads the fork forward. */
static void
hydrate_fork(MapFork *fork)
{
	BlockNumber blkno = 0;

	files_ensure(fork);
	while (!turned_off() && (blkno = first_absent(fork, blkno)) != InvalidBlockNumber)
	{
		TimestampTz start = neon_clock();
		uint64		before = queue_installed();
		uint64		came;

		CHECK_FOR_INTERRUPTS();
		hydrate_forward(fork, blkno);
		came = queue_installed() - before;
		pg_atomic_fetch_add_u64(&my_slot()->fetched, came);
		keep_pace(start, came, &hydrate_rate);
	}
}

static void
hydrate_list(const ForkList *list)
{
	HydrationSlot *slot = my_slot();

	for (uint64 i = 0; i < list->n; i++)
	{
		pg_atomic_fetch_sub_u64(&slot->later, list->absent[i]);
		pg_atomic_write_u64(&slot->fork, map_fork_number(list->forks[i]) + 1);
		hydrate_fork(list->forks[i]);
	}
	pg_atomic_write_u64(&slot->fork, 0);
}

/* If everything is here, its files are flushed, and that is noted for good. */
static void
finish_all(void)
{
	uint64		present;
	uint64		absent;

	/* the worker may have been turned off and on again meanwhile */
	map_count_blocks(&present, &absent);
	if (absent > 0 || map_is_hydrated())
		return;
	pg_atomic_write_u32(&my_slot()->flushing, 1);
	files_sync_all();
	map_set_hydrated();
}

/* Returns the number of blocks that this process fetched. */
static uint64
hydrate(HydrationKind kind, const ForkList *list)
{
	uint64		before = queue_installed();

	progress_begin(kind, list->total);
	PG_TRY();
	{
		hydrate_list(list);
		if (kind == HYDRATION_ALL || kind == HYDRATION_BACKGROUND)
			finish_all();
	}
	PG_FINALLY();
	{
		progress_end();
	}
	PG_END_TRY();
	return queue_installed() - before;
}

uint64
neon_hydrate_relation(Oid relid)
{
	ForkList	list;
	uint64		fetched;

	forks_init(&list);
	list_relation(&list, relid);
	fetched = hydrate(HYDRATION_RELATION, &list);
	forks_free(&list);
	return fetched;
}

static uint64
hydrate_all(HydrationKind kind)
{
	ForkList	list;
	uint64		fetched;

	forks_init(&list);
	list_database(&list, InvalidOid, InvalidOid);
	fetched = hydrate(kind, &list);
	forks_free(&list);
	return fetched;
}

/* What the database has in other tablespaces is not copied. */
void
neon_begin_copy(Oid db, Oid from, Oid to)
{
	ForkList	list;

	disk_pin_database(db);
	/* of other directories, too: that the target is empty is found by what it has */
	files_create_all();
	forks_init(&list);
	list_database(&list, db, from);
	if (disk_is_limited)
		disk_reserve_copy(db, from, to);
	(void) hydrate(HYDRATION_DATABASE, &list);
	forks_free(&list);
	disk_make_room(NULL);
}

void
neon_end_copy(bool copied)
{
	if (disk_is_limited)
		disk_end_copy(copied);
}

uint64
neon_hydrate_all(void)
{
	disk_refuse_hydration();
	return hydrate_all(HYDRATION_ALL);
}

bool
neon_fully_hydrated(void)
{
	return map_is_hydrated();
}

/* ----------
 * What was in use before
 * ----------
 */

static bool
is_listed(const WarmChunk *warm, uint32 block)
{
	return (warm->blocks[block / 64] >> (block % 64)) & 1;
}

/* The chunk's fork, if the blocks may be remote. */
static MapFork *
warm_fork(const WarmChunk *warm)
{
	RelFileNode rnode = {warm->spc, warm->db, warm->rel};
	MapFork    *fork = warm->fork <= MAX_FORKNUM ? map_lookup(rnode, warm->fork) : NULL;

	if (fork == NULL || (uint64) warm->chunk * MAP_CHUNK_BLOCKS >= map_watermark(fork))
		return NULL;
	return fork;
}

/* Is the chunk's block listed, and is it not here? */
static bool
is_wanted_block(const WarmChunk *warm, const MapFork *fork, uint32 block)
{
	BlockNumber blkno = warm->chunk * MAP_CHUNK_BLOCKS + block;

	return is_listed(warm, block) && blkno < map_watermark(fork) &&
		map_absent(fork, map_chunk(fork, blkno), blkno);
}

static uint64
count_warm_chunk(const WarmChunk *warm)
{
	MapFork    *fork = warm_fork(warm);
	uint64		n = 0;

	for (uint32 i = 0; fork != NULL && i < MAP_CHUNK_BLOCKS; i++)
		n += is_wanted_block(warm, fork, i) ? 1 : 0;
	return n;
}

/* Asks for each run of blocks; what comes is taken when there is no room for more requests. */
static void
prewarm_chunk(const WarmChunk *warm)
{
	MapFork    *fork = warm_fork(warm);
	uint32		i = 0;

	if (fork == NULL)
		return;
	files_ensure(fork);
	while (i < MAP_CHUNK_BLOCKS)
	{
		BlockNumber start = warm->chunk * MAP_CHUNK_BLOCKS + i;
		uint32		n = 0;

		while (i + n < MAP_CHUNK_BLOCKS && is_wanted_block(warm, fork, i + n))
			n++;
		/* if the pageserver is away, this waits for it, and fails */
		if (n > 0 && !hydrate_run(fork, start, n))
			(void) hydrate_block(fork, start);
		i += Max(n, 1);
	}
}

static void
prewarm_chunks(const WarmChunk *chunks, uint32 n)
{
	for (uint32 i = 0; i < n && prewarm_rate > 0 && disk_used() < disk_evict_from(); i++)
	{
		TimestampTz start = neon_clock();
		uint64		before = queue_installed();
		uint64		listed = count_warm_chunk(&chunks[i]);
		uint64		came;

		CHECK_FOR_INTERRUPTS();
		prewarm_chunk(&chunks[i]);
		came = queue_installed() - before;
		pg_atomic_fetch_add_u64(&my_slot()->fetched, came);
		pg_atomic_fetch_sub_u64(&my_slot()->later, Min(listed, pg_atomic_read_u64(&my_slot()->later)));
		keep_pace(start, came, &prewarm_rate);
	}
	(void) hydrate_finish();
}

static void
prewarm_list(const WarmChunk *chunks, uint32 n, const char *what)
{
	TimestampTz start = neon_clock();
	uint64		before = queue_installed();
	uint64		total = 0;

	for (uint32 i = 0; i < n; i++)
		total += count_warm_chunk(&chunks[i]);
	if (total == 0 || prewarm_rate == 0)
		return;
	progress_begin(HYDRATION_PREWARM, total);
	prewarm_chunks(chunks, n);
	progress_end();
	ereport(LOG,
			(errmsg("of %llu absent blocks %s, %llu were fetched in the background in %.1f s",
					(unsigned long long) total, what,
					(unsigned long long) (queue_installed() - before),
					(neon_clock() - start) / 1000000.0)));
}

/* The list came with the base backup; relations in it may be gone, or others by now. */
static void
prewarm(void)
{
	const WarmChunk *warm;
	const WarmChunk *catalogs;
	uint32		nwarm = savedwarm_chunks(&warm);
	uint32		ncatalogs = catalog_chunks(warm, nwarm, &catalogs);

	prewarm_list(catalogs, ncatalogs, "of system catalogs");
	prewarm_list(warm, nwarm, "that were in use before");
}

/* ----------
 * The worker
 * ----------
 */

static void
hydrate_in_background(void)
{
	TimestampTz start = neon_clock();
	uint64		fetched;

	/* a relation may be dropped whose files do not exist yet */
	files_create_all();
	fetched = hydrate_all(HYDRATION_BACKGROUND);
	if (map_is_hydrated())
		ereport(LOG,
				(errmsg("all data are here: %llu blocks were fetched in the background in %.1f s",
						(unsigned long long) fetched, (neon_clock() - start) / 1000000.0)));
}

/*
 * An error ends the process, which lets go of everything, and it is started
 * again.  When it has nothing to do it ends, and is registered anew if need be.
 */
void
neon_hydrator_main(Datum arg)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	in_background = true;
	CurrentMemoryContext = AllocSetContextCreate(TopMemoryContext, "neon hydrator", ALLOCSET_DEFAULT_SIZES);

	prewarm();
	for (;;)
	{
		uint32		none = 0;

		while (is_wanted())
			hydrate_in_background();

		/* wanted again in this moment: by who comes first */
		pg_atomic_write_u32(&shared->worker, 0);
		reload_settings();
		if (!is_wanted() || !pg_atomic_compare_exchange_u32(&shared->worker, &none, 1))
			proc_exit(0);
	}
}
