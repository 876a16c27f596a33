/*-------------------------------------------------------------------------
 *
 * receivers.c
 *	  Who fetches WAL for which timeline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "peers.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "receivers.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

/* A worker that was ordered and does not come is ordered again after this. */
#define WORKER_START_TIMEOUT_MS		10000
#define RESTART_SECONDS				1

typedef enum WorkerState
{
	WORKER_NONE = 0,
	WORKER_STARTING,			/* ordered, or will be restarted */
	WORKER_RUNNING,
} WorkerState;

typedef struct ReceiverRow
{
	bool		in_use;
	NeonId		tenant;
	NeonId		timeline;
	pg_atomic_uint32 serial;	/* of order, readable without the lock */
	ReceiverOrder order;
	WorkerState worker;
	TimestampTz worker_since;
	int			worker_pid;
	Latch	   *worker_latch;
} ReceiverRow;

typedef struct ReceiverTable
{
	LWLock		lock;
	int			tranche;
	uint32		last_serial;
	int			nrows;
	ReceiverRow row[FLEXIBLE_ARRAY_MEMBER];
} ReceiverTable;

static ReceiverTable *table = NULL;
static int	max_receivers = 100;

char	   *receivers_passfile = NULL;

/* ---- start of the library ---- */

void
skstream_define_gucs(void)
{
	DefineCustomStringVariable("neon_safekeeper.passfile",
							   "Password file for connections to computes and other safekeepers.",
							   NULL, &receivers_passfile, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_safekeeper.max_receivers",
							"Most timelines that can receive WAL at the same time.",
							"Each needs a background worker.",
							&max_receivers, 100, 1, 10000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	peers_define_gucs();
}

static Size
table_size(void)
{
	return MAXALIGN(add_size(offsetof(ReceiverTable, row),
							 mul_size(max_receivers, sizeof(ReceiverRow))));
}

Size
skstream_shmem_size(void)
{
	return add_size(table_size(), peers_shmem_size());
}

void
skstream_shmem_init(void)
{
	bool		found;

	table = ShmemInitStruct("neon_safekeeper receivers", table_size(), &found);
	if (!found)
	{
		memset(table, 0, table_size());
		table->tranche = LWLockNewTrancheId();
		LWLockInitialize(&table->lock, table->tranche);
		table->nrows = max_receivers;
		for (int i = 0; i < max_receivers; i++)
			pg_atomic_init_u32(&table->row[i].serial, 0);
	}
	LWLockRegisterTranche(table->tranche, "neon_safekeeper_receivers");
	peers_shmem_init();
}

void
skstream_register_workers(void)
{
	peers_register_worker();
}

/* ---- rows; the lock is held ---- */

static ReceiverRow *
find_row(SkTimeline *tl)
{
	for (int i = 0; i < table->nrows; i++)
	{
		ReceiverRow *row = &table->row[i];

		if (row->in_use && neon_id_equal(&row->timeline, &tl->timeline) &&
			neon_id_equal(&row->tenant, &tl->tenant))
			return row;
	}
	return NULL;
}

static ReceiverRow *
make_row(SkTimeline *tl)
{
	for (int i = 0; i < table->nrows; i++)
	{
		ReceiverRow *row = &table->row[i];

		if (row->in_use)
			continue;
		memset(&row->order, 0, sizeof(row->order));
		row->in_use = true;
		row->tenant = tl->tenant;
		row->timeline = tl->timeline;
		row->worker = WORKER_NONE;
		row->worker_pid = 0;
		row->worker_latch = NULL;
		return row;
	}
	return NULL;
}

/* Adds to the row's order, or begins anew if that is of an older term. */
static void
merge_order(ReceiverRow *row, const ReceiverOrder *add)
{
	ReceiverOrder *order = &row->order;

	if (add->term < order->term)
		return;					/* overtaken */
	if (add->term > order->term)
		memset(order, 0, sizeof(*order));
	order->term = add->term;
	order->upto = Max(order->upto, add->upto);
	if (add->donor[0])
		strlcpy(order->donor, add->donor, sizeof(order->donor));
	if (add->conninfo[0])
	{
		strlcpy(order->conninfo, add->conninfo, sizeof(order->conninfo));
		order->boot_id = add->boot_id;
	}
}

/* The same again is no reason to begin anew, but one not to sleep any longer. */
static void
give_order(ReceiverRow *row, const ReceiverOrder *add)
{
	ReceiverOrder before = row->order;

	merge_order(row, add);
	if (row->order.serial == 0 || memcmp(&before, &row->order, sizeof(before)) != 0)
	{
		if (++table->last_serial == 0)
			table->last_serial = 1;
		row->order.serial = table->last_serial;
		pg_atomic_write_u32(&row->serial, row->order.serial);
	}
	if (row->worker_latch)
		SetLatch(row->worker_latch);
}

/* True if a worker must be ordered; notes that it is. */
static bool
needs_worker(ReceiverRow *row)
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

/* ---- ordering ---- */

static bool
start_worker(int index, const NeonId *timeline)
{
	BackgroundWorker worker;
	char		hex[NEON_ID_HEXLEN + 1];

	library_worker(&worker, "neon_safekeeper", "wal_receiver_main", "neon wal receiver");
	worker.bgw_restart_time = RESTART_SECONDS;
	snprintf(worker.bgw_name, BGW_MAXLEN, "neon wal receiver %s", neon_id_format(timeline, hex));
	worker.bgw_main_arg = Int32GetDatum(index);
	memcpy(worker.bgw_extra, timeline, sizeof(NeonId));
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

static void
forget_start(int index)
{
	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (table->row[index].worker == WORKER_STARTING)
	{
		table->row[index].worker = WORKER_NONE;
		table->row[index].in_use = false;
	}
	LWLockRelease(&table->lock);
}

static void
order(SkTimeline *tl, const ReceiverOrder *add)
{
	ReceiverRow *row;
	bool		start;
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
				 errhint("Increase neon_safekeeper.max_receivers and restart the server.")));
	}
	give_order(row, add);
	start = needs_worker(row);
	index = row - table->row;
	LWLockRelease(&table->lock);

	if (start && !start_worker(index, &tl->timeline))
	{
		forget_start(index);
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start a worker to receive WAL"),
				 errhint("Increase max_worker_processes and restart the server.")));
	}
}

