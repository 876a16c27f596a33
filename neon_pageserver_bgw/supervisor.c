/*-------------------------------------------------------------------------
 *
 * supervisor.c
 *	  The worker that opens all timelines when the instance starts (and after
 *	  each restart of its processes), and flushes what nobody owns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "crashnote.h"
#include "history.h"
#include "init.h"
#include "layerfile.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_durable.h"
#include "neon_library.h"
#include "pgstat.h"
#include "nodes/pg_list.h"
#include "openpressure.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "store_private.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define PRESSURE_INTERVAL_MS 1000
#define IDLE_INTERVAL_MS	10000
#define IDLE_FLUSH_AGE_MS	60000

/* At the end of the instance: so long another flush may begin, or an owner be waited for. */
#define END_FLUSH_MS		20000
#define END_OWNER_MS		5000
#define END_POLL_MS			10

extern PGDLLEXPORT void supervisor_main(Datum arg);

void
supervisor_register_worker(void)
{
	BackgroundWorker worker;

	library_worker(&worker, "neon_pageserver", "supervisor_main", "neon storage supervisor");
	/* needs nothing of the instance's own files */
	worker.bgw_start_time = BgWorkerStart_PostmasterStart;
	RegisterBackgroundWorker(&worker);
}

/* ---- opening ---- */

static bool
known_file(const Manifest *m, uint64 id, uint32 generation)
{
	for (int i = 0; i < m->nfiles; i++)
	{
		if (m->files[i].id == id && m->files[i].generation == generation)
			return true;
	}
	return false;
}

/* Layers that no manifest names are leftovers of a flush that did not end. */
static void
remove_orphan_layers(const Manifest *m)
{
	char		path[MAXPGPATH];
	DIR		   *dir;
	struct dirent *de;

	timeline_path(&m->identity.tenant, &m->identity.timeline, "layers", path);
	dir = AllocateDir(path);
	while ((de = ReadDir(dir, path)) != NULL)
	{
		char		file[MAXPGPATH * 2];
		unsigned long long id;
		unsigned int generation;

		if (de->d_name[0] == '.')
			continue;
		if (sscanf(de->d_name, "%16llx-%8x.", &id, &generation) == 2 &&
			known_file(m, id, generation))
			continue;
		snprintf(file, sizeof(file), "%s/%s", path, de->d_name);
		ereport(LOG, (errmsg("removing unfinished file \"%s\"", file)));
		unlink(file);
	}
	FreeDir(dir);
}

/*
 * What follows the last readable change was never synchronized, it seems.  Then
 * it can have removed nothing yet: if a file is missing, a change was lost that
 * had been.  Before anything is removed.
 */
static void
check_torn(const Manifest *m, const char *dir, const ManifestPos *pos)
{
	char		log[MAXPGPATH];
	char		path[MAXPGPATH];

	manifest_file_path(dir, pos->number, log);
	ereport(LOG,
			(errmsg("file \"%s\" ends with a change that was not written whole", log),
			 errdetail("It begins at offset " UINT64_FORMAT ", and is left out.", pos->length)));
	for (int i = 0; i < m->nfiles; i++)
	{
		layer_path(&m->identity, &m->files[i], path);
		if (!durable_exists(path))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("file \"%s\" is corrupted", log),
					 errdetail("It is unreadable from offset " UINT64_FORMAT " on, and file \"%s\", which it names before, is missing.",
							   pos->length, path)));
	}
}

