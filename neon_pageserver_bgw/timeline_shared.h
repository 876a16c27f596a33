/*-------------------------------------------------------------------------
 *
 * timeline_shared.h
 *	  A timeline's slot in shared memory, for the storage's own files.
 *
 * Lock order: registry create_lock -> change_lock -> history_lock ->
 * manifest_lock -> index_lock -> lock.  A parent's locks come before its child's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_TIMELINE_SHARED_H
#define NEON_PS_TIMELINE_SHARED_H

#include "lib/stringinfo.h"
#include "manifest.h"
#include "openlayer.h"
#include "timeline.h"

struct TimelineShared
{
	LWLock		lock;			/* the plain fields; held for moments only */
	LWLock		change_lock;	/* held by who changes the manifest's meaning */
	LWLock		history_lock;	/* history points and the horizon: shared to take both */
	LWLock		manifest_lock;	/* the manifest file: shared to read, exclusive to append */
	LWLock		index_lock;		/* open, and map_version together with it */

	pg_atomic_uint64 incarnation;	/* of the slot's use; changes when it is freed */
	pg_atomic_uint32 state;		/* TimelineState */
	TimelineIdentity id;		/* constant in an incarnation */

	/* under lock */
	char		detail[TIMELINE_DETAIL_MAX];	/* why it is damaged or read-only */
	char		name[NEON_NAME_MAX];
	TimelineWriter writer;
	uint32		term;
	XLogRecPtr	boot_record_end;
	int			owner_pid;		/* 0: none */
	int			owner_procno;
	bool		owner_unwanted; /* the owner should let go */

	pg_atomic_uint64 last_record_lsn;
	pg_atomic_uint64 prev_record_lsn;
	pg_atomic_uint64 flush_lsn;
	pg_atomic_uint64 disk_consistent_lsn;
	pg_atomic_uint64 logical_size;
	pg_atomic_uint64 members_generation;	/* 0: laptop mode */
	pg_atomic_uint64 layer_bytes;
	pg_atomic_uint32 flush_wanted;	/* another timeline needs the memory */

	ManifestPos manifest;		/* under manifest_lock */
	uint64		next_file_id;	/* under manifest_lock */
	uint64		reserved_file_id;	/* ids below are reserved in the file */

	pg_atomic_uint64 gc_cutoff; /* published horizon; changed under history_lock */
	pg_atomic_uint64 gc_horizon;	/* what compaction may use: gc_cutoff, or the one before */
	pg_atomic_uint64 gc_epoch;	/* in which gc_cutoff was published */
	TimestampTz gc_cutoff_time; /* under lock */
	pg_atomic_uint32 points_version;	/* changes with the history points */

	pg_atomic_uint32 wal_epoch; /* changes when stored segments are removed */
	pg_atomic_uint32 map_version;	/* changes with the list of files */
	OpenLayer	open;			/* under index_lock */
	OpenLayer	frozen;			/* the same; read only, until its layer is written */
	bool		has_frozen;		/* set by the owner, cleared by the flusher */
	int			flusher_pid;	/* who writes it; under lock; 0: nobody */
	XLogRecPtr	frozen_cut;		/* these are constant while has_frozen */
	XLogRecPtr	frozen_prev;
	uint64		frozen_logical_size;
	uint32		frozen_term;	/* 0: unchanged */
	XLogRecPtr	frozen_boot_record_end;
	ConditionVariable flush_cv; /* flusher_pid became 0 */
	int			compact_turn_pid;	/* who chooses or ends work on files; under lock; 0: nobody */
	ConditionVariable compact_turn_cv;	/* it became 0 */
	pg_atomic_uint32 compact_jobs;	/* pieces of work done on files, wraps */
	pg_atomic_uint32 wide_runs; /* files that a read may have to ask beside its partition's; a hint */
	pg_atomic_uint64 wide_bytes;	/* of them; a hint */
	pg_atomic_uint64 compaction_debt;	/* bytes that compaction is behind; a hint */
	pg_atomic_uint64 debt_forgiven; /* until then writers need not hear of it; neon_clock() */
	pg_atomic_uint64 damaged_file;	/* a read met it, and no worker has looked at it; 0: none */
	pg_atomic_uint64 damaged_wal;	/* the same: a record's start */
	pg_atomic_uint32 wal_mending;	/* 1: a process fetches stored WAL again */
	TimestampTz opened_at;		/* first put since the last flush, in neon_clock(); 0: none */
	TimestampTz published_at;	/* when last_record_lsn moved, in neon_clock() */

	ConditionVariable lsn_cv;	/* last_record_lsn moved */
	pg_atomic_uint32 lsn_waiters;
	ConditionVariable owner_cv; /* the owner let go */
};

/* ereport(ERROR) if the handle's slot is another timeline's by now. */
extern void timeline_check(Timeline *tl);

/* ereport(ERROR) unless edits are allowed. */
extern void timeline_check_writable(Timeline *tl);

/* The error that says why a timeline in this state is refused. */
extern void timeline_report_state(Timeline *tl, TimelineState state) pg_attribute_noreturn();

extern bool timeline_is_owner(Timeline *tl);

/*
 * One change of the manifest: durable when it returns.  A sync failure makes
 * the timeline read-only.  Takes manifest_lock.
 */
extern void timeline_edit(Timeline *tl, const char *body, uint32 len);

/* State of the manifest now, in CurrentMemoryContext. */
extern Manifest *timeline_read_manifest(Timeline *tl);

/* A file id that was never used; may write an edit. */
extern uint64 timeline_new_file_id(Timeline *tl);

/* No more writes in this life of the server. */
extern void timeline_set_readonly(Timeline *tl, const char *why);

/* For the supervisor and lifecycle.c. */
extern TimelineShared *timeline_slot(int i);
extern TimelineShared *timeline_find(const NeonId *tenant, const NeonId *timeline);	/* or NULL */
extern int	timeline_nslots(void);

/* A slot filled from a manifest, or NULL if all are in use. */
extern TimelineShared *timeline_register(const Manifest *m, const ManifestPos *pos,
										 TimelineState state, const char *detail);
extern void timeline_unregister(TimelineShared *shared);
extern void timeline_set_state(TimelineShared *shared, TimelineState state);
extern void timeline_lock_registry(void);	/* create_lock, exclusive */
extern void timeline_unlock_registry(void);
extern void timeline_registry_loaded(void);
extern bool timeline_registry_is_loaded(void);

/* Calls of the other storage files: a handle is stale, ownership was acquired. */
extern void store_close_read(Timeline *tl, bool all);
extern void store_owner_changed(Timeline *tl);
extern void walstore_forget(Timeline *tl);
extern void walstore_close_read(Timeline *tl, bool all);
extern void walstore_owner_changed(Timeline *tl);
extern void history_forget(Timeline *tl);

/* A directory whose name ends so is to be removed at the next start. */
#define DELETED_SUFFIX ".deleted"
#define CREATING_SUFFIX ".creating"

#define TENANTS_DIR "neon/tenants"

#endif							/* NEON_PS_TIMELINE_SHARED_H */
