/*-------------------------------------------------------------------------
 *
 * timeline.c
 *	  The registry of timelines in shared memory: slots, handles, positions and
 *	  ownership.
 *
 * Everything here is a cache of the manifests, filled by the supervisor when
 * the instance starts and after each restart of its processes; until that is
 * done, opening a timeline waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "init.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "timeline_shared.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define LOAD_TIMEOUT_MS		60000

typedef struct Registry
{
	LWLock		lock;			/* which slot is whose */
	LWLock		create_lock;	/* creation, renaming and deletion */
	int			tranche;
	int			nslots;
	int			first_free;		/* no slot below it is unused */
	uint64		next_incarnation;
	pg_atomic_uint32 loaded;
	ConditionVariable loaded_cv;
	TimelineShared slot[FLEXIBLE_ARRAY_MEMBER];
} Registry;

typedef struct HandleKey
{
	NeonId		tenant;
	NeonId		timeline;
} HandleKey;

/* In shared memory, under registry.lock: where a timeline's slot is. */
typedef struct SlotEntry
{
	HandleKey	key;
	int			slot;
} SlotEntry;

typedef struct HandleEntry
{
	HandleKey	key;
	Timeline   *tl;
} HandleEntry;

static int	max_timelines = 4000;
static Registry *registry = NULL;
static HTAB *slots_by_id = NULL;
static HTAB *handles = NULL;
static bool exit_registered = false;
static int	nowned = 0;

/* ---- start ---- */

void
timeline_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.max_timelines",
							"Number of timelines that this pageserver can hold.",
							NULL, &max_timelines, 4000, 1, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

static Size
registry_size(void)
{
	return add_size(offsetof(Registry, slot),
					mul_size(max_timelines, sizeof(TimelineShared)));
}

Size
timeline_shmem_size(void)
{
	return add_size(registry_size(), hash_estimate_size(max_timelines, sizeof(SlotEntry)));
}

static void
slot_init(TimelineShared *s, int tranche)
{
	LWLockInitialize(&s->lock, tranche);
	LWLockInitialize(&s->change_lock, tranche);
	LWLockInitialize(&s->history_lock, tranche);
	LWLockInitialize(&s->manifest_lock, tranche);
	LWLockInitialize(&s->index_lock, tranche);
	pg_atomic_init_u64(&s->incarnation, 0);
	pg_atomic_init_u32(&s->state, TIMELINE_UNUSED);
	pg_atomic_init_u64(&s->last_record_lsn, 0);
	pg_atomic_init_u64(&s->prev_record_lsn, 0);
	pg_atomic_init_u64(&s->flush_lsn, 0);
	pg_atomic_init_u64(&s->disk_consistent_lsn, 0);
	pg_atomic_init_u64(&s->logical_size, 0);
	pg_atomic_init_u64(&s->members_generation, 0);
	pg_atomic_init_u64(&s->layer_bytes, 0);
	pg_atomic_init_u64(&s->damaged_file, 0);
	pg_atomic_init_u64(&s->damaged_wal, 0);
	pg_atomic_init_u32(&s->wal_mending, 0);
	pg_atomic_init_u32(&s->flush_wanted, 0);
	pg_atomic_init_u64(&s->gc_cutoff, 0);
	pg_atomic_init_u64(&s->gc_horizon, 0);
	pg_atomic_init_u64(&s->gc_epoch, 0);
	pg_atomic_init_u32(&s->points_version, 0);
	pg_atomic_init_u32(&s->map_version, 0);
	pg_atomic_init_u32(&s->wal_epoch, 0);
	pg_atomic_init_u32(&s->compact_jobs, 0);
	pg_atomic_init_u32(&s->wide_runs, 0);
	pg_atomic_init_u64(&s->wide_bytes, 0);
	pg_atomic_init_u64(&s->compaction_debt, 0);
	pg_atomic_init_u64(&s->debt_forgiven, 0);
	pg_atomic_init_u32(&s->lsn_waiters, 0);
	ConditionVariableInit(&s->lsn_cv);
	ConditionVariableInit(&s->owner_cv);
	ConditionVariableInit(&s->flush_cv);
	ConditionVariableInit(&s->compact_turn_cv);
}

