/*-------------------------------------------------------------------------
 *
 * source.c
 *	  Where the WAL of each active timeline comes from.
 *
 * Owns the table of sources in shared memory, and starts a worker for a row.
 * Nothing of it survives a restart of the server: the compute's coordinator
 * names itself again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest_private.h"
#include "ingestworker.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_receive.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "source.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/pmsignal.h"
#include "storage/shmem.h"
#include "timeline_shared.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

/* A worker that was ordered and does not come is ordered again after this. */
#define WORKER_START_TIMEOUT_MS		10000

/* Pauses of workers that fail again and again. */
#define FIRST_FAILURE_PAUSE_MS		500
#define LONGEST_FAILURE_PAUSE_MS	10000

typedef enum WorkerState
{
	WORKER_NONE = 0,
	WORKER_STARTING,			/* ordered, or will be restarted */
	WORKER_RUNNING,
} WorkerState;

typedef struct SourceRow
{
	bool		in_use;
	NeonId		tenant;
	NeonId		timeline;
	pg_atomic_uint32 generation;	/* of target, readable without the lock */
	SourceTarget target;
	WorkerState worker;
	TimestampTz worker_since;
	TimestampTz named_at;		/* when timeline_source() was called last */
	int			worker_pid;
	Latch	   *worker_latch;
	int			failures;		/* workers that died, since WAL became durable */
	bool		flush_requested;
	bool		connected;
	XLogRecPtr	received;
	XLogRecPtr	reported;
	TimestampTz last_message;
	char		last_error[INGEST_ERROR_MAX];
	TimestampTz last_error_time;
} SourceRow;

typedef struct SourceTable
{
	LWLock		lock;
	int			tranche;
	uint32		next_generation;
	int			nrows;
	int			nrecovered;
	uint64	   *recovered;		/* by timeline slot: incarnation whose stored WAL is decoded */
	SourceRow	row[FLEXIBLE_ARRAY_MEMBER];
} SourceTable;

static SourceTable *table = NULL;

char	   *ingest_passfile = NULL;
int			ingest_source_timeout = 30000;
static int	max_sources = 100;

/* ---- start of the library ---- */

