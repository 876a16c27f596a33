/*-------------------------------------------------------------------------
 *
 * slot.c
 *	  Physical replication slots of timelines, in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <signal.h>

#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/slot.h"
#include "slot.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/guc.h"

typedef struct Slot
{
	bool		in_use;			/* the array's lock */
	bool		doomed;			/* the same; its timeline is deleted, its user ends */
	slock_t		mutex;			/* the rest of info; ids and name never change */
	SkSlotInfo	info;
	ConditionVariable released; /* active_pid became 0 */
} Slot;

typedef struct SlotArray
{
	LWLock		lock;
	int			tranche;
	bool		loaded;
	Slot		slot[FLEXIBLE_ARRAY_MEMBER];
} SlotArray;

static SlotArray *slots = NULL;
static Slot *my_slot = NULL;
static bool have_temporary = false; /* this process made some */
static int	max_slots = 1000;

/* ---- shared memory ---- */

void
skslot_define_gucs(void)
{
	DefineCustomIntVariable("neon_safekeeper.max_replication_slots",
							"Replication slots of all timelines together.",
							NULL, &max_slots, 1000, 0, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

Size
skslot_shmem_size(void)
{
	return add_size(offsetof(SlotArray, slot), mul_size(max_slots, sizeof(Slot)));
}

void
skslot_shmem_init(void)
{
	bool		found;

	slots = ShmemInitStruct("neon_safekeeper replication slots", skslot_shmem_size(), &found);
	if (!found)
	{
		memset(slots, 0, skslot_shmem_size());
		slots->tranche = LWLockNewTrancheId();
		LWLockInitialize(&slots->lock, slots->tranche);
		for (int i = 0; i < max_slots; i++)
		{
			SpinLockInit(&slots->slot[i].mutex);
			ConditionVariableInit(&slots->slot[i].released);
		}
	}
	LWLockRegisterTranche(slots->tranche, "neon_safekeeper_slots");
}

/* ---- loading ---- */

static Slot *
free_slot(void)
{
	for (int i = 0; i < max_slots; i++)
	{
		if (!slots->slot[i].in_use)
			return &slots->slot[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("all replication slots are in use"),
			 errhint("Free one or increase neon_safekeeper.max_replication_slots.")));
}

static void
load_slot(const SkSlotInfo *info, void *arg)
{
	Slot	   *s = free_slot();

	s->info = *info;
	s->doomed = false;
	s->in_use = true;
}

static void
load_timeline(SkTimeline *tl, void *arg)
{
	if (sk_status(tl) == SK_DELETED)
		return;
	slotfile_foreach(tl, load_slot, NULL);
}

/*
 * Every entry point begins here.  If reading fails the caller fails, retention
 * among them, and the next one tries again.
 */
static void
lock_slots(LWLockMode mode)
{
	LWLockAcquire(&slots->lock, mode);
	if (slots->loaded)
		return;
	LWLockRelease(&slots->lock);

	LWLockAcquire(&slots->lock, LW_EXCLUSIVE);
	if (!slots->loaded)
	{
		for (int i = 0; i < max_slots; i++)
			slots->slot[i].in_use = false;
		sk_foreach(false, load_timeline, NULL);
		slots->loaded = true;
	}
	if (mode == LW_EXCLUSIVE)
		return;
	LWLockRelease(&slots->lock);
	LWLockAcquire(&slots->lock, mode);
}

static void
unlock_slots(void)
{
	LWLockRelease(&slots->lock);
}

/* ---- looking ---- */

static bool
of_timeline(const Slot *s, const NeonId *tenant, const NeonId *timeline)
{
	return s->in_use && !s->doomed && neon_id_equal(&s->info.tenant, tenant) &&
		neon_id_equal(&s->info.timeline, timeline);
}

/* The array's lock is held. */
static Slot *
find(const SkTimeline *tl, const char *name)
{
	for (int i = 0; i < max_slots; i++)
	{
		Slot	   *s = &slots->slot[i];

		if (of_timeline(s, &tl->tenant, &tl->timeline) &&
			strcmp(NameStr(s->info.name), name) == 0)
			return s;
	}
	return NULL;
}

static Slot *
find_or_fail(const SkTimeline *tl, const char *name)
{
	Slot	   *s = find(tl, name);

	if (s == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("replication slot \"%s\" does not exist", name)));
	return s;
}

static SkSlotInfo
copy_info(Slot *s)
{
	SkSlotInfo	info;

	SpinLockAcquire(&s->mutex);
	info = s->info;
	SpinLockRelease(&s->mutex);
	return info;
}

bool
skslot_get(SkTimeline *tl, const char *name, SkSlotInfo *info)
{
	Slot	   *s;

	lock_slots(LW_SHARED);
	s = find(tl, name);
	if (s)
		*info = copy_info(s);
	unlock_slots();
	return s != NULL;
}

/* f must not fail: the lock is held. */
void
skslot_foreach(const SkTimeline *tl, void (*f) (const SkSlotInfo *slot, void *arg), void *arg)
{
	lock_slots(LW_SHARED);
	for (int i = 0; i < max_slots; i++)
	{
		Slot	   *s = &slots->slot[i];
		SkSlotInfo	info;

		if (!s->in_use || s->doomed || (tl && !of_timeline(s, &tl->tenant, &tl->timeline)))
			continue;
		info = copy_info(s);
		f(&info, arg);
	}
	unlock_slots();
}

XLogRecPtr
skslot_needs(const SkSlotInfo *slot)
{
	if (slot->unreadable)
		return 1;
	if (XLogRecPtrIsInvalid(slot->restart_lsn))
		return InvalidXLogRecPtr;
	if (slot->temporary || XLogRecPtrIsInvalid(slot->saved_lsn))
		return slot->restart_lsn;
	return Min(slot->restart_lsn, slot->saved_lsn);
}

/* ---- using ---- */

static void
become_user(Slot *s, const char *name)
{
	pid_t		user;

	SpinLockAcquire(&s->mutex);
	user = s->info.active_pid;
	if (user == 0)
		s->info.active_pid = MyProcPid;
	SpinLockRelease(&s->mutex);
	if (user != 0 && user != MyProcPid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("replication slot \"%s\" is active for PID %d", name, (int) user)));
}

