/*-------------------------------------------------------------------------
 *
 * oplock.c
 *	  The operation lock of a timeline, what is persisted under it, and the
 *	  right to write.
 *
 * A process holds at most one operation lock and at most one right to write,
 * both given back when its transaction fails or it ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_testpoint.h"
#include "pgstat.h"
#include "skwal.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "table.h"
#include "utils/timestamp.h"

#define POKE_INTERVAL_MS	200
#define SAME_ERROR_MS		60000

static SkTimeline *locked = NULL;
static SkTimeline *writing = NULL;
static bool callbacks_registered = false;

/* ---- giving back ---- */

static void
release_writer(void)
{
	SkTimeline *tl = writing;

	if (tl == NULL)
		return;
	writing = NULL;
	SpinLockAcquire(&tl->shared->mutex);
	if (tl->shared->writer_pid == MyProcPid)
	{
		tl->shared->writer_pid = 0;
		tl->shared->writer_unwanted = false;
		tl->shared->writer_source[0] = '\0';
	}
	SpinLockRelease(&tl->shared->mutex);
	ConditionVariableBroadcast(&tl->shared->writer_cv);
	ConditionVariableBroadcast(&tl->shared->flush_cv);
}

/* What was promised in memory only is forgotten; what is unsure is read again. */
static void
release_lock(void)
{
	SkTimeline *tl = locked;
	bool		unsafe;

	if (tl == NULL)
		return;
	locked = NULL;
	SpinLockAcquire(&tl->shared->mutex);
	unsafe = tl->shared->op_unsafe;
	if (unsafe && tl->shared->status != SK_DELETED)
		tl->shared->status = SK_UNOPENED;
	tl->shared->op_unsafe = false;
	tl->shared->stop_term = tl->shared->st.promised;
	tl->shared->op_pid = 0;
	SpinLockRelease(&tl->shared->mutex);
	ConditionVariableSignal(&tl->shared->op_cv);
	if (unsafe)
		ConditionVariableBroadcast(&tl->shared->commit_cv);
}

void
sk_release_all(void)
{
	release_writer();
	release_lock();
}

/* A full disk fails again and again, and is news once a minute. */
static bool
is_news(SkTimeline *tl, int sqlerrcode)
{
	SkShared   *s = tl->shared;
	uint64		now = neon_boottime_ms();
	bool		news;

	SpinLockAcquire(&s->mutex);
	news = s->told_error_at == 0 || s->told_error != sqlerrcode ||
		now - s->told_error_at >= SAME_ERROR_MS;
	if (news)
	{
		s->told_error = sqlerrcode;
		s->told_error_at = now;
	}
	SpinLockRelease(&s->mutex);
	return news;
}

void
sk_recover_from_error(SkTimeline *tl, MemoryContext context)
{
	HOLD_INTERRUPTS();
	if (is_news(tl, geterrcode()))
		EmitErrorReport();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();
	sk_release_all();
	AtEOXact_Files(false);
	MemoryContextSwitchTo(context);
	FlushErrorState();
	RESUME_INTERRUPTS();
}

static void
release_at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT)
		sk_release_all();
}

static void
release_at_exit(int code, Datum arg)
{
	ConditionVariableCancelSleep();
	sk_release_all();
}

static void
register_callbacks(void)
{
	if (callbacks_registered)
		return;
	before_shmem_exit(release_at_exit, (Datum) 0);
	RegisterXactCallback(release_at_xact_end, NULL);
	callbacks_registered = true;
}

/* ---- the operation lock ---- */

static bool
try_lock(SkTimeline *tl)
{
	SkShared   *s = tl->shared;
	bool		got = false;

	SpinLockAcquire(&s->mutex);
	if (s->op_pid == 0)
	{
		s->op_pid = MyProcPid;
		got = true;
	}
	SpinLockRelease(&s->mutex);
	if (got)
		locked = tl;
	return got;
}

static void
check_not_nested(void)
{
	if (locked != NULL)
		elog(ERROR, "this process holds an operation lock already");
}

/* The slot may have become another timeline's while the lock was waited for. */
static void
check_still_there(SkTimeline *tl)
{
	if (sk_handle_current(tl))
		return;
	release_lock();
	ereport(ERROR,
			(errcode(ERRCODE_NS_UNKNOWN),
			 errmsg("the timeline was deleted")));
}

bool
sk_trylock(SkTimeline *tl)
{
	check_not_nested();
	register_callbacks();
	if (!try_lock(tl))
		return false;
	if (sk_handle_current(tl))
		return true;
	release_lock();				/* it was deleted */
	return false;
}