/* The manifest, or NULL and why it is not usable. */
static Manifest *
try_load(const NeonId *tenant, const NeonId *timeline, ManifestPos *pos, char *detail)
{
	MemoryContext context = CurrentMemoryContext;
	char		dir[MAXPGPATH];
	Manifest   *volatile m = NULL;

	timeline_path(tenant, timeline, NULL, dir);
	PG_TRY();
	{
		Manifest   *loaded = manifest_load(dir, pos);

		if (!neon_id_equal(&loaded->identity.tenant, tenant) ||
			!neon_id_equal(&loaded->identity.timeline, timeline))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the manifest in \"%s\" is another timeline's", dir)));
		if (pos->torn)
			check_torn(loaded, dir, pos);
		if (loaded->finished)
			remove_orphan_layers(loaded);
		m = loaded;
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		snprintf(detail, TIMELINE_DETAIL_MAX, "%s%s%s%s%s", edata->message,
				 edata->detail ? ": " : "", edata->detail ? edata->detail : "",
				 edata->hint ? ". " : "", edata->hint ? edata->hint : "");
		store_recover_from_error(context);
	}
	PG_END_TRY();
	return m;
}

/* One timeline into a slot; a manifest that cannot be read makes a damaged one. */
static void
load_timeline(const NeonId *tenant, const NeonId *timeline)
{
	char		dir[MAXPGPATH];
	ManifestPos pos;
	Manifest   *m;
	char		detail[TIMELINE_DETAIL_MAX] = "";

	if (timeline_find(tenant, timeline) != NULL)
		return;
	timeline_path(tenant, timeline, NULL, dir);
	memset(&pos, 0, sizeof(pos));
	m = try_load(tenant, timeline, &pos, detail);
	if (m != NULL && crashnote_is_refused(tenant, timeline, detail))
		ereport(LOG, (errmsg("timeline in \"%s\" is refused", dir), errdetail("%s", detail)));
	if (m == NULL)
	{
		m = palloc0(sizeof(Manifest));
		m->identity.tenant = *tenant;
		m->identity.timeline = *timeline;
		m->identity.wal_segment_size = DEFAULT_XLOG_SEG_SIZE;	/* nobody divides by zero */
		m->finished = true;
		if (!manifest_noted_name(dir, m->name))
			neon_id_format(timeline, m->name);
	}
	if (!m->finished)
	{
		ereport(LOG, (errmsg("removing timeline in \"%s\", whose creation did not end", dir)));
		durable_remove_tree(dir);
	}
	else if (timeline_register(m, &pos, detail[0] ? TIMELINE_DAMAGED : TIMELINE_ACTIVE,
							   detail) == NULL)
		ereport(LOG,
				(errmsg("timeline in \"%s\" is not opened: all slots are in use", dir),
				 errhint("Increase neon_pageserver.max_timelines.")));
}

static bool
has_suffix(const char *name, const char *suffix)
{
	size_t		n = strlen(name);
	size_t		k = strlen(suffix);

	return n > k && strcmp(name + n - k, suffix) == 0;
}

/* Names in a directory, none if it is not there. */
static List *
list_names(const char *path)
{
	List	   *names = NIL;
	DIR		   *dir;
	struct dirent *de;

	if (!durable_exists(path))
		return NIL;
	dir = AllocateDir(path);
	while ((de = ReadDir(dir, path)) != NULL)
	{
		if (de->d_name[0] != '.')
			names = lappend(names, pstrdup(de->d_name));
	}
	FreeDir(dir);
	return names;
}

/*
 * Calls load for each id-named entry of a directory; removes deleted ones, and
 * those whose creation did not end.
 */
static void
for_each_id(const char *path, void (*load) (const NeonId *id, void *arg), void *arg)
{
	ListCell   *lc;

	foreach(lc, list_names(path))
	{
		const char *name = lfirst(lc);
		NeonId		id;

		if (has_suffix(name, DELETED_SUFFIX) || has_suffix(name, CREATING_SUFFIX))
		{
			char		gone[MAXPGPATH * 2];

			snprintf(gone, sizeof(gone), "%s/%s", path, name);
			durable_remove_tree(gone);
		}
		else if (neon_id_parse(name, &id))
		{
			CHECK_FOR_INTERRUPTS();
			load(&id, arg);
		}
	}
}

static void
load_timeline_cb(const NeonId *timeline, void *arg)
{
	load_timeline((const NeonId *) arg, timeline);
}