static void
refuse_invalidated(Slot *s)
{
	SkSlotInfo	info = copy_info(s);

	if (!XLogRecPtrIsInvalid(info.invalidated_at))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("can no longer read from replication slot \"%s\"", NameStr(info.name)),
				 errdetail("This slot has been invalidated because it held more WAL than neon_safekeeper.max_retained."),
				 errhint("Drop the slot, make it again, and give its consumer a new copy of the data.")));
}

void
skslot_acquire(SkTimeline *tl, const char *name)
{
	Slot	   *s;

	lock_slots(LW_SHARED);
	s = find_or_fail(tl, name);
	refuse_invalidated(s);
	become_user(s, name);
	my_slot = s;
	unlock_slots();
}

/* A temporary slot stays the process's; one of a deleted timeline ends with its use. */
void
skslot_release(void)
{
	Slot	   *s = my_slot;

	if (s == NULL)
		return;
	my_slot = NULL;
	if (s->info.temporary)
		return;
	LWLockAcquire(&slots->lock, LW_EXCLUSIVE);
	SpinLockAcquire(&s->mutex);
	s->info.active_pid = 0;
	SpinLockRelease(&s->mutex);
	if (s->doomed)
		s->in_use = false;
	LWLockRelease(&slots->lock);
	ConditionVariableBroadcast(&s->released);
}

void
skslot_end_use(void)
{
	skslot_release();
	if (!have_temporary)
		return;
	have_temporary = false;
	LWLockAcquire(&slots->lock, LW_EXCLUSIVE);
	for (int i = 0; i < max_slots; i++)
	{
		Slot	   *s = &slots->slot[i];

		if (s->in_use && s->info.temporary && s->info.active_pid == MyProcPid)
			s->in_use = false;
	}
	LWLockRelease(&slots->lock);
}

static void
end_use_at_exit(int code, Datum arg)
{
	skslot_end_use();
}

void
skslot_register_exit(void)
{
	before_shmem_exit(end_use_at_exit, (Datum) 0);
}

void
skslot_confirm(XLogRecPtr lsn)
{
	if (my_slot == NULL)
		return;
	SpinLockAcquire(&my_slot->mutex);
	if (XLogRecPtrIsInvalid(my_slot->info.invalidated_at))
	{
		my_slot->info.restart_lsn = lsn;
		my_slot->info.unreadable = false;
	}
	SpinLockRelease(&my_slot->mutex);
}

/* ---- creating and dropping ---- */

static void
fill_slot(SkTimeline *tl, const char *name, bool temporary, XLogRecPtr restart_lsn)
{
	Slot	   *s = free_slot();
	SkSlotInfo	info;

	memset(&info, 0, sizeof(info));
	info.tenant = tl->tenant;
	info.timeline = tl->timeline;
	namestrcpy(&info.name, name);
	info.temporary = temporary;
	info.active_pid = temporary ? MyProcPid : 0;
	info.restart_lsn = info.saved_lsn = restart_lsn;
	if (!temporary)
		slotfile_write(tl, &info);
	s->info = info;
	s->doomed = false;
	s->in_use = true;
	have_temporary |= temporary;
}

/*
 * Under the operation lock, which retention holds while it decides and
 * removes: what is reserved stays.
 */
void
skslot_create(SkTimeline *tl, const char *name, bool temporary, bool reserve)
{
	SkPositions p;

	ReplicationSlotValidateName(name, ERROR);
	sk_lock(tl);
	sk_get_positions(tl, &p);
	lock_slots(LW_EXCLUSIVE);
	if (find(tl, name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("replication slot \"%s\" already exists", name)));
	fill_slot(tl, name, temporary, reserve ? p.wal_start : InvalidXLogRecPtr);
	unlock_slots();
	sk_unlock(tl);
}

