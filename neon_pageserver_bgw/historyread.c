/*-------------------------------------------------------------------------
 *
 * historyread.c
 *	  Reads and the horizon: who may read at an LSN, and who still does.
 *
 * Each process has a cell in shared memory where it writes the epoch in which
 * its read began, then looks at the horizon.  Who publishes a horizon writes
 * it, makes a new epoch, then looks at the cells: either the reader sees the
 * new horizon, or its cell is seen.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "historygc.h"
#include "init.h"
#include "manifest.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "timeline_shared.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* One per process that can have a PGPROC, each in a cache line of its own. */
typedef union ReaderCell
{
	pg_atomic_uint64 epoch;		/* 0: no read is going on */
	char		pad[PG_CACHE_LINE_SIZE];
} ReaderCell;

typedef struct Readers
{
	pg_atomic_uint64 epoch;
	TimestampTz started_at;		/* when this shared memory was made */
	ConditionVariable work_cv;	/* of the history worker: a point has ended */
	int			ncells;
	ReaderCell	cell[FLEXIBLE_ARRAY_MEMBER];
} Readers;

/* A process's copy of a timeline's points, for reads below the horizon. */
typedef struct PointCache
{
	uint32		version;		/* of the slot's points_version */
	int			npoints;
	ManifestPoint points[FLEXIBLE_ARRAY_MEMBER];
} PointCache;

static Readers *readers = NULL;
static bool callbacks_registered = false;

/* ---- shared memory ---- */

Size
history_shmem_size(void)
{
	return add_size(offsetof(Readers, cell), mul_size(MaxBackends, sizeof(ReaderCell)));
}

void
history_shmem_init(void)
{
	bool		found;

	readers = ShmemInitStruct("neon history readers", history_shmem_size(), &found);
	if (found)
		return;
	pg_atomic_init_u64(&readers->epoch, 1);
	readers->started_at = GetCurrentTimestamp();
	ConditionVariableInit(&readers->work_cv);
	readers->ncells = MaxBackends;
	for (int i = 0; i < readers->ncells; i++)
		pg_atomic_init_u64(&readers->cell[i].epoch, 0);
}

/* ---- epochs ---- */

static void
end_at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT)
		history_read_end();
}

static void
end_at_exit(int code, Datum arg)
{
	history_read_end();
}

static void
register_callbacks(void)
{
	if (callbacks_registered)
		return;
	RegisterXactCallback(end_at_xact_end, NULL);
	before_shmem_exit(end_at_exit, 0);
	callbacks_registered = true;
}

static ReaderCell *
my_cell(void)
{
	int			i = MyProc->pgprocno;

	if (i < 0 || i >= readers->ncells)
		elog(ERROR, "process has no place among the readers");
	return &readers->cell[i];
}

XLogRecPtr
history_read_begin(Timeline *tl)
{
	ReaderCell *cell = my_cell();

	register_callbacks();
	pg_atomic_write_u64(&cell->epoch, pg_atomic_read_u64(&readers->epoch));
	pg_memory_barrier();
	return pg_atomic_read_u64(&tl->shared->gc_cutoff);
}

void
history_read_end(void)
{
	if (readers == NULL || MyProc == NULL)
		return;
	pg_memory_barrier();
	pg_atomic_write_u64(&my_cell()->epoch, 0);
}

uint64
history_epoch_advance(void)
{
	return pg_atomic_add_fetch_u64(&readers->epoch, 1);
}

bool
history_epoch_passed(uint64 epoch)
{
	pg_memory_barrier();
	for (int i = 0; i < readers->ncells; i++)
	{
		uint64		e = pg_atomic_read_u64(&readers->cell[i].epoch);

		if (e != 0 && e < epoch)
			return false;
	}
	pg_memory_barrier();
	return true;
}

/* ---- the worker that drops what has ended ---- */

void
history_wake(void)
{
	ConditionVariableBroadcast(&readers->work_cv);
}

ConditionVariable *
history_work_cv(void)
{
	return &readers->work_cv;
}

/* ---- who may read ---- */

