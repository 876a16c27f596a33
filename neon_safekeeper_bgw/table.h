/*-------------------------------------------------------------------------
 *
 * table.h
 *	  The timelines of this safekeeper: their slots in shared memory, the
 *	  operation lock, the right to write, positions.
 *
 * A slot is a cache of the timeline's files.  It comes into being unopened
 * (ids only) and costs nothing more; the first process that needs the timeline
 * opens it: reads the state file and finds the end of the WAL.
 *
 * Three things protect a timeline:
 *	- the slot's spinlock: all its fields, for moments, never over I/O;
 *	- the operation lock: held over fsync by whoever changes the state file;
 *	- the right to write: one process at a time writes WAL (the timeline's
 *	  worker), and it asks sk_may_write() before each write, each advance of
 *	  flush_lsn and each acknowledgement (R2).
 * Order: registry lock, operation lock, right to write, spinlock.  A writer
 * never waits for the operation lock: its holder may be waiting for the writer
 * to end.
 *
 * All functions may ereport(ERROR) with ERRCODE_NS_UNKNOWN if the timeline was
 * deleted since the handle was opened.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_TABLE_H
#define NEON_SK_TABLE_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "state.h"
#include "storage/condition_variable.h"
#include "storage/spin.h"

#define ERRCODE_NS_SUPERSEDED	MAKE_SQLSTATE('N', 'S', '0', '0', '1')
#define ERRCODE_NS_GENERATION	MAKE_SQLSTATE('N', 'S', '0', '0', '2')
#define ERRCODE_NS_DAMAGED		MAKE_SQLSTATE('N', 'S', '0', '0', '3')
#define ERRCODE_NS_UNKNOWN		MAKE_SQLSTATE('N', 'S', '0', '0', '4')

typedef enum SkStatus
{
	SK_UNUSED = 0,
	SK_UNOPENED,				/* read the disk before anything else */
	SK_ACTIVE,
	SK_DAMAGED,					/* serves what is good; never votes, never acknowledges */
	SK_DELETED,
} SkStatus;

/* What a peer told of itself; see sk_note_peer. */
typedef struct SkPeer
{
	NeonId		node;
	uint64		generation;
	uint32		promised;
	uint32		last_log_term;
	XLogRecPtr	flush_lsn;
	XLogRecPtr	commit_lsn;
	XLogRecPtr	wal_start;
	bool		counts;			/* R9, as the peer says */
	TimestampTz at;				/* when it was heard, in neon_clock(); 0: never */
} SkPeer;

#define SK_MAX_PEERS	(2 * SK_MAX_MEMBERS)

/* How far the pageserver has it; an LSN of 0: not known. */
typedef struct SkPageserver
{
	XLogRecPtr	received_lsn;
	XLogRecPtr	flush_lsn;		/* its stored WAL is durable up to here */
	XLogRecPtr	layers_lsn;		/* its layer files have it up to here: disk_consistent_lsn */
	TimestampTz at;				/* the same */
} SkPageserver;

/*
 * What it will not ask for again: 0 if that is not known.  Stored WAL that is in
 * no layer file yet is the only copy there, and is fetched again if it is damaged.
 */
static inline XLogRecPtr
skpageserver_durable(const SkPageserver *ps)
{
	return Min(ps->flush_lsn, ps->layers_lsn);
}

