/*-------------------------------------------------------------------------
 *
 * compactworker.c
 *	  Workers that merge layer files, and timeline_compact().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compact_private.h"
#include "fmgr.h"
#include "funcapi.h"
#include "init.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "neon_testpoint.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "rebuild.h"
#include "sqlutil.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "store_private.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define IDLE_MS			10000
#define WAIT_MS			100
#define FIRST_RETRY_MS	1000
#define LAST_RETRY_MS	(3600 * 1000)
#define FORGIVE_MS		60000

/* Bytes of WAL per second of a writer, while compaction is behind. */
#define FASTEST_PACE	(64 * 1024 * 1024)
#define LEAST_PACE		(1024 * 1024)

typedef struct CompactShared
{
	ConditionVariable work_cv;
	pg_atomic_uint64 paid_until;	/* neon_clock() when what was written is within the limit */
	pg_atomic_uint32 allowed;	/* stored WAL has been decoded */
} CompactShared;

/* What this process knows of a slot. */
typedef struct SlotMemo
{
	uint64		incarnation;
	uint32		map_version;	/* at which there was nothing to do */
	uint32		points_version; /* the same */
	XLogRecPtr	cutoff;			/* the horizon; the same */
	bool		settled;		/* these count */
	uint64		served;			/* Rounds.clock at the last job */
	uint64		idle_pass;		/* Rounds.pass in which there was nothing to do */
	int			retry_ms;		/* after a failure; 0: none */
	TimestampTz retry_at;
} SlotMemo;

static int	compaction_workers = 1;
static int	max_compaction_debt = 4096; /* MB */
int			store_compaction_threshold = 4;
int			store_compaction_target_size = 128 * 1024;	/* kB */
int			store_compaction_image_chain = 18;
int			store_maintenance_io_limit = 100 * 1024;	/* kB per second */

static CompactShared *compact_shared = NULL;

extern PGDLLEXPORT void compactworker_main(Datum arg);

void
compactworker_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.compaction_workers",
							"Number of processes that merge layer files.",
							NULL, &compaction_workers, 1, 0, 16,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.compaction_threshold",
							"Number of layer files, following each other in time, that are merged.",
							"Zero merges none.",
							&store_compaction_threshold, 4, 0, 32,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.compaction_target_size",
							"Size at which a merge goes on in another file.",
							NULL, &store_compaction_target_size, 128 * 1024, 64, 4 * 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.compaction_image_chain",
							"WAL records of a page since its last image after which compaction adds one.",
							"Zero adds none.",
							&store_compaction_image_chain, 18, 0, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.max_compaction_debt",
							"How far compaction may be behind before endpoints slow their writers down.",
							"Zero is no limit.",
							&max_compaction_debt, 4096, 0, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.maintenance_io_limit",
							"Most that all compaction together writes per second.",
							"Zero is no limit.",
							&store_maintenance_io_limit, 100 * 1024, 0, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
}

Size
compactworker_shmem_size(void)
{
	return sizeof(CompactShared);
}

void
compactworker_shmem_init(void)
{
	bool		found;

	compact_shared = ShmemInitStruct("neon compaction workers", sizeof(CompactShared), &found);
	if (!found)
	{
		ConditionVariableInit(&compact_shared->work_cv);
		pg_atomic_init_u64(&compact_shared->paid_until, 0);
		pg_atomic_init_u32(&compact_shared->allowed, 0);
	}
}

void
compactworker_register_workers(void)
{
	library_register_workers("neon_pageserver", "compactworker_main", "neon compaction", compaction_workers);
}

void
compactworker_wake(void)
{
	ConditionVariableBroadcast(&compact_shared->work_cv);
}

void
store_allow_compaction(void)
{
	pg_atomic_write_u32(&compact_shared->allowed, 1);
	compactworker_wake();
}

/* ---- the limit ---- */

/* From when on bytes may be written; they count from now on. */
static TimestampTz
pay_for(uint64 bytes)
{
	uint64		cost = bytes * USECS_PER_SEC / ((uint64) store_maintenance_io_limit * 1024);
	uint64		paid = pg_atomic_read_u64(&compact_shared->paid_until);
	uint64		from;

	do
		from = Max(paid, (uint64) neon_clock());
	while (!pg_atomic_compare_exchange_u64(&compact_shared->paid_until, &paid, from + cost));
	return (TimestampTz) from;
}

void
compact_pace(Timeline *tl, uint64 bytes)
{
	TimestampTz from;

	if (store_maintenance_io_limit == 0)
		return;
	from = pay_for(bytes);
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(neon_clock(), from);

		CHECK_FOR_INTERRUPTS();
		timeline_check_writable(tl);
		if (left <= 0)
			break;
		compact_wait(Min(left, 1000));
	}
}