void
receivers_order_copy(SkTimeline *tl, uint32 term, XLogRecPtr upto, const char *donor)
{
	ReceiverOrder add;

	memset(&add, 0, sizeof(add));
	add.term = term;
	add.upto = upto;
	if (donor)
		strlcpy(add.donor, donor, sizeof(add.donor));
	order(tl, &add);
}

void
receivers_order_stream(SkTimeline *tl, uint32 term, const NeonId *boot_id, const char *conninfo)
{
	ReceiverOrder add;

	memset(&add, 0, sizeof(add));
	add.term = term;
	add.boot_id = *boot_id;
	strlcpy(add.conninfo, conninfo, sizeof(add.conninfo));
	order(tl, &add);
}

bool
receivers_busy(SkTimeline *tl)
{
	bool		busy;

	LWLockAcquire(&table->lock, LW_SHARED);
	busy = find_row(tl) != NULL;
	LWLockRelease(&table->lock);
	return busy;
}

/* ---- the worker of a row ---- */

/* The worker ends; if it did not finish its order it is restarted. */
static void
detach(int code, Datum arg)
{
	ReceiverRow *row = &table->row[DatumGetInt32(arg)];

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (row->in_use && row->worker_pid == MyProcPid)
	{
		row->worker_pid = 0;
		row->worker_latch = NULL;
		row->worker = WORKER_STARTING;
		row->worker_since = neon_clock();
	}
	LWLockRelease(&table->lock);
}

bool
receivers_attach(int index, NeonId *tenant, NeonId *timeline)
{
	ReceiverRow *row;
	bool		wanted = false;

	if (index < 0 || index >= table->nrows)
		return false;
	row = &table->row[index];
	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	if (row->in_use && row->worker != WORKER_RUNNING && neon_id_equal(&row->timeline, timeline))
	{
		wanted = true;
		row->worker = WORKER_RUNNING;
		row->worker_pid = MyProcPid;
		row->worker_latch = MyLatch;
		*tenant = row->tenant;
	}
	LWLockRelease(&table->lock);
	if (wanted)
		before_shmem_exit(detach, Int32GetDatum(index));
	return wanted;
}

void
receivers_get_order(int index, ReceiverOrder *order)
{
	LWLockAcquire(&table->lock, LW_SHARED);
	*order = table->row[index].order;
	LWLockRelease(&table->lock);
}

uint32
receivers_serial(int index)
{
	return pg_atomic_read_u32(&table->row[index].serial);
}

bool
receivers_finish(int index, uint32 serial)
{
	ReceiverRow *row = &table->row[index];
	bool		done;

	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	done = row->order.serial == serial;
	if (done)
	{
		row->in_use = false;
		row->worker = WORKER_NONE;
		row->worker_pid = 0;
		row->worker_latch = NULL;
	}
	LWLockRelease(&table->lock);
	return done;
}