static void
load_tenant_cb(const NeonId *tenant, void *arg)
{
	char		hex[NEON_ID_HEXLEN + 1];
	char		path[MAXPGPATH];

	neon_id_format(tenant, hex);
	snprintf(path, sizeof(path), "%s/%s/timelines", TENANTS_DIR, hex);
	for_each_id(path, load_timeline_cb, (void *) tenant);

	/* A tenant whose first timeline was never finished does not exist. */
	if (list_names(path) == NIL)
	{
		ereport(LOG, (errmsg("removing empty tenant \"%s\"", hex)));
		snprintf(path, sizeof(path), "%s/%s", TENANTS_DIR, hex);
		durable_remove_tree(path);
	}
}

/* A branch whose ancestor is not there cannot be read. */
static void
check_ancestors(void)
{
	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);
		char		hex[NEON_ID_HEXLEN + 1];

		if (pg_atomic_read_u32(&s->state) == TIMELINE_UNUSED ||
			neon_id_is_zero(&s->id.ancestor) ||
			timeline_find(&s->id.tenant, &s->id.ancestor) != NULL)
			continue;
		LWLockAcquire(&s->lock, LW_EXCLUSIVE);
		snprintf(s->detail, sizeof(s->detail), "Its ancestor \"%s\" is missing.",
				 neon_id_format(&s->id.ancestor, hex));
		pg_atomic_write_u32(&s->state, TIMELINE_DAMAGED);
		LWLockRelease(&s->lock);
	}
}

/* Points of branches that were never made, or are gone. */
static void
drop_stale_points(Timeline *tl)
{
	Manifest   *m;

	if (timeline_state(tl) != TIMELINE_ACTIVE)
		return;
	m = timeline_read_manifest(tl);
	for (int i = m->npoints - 1; i >= 0; i--)
	{
		ManifestPoint p = m->points[i];

		if (p.kind == HISTORY_BRANCH && timeline_find(&tl->id.tenant, &p.id) == NULL)
			history_drop_branch(tl, &p.id);
	}
	manifest_free(m);
}

static void
load_all(void)
{
	TimestampTz start = neon_clock();
	int			n = 0;

	for_each_id(TENANTS_DIR, load_tenant_cb, NULL);
	check_ancestors();
	for (int i = 0; i < timeline_nslots(); i++)
	{
		if (pg_atomic_read_u32(&timeline_slot(i)->state) != TIMELINE_UNUSED)
			n++;
	}
	timeline_registry_loaded();
	ereport(LOG,
			(errmsg("opened %d timelines in %ld ms", n,
					TimestampDifferenceMilliseconds(start, neon_clock()))));
}

/* ---- idle work ---- */

static void
drop_stale_points_cb(Timeline *tl, void *arg)
{
	drop_stale_points(tl);
}

/* Flushes an open index that nobody owns, so that it does not hold memory. */
static void
flush_idle(Timeline *tl, void *arg)
{
	TimelineShared *s = tl->shared;
	TimestampTz opened_at = s->opened_at;

	if (timeline_state(tl) != TIMELINE_ACTIVE || s->owner_pid != 0 || opened_at == 0)
		return;
	if (pg_atomic_read_u32(&s->flush_wanted) == 0 &&
		!TimestampDifferenceExceeds(opened_at, neon_clock(), IDLE_FLUSH_AGE_MS))
		return;
	if (!timeline_acquire_ownership(tl, false, 0))
		return;
	store_flush_start(tl);
	timeline_release_ownership(tl);
}

/* One piece of work; its error is logged and hurts no other timeline. */
static void
guarded(const NeonId *tenant, const NeonId *timeline, void (*work) (Timeline *tl, void *arg),
		MemoryContext context)
{
	PG_TRY();
	{
		Timeline   *tl = timeline_open(tenant, timeline, true);

		if (tl != NULL)
			work(tl, NULL);
	}
	PG_CATCH();
	{
		Timeline   *tl;

		store_recover_from_error(context);
		tl = timeline_open(tenant, timeline, true);
		if (tl != NULL)
			timeline_release_ownership(tl);
	}
	PG_END_TRY();
}

