/*-------------------------------------------------------------------------
 *
 * flush.c
 *	  From the open index to a layer file.
 *
 * The owner freezes the open index: what is published becomes the frozen index,
 * an empty one takes new puts.  A flush worker, or the owner itself if it has
 * to wait anyway, claims the frozen index and writes it.  Order: stored WAL
 * synced (before the freeze), file synced, directory synced, manifest edit
 * synced; then the frozen index goes and the new file is announced in one
 * moment under index_lock; last, stored WAL that nobody needs any more goes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "flushtime.h"
#include "flushwrite.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "nodes/pg_list.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "store_private.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "walremove.h"
#include "walstore.h"

#define WAIT_STEP_MS		100

static bool exit_registered = false;
static bool with_images = true;

/* ---- announcing ---- */

void
store_sync_failed(Timeline *tl, const ManifestFile *file)
{
	char		path[MAXPGPATH];
	char		why[TIMELINE_DETAIL_MAX];

	layer_path(&tl->id, file, path);
	snprintf(why, sizeof(why), "File \"%s\" could not be synchronized to disk.", path);
	timeline_set_readonly(tl, why);
	ereport(ERROR,
			(errcode(ERRCODE_IO_ERROR),
			 errmsg("could not synchronize file \"%s\"", path)));
}

void
store_announce_file(Timeline *tl, const ManifestFile *file, bool replaces_frozen)
{
	TimelineShared *s = tl->shared;
	OpenLayer	old;

	LWLockAcquire(&s->index_lock, LW_EXCLUSIVE);
	timeline_check(tl);
	if (replaces_frozen)
	{
		old = s->frozen;
		openlayer_init(&s->frozen, s->frozen_cut);
	}
	pg_atomic_fetch_add_u32(&s->map_version, 1);
	LWLockRelease(&s->index_lock);
	if (replaces_frozen)
		openlayer_free(&old);
	if (file)
	{
		pg_atomic_fetch_add_u64(&s->layer_bytes, file->bytes);
		pg_atomic_fetch_add_u32(&s->wide_runs, 1);
		pg_atomic_fetch_add_u64(&s->wide_bytes, file->bytes);
		pg_atomic_fetch_add_u64(&s->compaction_debt, file->bytes);
	}
}

void
store_announce_merge(Timeline *tl, uint64 bytes_added, uint64 bytes_dropped)
{
	TimelineShared *s = tl->shared;

	LWLockAcquire(&s->index_lock, LW_EXCLUSIVE);
	timeline_check(tl);
	pg_atomic_fetch_add_u32(&s->map_version, 1);
	LWLockRelease(&s->index_lock);
	pg_atomic_fetch_add_u64(&s->layer_bytes, bytes_added);
	pg_atomic_fetch_sub_u64(&s->layer_bytes, bytes_dropped);
}

/* ---- writing the frozen index ---- */

typedef struct FlushState
{
	Timeline   *tl;
	IndexWrite	write;
	uint32		nblocks;		/* time blocks */
} FlushState;

/* Positions that become durable with the frozen index. */
static void
flush_edit(Timeline *tl, const ManifestFile *file)
{
	TimelineShared *s = tl->shared;
	StringInfoData body;

	initStringInfo(&body);
	if (file)
		manifest_op_add_file(&body, file);
	manifest_op_lsns(&body, s->frozen_cut, s->frozen_prev);
	manifest_op_logical_size(&body, s->frozen_logical_size);
	if (s->frozen_term != 0)
		manifest_op_term(&body, s->frozen_term, s->frozen_boot_record_end);
	timeline_edit(tl, body.data, body.len);
	pfree(body.data);
}

static void
remove_layer(Timeline *tl, const ManifestFile *file)
{
	char		path[MAXPGPATH];

	layer_path(&tl->id, file, path);
	unlink(path);
}

static void
log_layer(const FlushState *state, const ManifestFile *file, uint32 nkeys, TimestampTz start)
{
	char		hex[NEON_ID_HEXLEN + 1];

	ereport(LOG,
			(errmsg("layer of timeline \"%s\" up to %X/%X written: %u keys, " UINT64_FORMAT
					" versions, %u images, " UINT64_FORMAT " bytes in %ld ms",
					neon_id_format(&state->tl->id.timeline, hex),
					LSN_FORMAT_ARGS(file->lsn_hi), nkeys, file->entries, state->write.nimages,
					file->bytes, TimestampDifferenceMilliseconds(start, neon_clock()))));
}

/* The file's contents; how many keys it has. */
static uint32
write_contents(FlushState *state)
{
	IndexWrite *w = &state->write;

	flush_write_index(w);
	state->nblocks = flush_time_blocks(state->tl, w->writer,
									   timeline_disk_consistent_lsn(state->tl), w->cut, NULL, NULL);
	return w->nkeys + state->nblocks;
}