typedef struct SkShared
{
	slock_t		mutex;			/* all fields but the condition variables and incarnation */
	pg_atomic_uint64 incarnation;	/* changes when the slot is freed */
	SkStatus	status;
	SkState		st;				/* as on disk, but for commit_lsn and acked_lsn, which run ahead */
	char		detail[SK_DETAIL_MAX];	/* why it is damaged */
	char		problem[SK_DETAIL_MAX]; /* what was refused or failed last, for the view */
	uint64		problem_told_at;	/* neon_boottime_ms() when it was news last; see sk_set_problem */
	XLogRecPtr	copy_told_lsn;	/* where copying began that the log has told of last */
	int			told_error;		/* SQLSTATE of the error that a worker logged last */
	uint64		told_error_at;	/* neon_boottime_ms(); 0: none was */

	XLogRecPtr	flush_lsn;		/* end of the last whole record that is durable */
	XLogRecPtr	written_lsn;	/* bytes at and above this were never written */
	bool		unnamed;		/* it lacks its name in known.c: see sk_make_known */
	bool		opened;			/* once in this life of the instance: positions and lease are known */
	bool		dirty;			/* something here is newer than in the file */

	uint32		stop_term;		/* nothing of a lower term is written */
	int			op_pid;			/* holder of the operation lock; 0: free */
	bool		op_unsafe;		/* its disk and memory may differ: see sk_op_begin */
	int			writer_pid;		/* who has the right to write; 0: nobody */
	int			writer_procno;
	uint32		writer_term;
	bool		writer_unwanted;
	char		writer_source[SK_HOST_MAX]; /* "host:port" it receives from, or "" */

	uint32		lease_term;
	uint64		lease_until;	/* neon_boottime_ms() when the last lease ends */

	SkPageserver pageserver;
	SkPeer		peer[SK_MAX_PEERS];
	XLogRecPtr	copied_lsn;		/* where a safekeeper that copies from here is */
	TimestampTz copied_at;		/* and when it said so, in neon_clock(); 0: never */
	XLogRecPtr	keep_from;		/* retention: WAL below this may go */
	char		retained_by[SK_HOST_MAX];	/* what holds it there */
	TimestampTz active_at;		/* of the last request or write; see sk_note_active */

	pg_atomic_uint32 wal_epoch; /* changes when segment files are removed or replaced */
	ConditionVariable op_cv;	/* the operation lock was released */
	ConditionVariable writer_cv;	/* the writer ended */
	ConditionVariable flush_cv; /* flush_lsn advanced, or the writer ended */
	ConditionVariable commit_cv;	/* commit_lsn advanced, or status changed */
} SkShared;

/* A process's handle, cached; valid until the end of the process. */
typedef struct SkTimeline
{
	NeonId		tenant;
	NeonId		timeline;
	uint64		incarnation;
	SkShared   *shared;
	uint64		system_identifier;	/* constants of the opened timeline */
	uint32		wal_segment_size;
	XLogRecPtr	start_lsn;
	void	   *wal_private;	/* of skwal.c */
} SkTimeline;

/* A consistent view of a slot at one moment. */
typedef struct SkPositions
{
	SkStatus	status;
	bool		member;			/* this node is in the configuration; else a learner */
	bool		counts;			/* R9: promised = llt = T, flush_lsn >= T's start */
	uint64		generation;
	uint32		floor;
	uint32		promised;
	uint32		last_log_term;
	XLogRecPtr	term_start;		/* X of the last entry of the history */
	uint32		term;			/* and its term */
	XLogRecPtr	flush_lsn;
	XLogRecPtr	commit_lsn;
	XLogRecPtr	wal_start;
	uint32		stop_term;
	int			writer_pid;
	int			lease_left_ms;
	SkPageserver pageserver;
	char		problem[SK_DETAIL_MAX]; /* what was refused or failed last, or "" */
} SkPositions;

/* ---- finding and opening ---- */

/*
 * The opened timeline.  ereport(ERROR): ERRCODE_NS_UNKNOWN if it is not here or
 * was deleted.  A damaged one is returned: see sk_check_healthy.  May wait for
 * the operation lock (interruptibly) when it has to be opened.
 */
extern SkTimeline *sk_open(const NeonId *tenant, const NeonId *timeline);

/* The same, or NULL if it is not here (a deleted one is an error all the same). */
extern SkTimeline *sk_open_if_known(const NeonId *tenant, const NeonId *timeline);

/* The same, NULL also if it was deleted: *deleted tells. */
extern SkTimeline *sk_open_unless_deleted(const NeonId *tenant, const NeonId *timeline,
										  bool *deleted);

/*
 * A timeline of before known.c gets its name; ereport(ERROR) if that cannot be
 * written.  Opening one does it first: who has no name may not promise.
 */
extern void sk_make_known(SkTimeline *tl);

/*
 * Calls f for each timeline of this node, opened ones only if opened_only; the
 * handles of those that were never opened have no constants and their slots'
 * state is that of the file only after skstate_read.  No lock is held.
 */
extern void sk_foreach(bool opened_only, void (*f) (SkTimeline *tl, void *arg), void *arg);

/* DIR of a timeline, or DIR/below; buf has MAXPGPATH bytes. */
extern char *sk_path(const SkTimeline *tl, const char *below, char *buf);

/* This node's uuid, of PGDATA/neon/node. */
extern const NeonId *sk_node(void);

/* ---- looking ---- */

