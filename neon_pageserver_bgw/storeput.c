/*-------------------------------------------------------------------------
 *
 * storeput.c
 *	  Writing: puts into the open index, when to flush it, and memory that is
 *	  short.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "crashnote.h"
#include "hotpages.h"
#include "init.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "openpressure.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "store_private.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

/* A layer above this part of the pool is flushed. */
#define LARGE_PART			4
#define ROOM_WAIT_MS		200
#define ROOM_PATIENCE_MS	3000
#define ROOM_TIMEOUT_MS		60000
/* Blocks that stay for further puts of the same record. */
#define RECORD_RESERVE		2
/* Room is made for so many puts at a time: its upper bound is far above what they take. */
#define PUT_SLICE			32
/* A record with more than this (a drop of many relations) begins in an empty index. */
#define LARGE_RECORD		1024
#define MAX_WAL_DISTANCE	(UINT64CONST(8) * 1024 * 1024 * 1024)

int			store_checkpoint_distance = 256;	/* MB */
int			store_checkpoint_records = 1000000;
int			store_checkpoint_timeout = 600; /* s */
int			store_idle_flush_timeout = 300; /* s */
int			store_image_chain = 64;

static void (*tick_function) (void *arg) = NULL;
static void *tick_arg = NULL;

void
store_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.checkpoint_distance",
							"WAL after which the open index is written to a layer file.",
							NULL, &store_checkpoint_distance, 256, 1, 4096,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.checkpoint_records",
							"Changes of pages after which the open index is written to a layer file.",
							"What a restart takes is decided by their number more than by their bytes.",
							&store_checkpoint_records, 1000000, 1000, INT_MAX / 2,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.checkpoint_timeout",
							"Time after which the open index is written to a layer file.",
							NULL, &store_checkpoint_timeout, 600, 1, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.idle_flush_timeout",
							"Time without WAL after which a timeline's open index is written to a layer file.",
							NULL, &store_idle_flush_timeout, 300, 1, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.image_chain",
							"Number of WAL records of a page after which a flush writes its image.",
							"Zero writes no images.",
							&store_image_chain, 64, 0, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

/* ---- ticks ---- */

void
store_set_tick(void (*tick) (void *arg), void *arg)
{
	tick_function = tick;
	tick_arg = arg;
}

void
store_tick(void)
{
	static TimestampTz last = 0;
	TimestampTz now;

	CHECK_FOR_INTERRUPTS();
	if (tick_function == NULL)
		return;
	now = neon_clock();
	if (now >= last && now - last < 100 * 1000)
		return;
	last = now;
	tick_function(tick_arg);
}

/* ---- memory ---- */

static uint32
blocks_of(const TimelineShared *s)
{
	return s->open.nblocks + s->frozen.nblocks;
}

static TimelineShared *
largest_other(TimelineShared *own)
{
	TimelineShared *best = NULL;

	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);

		if (s == own || pg_atomic_read_u32(&s->state) != TIMELINE_ACTIVE || blocks_of(s) == 0)
			continue;
		if (best == NULL || blocks_of(s) > blocks_of(best))
			best = s;
	}
	return best;
}

/* Asks the owner to flush; what nobody owns is flushed here. */
static void
ask_for_flush(TimelineShared *s)
{
	NeonId		tenant = s->id.tenant;
	NeonId		timeline = s->id.timeline;
	int			owner = s->owner_pid;
	Timeline   *tl;

	pg_atomic_write_u32(&s->flush_wanted, 1);
	if (owner != 0)
		SetLatch(&ProcGlobal->allProcs[s->owner_procno].procLatch);
	tl = timeline_open(&tenant, &timeline, true);
	if (tl == NULL || store_flush_frozen(tl) || owner != 0 ||
		!timeline_acquire_ownership(tl, false, 0))
		return;
	PG_TRY();
	{
		store_flush(tl);
	}
	PG_FINALLY();
	{
		timeline_release_ownership(tl);
	}
	PG_END_TRY();
}

/* Whatever was put last ended with a whole record. */
void
store_publish_put(Timeline *tl)
{
	StoreFiles *sf = store_private(tl);

	if (sf->put_end > timeline_last_record_lsn(tl))
		store_publish(tl, sf->put_start, sf->put_end);
}

/*
 * Makes room in the pool: the largest layer goes, its own first if it is large.
 * In the middle of a record its own open index cannot go.
 */
static void
make_room(Timeline *tl, bool in_record, TimestampTz start)
{
	TimelineShared *s = tl->shared;
	TimelineShared *other = largest_other(s);
	TimestampTz now = neon_clock();
	bool		patient = !TimestampDifferenceExceeds(start, now, ROOM_PATIENCE_MS);

	if (store_flush_frozen(tl))
		return;
	if (!in_record && s->open.nkeys > 0 && !s->has_frozen &&
		(other == NULL || !patient || s->open.nblocks >= blocks_of(other)))
	{
		store_publish_put(tl);
		store_flush(tl);
		return;
	}
	if (other != NULL)
		ask_for_flush(other);
	if (TimestampDifferenceExceeds(start, now, ROOM_TIMEOUT_MS))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("no memory is left for the index of new WAL"),
				 errhint("Increase neon_pageserver.open_layer_memory.")));
	store_tick();
	openpool_wait_for_room(ROOM_WAIT_MS);
}

/* ---- puts ---- */

void
store_owner_changed(Timeline *tl)
{
	StoreFiles *sf = store_private(tl);

	sf->put_start = InvalidXLogRecPtr;
	sf->put_end = InvalidXLogRecPtr;
}