/* Makes the file durable and known. */
static void
finish_layer(FlushState *state, uint32 nkeys, TimestampTz start)
{
	Timeline   *tl = state->tl;
	ManifestFile file;

	NEON_TEST_POINT("layer-written");
	if (!layer_writer_finish(state->write.writer, &file))
		store_sync_failed(tl, &file);
	NEON_TEST_POINT("layer-synced");
	PG_TRY();
	{
		flush_edit(tl, &file);
	}
	PG_CATCH();
	{
		/* After a failed sync the edit may be on disk all the same. */
		if (timeline_state(tl) != TIMELINE_READONLY)
			remove_layer(tl, &file);
		PG_RE_THROW();
	}
	PG_END_TRY();
	NEON_TEST_POINT("layer-in-manifest");
	store_announce_file(tl, &file, true);
	compactworker_wake();
	log_layer(state, &file, nkeys, start);
}

/* What there is to write may be nothing at all. */
static void
write_layer(FlushState *state)
{
	Timeline   *tl = state->tl;
	TimelineShared *s = tl->shared;
	TimestampTz start = neon_clock();
	uint32		nkeys;

	state->write.tl = tl;
	state->write.index = &s->frozen;
	state->write.cut = s->frozen_cut;
	state->write.images = with_images;
	state->write.writer = layer_writer_begin(&tl->id, LAYER_DELTA, timeline_new_file_id(tl),
											 timeline_disk_consistent_lsn(tl), s->frozen_cut);
	nkeys = write_contents(state);
	if (nkeys > 0)
		finish_layer(state, nkeys, start);
	else
	{
		layer_writer_abort(state->write.writer);
		flush_edit(tl, NULL);
		store_announce_file(tl, NULL, true);
	}
}

/* The caller has claimed the frozen index.  True if its WAL is needless then. */
static bool
flush_frozen(Timeline *tl)
{
	TimelineShared *s = tl->shared;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "neon flush", ALLOCSET_DEFAULT_SIZES);
	FlushState	state = {.tl = tl};

	MemoryContextSwitchTo(context);
	walstore_map_records(true);
	PG_TRY();
	{
		timeline_check_writable(tl);
		write_layer(&state);
	}
	PG_FINALLY();
	{
		walstore_map_records(false);
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
	pg_atomic_write_u64(&s->disk_consistent_lsn, s->frozen_cut);
	return state.nblocks > 0;
}

/* ---- claims ---- */

static void
release_claim(TimelineShared *s)
{
	bool		mine;

	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	mine = s->flusher_pid == MyProcPid;
	if (mine)
		s->flusher_pid = 0;
	LWLockRelease(&s->lock);
	if (mine)
		ConditionVariableBroadcast(&s->flush_cv);
}

static void
release_claims_at_exit(int code, Datum arg)
{
	for (int i = 0; i < timeline_nslots(); i++)
	{
		if (timeline_slot(i)->flusher_pid == MyProcPid)
			release_claim(timeline_slot(i));
	}
}

static bool
claim(TimelineShared *s)
{
	bool		got;

	if (!exit_registered)
	{
		before_shmem_exit(release_claims_at_exit, 0);
		exit_registered = true;
	}
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	got = s->has_frozen && s->flusher_pid == 0;
	if (got)
		s->flusher_pid = MyProcPid;
	LWLockRelease(&s->lock);
	return got;
}

bool
store_flush_frozen(Timeline *tl)
{
	TimelineShared *s = tl->shared;

	timeline_check(tl);
	if (!claim(s))
		return false;
	PG_TRY();
	{
		XLogRecPtr	before = timeline_disk_consistent_lsn(tl);
		bool		needless = flush_frozen(tl);

		s->has_frozen = false;
		if (needless)
			walremove_flushed(tl, before);
	}
	PG_FINALLY();
	{
		release_claim(s);
	}
	PG_END_TRY();
	return true;
}

/* Until nothing is frozen: by this process, unless another one is at it. */
static void
finish_frozen(Timeline *tl)
{
	TimelineShared *s = tl->shared;

	while (s->has_frozen)
	{
		timeline_check_writable(tl);
		store_tick();
		if (store_flush_frozen(tl))
			break;
		ConditionVariablePrepareToSleep(&s->flush_cv);
		if (s->has_frozen)
			(void) ConditionVariableTimedSleep(&s->flush_cv, WAIT_STEP_MS, PG_WAIT_EXTENSION);
		ConditionVariableCancelSleep();
	}
}