void
sk_lock(SkTimeline *tl)
{
	check_not_nested();
	register_callbacks();
	ConditionVariablePrepareToSleep(&tl->shared->op_cv);
	while (!try_lock(tl))
		ConditionVariableSleep(&tl->shared->op_cv, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
	check_still_there(tl);
}

void
sk_unlock(SkTimeline *tl)
{
	Assert(locked == tl);
	release_lock();
}

bool
sk_holds_lock(const SkTimeline *tl)
{
	return locked == tl;
}

void
sk_op_begin(SkTimeline *tl)
{
	Assert(locked == tl);
	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->op_unsafe = true;
	SpinLockRelease(&tl->shared->mutex);
}

void
sk_op_end(SkTimeline *tl)
{
	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->op_unsafe = false;
	SpinLockRelease(&tl->shared->mutex);
}

/* ---- what is persisted ---- */

static void
test_point(const char *when, const char *point)
{
#ifdef NEON_TESTING
	char		name[64];

	snprintf(name, sizeof(name), "%s-%s", when, point);
	testpoint_reached(name);
#endif
}

/* A bug that tests plant: what is replied was not persisted. */
static bool
test_forgets(const char *point)
{
#ifdef NEON_TESTING
	char		name[64];

	snprintf(name, sizeof(name), "forget-%s", point);
	return testpoint_fails(name);
#else
	return false;
#endif
}

void
sk_persist(SkTimeline *tl, SkState *st, const char *point)
{
	SkShared   *s = tl->shared;
	char		dir[MAXPGPATH];

	Assert(locked == tl);
	SpinLockAcquire(&s->mutex);
	st->commit_lsn = Max(st->commit_lsn, s->st.commit_lsn);
	st->acked_lsn = Max(st->acked_lsn, s->st.acked_lsn);
	SpinLockRelease(&s->mutex);

	test_point("before", point);
	if (!test_forgets(point))
		skstate_write(sk_path(tl, NULL, dir), st);
	test_point("after", point);

	SpinLockAcquire(&s->mutex);
	s->dirty = s->st.commit_lsn > st->commit_lsn || s->st.acked_lsn > st->acked_lsn;
	st->commit_lsn = Max(st->commit_lsn, s->st.commit_lsn);
	st->acked_lsn = Max(st->acked_lsn, s->st.acked_lsn);
	s->st = *st;
	s->stop_term = Max(s->stop_term, st->promised);
	SpinLockRelease(&s->mutex);
}

/* A copy of the state if it is to be written, and nobody else does that now. */
static bool
lock_if_dirty(SkTimeline *tl, SkState *st)
{
	SkShared   *s = tl->shared;
	bool		dirty;

	SpinLockAcquire(&s->mutex);
	dirty = s->dirty && (s->status == SK_ACTIVE || s->status == SK_DAMAGED);
	SpinLockRelease(&s->mutex);
	if (!dirty || locked != NULL || !sk_trylock(tl))
		return false;
	sk_get_state(tl, st);
	return true;
}

void
sk_refresh(SkTimeline *tl)
{
	SkState		st;

	if (!lock_if_dirty(tl, &st))
		return;
	if (sk_status(tl) == SK_DAMAGED && st.damage[0] == '\0')
		strlcpy(st.damage, tl->shared->detail, sizeof(st.damage));
	sk_op_begin(tl);
	sk_persist(tl, &st, "refresh");
	sk_op_end(tl);
	sk_unlock(tl);
}

/* Nobody writes, and what is there is worth a clean end. */
static bool
can_be_closed(SkTimeline *tl, bool *needed)
{
	SkShared   *s = tl->shared;
	bool		ok;

	SpinLockAcquire(&s->mutex);
	ok = s->status == SK_ACTIVE && s->writer_pid == 0;
	*needed = s->dirty || s->st.clean_end != s->flush_lsn;
	SpinLockRelease(&s->mutex);
	return ok;
}

static void
close_locked(SkTimeline *tl)
{
	XLogRecPtr	flush_lsn = sk_flush_lsn(tl);
	SkState		st;

	sk_op_begin(tl);
	skwal_truncate(tl, flush_lsn);
	sk_get_state(tl, &st);
	st.clean_end = flush_lsn;
	sk_persist(tl, &st, "clean-end");
	sk_op_end(tl);
}

bool
sk_close_cleanly(SkTimeline *tl)
{
	bool		needed;
	bool		closed;

	if (locked != NULL || !sk_trylock(tl))
		return false;
	closed = can_be_closed(tl, &needed);
	if (closed && needed)
		close_locked(tl);
	sk_unlock(tl);
	return closed;
}

/* ---- the right to write ---- */

static void
check_no_other_writer(SkTimeline *tl)
{
	int			pid;

	SpinLockAcquire(&tl->shared->mutex);
	pid = tl->shared->writer_pid;
	SpinLockRelease(&tl->shared->mutex);
	if (pid != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("WAL of the timeline is being written by process %d", pid)));
}

static void
check_promised(SkTimeline *tl, const SkState *st, uint32 term)
{
	if (st->promised > term)
		ereport(ERROR,
				(errcode(ERRCODE_NS_SUPERSEDED),
				 errmsg("superseded by term %u", st->promised),
				 sk_errdetail_state(tl)));
	if (st->promised < term)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("term %u was not promised here", term),
				 sk_errdetail_state(tl)));
}