void
timeline_shmem_init(void)
{
	HASHCTL		ctl = {.keysize = sizeof(HandleKey),.entrysize = sizeof(SlotEntry)};
	bool		found;

	slots_by_id = ShmemInitHash("neon timelines by id", max_timelines, max_timelines, &ctl,
								HASH_ELEM | HASH_BLOBS);
	registry = ShmemInitStruct("neon timelines", registry_size(), &found);
	if (!found)
	{
		memset(registry, 0, registry_size());
		registry->tranche = LWLockNewTrancheId();
		LWLockInitialize(&registry->lock, registry->tranche);
		LWLockInitialize(&registry->create_lock, registry->tranche);
		registry->nslots = max_timelines;
		registry->next_incarnation = 1;
		pg_atomic_init_u32(&registry->loaded, 0);
		ConditionVariableInit(&registry->loaded_cv);
		for (int i = 0; i < max_timelines; i++)
			slot_init(&registry->slot[i], registry->tranche);
	}
	LWLockRegisterTranche(registry->tranche, "neon_timeline");
}

int
timeline_nslots(void)
{
	return registry->nslots;
}

TimelineShared *
timeline_slot(int i)
{
	return &registry->slot[i];
}

void
timeline_lock_registry(void)
{
	LWLockAcquire(&registry->create_lock, LW_EXCLUSIVE);
}

void
timeline_unlock_registry(void)
{
	LWLockRelease(&registry->create_lock);
}

bool
timeline_registry_is_loaded(void)
{
	return pg_atomic_read_u32(&registry->loaded) != 0;
}

void
timeline_registry_loaded(void)
{
	pg_atomic_write_u32(&registry->loaded, 1);
	ConditionVariableBroadcast(&registry->loaded_cv);
}