static void
each_timeline(void (*work) (Timeline *tl, void *arg), MemoryContext context)
{
	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);
		NeonId		tenant = s->id.tenant;
		NeonId		timeline = s->id.timeline;

		if (pg_atomic_read_u32(&s->state) != TIMELINE_ACTIVE)
			continue;
		guarded(&tenant, &timeline, work, context);
		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Idle indexes now and then, all that are in the way as soon as memory is short. */
static void
look_after_memory(MemoryContext context)
{
	static TimestampTz last = 0;
	TimestampTz now = neon_clock();

	if (!openpressure_relieve() && !TimestampDifferenceExceeds(last, now, IDLE_INTERVAL_MS))
		return;
	last = now;
	each_timeline(flush_idle, context);
}

/* ---- the end ---- */

/* WAL of a timeline that is indexed, but in no file. */
static uint64
unflushed(TimelineShared *s)
{
	uint64		last = pg_atomic_read_u64(&s->last_record_lsn);
	uint64		in_files = pg_atomic_read_u64(&s->disk_consistent_lsn);

	if (pg_atomic_read_u32(&s->state) != TIMELINE_ACTIVE || last <= in_files)
		return 0;
	return last - in_files;
}

static void
flush_last(Timeline *tl, void *arg)
{
	if (!timeline_acquire_ownership(tl, false, 0))
		return;
	store_flush(tl);
	timeline_release_ownership(tl);
}

/* The timeline with the most that nobody writes; -1: none.  Is one still being written? */
static int
choose_unflushed(const bool *tried, bool *owned)
{
	int			best = -1;

	*owned = false;
	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);

		if (tried[i] || unflushed(s) == 0)
			continue;
		if (s->owner_pid != 0)
			*owned = true;
		else if (best < 0 || unflushed(s) > unflushed(timeline_slot(best)))
			best = i;
	}
	return best;
}

/*
 * When the instance is shut down what is in no file yet is written, so that the
 * next start has no WAL to decode.  Those who write timelines are ending as well,
 * layer writers too; redo may be gone, so no pages are made.  What does not end
 * in time is decoded at the next start as after a crash.
 */
static void
flush_before_end(MemoryContext context)
{
	TimestampTz start = neon_clock();
	bool	   *tried = MemoryContextAllocZero(TopMemoryContext, timeline_nslots());
	bool		owned;
	int			flushed = 0;

	store_flush_without_images();
	for (;;)
	{
		int			slot = choose_unflushed(tried, &owned);
		int			limit = slot >= 0 ? END_FLUSH_MS : END_OWNER_MS;

		if ((slot < 0 && !owned) || TimestampDifferenceExceeds(start, neon_clock(), limit))
			break;
		if (slot >= 0)
		{
			NeonId		tenant = timeline_slot(slot)->id.tenant;
			NeonId		timeline = timeline_slot(slot)->id.timeline;

			tried[slot] = true;
			guarded(&tenant, &timeline, flush_last, context);
			MemoryContextReset(context);
			flushed++;
		}
		else
			(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, END_POLL_MS,
							 PG_WAIT_EXTENSION);
	}
	if (flushed > 0)
		ereport(LOG,
				(errmsg("indexes of %d timelines written to layer files in %ld ms", flushed,
						TimestampDifferenceMilliseconds(start, neon_clock()))));
}

void
supervisor_main(Datum arg)
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	context = AllocSetContextCreate(TopMemoryContext, "neon supervisor", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	if (!timeline_registry_is_loaded())
	{
		load_all();
		MemoryContextReset(context);
		each_timeline(drop_stale_points_cb, context);
	}
	/* from here on it has something to do before it ends */
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	for (;;)
	{
		if (ShutdownRequestPending)
		{
			flush_before_end(context);
			proc_exit(1);
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 PRESSURE_INTERVAL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		look_after_memory(context);
	}
}