/* The points as of now or later; valid until the next call. */
static const PointCache *
points_now(Timeline *tl)
{
	uint32		version = pg_atomic_read_u32(&tl->shared->points_version);
	PointCache *cache = tl->history_private;
	Manifest   *m;

	if (cache != NULL && cache->version == version)
		return cache;
	pg_read_barrier();
	m = timeline_read_manifest(tl);
	cache = MemoryContextAllocHuge(TopMemoryContext, offsetof(PointCache, points) +
								   m->npoints * sizeof(ManifestPoint));
	cache->version = version;
	cache->npoints = m->npoints;
	if (m->npoints > 0)
		memcpy(cache->points, m->points, m->npoints * sizeof(ManifestPoint));
	manifest_free(m);
	if (tl->history_private != NULL)
		pfree(tl->history_private);
	tl->history_private = cache;
	return cache;
}

void
history_forget(Timeline *tl)
{
	if (tl->history_private != NULL)
		pfree(tl->history_private);
	tl->history_private = NULL;
}

TimestampTz
history_end_of(const ManifestPoint *point)
{
	if (point->expires == 0)
		return DT_NOEND;
	return Max(point->expires, readers->started_at + (TimestampTz) point->length);
}

/* Is there a point at lsn that has not ended? */
static bool
is_point(Timeline *tl, XLogRecPtr lsn)
{
	const PointCache *cache = points_now(tl);
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < cache->npoints; i++)
	{
		if (cache->points[i].lsn == lsn && history_end_of(&cache->points[i]) > now)
			return true;
	}
	return false;
}

const ManifestPoint *
history_find_point(Timeline *tl, HistoryPointKind kind, const NeonId *id)
{
	const PointCache *cache = points_now(tl);

	for (int i = 0; i < cache->npoints; i++)
	{
		if (cache->points[i].kind == kind && neon_id_equal(&cache->points[i].id, id))
			return &cache->points[i];
	}
	return NULL;
}

/* what: the LSN or the time that is too old. */
static void
refuse(Timeline *tl, const char *what, int sqlstate)
{
	char		name[NEON_NAME_MAX];
	TimestampTz time;
	XLogRecPtr	cutoff = history_cutoff(tl, &time);

	timeline_get_name(tl, name);
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("%s is older than the history that is kept of branch \"%s\": the oldest valid LSN is %X/%X, of %s",
					what, name, LSN_FORMAT_ARGS(cutoff),
					time ? timestamptz_to_str(time) : "the start of the branch"),
			 errdetail("Older versions are kept only where a branch, or a lease that has not ended, needs them."),
			 sqlstate == ERRCODE_SNAPSHOT_TOO_OLD ?
			 errhint("The lease that kept it has ended. Start the endpoint anew at a newer LSN.") :
			 errhint("Choose a newer LSN or time. More history is kept from now on if the tenant's pitr_interval or gc_horizon is increased.")));
}

void
history_check(Timeline *tl, XLogRecPtr lsn, XLogRecPtr cutoff, int sqlstate)
{
	if (unlikely(lsn < cutoff) && !is_point(tl, lsn))
		refuse(tl, psprintf("LSN %X/%X", LSN_FORMAT_ARGS(lsn)), sqlstate);
	if (lsn < tl->id.start_lsn && tl->ancestor != NULL)
		history_check(tl->ancestor, lsn, pg_atomic_read_u64(&tl->ancestor->shared->gc_cutoff),
					  sqlstate);
}

void
history_read_begin_at(Timeline *tl, XLogRecPtr lsn)
{
	history_check(tl, lsn, history_read_begin(tl), ERRCODE_INVALID_PARAMETER_VALUE);
}

void
history_check_time(Timeline *tl, TimestampTz when)
{
	TimestampTz oldest;

	if (!XLogRecPtrIsInvalid(history_cutoff(tl, &oldest)) && when < oldest)
		refuse(tl, psprintf("time %s", timestamptz_to_str(when)), ERRCODE_INVALID_PARAMETER_VALUE);
}