/* Returns with index_lock held and room for the puts. */
static void
lock_with_room(Timeline *tl, const StorePut *puts, int nputs, bool in_record)
{
	TimestampTz waiting_since = 0;

	for (;;)
	{
		LWLockAcquire(&tl->shared->index_lock, LW_EXCLUSIVE);
		if (openlayer_reserve(&tl->shared->open, puts, nputs, in_record ? 0 : RECORD_RESERVE))
			return;
		LWLockRelease(&tl->shared->index_lock);
		if (waiting_since == 0)
			waiting_since = neon_clock();
		make_room(tl, in_record, waiting_since);
	}
}

static void
put_versions(Timeline *tl, XLogRecPtr start, XLogRecPtr end, const StorePut *puts, int nputs,
			 bool in_record)
{
	TimelineShared *s = tl->shared;

	if (!in_record && nputs > LARGE_RECORD && s->open.nkeys > 0)
	{
		store_publish_put(tl);
		store_flush(tl);
	}
	for (int done = 0; done < nputs; done += PUT_SLICE)
	{
		int			n = Min(nputs - done, PUT_SLICE);

		int			hot = -1;

		lock_with_room(tl, puts + done, n, in_record || done > 0);
		for (int i = done; i < done + n; i++)
		{
			if (openlayer_add(&s->open, start, end, &puts[i]) % HOT_PAGE_RECORDS == 0 &&
				puts[i].key.kind == NEON_KEY_PAGE)
				hot = i;
		}
		LWLockRelease(&s->index_lock);
		/* of several at once one will do */
		if (hot >= 0)
			hotpages_note(tl, &puts[hot].key, end);
	}
	if (s->opened_at == 0)
		s->opened_at = neon_clock();
}

void
store_put_more(Timeline *tl, XLogRecPtr start, XLogRecPtr end, const StorePut *puts, int nputs)
{
	put_versions(tl, start, end, puts, nputs, true);
}

void
store_put(Timeline *tl, XLogRecPtr start, XLogRecPtr end, const StorePut *puts, int nputs)
{
	TimelineShared *s = tl->shared;
	StoreFiles *sf = store_private(tl);

	timeline_check_writable(tl);
	if (!timeline_is_owner(tl))
		elog(ERROR, "store_put without ownership of the timeline");
	if (nputs == 0)
		return;
	crashnote_set(tl, &puts[0].key, end);
	if (start - s->open.base_lsn > MAX_WAL_DISTANCE && s->open.nkeys > 0)
	{
		store_publish_put(tl);
		store_flush(tl);
	}
	put_versions(tl, start, end, puts, nputs, end == sf->put_end);
	sf->put_start = start;
	sf->put_end = end;
}

void
store_publish(Timeline *tl, XLogRecPtr last_record_start, XLogRecPtr last_record_end)
{
	TimelineShared *s = tl->shared;

	timeline_check(tl);
	if (last_record_end < pg_atomic_read_u64(&s->last_record_lsn))
		return;
	pg_atomic_write_u64(&s->prev_record_lsn, last_record_start);
	pg_write_barrier();
	pg_atomic_write_u64(&s->last_record_lsn, last_record_end);
	s->published_at = neon_clock();
	pg_memory_barrier();
	if (pg_atomic_read_u32(&s->lsn_waiters) > 0)
		ConditionVariableBroadcast(&s->lsn_cv);
}

/*
 * Is so much WAL in no file, by its bytes or by what it changes, or so much
 * memory taken, that it is time, or more than time?  A restart has to decode
 * that WAL again.
 */
static bool
is_due(Timeline *tl, int factor)
{
	TimelineShared *s = tl->shared;
	uint64		waiting = timeline_last_record_lsn(tl) - timeline_disk_consistent_lsn(tl);
	uint64		total = openpool_total_bytes();
	uint64		own = openlayer_bytes(&s->open);
	/* the frozen index may go at this moment: it is an estimate */
	uint64		changes = s->open.nrefs + s->frozen.nrefs;

	return waiting >= (uint64) factor * store_checkpoint_distance * 1024 * 1024 ||
		changes >= (uint64) factor * store_checkpoint_records ||
		own > factor * (total / LARGE_PART) ||
		(factor == 1 && openpressure_is_over(s));
}

bool
store_flush_backlog(Timeline *tl)
{
	return is_due(tl, 2);
}

/* In the flusher's process, which may see the open index a little later than its owner. */
bool
store_flush_lags(Timeline *tl)
{
	TimelineShared *s = tl->shared;

	return s->open.nrefs >= store_checkpoint_records / 2 ||
		timeline_last_record_lsn(tl) - s->frozen_cut >= (uint64) store_checkpoint_distance * 1024 * 1024 / 2;
}

bool
store_flush_crowded(Timeline *tl)
{
	TimelineShared *s = tl->shared;

	return !s->has_frozen && (store_flush_wanted(tl) ||
							  openlayer_bytes(&s->open) > openpool_total_bytes() / LARGE_PART);
}

bool
store_flush_wanted(Timeline *tl)
{
	return pg_atomic_read_u32(&tl->shared->flush_wanted) != 0;
}

/* Is what was put so old, or did nothing come for so long? */
static bool
age_is_reached(const TimelineShared *s)
{
	TimestampTz now = neon_clock();

	return TimestampDifferenceExceeds(s->opened_at, now, store_checkpoint_timeout * 1000) ||
		TimestampDifferenceExceeds(Max(s->opened_at, s->published_at), now,
								   store_idle_flush_timeout * 1000);
}

bool
store_flush_due(Timeline *tl)
{
	TimelineShared *s = tl->shared;

	if (timeline_last_record_lsn(tl) == timeline_disk_consistent_lsn(tl))
		return false;
	if (s->has_frozen)
		return store_flush_backlog(tl);
	if (is_due(tl, 1) || store_flush_wanted(tl))
		return true;
	return s->opened_at != 0 && age_is_reached(s);
}