static void
wait_until_loaded(void)
{
	TimestampTz start = neon_clock();

	if (registry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_pageserver must be loaded by shared_preload_libraries")));
	if (timeline_registry_is_loaded())
		return;
	ConditionVariablePrepareToSleep(&registry->loaded_cv);
	while (!timeline_registry_is_loaded())
	{
		(void) ConditionVariableTimedSleep(&registry->loaded_cv, 1000, PG_WAIT_EXTENSION);
		if (TimestampDifferenceExceeds(start, neon_clock(), LOAD_TIMEOUT_MS))
		{
			ConditionVariableCancelSleep();
			ereport(ERROR,
					(errcode(ERRCODE_CANNOT_CONNECT_NOW),
					 errmsg("the timelines of this pageserver are still being opened"),
					 errhint("Try again later; the server's log shows the progress.")));
		}
	}
	ConditionVariableCancelSleep();
}

/* ---- slots ---- */

static void
slot_set_positions(TimelineShared *s, const Manifest *m)
{
	uint64		bytes = 0;

	for (int i = 0; i < m->nfiles; i++)
		bytes += m->files[i].bytes;
	pg_atomic_write_u64(&s->last_record_lsn, m->disk_consistent_lsn);
	pg_atomic_write_u64(&s->prev_record_lsn, m->prev_record_lsn);
	pg_atomic_write_u64(&s->flush_lsn, m->disk_consistent_lsn);
	pg_atomic_write_u64(&s->disk_consistent_lsn, m->disk_consistent_lsn);
	pg_atomic_write_u64(&s->logical_size, m->logical_size);
	pg_atomic_write_u64(&s->members_generation, m->members_generation);
	pg_atomic_write_u64(&s->layer_bytes, bytes);
	pg_atomic_write_u32(&s->flush_wanted, 0);
	pg_atomic_write_u64(&s->gc_cutoff, m->gc_cutoff);
	pg_atomic_write_u64(&s->gc_horizon, m->gc_cutoff);
	pg_atomic_fetch_add_u32(&s->points_version, 1);
	pg_atomic_fetch_add_u32(&s->map_version, 1);
}

/* registry.lock is held. */
static int
find_slot(const NeonId *tenant, const NeonId *timeline)
{
	HandleKey	key = {*tenant, *timeline};
	SlotEntry  *entry = hash_search(slots_by_id, &key, HASH_FIND, NULL);

	return entry != NULL ? entry->slot : -1;
}

TimelineShared *
timeline_find(const NeonId *tenant, const NeonId *timeline)
{
	int			slot;

	LWLockAcquire(&registry->lock, LW_SHARED);
	slot = find_slot(tenant, timeline);
	LWLockRelease(&registry->lock);
	return slot >= 0 ? &registry->slot[slot] : NULL;
}

/* An unused slot under the id, or NULL.  registry.lock is held. */
static TimelineShared *
take_slot(const TimelineIdentity *id)
{
	HandleKey	key = {id->tenant, id->timeline};
	int			i = registry->first_free;

	while (i < registry->nslots &&
		   pg_atomic_read_u32(&registry->slot[i].state) != TIMELINE_UNUSED)
		i++;
	registry->first_free = i;
	if (i == registry->nslots)
		return NULL;
	((SlotEntry *) hash_search(slots_by_id, &key, HASH_ENTER, NULL))->slot = i;
	return &registry->slot[i];
}

/* registry.lock is held. */
static void
give_slot_back(TimelineShared *s)
{
	HandleKey	key = {s->id.tenant, s->id.timeline};

	hash_search(slots_by_id, &key, HASH_REMOVE, NULL);
	registry->first_free = Min(registry->first_free, (int) (s - registry->slot));
}

TimelineShared *
timeline_register(const Manifest *m, const ManifestPos *pos, TimelineState state,
				  const char *detail)
{
	TimelineShared *s;

	LWLockAcquire(&registry->lock, LW_EXCLUSIVE);
	s = take_slot(&m->identity);
	if (s != NULL)
	{
		s->id = m->identity;
		strlcpy(s->name, m->name, sizeof(s->name));
		strlcpy(s->detail, detail ? detail : "", sizeof(s->detail));
		s->writer = m->writer;
		s->term = m->term;
		s->boot_record_end = m->boot_record_end;
		s->gc_cutoff_time = m->gc_cutoff_time;
		s->owner_pid = 0;
		s->manifest = *pos;
		s->next_file_id = s->reserved_file_id = m->next_file_id;
		s->opened_at = s->published_at = 0;
		s->owner_unwanted = s->has_frozen = false;
		s->flusher_pid = s->compact_turn_pid = 0;
		pg_atomic_write_u32(&s->wide_runs, 0);
		pg_atomic_write_u64(&s->wide_bytes, 0);
		pg_atomic_write_u64(&s->compaction_debt, 0);
		pg_atomic_write_u64(&s->debt_forgiven, 0);
		pg_atomic_write_u64(&s->damaged_file, 0);
		pg_atomic_write_u64(&s->damaged_wal, 0);
		openlayer_init(&s->open, m->disk_consistent_lsn);
		openlayer_init(&s->frozen, m->disk_consistent_lsn);
		slot_set_positions(s, m);
		pg_atomic_write_u64(&s->incarnation, registry->next_incarnation++);
		pg_write_barrier();
		pg_atomic_write_u32(&s->state, state);
	}
	LWLockRelease(&registry->lock);
	return s;
}

/* The caller is the owner, or nobody can be. */
void
timeline_unregister(TimelineShared *s)
{
	LWLockAcquire(&registry->lock, LW_EXCLUSIVE);
	LWLockAcquire(&s->index_lock, LW_EXCLUSIVE);
	pg_atomic_write_u32(&s->state, TIMELINE_UNUSED);
	pg_atomic_write_u64(&s->incarnation, 0);
	give_slot_back(s);
	openlayer_free(&s->open);
	openlayer_free(&s->frozen);
	s->has_frozen = false;
	LWLockRelease(&s->index_lock);
	LWLockRelease(&registry->lock);
	ConditionVariableBroadcast(&s->lsn_cv);
	ConditionVariableBroadcast(&s->owner_cv);
}

/* ---- handles ---- */

static Timeline *open_handle(const NeonId *tenant, const NeonId *timeline);

static bool
handle_is_current(const Timeline *tl)
{
	return pg_atomic_read_u64(&tl->shared->incarnation) == tl->incarnation;
}

void
timeline_check(Timeline *tl)
{
	char		hex[NEON_ID_HEXLEN + 1];

	if (unlikely(!handle_is_current(tl)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("timeline \"%s\" was deleted", neon_id_format(&tl->id.timeline, hex))));
}

static HandleEntry *
handle_entry(const NeonId *tenant, const NeonId *timeline, bool *found)
{
	HandleKey	key = {*tenant, *timeline};

	if (handles == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(HandleKey);
		ctl.entrysize = sizeof(HandleEntry);
		ctl.hcxt = TopMemoryContext;
		handles = hash_create("neon timelines", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	return hash_search(handles, &key, HASH_ENTER, found);
}

static void
handle_fill(Timeline *tl, int slot)
{
	TimelineShared *s = &registry->slot[slot];

	tl->id = s->id;
	tl->slot = slot;
	tl->shared = s;
	tl->incarnation = pg_atomic_read_u64(&s->incarnation);
}

static Timeline *
open_handle(const NeonId *tenant, const NeonId *timeline)
{
	bool		found;
	HandleEntry *entry = handle_entry(tenant, timeline, &found);
	Timeline   *tl;
	int			slot;

	if (!found)
		entry->tl = NULL;
	tl = entry->tl;
	if (tl != NULL && handle_is_current(tl))
		return tl;
	if (tl != NULL)
	{
		/* Others may still hold the stale handle, so it is not freed. */
		store_close_read(tl, true);
		walstore_forget(tl);
		history_forget(tl);
		entry->tl = NULL;
	}

	LWLockAcquire(&registry->lock, LW_SHARED);
	slot = find_slot(tenant, timeline);
	if (slot >= 0)
	{
		tl = MemoryContextAllocZero(TopMemoryContext, sizeof(Timeline));
		handle_fill(tl, slot);
	}
	LWLockRelease(&registry->lock);
	if (slot < 0)
		return NULL;
	if (!neon_id_is_zero(&tl->id.ancestor))
		tl->ancestor = open_handle(tenant, &tl->id.ancestor);
	entry = handle_entry(tenant, timeline, &found);
	entry->tl = tl;
	return tl;
}

void
timeline_close_files(bool all)
{
	HASH_SEQ_STATUS seq;
	HandleEntry *entry;

	if (handles == NULL)
		return;
	hash_seq_init(&seq, handles);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		Timeline   *tl = entry->tl;
		bool		whole = all || (tl != NULL && !handle_is_current(tl));

		if (tl == NULL)
			continue;
		store_close_read(tl, whole);
		walstore_close_read(tl, whole);
	}
}

Timeline *
timeline_open(const NeonId *tenant, const NeonId *timeline, bool missing_ok)
{
	Timeline   *tl;

	wait_until_loaded();
	tl = open_handle(tenant, timeline);
	if (tl == NULL && !missing_ok)
	{
		char		t[NEON_ID_HEXLEN + 1];
		char		l[NEON_ID_HEXLEN + 1];

		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("timeline \"%s\" of tenant \"%s\" does not exist",
						neon_id_format(timeline, l), neon_id_format(tenant, t))));
	}
	return tl;
}

