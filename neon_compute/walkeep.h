/*-------------------------------------------------------------------------
 *
 * walkeep.h
 *	  How much of pg_wal replication slots may hold back.
 *
 * PostgreSQL's own limit would invalidate the slots of the storage, too, and
 * is off.  Called by the coordinator's process only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_WALKEEP_H
#define NEON_WALKEEP_H

#include "access/xlogdefs.h"

extern int	neon_consumer_wal_keep; /* megabytes, SIGHUP; -1: no limit */

extern void walkeep_define_settings(void);

/* Does a slot at restart_lsn hold more than keep_mb of what lies below flush_lsn? */
extern bool walkeep_is_beyond(XLogRecPtr restart_lsn, XLogRecPtr flush_lsn, int keep_mb);

/*
 * Drops a slot, and before that ends the process pid that uses it (0: none),
 * which is given a moment for that if wait.  False if the slot is still there:
 * then it is to be tried again.
 */
extern bool walkeep_drop_slot(const char *name, pid_t pid, bool wait);

/*
 * Drops the slots of those who are neither safekeepers nor the pageserver if
 * they hold more than neon.consumer_wal_keep below flush_lsn, which the storage
 * has.  Looks now and then only; now is neon_boottime_ms().
 */
extern void walkeep_check_consumers(XLogRecPtr flush_lsn, uint64 now);

#endif							/* NEON_WALKEEP_H */