bool
store_wait_for_flusher(TimelineShared *s, int timeout_ms)
{
	TimestampTz end = TimestampTzPlusMilliseconds(neon_clock(), timeout_ms);

	ConditionVariablePrepareToSleep(&s->flush_cv);
	while (s->flusher_pid != 0 && neon_clock() < end)
		(void) ConditionVariableTimedSleep(&s->flush_cv, WAIT_STEP_MS, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
	return s->flusher_pid == 0;
}

/* ---- freezing ---- */

/* A version that was put but not published. */
typedef struct KeptVersion
{
	StorePut	put;
	XLogRecPtr	start;
	XLogRecPtr	end;
} KeptVersion;

typedef struct KeepState
{
	XLogRecPtr	cut;
	NeonKey		key;
	List	   *kept;
} KeepState;

static void
keep_ref(const OpenLayer *open, uint64 ref, void *arg)
{
	KeepState  *state = arg;
	KeptVersion *kept;
	StoreVersion v;

	openlayer_decode(open, ref, false, &v);
	if (v.lsn <= state->cut)
		return;
	openlayer_decode(open, ref, true, &v);
	kept = palloc(sizeof(KeptVersion));
	kept->put.key = state->key;
	kept->put.value_kind = v.value_kind;
	kept->put.base = v.base;
	kept->put.data = v.data;
	kept->put.len = v.len;
	kept->start = v.start;
	kept->end = v.lsn;
	state->kept = lappend(state->kept, kept);
}

static int
compare_kept(const ListCell *a, const ListCell *b)
{
	const KeptVersion *x = lfirst(a);
	const KeptVersion *y = lfirst(b);

	return x->end == y->end ? 0 : (x->end < y->end ? -1 : 1);
}

/* Versions above the cut, by LSN. */
static List *
unpublished_versions(const OpenLayer *open, XLogRecPtr cut)
{
	KeepState	state = {cut};

	if (open->newest <= cut)
		return NIL;
	for (int pages = 0; pages < 2; pages++)
	{
		for (OpenKey *k = openlayer_first(open, pages); k != NULL; k = openlayer_next(k))
		{
			state.key = k->key;
			openlayer_visit(open, k, keep_ref, &state);
		}
	}
	list_sort(state.kept, compare_kept);
	return state.kept;
}

/* What a flush will make durable, noted at the moment of the freeze. */
static void
note_positions(Timeline *tl, XLogRecPtr cut)
{
	TimelineShared *s = tl->shared;
	XLogRecPtr	boot_record_end;
	uint32		term = timeline_term(tl, &boot_record_end);

	s->frozen_cut = cut;
	s->frozen_prev = timeline_prev_record_lsn(tl);
	s->frozen_logical_size = timeline_logical_size(tl);
	s->frozen_term = boot_record_end <= cut ? term : 0;
	s->frozen_boot_record_end = boot_record_end;
}

/* Owner only, and nothing is frozen. */
static void
freeze(Timeline *tl)
{
	TimelineShared *s = tl->shared;
	XLogRecPtr	cut = timeline_last_record_lsn(tl);
	List	   *kept;
	ListCell   *lc;

	/* whoever received the WAL may have ended before it was synchronized */
	if (timeline_flush_lsn(tl) < cut)
	{
		walstore_secure(tl, cut);
		timeline_set_flush_lsn(tl, cut);
	}
	kept = unpublished_versions(&s->open, cut);
	note_positions(tl, cut);
	LWLockAcquire(&s->index_lock, LW_EXCLUSIVE);
	openlayer_trim(&s->open, cut);
	s->frozen = s->open;
	openlayer_init(&s->open, cut);
	s->has_frozen = true;
	LWLockRelease(&s->index_lock);
	s->opened_at = 0;
	pg_atomic_write_u32(&s->flush_wanted, 0);

	/* Nobody can have read these yet, so it does no harm that they were away. */
	foreach(lc, kept)
	{
		KeptVersion *v = lfirst(lc);

		store_put_more(tl, v->start, v->end, &v->put, 1);
		if (v->put.data)
			pfree(unconstify(void *, v->put.data));
	}
	list_free_deep(kept);
}

static void
check_owner(Timeline *tl)
{
	timeline_check_writable(tl);
	if (!timeline_is_owner(tl))
		elog(ERROR, "flush without ownership of the timeline");
}

void
store_flush_start(Timeline *tl)
{
	check_owner(tl);
	if (tl->shared->has_frozen && !store_flush_backlog(tl))
		return;
	finish_frozen(tl);
	if (timeline_last_record_lsn(tl) == timeline_disk_consistent_lsn(tl))
		return;
	freeze(tl);
	flushworker_wake();
}

void
store_flush_without_images(void)
{
	with_images = false;
}

void
store_flush(Timeline *tl)
{
	check_owner(tl);
	finish_frozen(tl);
	if (timeline_last_record_lsn(tl) == timeline_disk_consistent_lsn(tl))
	{
		pg_atomic_write_u32(&tl->shared->flush_wanted, 0);
		return;
	}
	freeze(tl);
	finish_frozen(tl);
}