static bool
state_is_listed(uint32 state)
{
	return state != TIMELINE_UNUSED && state != TIMELINE_CREATING;
}

/* Names are unique, but files that were put back may bring one that was given again. */
Timeline *
timeline_open_by_name(const NeonId *tenant, const char *name)
{
	NeonId		id;
	int			n = 0;

	wait_until_loaded();
	LWLockAcquire(&registry->lock, LW_SHARED);
	for (int i = 0; i < registry->nslots; i++)
	{
		TimelineShared *s = &registry->slot[i];

		if (!state_is_listed(pg_atomic_read_u32(&s->state)) ||
			!neon_id_equal(&s->id.tenant, tenant))
			continue;
		LWLockAcquire(&s->lock, LW_SHARED);
		if (strcmp(s->name, name) == 0 && n++ == 0)
			id = s->id.timeline;
		LWLockRelease(&s->lock);
	}
	LWLockRelease(&registry->lock);
	if (n > 1)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("%d branches are named \"%s\"", n, name),
				 errhint("Name it by its ID, or rename one of them so; see \"neon timeline list\".")));
	return n == 1 ? timeline_open(tenant, &id, true) : NULL;
}

void
timeline_foreach(void (*cb) (Timeline *tl, void *arg), void *arg)
{
	wait_until_loaded();
	for (int i = 0; i < registry->nslots; i++)
	{
		TimelineShared *s = &registry->slot[i];
		NeonId		tenant;
		NeonId		timeline;
		bool		listed;
		Timeline   *tl;

		LWLockAcquire(&registry->lock, LW_SHARED);
		listed = state_is_listed(pg_atomic_read_u32(&s->state));
		tenant = s->id.tenant;
		timeline = s->id.timeline;
		LWLockRelease(&registry->lock);
		if (listed && (tl = open_handle(&tenant, &timeline)) != NULL)
			cb(tl, arg);
	}
}

