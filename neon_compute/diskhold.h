/*-------------------------------------------------------------------------
 *
 * diskhold.h
 *	  Holding those who need local disk space when little is left.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_DISKHOLD_H
#define NEON_DISKHOLD_H

#include "localdisk.h"
#include "storage/proc.h"
#include "vacuumpart.h"

/* In _PG_init, if there is a limit. */
extern void diskhold_install(void);

extern void diskhold_request_shmem(void);
extern void diskhold_shmem_startup(void);

extern void disk_wait_for_room(const char *page);

/*
 * Before a file is made larger or a page is fetched: holds the caller when
 * there is no space, at most neon.fetch_timeout; then ERROR 53100.  Returns at
 * once where waiting or failing is not possible.  page is where a page is read to,
 * for which others may wait, or NULL.
 */
static inline void
disk_make_room(const char *page)
{
	if (unlikely(disk_is_limited))
		disk_wait_for_room(page);
}

extern void disk_wait_for_vacuum_part(const char *page);

/*
 * Before a page is read by VACUUM, which is held, as above, where it has changed more than
 * it may of what cannot be dropped yet (vacuumpart.h).
 */
static inline void
disk_make_room_for_vacuum(const char *page)
{
	if (unlikely(vacuumpart_concerns_me()))
		disk_wait_for_vacuum_part(page);
}

/* Before a page is written to a hole, where nobody can be held: a short pause at most. */
extern void disk_pause_writer(void);

/* Is there no room for what nobody waits for? */
extern bool disk_is_short(void);

/*
 * May the process have changed a page so that it is not yet in the WAL, beyond
 * the time that it has the page locked?  Only with a transaction number (a bit
 * of the visibility map is cleared before the record is inserted; command ids
 * are in no record), and where indexes are built, which are logged at the end.
 */
extern bool disk_may_have_unfinished(int procno);

/*
 * Before a statement runs: what its transaction will change is newer than now, if
 * it has no number yet.  Called in a transaction.
 */
extern void disk_store_begin(void);

static inline void
disk_note_begin(void)
{
	if (unlikely(disk_is_limited))
		disk_store_begin();
}

/*
 * For the evictor, now and then: who runs which transaction.  So it knows a begin also of
 * those who noted none, or whose note is old, a little too early.
 */
extern void disk_watch_begins(void);

/*
 * An LSN before which the running transaction has changed nothing, or 0 if that is not
 * known: what was noted or seen, whichever is later.
 */
extern XLogRecPtr disk_begin_lsn(int procno, LocalTransactionId lxid);

/* How many are held now, and how often somebody was. */
extern uint32 disk_waiting(void);
extern uint64 disk_holds(void);

#endif							/* NEON_DISKHOLD_H */
