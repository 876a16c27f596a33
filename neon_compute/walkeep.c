/*-------------------------------------------------------------------------
 *
 * walkeep.c
 *	  How much of pg_wal replication slots may hold back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "coordinator.h"
#include "miscadmin.h"
#include "quorum.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/guc.h"
#include "walkeep.h"

#define END_WAIT_MS			100 /* for a WAL sender to end */
#define CHECK_INTERVAL_MS	5000
#define TELL_INTERVAL_MS	60000	/* between two messages about slots that cannot be dropped */
#define MEGABYTE			(1024 * 1024)

int			neon_consumer_wal_keep = 10240;

void
walkeep_define_settings(void)
{
	DefineCustomIntVariable("neon.consumer_wal_keep",
							"WAL that a replication slot of your own may hold on this compute.",
							"Beyond it the slot is dropped.  -1 means no limit.",
							&neon_consumer_wal_keep, 10240, -1, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
}

bool
walkeep_is_beyond(XLogRecPtr restart_lsn, XLogRecPtr flush_lsn, int keep_mb)
{
	uint64		keep = (uint64) keep_mb * MEGABYTE;

	return keep_mb >= 0 && restart_lsn != InvalidXLogRecPtr && flush_lsn > keep &&
		restart_lsn < flush_lsn - keep;
}

/* Does it become free in a moment?  A temporary one goes with its process. */
static bool
wait_until_free(const char *name, bool *gone)
{
	for (int i = 0; i < END_WAIT_MS; i++)
	{
		ReplicationSlot *slot = SearchNamedReplicationSlot(name, true);
		pid_t		pid;

		*gone = slot == NULL;
		if (*gone)
			return true;
		SpinLockAcquire(&slot->mutex);
		pid = slot->active_pid;
		SpinLockRelease(&slot->mutex);
		if (pid == 0)
			return true;
		pg_usleep(1000);
	}
	return false;
}

bool
walkeep_drop_slot(const char *name, pid_t pid, bool wait)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool dropped = false;
	bool		gone = false;

	if (pid != 0)
	{
		kill(pid, SIGTERM);
		if (!wait || !wait_until_free(name, &gone))
			return false;
	}
	if (gone)
		return true;
	PG_TRY();
	{
		ReplicationSlotDrop(name, true);
		dropped = true;
	}
	PG_CATCH();
	{
		/* somebody was faster */
		MemoryContextSwitchTo(context);
		LWLockReleaseAll();
		FlushErrorState();
	}
	PG_END_TRY();
	return dropped;
}

/* The next slot, from *index on, that is neither a safekeeper's nor the pageserver's and holds too much. */
static bool
find_excessive(int *index, XLogRecPtr flush_lsn, NameData *name, pid_t *pid,
			   XLogRecPtr *restart_lsn)
{
	bool		found = false;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (; *index < max_replication_slots; (*index)++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[*index];

		if (!slot->in_use)
			continue;
		SpinLockAcquire(&slot->mutex);
		*name = slot->data.name;
		*pid = slot->active_pid;
		*restart_lsn = slot->data.restart_lsn;
		SpinLockRelease(&slot->mutex);
		found = walkeep_is_beyond(*restart_lsn, flush_lsn, neon_consumer_wal_keep) &&
			strcmp(NameStr(*name), NEON_STORAGE_SLOT) != 0 &&
			!quorum_is_member_name(NameStr(*name));
		if (found)
			break;
	}
	LWLockRelease(ReplicationSlotControlLock);
	return found;
}

static void
tell_stuck(const char *name, pid_t pid, XLogRecPtr restart_lsn, uint64 now)
{
	static uint64 told = 0;

	if (told != 0 && now - told < TELL_INTERVAL_MS)
		return;
	told = now;
	ereport(LOG,
			(errmsg("replication slot \"%s\" cannot be dropped yet", name),
			 errdetail("It holds the WAL from %X/%X on, more than neon.consumer_wal_keep (%d MB).",
					   LSN_FORMAT_ARGS(restart_lsn), neon_consumer_wal_keep),
			 pid != 0 ? errhint("Process %d uses it and does not end.", (int) pid) : 0));
}

/* A slot that cannot be dropped now is no reason to keep the others; the next check tries again. */
void
walkeep_check_consumers(XLogRecPtr flush_lsn, uint64 now)
{
	static uint64 last_check = 0;
	NameData	name;
	pid_t		pid;
	XLogRecPtr	restart_lsn;
	bool		stuck = false;

	if (now - last_check < CHECK_INTERVAL_MS)
		return;
	last_check = now;
	for (int i = 0; find_excessive(&i, flush_lsn, &name, &pid, &restart_lsn); i++)
	{
		if (walkeep_drop_slot(NameStr(name), pid, !stuck))
			ereport(LOG,
					(errmsg("replication slot \"%s\" was dropped", NameStr(name)),
					 errdetail("It held the WAL from %X/%X on, more than neon.consumer_wal_keep (%d MB).",
							   LSN_FORMAT_ARGS(restart_lsn), neon_consumer_wal_keep),
					 errhint("Its consumer has to begin anew.")));
		else
		{
			stuck = true;
			tell_stuck(NameStr(name), pid, restart_lsn, now);
		}
	}
}