/* False, and the user's pid, if somebody else uses it. */
static bool
try_drop(SkTimeline *tl, const char *name, pid_t *user, Slot **slot)
{
	bool		dropped = false;

	lock_slots(LW_EXCLUSIVE);
	*slot = find_or_fail(tl, name);
	*user = copy_info(*slot).active_pid;
	if (*user == 0 || *user == MyProcPid)
	{
		if (!(*slot)->info.temporary)
			slotfile_remove(tl, name);
		(*slot)->in_use = false;
		if (my_slot == *slot)
			my_slot = NULL;
		dropped = true;
	}
	else
		ConditionVariablePrepareToSleep(&(*slot)->released);
	unlock_slots();
	return dropped;
}

void
skslot_drop(SkTimeline *tl, const char *name, bool wait)
{
	Slot	   *s;
	pid_t		user;

	while (!try_drop(tl, name, &user, &s))
	{
		if (!wait)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("replication slot \"%s\" is active for PID %d", name, (int) user)));
		ConditionVariableSleep(&s->released, WAIT_EVENT_REPLICATION_SLOT_DROP);
	}
	ConditionVariableCancelSleep();
}

/* ---- retention ---- */

static bool
to_be_saved(const SkTimeline *tl, const SkSlotInfo *info, bool all)
{
	if (info->temporary || info->unreadable || info->restart_lsn == info->saved_lsn)
		return false;
	return all || XLogRecPtrIsInvalid(info->saved_lsn) ||
		info->restart_lsn / tl->wal_segment_size != info->saved_lsn / tl->wal_segment_size;
}

static void
save_slot(const SkTimeline *tl, Slot *s, const SkSlotInfo *info)
{
	slotfile_write(tl, info);
	SpinLockAcquire(&s->mutex);
	s->info.saved_lsn = info->restart_lsn;
	SpinLockRelease(&s->mutex);
}

/* Only the retention worker saves, and a shared lock keeps slots from being dropped. */
void
skslot_save(SkTimeline *tl, bool all)
{
	lock_slots(LW_SHARED);
	for (int i = 0; i < max_slots; i++)
	{
		Slot	   *s = &slots->slot[i];
		SkSlotInfo	info;

		if (!of_timeline(s, &tl->tenant, &tl->timeline))
			continue;
		info = copy_info(s);
		if (to_be_saved(tl, &info, all))
			save_slot(tl, s, &info);
	}
	unlock_slots();
}

/* The slot as it is to be from now on; false if it does not need WAL below lsn. */
static bool
invalidate(Slot *s, XLogRecPtr lsn, SkSlotInfo *before)
{
	bool		obsolete;

	SpinLockAcquire(&s->mutex);
	*before = s->info;
	obsolete = !XLogRecPtrIsInvalid(before->restart_lsn) && before->restart_lsn < lsn;
	if (obsolete || before->unreadable)
	{
		s->info.invalidated_at = Max(before->restart_lsn, 1);
		s->info.restart_lsn = InvalidXLogRecPtr;
		s->info.unreadable = false;
	}
	SpinLockRelease(&s->mutex);
	return obsolete || before->unreadable;
}

static void
report_invalidation(const SkSlotInfo *before)
{
	if (before->active_pid != 0)
	{
		ereport(LOG,
				(errmsg("terminating process %d to release replication slot \"%s\"",
						(int) before->active_pid, NameStr(before->name))));
		if (kill(before->active_pid, SIGTERM) != 0 && errno != ESRCH)
			ereport(LOG,
					(errmsg("could not signal process %d: %m", (int) before->active_pid)));
	}
	ereport(LOG,
			(errmsg("invalidating slot \"%s\" because its restart_lsn %X/%X exceeds neon_safekeeper.max_retained",
					NameStr(before->name), LSN_FORMAT_ARGS(before->restart_lsn))));
}

void
skslot_invalidate(SkTimeline *tl, XLogRecPtr lsn)
{
	lock_slots(LW_SHARED);
	for (int i = 0; i < max_slots; i++)
	{
		Slot	   *s = &slots->slot[i];
		SkSlotInfo	before;
		SkSlotInfo	after;

		if (!of_timeline(s, &tl->tenant, &tl->timeline) || !invalidate(s, lsn, &before))
			continue;
		report_invalidation(&before);
		after = copy_info(s);
		if (!after.temporary)
			save_slot(tl, s, &after);
	}
	unlock_slots();
}

void
skslot_forget_timeline(const NeonId *tenant, const NeonId *timeline)
{
	LWLockAcquire(&slots->lock, LW_EXCLUSIVE);
	for (int i = 0; i < max_slots; i++)
	{
		Slot	   *s = &slots->slot[i];

		if (!of_timeline(s, tenant, timeline))
			continue;
		if (copy_info(s).active_pid == 0)
			s->in_use = false;
		else
			s->doomed = true;
	}
	LWLockRelease(&slots->lock);
}