void
ingest_define_gucs(void)
{
	DefineCustomStringVariable("neon_pageserver.passfile",
							   "Password file for connections to the computes.",
							   NULL, &ingest_passfile, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.source_timeout",
							"Silence of a source after which its connection is given up.",
							NULL, &ingest_source_timeout, 30000, 1000, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.max_sources",
							"Most timelines that can receive WAL at the same time.",
							"Each needs a background worker.",
							&max_sources, 100, 1, 10000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

static int
configured_timelines(void)
{
	return atoi(GetConfigOption("neon_pageserver.max_timelines", false, false));
}

static Size
table_size(void)
{
	return MAXALIGN(add_size(offsetof(SourceTable, row), mul_size(max_sources, sizeof(SourceRow))));
}

Size
ingest_shmem_size(void)
{
	return add_size(table_size(), mul_size(configured_timelines(), sizeof(uint64)));
}

void
ingest_shmem_init(void)
{
	bool		found;
	int			i;

	table = ShmemInitStruct("neon_pageserver sources", ingest_shmem_size(), &found);
	if (!found)
	{
		memset(table, 0, ingest_shmem_size());
		table->tranche = LWLockNewTrancheId();
		LWLockInitialize(&table->lock, table->tranche);
		table->nrows = max_sources;
		table->nrecovered = configured_timelines();
		table->recovered = (uint64 *) ((char *) table + table_size());
		for (i = 0; i < max_sources; i++)
			pg_atomic_init_u32(&table->row[i].generation, 0);
	}
	LWLockRegisterTranche(table->tranche, "neon_source");
}

/* ---- timelines whose stored WAL is decoded ---- */

void
ingest_mark_recovered(Timeline *tl)
{
	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (tl->slot < table->nrecovered)
		table->recovered[tl->slot] = tl->incarnation;
	LWLockRelease(&table->lock);
}

bool
ingest_is_recovered(Timeline *tl)
{
	bool		recovered;

	LWLockAcquire(&table->lock, LW_SHARED);
	recovered = tl->slot < table->nrecovered && table->recovered[tl->slot] == tl->incarnation;
	LWLockRelease(&table->lock);
	return recovered;
}

/* ---- rows; the lock is held ---- */

static SourceRow *
find_row(Timeline *tl)
{
	int			i;

	for (i = 0; i < table->nrows; i++)
	{
		SourceRow  *row = &table->row[i];

		if (row->in_use && neon_id_equal(&row->timeline, &tl->id.timeline) &&
			neon_id_equal(&row->tenant, &tl->id.tenant))
			return row;
	}
	return NULL;
}

static SourceRow *
make_row(Timeline *tl)
{
	int			i;

	for (i = 0; i < table->nrows; i++)
	{
		SourceRow  *row = &table->row[i];

		if (row->in_use)
			continue;
		memset(&row->target, 0, sizeof(row->target));
		row->in_use = true;
		row->tenant = tl->id.tenant;
		row->timeline = tl->id.timeline;
		row->worker = WORKER_NONE;
		row->worker_pid = 0;
		row->worker_latch = NULL;
		row->failures = 0;
		row->flush_requested = false;
		row->connected = false;
		row->received = InvalidXLogRecPtr;
		row->reported = InvalidXLogRecPtr;
		row->last_message = 0;
		row->last_error[0] = '\0';
		row->last_error_time = 0;
		return row;
	}
	return NULL;
}

static void
free_row_if_idle(SourceRow *row)
{
	if (row->target.nconninfo == 0 && row->worker == WORKER_NONE)
		row->in_use = false;
}

static void
set_target(SourceRow *row, SourceKind kind, uint32 term, char **conninfo, int nconninfo)
{
	int			i;

	row->target.kind = kind;
	row->target.term = term;
	row->target.nconninfo = nconninfo;
	for (i = 0; i < nconninfo; i++)
		strlcpy(row->target.conninfo[i], conninfo[i], SOURCE_CONNINFO_SIZE);
	if (++table->next_generation == 0)
		table->next_generation = 1;
	row->target.generation = table->next_generation;
	pg_atomic_write_u32(&row->generation, nconninfo > 0 ? row->target.generation : 0);
	if (row->worker_latch)
		SetLatch(row->worker_latch);
}

static bool
target_is(const SourceRow *row, SourceKind kind, uint32 term, char **conninfo, int nconninfo)
{
	int			i;

	if (row->target.kind != kind || row->target.term != term || row->target.nconninfo != nconninfo)
		return false;
	for (i = 0; i < nconninfo; i++)
	{
		if (strcmp(row->target.conninfo[i], conninfo[i]) != 0)
			return false;
	}
	return true;
}

/* True if a worker must be ordered; notes that it is. */
static bool
needs_worker(SourceRow *row)
{
	TimestampTz now = neon_clock();

	if (row->worker == WORKER_RUNNING)
		return false;
	if (row->worker == WORKER_STARTING &&
		!TimestampDifferenceExceeds(row->worker_since, now, WORKER_START_TIMEOUT_MS))
		return false;
	row->worker = WORKER_STARTING;
	row->worker_since = now;
	return true;
}

/* ---- setting and clearing ---- */

void
source_set(Timeline *tl, SourceKind kind, uint32 term, char **conninfo, int nconninfo)
{
	SourceRow  *row;
	bool		order;
	int			index;

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	row = find_row(tl);
	if (row == NULL)
		row = make_row(tl);
	if (row == NULL)
	{
		LWLockRelease(&table->lock);
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many timelines receive WAL"),
				 errhint("Increase neon_pageserver.max_sources and restart the server.")));
	}
	/* the same again is no reason to reconnect, but one not to sleep any longer */
	if (!target_is(row, kind, term, conninfo, nconninfo))
		set_target(row, kind, term, conninfo, nconninfo);
	else if (row->worker_latch)
		SetLatch(row->worker_latch);
	row->named_at = neon_clock();
	order = needs_worker(row);
	index = row - table->row;
	LWLockRelease(&table->lock);

	if (order && !ingestworker_start(index, &tl->id.timeline))
	{
		LWLockAcquire(&table->lock, LW_EXCLUSIVE);
		table->row[index].worker = WORKER_NONE;
		LWLockRelease(&table->lock);
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start a worker to receive WAL"),
				 errhint("Increase max_worker_processes and restart the server.")));
	}
}

void
source_clear(Timeline *tl)
{
	SourceRow  *row;

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	row = find_row(tl);
	if (row)
	{
		set_target(row, SOURCE_COMPUTE, 0, NULL, 0);
		free_row_if_idle(row);
	}
	LWLockRelease(&table->lock);
}

bool
source_get_target(Timeline *tl, SourceTarget *target)
{
	SourceRow  *row;

	LWLockAcquire(&table->lock, LW_SHARED);
	row = find_row(tl);
	if (row)
		*target = row->target;
	LWLockRelease(&table->lock);
	return row != NULL && target->nconninfo > 0;
}

bool
source_request_flush(Timeline *tl)
{
	SourceRow  *row;
	bool		running;

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	row = find_row(tl);
	running = row != NULL && row->worker == WORKER_RUNNING;
	if (running)
	{
		row->flush_requested = true;
		if (row->worker_latch)
			SetLatch(row->worker_latch);
	}
	LWLockRelease(&table->lock);
	return running;
}

/* ---- for views ---- */