extern void sk_get_positions(SkTimeline *tl, SkPositions *p);
extern void sk_get_state(SkTimeline *tl, SkState *st);	/* a copy; some 6 kB */
extern XLogRecPtr sk_flush_lsn(SkTimeline *tl);
extern XLogRecPtr sk_commit_lsn(SkTimeline *tl);
extern SkStatus sk_status(SkTimeline *tl);

/* errdetail() with the state that every refusal carries. */
extern int	sk_errdetail_state(SkTimeline *tl);

/* ---- guards: ereport(ERROR) with the state as DETAIL ---- */

extern void sk_check_healthy(SkTimeline *tl);	/* NS003 if damaged */
extern void sk_check_generation(SkTimeline *tl, uint64 generation); /* NS002 unless own */
extern void sk_check_compute_generation(SkTimeline *tl, uint64 generation); /* or the one before */
extern void sk_check_member(SkTimeline *tl);	/* NS002 if a learner */
extern void sk_check_counts(SkTimeline *tl, uint32 term);	/* R9: NS001, or 55000 */

/* Only this safekeeper's peers and the pageserver (role neon_storage, superusers) go on. */
extern void sk_check_storage_role(void);

/* Superusers and the role of the tenant go on; neon_storage too if allowed. */
extern void sk_check_tenant_role(const NeonId *tenant, bool storage_allowed);

/* ---- the operation lock ---- */

/*
 * Taken for promise, elected, members, delete, tail and whatever writes the
 * state file.  Waits interruptibly, not reentrant, released by sk_unlock, by
 * the end of a transaction that failed, and by the end of the process.  A
 * worker that catches errors calls sk_release_all().  sk_trylock: false if
 * somebody else has it, and if the timeline was deleted.
 */
extern void sk_lock(SkTimeline *tl);
extern bool sk_trylock(SkTimeline *tl);
extern void sk_unlock(SkTimeline *tl);
extern void sk_release_all(void);

/*
 * In a worker's PG_CATCH: logs the error, unless one of its SQLSTATE was logged
 * for the timeline within a minute, gives back everything, and forgets it.
 * context becomes the current one.
 */
extern void sk_recover_from_error(SkTimeline *tl, MemoryContext context);

/*
 * From sk_op_begin to sk_op_end disk and memory may differ: if the holder dies
 * or fails between them, the slot becomes unopened and the next process reads
 * the disk.
 */
extern void sk_op_begin(SkTimeline *tl);
extern void sk_op_end(SkTimeline *tl);

/*
 * Persists st and makes it the slot's state (commit_lsn and acked_lsn never
 * fall by that).  Operation lock held.  point names the test points
 * "before-POINT" and "after-POINT".
 */
extern void sk_persist(SkTimeline *tl, SkState *st, const char *point);

/*
 * Refreshes commit_lsn and acked_lsn in the file if they ran ahead: called by
 * a writer once a second and at each end of a segment.  Does nothing if the
 * operation lock is busy.
 */
extern void sk_refresh(SkTimeline *tl);

/*
 * Persists that the log ends at flush_lsn and nothing is written any more; the
 * next writer takes that back first.  Called when a writer ends in good order
 * and, for all timelines, at the stop of the instance.  Does nothing (false) if
 * the operation lock is busy or there is a writer.
 */
extern bool sk_close_cleanly(SkTimeline *tl);

/* Marks the timeline damaged, durably if the state file can be written. */
extern void sk_set_damaged(SkTimeline *tl, const char *why);

/*
 * A line for the view's column "problem"; "" clears it.  True if it is news:
 * another problem, or for a minute the same.
 */
extern bool sk_set_problem(SkTimeline *tl, const char *text);

/* ---- the right to write ---- */

/*
 * Gives the calling process the right to write under term, until
 * sk_end_write(), an error of its transaction, or its end.  ereport(ERROR):
 * NS001 if term is not the promised one, NS003 if damaged, 55006 if another
 * process writes.  Clears clean_end on disk first.  source: "host:port" for
 * the view.  Takes the operation lock for a moment.
 */
extern void sk_begin_write(SkTimeline *tl, uint32 term, const char *source);
extern void sk_end_write(SkTimeline *tl);

/* R2: asked before each write, each advance of flush_lsn, each acknowledgement. */
extern bool sk_may_write(SkTimeline *tl);

