/*-------------------------------------------------------------------------
 *
 * localdisk.h
 *	  The limit of local disk space: how much is in use, and who waits for it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_LOCALDISK_H
#define NEON_LOCALDISK_H

#include "neon.h"
#include "storage/latch.h"

/* Kilobytes, SIGHUP; 0: no limit. */
extern int	neon_local_size_limit;

/* Was there a limit at the start?  Constant after it. */
extern bool disk_is_limited;

/* The limit that is in force now, for all processes; 0: none.  The evictor publishes it. */
extern int	disk_limit_kb(void);
extern void disk_publish_limit(void);

extern void disk_define_settings(void);
extern void disk_request_shmem(void);
extern void disk_shmem_startup(void);

/* Before the ticket is used up: FATAL if the limit cannot be kept here. */
extern void disk_check_start(void);

/* ----------
 * For those who use space.
 * ----------
 */

extern void disk_add_used(int64 bytes);

static inline void
disk_note_allocated(uint64 bytes)
{
	if (unlikely(disk_is_limited))
		disk_add_used((int64) bytes);
}

/* Most blocks to ask for at once: a small part of the limit. */
extern uint32 disk_max_range(void);

/* Pages that are absent here were not changed by us after this LSN; only rises. */
extern XLogRecPtr disk_request_lsn(void);

/* Keeps what is here of a database until the transaction ends. */
extern void disk_pin_database(Oid db);

/*
 * Around the server's copying of the directory of a database that is pinned,
 * with a limit only.  The first reserves space, of which the caller may have to
 * wait for a part (disk_make_room); ERROR if the limit is too small.  The
 * second is for errors, too, and does nothing if nothing was reserved.
 */
extern void disk_reserve_copy(Oid db, Oid from, Oid to);
extern void disk_end_copy(bool copied);

/* ERROR if there is a limit. */
extern void disk_refuse_hydration(void);

/* A HINT for those who need a compute that is hydrated. */
extern const char *disk_hydration_hint(void);

extern void disk_fill_stats(NeonLocalStats *stats);

/* ----------
 * For the evictor.
 * ----------
 */

/* Bytes in use at which it begins, and down to which it drops. */
extern uint64 disk_evict_from(void);
extern uint64 disk_evict_to(void);

/* From here on those who begin are held; and all who can be. */
extern uint64 disk_hold_from(void);
extern uint64 disk_full_from(void);

extern uint64 disk_used(void);

/* Bytes in use of which nothing can be fetched again; and what is not here. */
extern uint64 disk_only_here(uint64 *absent);

/* Counts what is really allocated. */
extern void disk_measure(void);

/* Of what this process has counted last; in *pid who has most, or 0, and how much. */
extern uint64 disk_temporary_bytes(int *pid, uint64 *most);

/* Before anything is dropped that was written before clean_before. */
extern void disk_raise_request_lsn(XLogRecPtr lsn);

extern void disk_note_dropped(uint32 blocks);

/* false, at once, if somebody has it pinned; else to be released. */
extern bool disk_lock_database(Oid db);
extern void disk_unlock_database(Oid db);

/*
 * Why nothing more can be dropped, or "" if it can; pid of the process that
 * has to end something, or 0.  clean_before is shown, too.
 */
#define DISK_BLOCKER_SIZE	384

extern void disk_set_blocker(const char *text, int pid, XLogRecPtr clean_before);
extern int	disk_read_blocker(char *text, size_t size, XLogRecPtr *clean_before);

/* Whose latch is set when space is short. */
extern void disk_set_evictor(Latch *latch);
extern void disk_wake_evictor(void);

#endif							/* NEON_LOCALDISK_H */