/* ---- state ---- */

TimelineState
timeline_state(Timeline *tl)
{
	if (!handle_is_current(tl))
		return TIMELINE_UNUSED;
	return (TimelineState) pg_atomic_read_u32(&tl->shared->state);
}

void
timeline_get_detail(Timeline *tl, char *buf)
{
	LWLockAcquire(&tl->shared->lock, LW_SHARED);
	strlcpy(buf, tl->shared->detail, TIMELINE_DETAIL_MAX);
	LWLockRelease(&tl->shared->lock);
}

void
timeline_report_state(Timeline *tl, TimelineState state)
{
	char		hex[NEON_ID_HEXLEN + 1];
	char		detail[TIMELINE_DETAIL_MAX];

	neon_id_format(&tl->id.timeline, hex);
	timeline_get_detail(tl, detail);
	switch (state)
	{
		case TIMELINE_DAMAGED:
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("timeline \"%s\" is damaged", hex),
					 errdetail("%s", detail)));
			break;
		case TIMELINE_READONLY:
			ereport(ERROR,
					(errcode(ERRCODE_IO_ERROR),
					 errmsg("timeline \"%s\" is read-only after a failed write", hex),
					 errdetail("%s", detail),
					 errhint("Find the cause in the system's log, then restart the pageserver.")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("timeline \"%s\" is being deleted", hex)));
	}
}

void
timeline_check_readable(Timeline *tl)
{
	for (; tl != NULL; tl = tl->ancestor)
	{
		TimelineState state;

		timeline_check(tl);
		state = timeline_state(tl);
		if (state == TIMELINE_DAMAGED || state == TIMELINE_DELETING)
			timeline_report_state(tl, state);
		if (tl->ancestor == NULL && !neon_id_is_zero(&tl->id.ancestor))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the ancestor of a timeline is missing")));
	}
}

void
timeline_check_writable(Timeline *tl)
{
	TimelineState state;

	timeline_check(tl);
	state = timeline_state(tl);
	if (state != TIMELINE_ACTIVE && state != TIMELINE_CREATING)
		timeline_report_state(tl, state);
}