/* The same as ereport(ERROR, NS001). */
extern void sk_check_write(SkTimeline *tl);

/* Is the caller the writer? */
extern bool sk_is_writer(SkTimeline *tl);

/*
 * Makes the writer end and waits until it has: sets stop_term (if higher),
 * wakes it.  Interruptible.  Operation lock held.
 */
extern void sk_stop_writer(SkTimeline *tl, uint32 stop_term);

/* ---- moving positions ---- */

/*
 * Writer only, after skwal_sync(): everything below lsn is whole, CRC-valid,
 * durable records (R11).  False if a higher term was promised meanwhile:
 * nothing was changed, and nothing may be acknowledged.
 */
extern bool sk_advance_flush(SkTimeline *tl, XLogRecPtr lsn);

/* Writer only: about to report lsn as durable (remembered as acked_lsn). False as above. */
extern bool sk_note_acked(SkTimeline *tl, XLogRecPtr lsn);

/*
 * R12: commit_lsn := max(own, min(lsn, flush_lsn)) if this member's llt = term;
 * wakes who waits on commit_cv.  Returns the new commit_lsn.
 */
extern XLogRecPtr sk_raise_commit(SkTimeline *tl, uint32 term, XLogRecPtr lsn);

/* R12 from what the peers told (sk_note_peer) and the own position; returns commit_lsn. */
extern XLogRecPtr sk_raise_commit_by_peers(SkTimeline *tl);

/*
 * For members without a term of their own (learners, copying from a donor
 * below its commit_lsn): what a peer calls committed and this log has too.
 */
extern XLogRecPtr sk_raise_commit_copied(SkTimeline *tl, XLogRecPtr lsn);

extern void sk_note_peer(SkTimeline *tl, const SkPeer *peer);
extern int	sk_get_peers(SkTimeline *tl, SkPeer *peers);	/* SK_MAX_PEERS; returns how many */
extern void sk_note_pageserver(SkTimeline *tl, const SkPageserver *ps);	/* never falls */

/* A safekeeper, maybe no member yet, copies from here and has WAL up to lsn. */
extern void sk_note_copy(SkTimeline *tl, XLogRecPtr lsn);

/* Where it is, if that was said within within_ms; else 0. */
extern XLogRecPtr sk_copied_lsn(SkTimeline *tl, int within_ms);

/* Something happened to it: positions() without arguments shows it for a minute. */
extern void sk_note_active(SkTimeline *tl);
extern bool sk_recently_active(SkTimeline *tl);

/* Retention's result, for the view. */
extern void sk_note_retention(SkTimeline *tl, XLogRecPtr keep_from, const char *retained_by);

/*
 * Waits until flush_lsn >= lsn (commit_lsn: sk_wait_commit), false after
 * timeout_ms or when nobody writes any more (flush only).  Interruptible.
 * Who also waits for a socket uses the slot's commit_cv itself:
 * ConditionVariablePrepareToSleep(&tl->shared->commit_cv), look, wait for the
 * latch and the socket, prepare again (a broadcast takes the process off the
 * list), and ConditionVariableCancelSleep() at the end.
 */
extern bool sk_wait_flush(SkTimeline *tl, XLogRecPtr lsn, int timeout_ms);
extern bool sk_wait_commit(SkTimeline *tl, XLogRecPtr lsn, int timeout_ms);

/* ---- making and removing, for manage.c ---- */

/*
 * A slot, unopened, for a timeline whose files were made; the same one if it
 * has one.  ereport(ERROR) if all are in use.
 */
extern SkTimeline *sk_register(const NeonId *tenant, const NeonId *timeline);

/* Frees the slot of a deleted timeline. */
extern void sk_unregister(SkTimeline *tl);

/* Serialises creation and deletion of all timelines (an LWLock: no interrupts). */
extern void sk_lock_registry(void);
extern void sk_unlock_registry(void);

/* The slot's handle without opening it; NULL if there is none. */
extern SkTimeline *sk_lookup(const NeonId *tenant, const NeonId *timeline);

/* Is the slot still this handle's? */
extern bool sk_handle_current(const SkTimeline *tl);

/* open.c: reads the disk.  Operation lock held, slot unopened. */
extern void sk_open_from_disk(SkTimeline *tl);

/* True in the process that holds the operation lock. */
extern bool sk_holds_lock(const SkTimeline *tl);

#endif							/* NEON_SK_TABLE_H */