void
compact_wait(int timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

void
compact_forgive_debt(TimelineShared *s, int retry_ms)
{
	uint64		until = TimestampTzPlusMilliseconds(neon_clock(), (int64) 2 * retry_ms + FORGIVE_MS);

	if (until > pg_atomic_read_u64(&s->debt_forgiven))
		pg_atomic_write_u64(&s->debt_forgiven, until);
}

/* ---- one timeline ---- */

static CompactResult
compact_guarded(const NeonId *tenant, const NeonId *timeline, SlotMemo *memo,
				MemoryContext context)
{
	static const CompactDemand demand = {false, PG_UINT64_MAX, PG_UINT64_MAX};
	volatile CompactResult result = COMPACT_NOTHING;

	PG_TRY();
	{
		Timeline   *tl = timeline_open(tenant, timeline, true);

		if (tl != NULL)
			rebuild_noted(tl);
		if (tl != NULL)
			result = compact_step(tl, &demand);
		memo->retry_ms = 0;
	}
	PG_CATCH();
	{
		store_recover_from_error(context);
		memo->retry_ms = memo->retry_ms ? Min(memo->retry_ms * 2, LAST_RETRY_MS) : FIRST_RETRY_MS;
		memo->retry_at = TimestampTzPlusMilliseconds(neon_clock(), memo->retry_ms);
	}
	PG_END_TRY();
	MemoryContextReset(context);
	return result;
}

/* Nothing changed since the last look?  What others are at ends with a change. */
static bool
is_settled(TimelineShared *s, const SlotMemo *memo)
{
	XLogRecPtr	cutoff = pg_atomic_read_u64(&s->gc_cutoff);

	/* a horizon that moved is used when the readers of before are gone */
	return memo->settled && memo->map_version == pg_atomic_read_u32(&s->map_version) &&
		memo->points_version == pg_atomic_read_u32(&s->points_version) &&
		memo->cutoff == cutoff && pg_atomic_read_u64(&s->gc_horizon) == cutoff;
}

/* Gives a timeline one job; true if there was one. */
static bool
compact_slot(TimelineShared *s, SlotMemo *memo, MemoryContext context)
{
	NeonId		tenant = s->id.tenant;
	NeonId		timeline = s->id.timeline;
	CompactResult result;

	memo->map_version = pg_atomic_read_u32(&s->map_version);
	memo->points_version = pg_atomic_read_u32(&s->points_version);
	memo->cutoff = pg_atomic_read_u64(&s->gc_cutoff);
	result = compact_guarded(&tenant, &timeline, memo, context);
	memo->settled = result != COMPACT_DONE && memo->retry_ms == 0;
	if (memo->retry_ms > 0)
		compact_forgive_debt(s, memo->retry_ms);
	return result == COMPACT_DONE;
}

/* ---- which timeline ---- */

typedef enum DebtClass
{
	DEBT_URGENT,				/* reads suffer */
	DEBT_NORMAL,
	NUM_DEBT_CLASSES
} DebtClass;

/* In each class all timelines have a job before one has its second. */
typedef struct Rounds
{
	uint64		clock;			/* counts jobs */
	uint64		pass;			/* counts times that it looked for work */
	uint64		start[NUM_DEBT_CLASSES];	/* of the round */
} Rounds;

typedef struct Candidate
{
	int			slot;			/* -1: none */
	DebtClass	debt_class;
	bool		served;			/* in this round */
	uint64		bytes;
} Candidate;

static bool
may_have_work(TimelineShared *s, SlotMemo *memo, uint64 pass)
{
	uint64		incarnation = pg_atomic_read_u64(&s->incarnation);

	if (pg_atomic_read_u32(&s->state) != TIMELINE_ACTIVE)
		return false;
	if (memo->incarnation != incarnation)
	{
		memset(memo, 0, sizeof(*memo));
		memo->incarnation = incarnation;
	}
	if (memo->idle_pass == pass)
		return false;
	return pg_atomic_read_u64(&s->damaged_file) != 0 ||
		pg_atomic_read_u64(&s->damaged_wal) != 0 ||
		(!is_settled(s, memo) && (memo->retry_ms == 0 || neon_clock() >= memo->retry_at));
}

static bool
comes_before(const Candidate *a, const Candidate *b)
{
	if (b->slot < 0)
		return true;
	if (a->debt_class != b->debt_class && !NEON_TEST_BUG("compaction-class"))
		return a->debt_class < b->debt_class;
	if (a->served != b->served && !NEON_TEST_BUG("compaction-turn"))
		return !a->served;
	return a->bytes > b->bytes && !NEON_TEST_BUG("compaction-debt");
}

/* The most urgent class; there, who had no job in this round; of these, the largest debt. */
static Candidate
choose_slot(SlotMemo *memos, const Rounds *rounds)
{
	Candidate	best = {.slot = -1};

	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);
		Candidate	c = {.slot = i};

		if (!may_have_work(s, &memos[i], rounds->pass))
			continue;
		c.debt_class = pg_atomic_read_u32(&s->wide_runs) >= COMPACT_MANY_RUNS ? DEBT_URGENT : DEBT_NORMAL;
		c.served = memos[i].served > rounds->start[c.debt_class];
		c.bytes = pg_atomic_read_u64(&s->wide_bytes);
		if (comes_before(&c, &best))
			best = c;
	}
	return best;
}