bool
ingest_get_source(Timeline *tl, IngestSourceInfo *info)
{
	SourceRow  *row;

	memset(info, 0, sizeof(*info));
	LWLockAcquire(&table->lock, LW_SHARED);
	row = find_row(tl);
	if (row)
	{
		info->has_source = row->target.nconninfo > 0;
		info->connected = row->connected;
		info->term = row->target.term;
		info->received_lsn = row->received;
		info->reported_lsn = row->reported;
		info->last_message = row->last_message;
		info->worker_pid = row->worker_pid;
		strlcpy(info->last_error, row->last_error, sizeof(info->last_error));
		info->last_error_time = row->last_error_time;
	}
	LWLockRelease(&table->lock);
	return row != NULL;
}

bool
ingest_source_connected(Timeline *tl)
{
	IngestSourceInfo info;

	return ingest_get_source(tl, &info) && info.connected;
}

/* ---- the worker of a row ---- */

/* The worker ends: after an error it is restarted, else the source is forgotten. */
static void
detach(int code, Datum arg)
{
	SourceRow  *row = &table->row[DatumGetInt32(arg)];

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (row->worker_pid == MyProcPid)
	{
		row->worker_pid = 0;
		row->worker_latch = NULL;
		row->connected = false;
		row->worker = code == 0 ? WORKER_NONE : WORKER_STARTING;
		row->worker_since = neon_clock();
		if (code == 0)
			set_target(row, SOURCE_COMPUTE, 0, NULL, 0);
		else
			row->failures++;
		free_row_if_idle(row);
	}
	LWLockRelease(&table->lock);
}

bool
source_attach(int index, NeonId *tenant, NeonId *timeline)
{
	SourceRow  *row = &table->row[index];
	bool		wanted = false;

	if (index < 0 || index >= table->nrows)
		return false;
	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (row->in_use && row->worker != WORKER_RUNNING && neon_id_equal(&row->timeline, timeline))
	{
		wanted = row->target.nconninfo > 0;
		row->worker = WORKER_NONE;
		if (wanted)
		{
			row->worker = WORKER_RUNNING;
			row->worker_pid = MyProcPid;
			row->worker_latch = MyLatch;
			*tenant = row->tenant;
		}
		free_row_if_idle(row);
	}
	LWLockRelease(&table->lock);
	if (wanted)
		before_shmem_exit(detach, Int32GetDatum(index));
	return wanted;
}

int
source_failure_pause(int index)
{
	int			failures;
	int			pause = FIRST_FAILURE_PAUSE_MS;

	LWLockAcquire(&table->lock, LW_SHARED);
	failures = table->row[index].failures;
	LWLockRelease(&table->lock);
	if (failures < 2)
		return 0;
	for (; failures > 2 && pause < LONGEST_FAILURE_PAUSE_MS; failures--)
		pause *= 2;
	return Min(pause, LONGEST_FAILURE_PAUSE_MS);
}

void
source_worker_target(int index, SourceTarget *target)
{
	LWLockAcquire(&table->lock, LW_SHARED);
	*target = table->row[index].target;
	LWLockRelease(&table->lock);
}

uint32
source_generation(int index)
{
	return pg_atomic_read_u32(&table->row[index].generation);
}

void
source_report(int index, bool connected, XLogRecPtr received, XLogRecPtr reported,
			  TimestampTz last_message)
{
	SourceRow  *row = &table->row[index];

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (reported > row->reported)
		row->failures = 0;
	row->connected = connected;
	row->received = received;
	row->reported = reported;
	row->last_message = last_message;
	LWLockRelease(&table->lock);
}

void
source_report_error(int index, const char *message)
{
	SourceRow  *row = &table->row[index];

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	row->connected = false;
	strlcpy(row->last_error, message, sizeof(row->last_error));
	row->last_error_time = GetCurrentTimestamp();
	LWLockRelease(&table->lock);
}

/* The lock is held. */
static bool
is_named(const SourceRow *row, int idle_ms)
{
	return !TimestampDifferenceExceeds(row->named_at, neon_clock(), idle_ms);
}

bool
source_is_named(int index, int idle_ms)
{
	bool		named;

	LWLockAcquire(&table->lock, LW_SHARED);
	named = is_named(&table->row[index], idle_ms);
	LWLockRelease(&table->lock);
	return named;
}

void
source_forget_if_unnamed(int index, int idle_ms)
{
	SourceRow  *row = &table->row[index];

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (!is_named(row, idle_ms))
		set_target(row, SOURCE_COMPUTE, 0, NULL, 0);
	LWLockRelease(&table->lock);
}

bool
source_take_flush_request(int index)
{
	SourceRow  *row = &table->row[index];
	bool		requested;

	if (!row->flush_requested)	/* a later look sees it */
		return false;
	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	requested = row->flush_requested;
	row->flush_requested = false;
	LWLockRelease(&table->lock);
	return requested;
}
