/*-------------------------------------------------------------------------
 *
 * table.c
 *	  The registry: which timelines this safekeeper has, and their slots.
 *
 * The keys lie together, so that a search touches 32 bytes per timeline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>

#include "init.h"
#include "known.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_durable.h"
#include "node.h"
#include "skwal.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "table.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#define TENANTS_DIR "neon/tenants"

typedef struct SlotKey
{
	NeonId		tenant;			/* zero: the slot is free */
	NeonId		timeline;
} SlotKey;

typedef struct Registry
{
	LWLock		lock;			/* key[], loaded */
	LWLock		change_lock;	/* creation and deletion of timelines */
	uint64		started_ms;
	int			nslots;
	bool		loaded;
	SkShared   *slot;
	SlotKey		key[FLEXIBLE_ARRAY_MEMBER];
} Registry;

static int	max_timelines = 1000;
static Registry *registry = NULL;
static HTAB *handles = NULL;	/* SlotKey -> SkTimeline, of this process */

/* ---- shared memory ---- */

void
sktable_define_gucs(void)
{
	DefineCustomIntVariable("neon_safekeeper.max_timelines",
							"Timelines that this safekeeper can have.",
							NULL, &max_timelines, 1000, 1, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

Size
sktable_shmem_size(void)
{
	Size		size = MAXALIGN(add_size(offsetof(Registry, key),
										 mul_size(max_timelines, sizeof(SlotKey))));

	return add_size(size, mul_size(max_timelines, sizeof(SkShared)));
}

static void
init_slot(SkShared *s)
{
	SpinLockInit(&s->mutex);
	pg_atomic_init_u64(&s->incarnation, 0);
	pg_atomic_init_u32(&s->wal_epoch, 0);
	ConditionVariableInit(&s->op_cv);
	ConditionVariableInit(&s->writer_cv);
	ConditionVariableInit(&s->flush_cv);
	ConditionVariableInit(&s->commit_cv);
}

void
sktable_shmem_init(void)
{
	Size		keys = MAXALIGN(offsetof(Registry, key) + max_timelines * sizeof(SlotKey));
	bool		found;
	int			tranche;

	registry = ShmemInitStruct("neon_safekeeper timelines", sktable_shmem_size(), &found);
	if (found)
		return;
	memset(registry, 0, sktable_shmem_size());
	tranche = LWLockNewTrancheId();
	LWLockRegisterTranche(tranche, "neon_safekeeper_timelines");
	LWLockInitialize(&registry->lock, tranche);
	LWLockInitialize(&registry->change_lock, tranche);
	registry->started_ms = neon_boottime_ms();
	registry->nslots = max_timelines;
	registry->slot = (SkShared *) ((char *) registry + keys);
	for (int i = 0; i < max_timelines; i++)
		init_slot(&registry->slot[i]);
}

uint64
sktable_started_ms(void)
{
	return registry->started_ms;
}

static Registry *
get_registry(void)
{
	if (registry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_safekeeper must be loaded by shared_preload_libraries")));
	return registry;
}

/* ---- slots ---- */

static bool
key_is(const SlotKey *key, const NeonId *tenant, const NeonId *timeline)
{
	return neon_id_equal(&key->timeline, timeline) && neon_id_equal(&key->tenant, tenant);
}

/* The registry lock is held; -1 if there is none. */
static int
slot_of(const NeonId *tenant, const NeonId *timeline)
{
	for (int i = 0; i < registry->nslots; i++)
	{
		if (key_is(&registry->key[i], tenant, timeline))
			return i;
	}
	return -1;
}

static int
free_slot(void)
{
	for (int i = 0; i < registry->nslots; i++)
	{
		if (neon_id_is_zero(&registry->key[i].timeline))
			return i;
	}
	return -1;
}

/* What a slot begins with: nothing is known but the ids. */
static void
reset_slot(SkShared *s, const NeonId *tenant, const NeonId *timeline)
{
	SpinLockAcquire(&s->mutex);
	memset(&s->st, 0, sizeof(s->st));
	s->st.tenant = *tenant;
	s->st.timeline = *timeline;
	s->status = SK_UNOPENED;
	s->detail[0] = s->problem[0] = '\0';
	s->problem_told_at = 0;
	s->copy_told_lsn = InvalidXLogRecPtr;
	s->flush_lsn = s->written_lsn = InvalidXLogRecPtr;
	s->unnamed = s->opened = s->dirty = false;
	s->told_error = 0;
	s->told_error_at = 0;
	s->stop_term = 0;
	s->op_pid = 0;
	s->op_unsafe = false;
	s->writer_pid = 0;
	s->writer_term = 0;
	s->writer_unwanted = false;
	s->writer_source[0] = '\0';
	s->lease_term = 0;
	s->lease_until = 0;
	memset(&s->pageserver, 0, sizeof(s->pageserver));
	memset(s->peer, 0, sizeof(s->peer));
	s->copied_lsn = s->keep_from = InvalidXLogRecPtr;
	s->copied_at = 0;
	s->retained_by[0] = '\0';
	s->active_at = 0;
	SpinLockRelease(&s->mutex);
}

/* The registry lock is held exclusively; -1 if all slots are in use. */
static int
take_slot(const NeonId *tenant, const NeonId *timeline)
{
	int			i = slot_of(tenant, timeline);

	if (i >= 0)
		return i;
	i = free_slot();
	if (i < 0)
		return -1;
	reset_slot(&registry->slot[i], tenant, timeline);
	registry->key[i].tenant = *tenant;
	registry->key[i].timeline = *timeline;
	return i;
}

/* ---- what lies on the disk ---- */

typedef void (*EntryFunction) (const char *path, const char *name, void *arg);

static void
foreach_id_entry(const char *path, EntryFunction f, void *arg)
{
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;
	NeonId		id;

	if (dir == NULL && errno == ENOENT)
		return;
	while ((de = ReadDir(dir, path)) != NULL)
	{
		if (neon_id_parse(de->d_name, &id))
			f(path, de->d_name, arg);
	}
	FreeDir(dir);
}

static bool
is_tombstone(const SkTimeline *tl)
{
	char		dir[MAXPGPATH];
	SkState		st;
	char	   *problem;

	return skstate_read(sk_path(tl, NULL, dir), &st, &problem) == SK_STATE_OK && st.deleted;
}

/* A tombstone has no wal/, an unfinished creation no state: neither gets a slot. */
static bool
looks_alive(const char *dir)
{
	char		path[MAXPGPATH];

	snprintf(path, sizeof(path), "%s/wal", dir);
	if (!durable_exists(path))
		return false;
	snprintf(path, sizeof(path), "%s/state", dir);
	return durable_exists(path);
}

static void
warn_not_served(const char *name)
{
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("timeline \"%s\" is not served: all slots are in use", name),
			 errhint("Increase neon_safekeeper.max_timelines and restart the server.")));
}

static void
register_found(const char *path, const char *name, void *arg)
{
	const NeonId *tenant = arg;
	NeonId		timeline;
	char		dir[MAXPGPATH];
	bool		named;
	int			i;

	snprintf(dir, sizeof(dir), "%s/%s", path, name);
	if (!neon_id_parse(name, &timeline) || !looks_alive(dir))
		return;
	named = skknown_has(tenant, &timeline);
	i = take_slot(tenant, &timeline);
	if (i < 0)
	{
		warn_not_served(name);
		return;
	}
	SpinLockAcquire(&registry->slot[i].mutex);
	registry->slot[i].unnamed = !named;
	SpinLockRelease(&registry->slot[i].mutex);
}

static void
register_tenant(const char *path, const char *name, void *arg)
{
	NeonId		tenant;
	char		dir[MAXPGPATH];

	if (!neon_id_parse(name, &tenant))
		return;
	snprintf(dir, sizeof(dir), "%s/%s/timelines", path, name);
	foreach_id_entry(dir, register_found, &tenant);
}

/* What was here once is still a member that promised: without its files a damaged one. */
static void
register_known(const char *path, const char *name, void *arg)
{
	SkTimeline	tl = {.tenant = *(const NeonId *) arg};

	if (!neon_id_parse(name, &tl.timeline) || slot_of(&tl.tenant, &tl.timeline) >= 0)
		return;
	if (is_tombstone(&tl))
		skknown_remove(&tl.tenant, &tl.timeline);
	else if (take_slot(&tl.tenant, &tl.timeline) < 0)
		warn_not_served(name);
}

static void
register_known_tenant(const char *path, const char *name, void *arg)
{
	NeonId		tenant;
	char		dir[MAXPGPATH];

	if (!neon_id_parse(name, &tenant))
		return;
	snprintf(dir, sizeof(dir), "%s/%s", path, name);
	foreach_id_entry(dir, register_known, &tenant);
}

/* The first look at the registry in this life of the instance: names only. */
static void
load_registry(void)
{
	get_registry();
	LWLockAcquire(&registry->lock, LW_SHARED);
	if (registry->loaded)
	{
		LWLockRelease(&registry->lock);
		return;
	}
	LWLockRelease(&registry->lock);
	LWLockAcquire(&registry->lock, LW_EXCLUSIVE);
	if (!registry->loaded)
	{
		foreach_id_entry(TENANTS_DIR, register_tenant, NULL);
		foreach_id_entry(SKKNOWN_DIR, register_known_tenant, NULL);
		registry->loaded = true;
	}
	LWLockRelease(&registry->lock);
}

/* ---- handles ---- */

static SkTimeline *
handle_of(const NeonId *tenant, const NeonId *timeline, int slot)
{
	SlotKey		key;
	SkTimeline *tl;
	SkShared   *shared = &registry->slot[slot];
	bool		found;

	if (handles == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(SlotKey), .entrysize = sizeof(SkTimeline)};

		handles = hash_create("safekeeper timelines", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	key.tenant = *tenant;
	key.timeline = *timeline;
	tl = hash_search(handles, &key, HASH_ENTER, &found);
	if (found && tl->shared == shared && sk_handle_current(tl))
		return tl;
	if (found)
		skwal_forget(tl);
	else
		tl->wal_private = NULL;
	tl->shared = shared;
	tl->incarnation = pg_atomic_read_u64(&shared->incarnation);
	tl->system_identifier = 0;
	tl->wal_segment_size = 0;
	tl->start_lsn = InvalidXLogRecPtr;
	return tl;
}

bool
sk_handle_current(const SkTimeline *tl)
{
	return pg_atomic_read_u64(&tl->shared->incarnation) == tl->incarnation;
}

SkTimeline *
sk_lookup(const NeonId *tenant, const NeonId *timeline)
{
	SkTimeline *tl = NULL;
	int			i;

	load_registry();
	LWLockAcquire(&registry->lock, LW_SHARED);
	i = slot_of(tenant, timeline);
	if (i >= 0)
		tl = handle_of(tenant, timeline, i);
	LWLockRelease(&registry->lock);
	return tl;
}

static bool
was_opened(SkTimeline *tl)
{
	bool		opened;

	SpinLockAcquire(&tl->shared->mutex);
	opened = tl->shared->opened;
	SpinLockRelease(&tl->shared->mutex);
	return opened;
}

/* The handle learns what is constant in an opened timeline. */
static void
take_constants(SkTimeline *tl)
{
	SpinLockAcquire(&tl->shared->mutex);
	tl->system_identifier = tl->shared->st.system_identifier;
	tl->wal_segment_size = tl->shared->st.wal_segment_size;
	tl->start_lsn = tl->shared->st.start_lsn;
	SpinLockRelease(&tl->shared->mutex);
}

void
sk_make_known(SkTimeline *tl)
{
	bool		unnamed;

	SpinLockAcquire(&tl->shared->mutex);
	unnamed = tl->shared->unnamed;
	SpinLockRelease(&tl->shared->mutex);
	if (!unnamed)
		return;
	skknown_add(&tl->tenant, &tl->timeline);
	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->unnamed = false;
	SpinLockRelease(&tl->shared->mutex);
}

/* By the first process that needs it. */
static void
open_slot(SkTimeline *tl)
{
	sk_make_known(tl);
	sk_lock(tl);
	if (sk_status(tl) == SK_UNOPENED)
		sk_open_from_disk(tl);
	sk_unlock(tl);
}

SkTimeline *
sk_open_unless_deleted(const NeonId *tenant, const NeonId *timeline, bool *deleted)
{
	SkTimeline *tl = sk_lookup(tenant, timeline);

	if (tl == NULL)
	{
		SkTimeline	gone = {.tenant = *tenant,.timeline = *timeline};

		*deleted = is_tombstone(&gone);
		return NULL;
	}
	if (sk_status(tl) == SK_UNOPENED)
		open_slot(tl);
	*deleted = sk_status(tl) == SK_DELETED;
	if (*deleted)
		return NULL;
	take_constants(tl);
	return tl;
}

SkTimeline *
sk_open_if_known(const NeonId *tenant, const NeonId *timeline)
{
	bool		deleted;
	SkTimeline *tl = sk_open_unless_deleted(tenant, timeline, &deleted);
	char		hex[NEON_ID_HEXLEN + 1];

	if (deleted)
		ereport(ERROR,
				(errcode(ERRCODE_NS_UNKNOWN),
				 errmsg("timeline \"%s\" was deleted", neon_id_format(timeline, hex))));
	return tl;
}

SkTimeline *
sk_open(const NeonId *tenant, const NeonId *timeline)
{
	SkTimeline *tl = sk_open_if_known(tenant, timeline);
	char		hex[NEON_ID_HEXLEN + 1];

	if (tl == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NS_UNKNOWN),
				 errmsg("timeline \"%s\" is not known to this safekeeper",
						neon_id_format(timeline, hex))));
	return tl;
}

