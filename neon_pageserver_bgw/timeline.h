/*-------------------------------------------------------------------------
 *
 * timeline.h
 *	  The registry of timelines in shared memory, and what may be asked of
 *	  one of them.
 *
 * A slot is created from the timeline's manifest when the instance starts or
 * the timeline is made, and is only a cache of files: nothing is lost with it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_TIMELINE_H
#define NEON_PS_TIMELINE_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "neon_id.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#define NEON_NAME_MAX	64		/* branch and endpoint names, with the zero */

typedef enum TimelineState
{
	TIMELINE_UNUSED = 0,
	TIMELINE_ACTIVE,			/* readable; may be ingesting */
	TIMELINE_READONLY,			/* a write failed; reopened at the next start */
	TIMELINE_DAMAGED,			/* refused, see its state_detail */
	TIMELINE_DELETING,
	TIMELINE_CREATING,			/* a root that timeline_finish_root has not seen yet */
} TimelineState;

#define TIMELINE_DETAIL_MAX	384

/* Constant while the slot lives. */
typedef struct TimelineIdentity
{
	NeonId		tenant;
	NeonId		timeline;
	NeonId		ancestor;		/* zero if none */
	XLogRecPtr	ancestor_lsn;	/* version of the ancestor that this starts from */
	XLogRecPtr	start_lsn;		/* own versions are > start_lsn (imported: =) */
	XLogRecPtr	start_prev;		/* start of the record that ends at start_lsn */
	uint64		system_identifier;
	uint32		wal_segment_size;
	bool		data_checksums;
	uint32		server_version_num; /* of the initdb or the last writer */
} TimelineIdentity;

/* The last process that could write the timeline (DESIGN, laptop mode). */
typedef struct TimelineWriter
{
	char		endpoint[NEON_NAME_MAX];	/* "" if there never was one */
	NeonId		boot_id;
	uint32		term;			/* 0 if there never was one */
	XLogRecPtr	boot_lsn;
	char		pgdata[MAXPGPATH];	/* relative to the state directory */
	char		machine_boot_id[64];
	XLogRecPtr	drained_lsn;	/* InvalidXLogRecPtr while not drained */
} TimelineWriter;

typedef struct TimelineShared TimelineShared;	/* private to timeline.c and the store */

/*
 * A backend's handle.  Valid until the end of the process; the slot may have
 * been dropped meanwhile, which every call checks and reports.
 */
typedef struct Timeline
{
	TimelineIdentity id;
	int			slot;
	uint64		incarnation;
	TimelineShared *shared;
	struct Timeline *ancestor;	/* opened with it; NULL for a root */
	void	   *store_private;	/* open files and the like, of store.c */
	void	   *wal_private;	/* of walstore.c */
	void	   *history_private;	/* of historyread.c, one chunk or NULL */
} Timeline;

/*
 * Opens a handle, cached per process.  ereport(ERROR) or NULL if there is none;
 * ereport(ERROR) if several have the name.
 */
extern Timeline *timeline_open(const NeonId *tenant, const NeonId *timeline, bool missing_ok);
extern Timeline *timeline_open_by_name(const NeonId *tenant, const char *name);

/* ereport(ERROR) unless the timeline may be read (state, damage, deletion). */
extern void timeline_check_readable(Timeline *tl);

extern TimelineState timeline_state(Timeline *tl);
extern void timeline_set_damaged(Timeline *tl, const char *why);
extern void timeline_get_name(Timeline *tl, char *buf);	/* NEON_NAME_MAX bytes */

/* Why it is damaged or read-only, or "". */
extern void timeline_get_detail(Timeline *tl, char *buf);	/* TIMELINE_DETAIL_MAX bytes */

/* End of the last record that is indexed: what reads may ask for. */
extern XLogRecPtr timeline_last_record_lsn(Timeline *tl);

/* Start of that record. */
extern XLogRecPtr timeline_prev_record_lsn(Timeline *tl);

/* WAL up to here is in wal/ and fdatasynced; record-aligned. */
extern XLogRecPtr timeline_flush_lsn(Timeline *tl);

/* Up to here a restart needs no decoding of stored WAL. */
extern XLogRecPtr timeline_disk_consistent_lsn(Timeline *tl);

/* Highest term whose boot record is indexed, and the LSN where that record ends. */
extern uint32 timeline_term(Timeline *tl, XLogRecPtr *boot_record_end);
extern void timeline_set_term(Timeline *tl, uint32 term, XLogRecPtr boot_record_end);

/* Called by the writer of the timeline only. */
extern void timeline_set_flush_lsn(Timeline *tl, XLogRecPtr lsn);

/*
 * Waits until last_record_lsn >= lsn; false after timeout_ms.  Interruptible.
 * The caller holds no LWLock.
 */
extern bool timeline_wait_lsn(Timeline *tl, XLogRecPtr lsn, int timeout_ms);

/*
 * The right to write the timeline: at most one process has it.  acquire waits
 * up to timeout_ms (the ingest worker is asked to stop if ask_to_stop) and is
 * false if it did not get it; released at process exit too.
 */
extern bool timeline_acquire_ownership(Timeline *tl, bool ask_to_stop, int timeout_ms);
extern void timeline_release_ownership(Timeline *tl);
extern bool timeline_ownership_wanted(Timeline *tl);	/* the owner should let go */

/* The last writer: persisted as one manifest edit, then visible. */
extern void timeline_get_writer(Timeline *tl, TimelineWriter *writer);
extern void timeline_set_writer(Timeline *tl, const TimelineWriter *writer);

/* Held over get and set it makes a compare-and-set (an LWLock: released by an ERROR). */
extern void timeline_lock_writer(Timeline *tl);
extern void timeline_unlock_writer(Timeline *tl);

/*
 * Generation of the configuration of safekeepers; 0: there are none, the
 * pageserver streams from the compute (laptop mode).
 */
extern uint64 timeline_members_generation(Timeline *tl);

/* Logical size in bytes (sum of the sizes of all forks), kept by the ingest. */
extern uint64 timeline_logical_size(Timeline *tl);
extern void timeline_set_logical_size(Timeline *tl, uint64 bytes);

/* Making and removing; files are durable when these return. */
extern void timeline_create_root(const TimelineIdentity *id, const char *name);

/*
 * Until this a root timeline is listed nowhere, opened only by its id, and
 * removed when the instance starts again.
 */
extern void timeline_finish_root(Timeline *tl);
extern void timeline_create_branch(Timeline *ancestor, const NeonId *new_id, const char *name,
								   XLogRecPtr lsn, XLogRecPtr prev_record);
extern void timeline_rename(Timeline *tl, const char *new_name);
extern void timeline_drop(Timeline *tl);	/* refuses while it has children */

extern void tenant_create_dir(const NeonId *tenant);
extern void tenant_drop(const NeonId *tenant);
extern bool tenant_exists(const NeonId *tenant);

/* Calls cb for every timeline, in no order, holding no lock. */
extern void timeline_foreach(void (*cb) (Timeline *tl, void *arg), void *arg);

/*
 * Closes the layer files and stored WAL that this process has open for reading:
 * those that were removed since, whose space is free only then, or all of them.
 * Nothing may be in the midst of reading.  Called where a process begins to
 * wait for more work.
 */
extern void timeline_close_files(bool all);

/* Path of a timeline's directory or of something in it, relative to the data directory. */
extern void timeline_path(const NeonId *tenant, const NeonId *timeline, const char *below,
						  char *path);	/* MAXPGPATH bytes */

#endif							/* NEON_PS_TIMELINE_H */