static void
set_state(Timeline *tl, TimelineState state, const char *why)
{
	char		hex[NEON_ID_HEXLEN + 1];
	TimelineShared *s = tl->shared;

	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	if (handle_is_current(tl) && pg_atomic_read_u32(&s->state) != TIMELINE_DELETING)
	{
		strlcpy(s->detail, why, sizeof(s->detail));
		pg_atomic_write_u32(&s->state, state);
	}
	LWLockRelease(&s->lock);
	ereport(LOG,
			(errmsg("timeline \"%s\" is now %s", neon_id_format(&tl->id.timeline, hex),
					state == TIMELINE_DAMAGED ? "refused as damaged" : "read-only"),
			 errdetail("%s", why)));
}

void
timeline_set_state(TimelineShared *s, TimelineState state)
{
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	pg_atomic_write_u32(&s->state, state);
	LWLockRelease(&s->lock);
}

void
timeline_set_damaged(Timeline *tl, const char *why)
{
	set_state(tl, TIMELINE_DAMAGED, why);
}

void
timeline_set_readonly(Timeline *tl, const char *why)
{
	if (timeline_state(tl) != TIMELINE_DAMAGED)
		set_state(tl, TIMELINE_READONLY, why);
}

void
timeline_get_name(Timeline *tl, char *buf)
{
	LWLockAcquire(&tl->shared->lock, LW_SHARED);
	strlcpy(buf, tl->shared->name, NEON_NAME_MAX);
	LWLockRelease(&tl->shared->lock);
}

/* ---- positions ---- */

XLogRecPtr
timeline_last_record_lsn(Timeline *tl)
{
	timeline_check(tl);
	return pg_atomic_read_u64(&tl->shared->last_record_lsn);
}

XLogRecPtr
timeline_prev_record_lsn(Timeline *tl)
{
	timeline_check(tl);
	return pg_atomic_read_u64(&tl->shared->prev_record_lsn);
}

XLogRecPtr
timeline_flush_lsn(Timeline *tl)
{
	timeline_check(tl);
	return pg_atomic_read_u64(&tl->shared->flush_lsn);
}

XLogRecPtr
timeline_disk_consistent_lsn(Timeline *tl)
{
	timeline_check(tl);
	return pg_atomic_read_u64(&tl->shared->disk_consistent_lsn);
}

uint32
timeline_term(Timeline *tl, XLogRecPtr *boot_record_end)
{
	uint32		term;

	timeline_check(tl);
	LWLockAcquire(&tl->shared->lock, LW_SHARED);
	term = tl->shared->term;
	if (boot_record_end)
		*boot_record_end = tl->shared->boot_record_end;
	LWLockRelease(&tl->shared->lock);
	return term;
}

void
timeline_set_term(Timeline *tl, uint32 term, XLogRecPtr boot_record_end)
{
	timeline_check(tl);
	LWLockAcquire(&tl->shared->lock, LW_EXCLUSIVE);
	if (term >= tl->shared->term)
	{
		tl->shared->term = term;
		tl->shared->boot_record_end = boot_record_end;
	}
	LWLockRelease(&tl->shared->lock);
}

void
timeline_set_flush_lsn(Timeline *tl, XLogRecPtr lsn)
{
	timeline_check(tl);
	pg_atomic_write_u64(&tl->shared->flush_lsn, lsn);
}

uint64
timeline_logical_size(Timeline *tl)
{
	timeline_check(tl);
	return pg_atomic_read_u64(&tl->shared->logical_size);
}

void
timeline_set_logical_size(Timeline *tl, uint64 bytes)
{
	timeline_check(tl);
	pg_atomic_write_u64(&tl->shared->logical_size, bytes);
}