void
sk_foreach(bool opened_only, void (*f) (SkTimeline *tl, void *arg), void *arg)
{
	load_registry();
	for (int i = 0; i < registry->nslots; i++)
	{
		SkTimeline *tl = NULL;
		SkStatus	status;

		LWLockAcquire(&registry->lock, LW_SHARED);
		if (!neon_id_is_zero(&registry->key[i].timeline))
			tl = handle_of(&registry->key[i].tenant, &registry->key[i].timeline, i);
		LWLockRelease(&registry->lock);
		if (tl == NULL)
			continue;
		status = sk_status(tl);
		if (status == SK_DELETED || (opened_only && status == SK_UNOPENED))
			continue;
		if (status != SK_UNOPENED || was_opened(tl))
			take_constants(tl);
		f(tl, arg);
	}
}

/* ---- making and removing ---- */

void
sk_lock_registry(void)
{
	load_registry();
	LWLockAcquire(&registry->change_lock, LW_EXCLUSIVE);
}

void
sk_unlock_registry(void)
{
	LWLockRelease(&registry->change_lock);
}

SkTimeline *
sk_register(const NeonId *tenant, const NeonId *timeline)
{
	SkTimeline *tl = NULL;
	int			i;

	load_registry();
	LWLockAcquire(&registry->lock, LW_EXCLUSIVE);
	i = take_slot(tenant, timeline);
	if (i >= 0)
		tl = handle_of(tenant, timeline, i);
	LWLockRelease(&registry->lock);
	if (tl == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("all %d timeline slots of this safekeeper are in use", max_timelines),
				 errhint("Increase neon_safekeeper.max_timelines and restart the server.")));
	return tl;
}

void
sk_unregister(SkTimeline *tl)
{
	int			i;

	LWLockAcquire(&registry->lock, LW_EXCLUSIVE);
	i = slot_of(&tl->tenant, &tl->timeline);
	if (i >= 0 && sk_handle_current(tl))
	{
		pg_atomic_fetch_add_u64(&tl->shared->incarnation, 1);
		memset(&registry->key[i], 0, sizeof(SlotKey));
	}
	LWLockRelease(&registry->lock);
	ConditionVariableBroadcast(&tl->shared->commit_cv);
	ConditionVariableBroadcast(&tl->shared->flush_cv);
}

char *
sk_path(const SkTimeline *tl, const char *below, char *buf)
{
	char		tenant[NEON_ID_HEXLEN + 1];
	char		timeline[NEON_ID_HEXLEN + 1];

	snprintf(buf, MAXPGPATH, TENANTS_DIR "/%s/timelines/%s%s%s",
			 neon_id_format(&tl->tenant, tenant), neon_id_format(&tl->timeline, timeline),
			 below ? "/" : "", below ? below : "");
	return buf;
}