/* Bytes behind the end belong to nobody, and "ended cleanly" is over. */
static void
prepare_to_write(SkTimeline *tl, SkState *st)
{
	sk_op_begin(tl);
	skwal_truncate(tl, sk_flush_lsn(tl));
	if (st->clean_end != InvalidXLogRecPtr)
	{
		st->clean_end = InvalidXLogRecPtr;
		sk_persist(tl, st, "begin-write");
	}
	sk_op_end(tl);
}

static void
become_writer(SkTimeline *tl, uint32 term, const char *source)
{
	SkShared   *s = tl->shared;
	TimestampTz now = neon_clock();

	SpinLockAcquire(&s->mutex);
	s->writer_pid = MyProcPid;
	s->writer_procno = MyProc->pgprocno;
	s->writer_term = term;
	s->writer_unwanted = false;
	strlcpy(s->writer_source, source, sizeof(s->writer_source));
	s->active_at = now;
	SpinLockRelease(&s->mutex);
	writing = tl;
}

void
sk_begin_write(SkTimeline *tl, uint32 term, const char *source)
{
	SkState		st;

	if (writing != NULL)
		elog(ERROR, "this process writes a timeline already");
	sk_lock(tl);
	if (sk_status(tl) == SK_UNOPENED)
		sk_open_from_disk(tl);
	sk_check_healthy(tl);
	sk_get_state(tl, &st);
	check_promised(tl, &st, term);
	check_no_other_writer(tl);
	prepare_to_write(tl, &st);
	skwal_forget(tl);			/* what is open may be of files that are gone */
	become_writer(tl, term, source);
	sk_unlock(tl);
}

void
sk_end_write(SkTimeline *tl)
{
	Assert(writing == tl);
	release_writer();
}

bool
sk_is_writer(SkTimeline *tl)
{
	return writing == tl;
}

/* The slot's mutex is held. */
static bool
may_write_locked(SkTimeline *tl)
{
	SkShared   *s = tl->shared;

	return writing == tl && s->writer_pid == MyProcPid && sk_handle_current(tl) &&
		s->status == SK_ACTIVE && !s->writer_unwanted && s->stop_term <= s->writer_term &&
		s->st.promised <= s->writer_term;
}

bool
sk_may_write(SkTimeline *tl)
{
	bool		ok;

	SpinLockAcquire(&tl->shared->mutex);
	ok = may_write_locked(tl);
	SpinLockRelease(&tl->shared->mutex);
	return ok;
}

void
sk_check_write(SkTimeline *tl)
{
	if (!sk_may_write(tl))
		ereport(ERROR,
				(errcode(ERRCODE_NS_SUPERSEDED),
				 errmsg("writing of WAL was stopped"),
				 sk_errdetail_state(tl)));
}

bool
sk_advance_flush(SkTimeline *tl, XLogRecPtr lsn)
{
	SkShared   *s = tl->shared;
	TimestampTz now = neon_clock();
	bool		ok;

	SpinLockAcquire(&s->mutex);
	ok = may_write_locked(tl);
	if (ok)
	{
		s->flush_lsn = Max(s->flush_lsn, lsn);
		s->active_at = now;
	}
	SpinLockRelease(&s->mutex);
	if (ok)
		ConditionVariableBroadcast(&s->flush_cv);
	return ok;
}

bool
sk_note_acked(SkTimeline *tl, XLogRecPtr lsn)
{
	SkShared   *s = tl->shared;
	bool		ok;

	SpinLockAcquire(&s->mutex);
	ok = may_write_locked(tl) && lsn <= s->flush_lsn;
	if (ok && lsn > s->st.acked_lsn)
	{
		s->st.acked_lsn = lsn;
		s->dirty = true;
	}
	SpinLockRelease(&s->mutex);
	return ok;
}

/* Asks the writer to end; false if there is none. */
static bool
poke_writer(SkTimeline *tl, uint32 stop_term)
{
	SkShared   *s = tl->shared;
	int			procno = -1;

	SpinLockAcquire(&s->mutex);
	s->stop_term = Max(s->stop_term, stop_term);
	if (s->writer_pid != 0)
	{
		s->writer_unwanted = true;
		procno = s->writer_procno;
	}
	SpinLockRelease(&s->mutex);
	if (procno >= 0)
		SetLatch(&ProcGlobal->allProcs[procno].procLatch);
	return procno >= 0;
}

void
sk_stop_writer(SkTimeline *tl, uint32 stop_term)
{
	Assert(locked == tl);
	ConditionVariablePrepareToSleep(&tl->shared->writer_cv);
	while (poke_writer(tl, stop_term))
		(void) ConditionVariableTimedSleep(&tl->shared->writer_cv, POKE_INTERVAL_MS,
										   PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}