bool
timeline_wait_lsn(Timeline *tl, XLogRecPtr lsn, int timeout_ms)
{
	TimelineShared *s = tl->shared;
	TimestampTz end;
	bool		reached;

	if (timeline_last_record_lsn(tl) >= lsn)
		return true;
	end = TimestampTzPlusMilliseconds(neon_clock(), timeout_ms);
	pg_atomic_fetch_add_u32(&s->lsn_waiters, 1);
	PG_TRY();
	{
		ConditionVariablePrepareToSleep(&s->lsn_cv);
		while (!(reached = timeline_last_record_lsn(tl) >= lsn))
		{
			long		left = TimestampDifferenceMilliseconds(neon_clock(), end);

			if (left <= 0)
				break;
			(void) ConditionVariableTimedSleep(&s->lsn_cv, left, PG_WAIT_EXTENSION);
		}
		ConditionVariableCancelSleep();
	}
	PG_FINALLY();
	{
		pg_atomic_fetch_sub_u32(&s->lsn_waiters, 1);
	}
	PG_END_TRY();
	return reached;
}

/* ---- ownership ---- */

bool
timeline_is_owner(Timeline *tl)
{
	return handle_is_current(tl) && tl->shared->owner_pid == MyProcPid;
}

static void
release_slot(TimelineShared *s)
{
	bool		mine;

	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	mine = s->owner_pid == MyProcPid;
	if (mine)
	{
		s->owner_pid = 0;
		s->owner_unwanted = false;
	}
	LWLockRelease(&s->lock);
	if (mine)
		ConditionVariableBroadcast(&s->owner_cv);
}

static void
release_at_exit(int code, Datum arg)
{
	if (nowned == 0)
		return;
	for (int i = 0; i < registry->nslots; i++)
	{
		if (registry->slot[i].owner_pid == MyProcPid)
			release_slot(&registry->slot[i]);
	}
}

static bool
try_acquire(Timeline *tl, bool ask_to_stop)
{
	TimelineShared *s = tl->shared;
	bool		got = false;
	int			procno = -1;

	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	if (s->owner_pid == 0)
	{
		s->owner_pid = MyProcPid;
		s->owner_procno = MyProc->pgprocno;
		s->owner_unwanted = false;
		got = true;
	}
	else if (ask_to_stop)
	{
		s->owner_unwanted = true;
		procno = s->owner_procno;
	}
	LWLockRelease(&s->lock);
	if (procno >= 0)
		SetLatch(&ProcGlobal->allProcs[procno].procLatch);
	return got;
}

/* What an owner put but never published is put again by the next one. */
static void
drop_unpublished(Timeline *tl)
{
	TimelineShared *s = tl->shared;

	LWLockAcquire(&s->index_lock, LW_EXCLUSIVE);
	openlayer_trim(&s->open, pg_atomic_read_u64(&s->last_record_lsn));
	LWLockRelease(&s->index_lock);
	store_owner_changed(tl);
	walstore_owner_changed(tl);
}

bool
timeline_acquire_ownership(Timeline *tl, bool ask_to_stop, int timeout_ms)
{
	TimestampTz end = TimestampTzPlusMilliseconds(neon_clock(), timeout_ms);
	bool		got;

	timeline_check(tl);
	if (timeline_is_owner(tl))
		return true;
	if (!exit_registered)
	{
		before_shmem_exit(release_at_exit, 0);
		exit_registered = true;
	}
	ConditionVariablePrepareToSleep(&tl->shared->owner_cv);
	while (!(got = try_acquire(tl, ask_to_stop)))
	{
		long		left = TimestampDifferenceMilliseconds(neon_clock(), end);

		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&tl->shared->owner_cv, Min(left, 500), PG_WAIT_EXTENSION);
		timeline_check(tl);
	}
	ConditionVariableCancelSleep();
	if (got)
	{
		nowned++;
		drop_unpublished(tl);
	}
	return got;
}

void
timeline_release_ownership(Timeline *tl)
{
	if (!timeline_is_owner(tl))
		return;
	release_slot(tl->shared);
	nowned--;
}

bool
timeline_ownership_wanted(Timeline *tl)
{
	return !handle_is_current(tl) || tl->shared->owner_unwanted;
}