/* Does what is due, one job after the other; ends when there is none. */
static void
compact_all(SlotMemo *memos, Rounds *rounds, MemoryContext context)
{
	Candidate	next;

	rounds->pass++;
	for (;;)
	{
		NEON_TEST_POINT("compaction-next");
		CHECK_FOR_INTERRUPTS();
		next = choose_slot(memos, rounds);
		if (next.slot < 0 || ConfigReloadPending)
			break;
		if (next.served)
			rounds->start[next.debt_class] = rounds->clock;
		memos[next.slot].served = ++rounds->clock;
		if (!compact_slot(timeline_slot(next.slot), &memos[next.slot], context))
			memos[next.slot].idle_pass = rounds->pass;
	}
}

void
compactworker_main(Datum arg)
{
	MemoryContext context;
	SlotMemo   *memos;
	Rounds		rounds = {0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	memos = MemoryContextAllocZero(TopMemoryContext, timeline_nslots() * sizeof(SlotMemo));
	context = AllocSetContextCreate(TopMemoryContext, "neon compaction", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	for (;;)
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			memset(memos, 0, timeline_nslots() * sizeof(SlotMemo));
		}
		ConditionVariablePrepareToSleep(&compact_shared->work_cv);
		if (pg_atomic_read_u32(&compact_shared->allowed))
			compact_all(memos, &rounds, context);
		timeline_close_files(false);
		if (!ConfigReloadPending)
			(void) ConditionVariableTimedSleep(&compact_shared->work_cv, IDLE_MS, PG_WAIT_EXTENSION);
		ConditionVariableCancelSleep();
		CHECK_FOR_INTERRUPTS();
	}
}

/* ---- SQL ---- */

/* More jobs than what there is now can need: what comes in meanwhile is not waited for. */
static uint32
most_jobs(Timeline *tl)
{
	Manifest   *m = timeline_read_manifest(tl);
	uint64		n = 16 + 4 * (m->nfiles + m->npartitions);

	/* and those that divide partitions */
	for (int i = 0; i < m->nfiles; i++)
		n += 4 * (m->files[i].bytes / ((uint64) store_compaction_target_size * 1024));
	manifest_free(m);
	return (uint32) Min(n, INT_MAX);
}

/*
 * The demand is what there is now, and the jobs of workers count as well: so it
 * ends however much comes in meanwhile.
 */
int
compactworker_run(Timeline *tl)
{
	CompactDemand demand = compact_all_there_is(tl);
	uint32		most = most_jobs(tl);
	uint32		before = pg_atomic_read_u32(&tl->shared->compact_jobs);
	int			jobs = 0;

	while (timeline_check(tl), pg_atomic_read_u32(&tl->shared->compact_jobs) - before < most)
	{
		CompactResult result = compact_step(tl, &demand);

		CHECK_FOR_INTERRUPTS();
		if (result == COMPACT_DONE)
			jobs++;
		else if (result == COMPACT_NOTHING)
			break;
		else
		{
			/* workers are at it: wait for their end */
			compact_wait(WAIT_MS);
		}
	}
	return jobs;
}

PG_FUNCTION_INFO_V1(neon_timeline_compact);

/* timeline_compact(tenant, timeline) returns int: the number of jobs done */
Datum
neon_timeline_compact(PG_FUNCTION_ARGS)
{
	Timeline   *tl;

	sql_refuse_transaction_block("timeline_compact");
	check_superuser("timeline_compact");
	tl = sql_open_timeline(fcinfo, 0, 1);
	PG_RETURN_INT32(compactworker_run(tl));
}

PG_FUNCTION_INFO_V1(neon_writer_pace);

/*
 * writer_pace(tenant, timeline): the debt, its limit (0: none), and the bytes of
 * WAL per second that a writer should keep to, or null
 */
Datum
neon_writer_pace(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	uint64		debt = store_compaction_debt(tl);
	uint64		limit = (uint64) max_compaction_debt * 1024 * 1024;
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (compaction_workers == 0 || store_compaction_threshold == 0 ||
		(uint64) neon_clock() < pg_atomic_read_u64(&tl->shared->debt_forgiven))
		limit = 0;
	values[0] = Int64GetDatum((int64) debt);
	values[1] = Int64GetDatum((int64) limit);
	nulls[2] = limit == 0 || debt <= limit;
	/* it falls to the least of it at twice the limit */
	values[2] = Int64GetDatum(nulls[2] ? 0 :
							  Max(LEAST_PACE, FASTEST_PACE - (int64) ((double) (debt - limit) / limit * FASTEST_PACE)));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
