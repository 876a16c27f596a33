/*-------------------------------------------------------------------------
 *
 * open.c
 *	  The restart rule: what a timeline's files say after whatever happened.
 *
 * flush_lsn is the end of the last record that can be read from commit_lsn on.
 * What was written and never acknowledged may be found and then counts; what
 * lies behind the break is zeroed.  A log that ends too early, or not where a
 * clean stop left it, makes the member damaged: it forgot something that
 * others rely on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "init.h"
#include "neon_durable.h"
#include "neon_testpoint.h"
#include "skwal_private.h"
#include "table.h"

/* ---- damage ---- */

static void
mark_damaged(SkTimeline *tl, const char *why)
{
	SkShared   *s = tl->shared;
	char		hex[NEON_ID_HEXLEN + 1];
	bool		news;

	SpinLockAcquire(&s->mutex);
	news = s->status != SK_DAMAGED;
	s->status = SK_DAMAGED;
	strlcpy(s->detail, why, sizeof(s->detail));
	SpinLockRelease(&s->mutex);
	ConditionVariableBroadcast(&s->commit_cv);
	ConditionVariableBroadcast(&s->flush_cv);
	if (news)
		ereport(LOG,
				(errcode(ERRCODE_NS_DAMAGED),
				 errmsg("timeline \"%s\" is damaged on this safekeeper",
						neon_id_format(&tl->timeline, hex)),
				 errdetail_internal("%s", why),
				 errhint("Replace this member; it serves what is good, but it neither votes nor acknowledges.")));
}

/* The reason is kept where it survives, if that can be done here and now. */
static void
persist_damage(SkTimeline *tl, const char *why)
{
	SkState		st;

	sk_get_state(tl, &st);
	if (st.system_identifier == 0 || st.damage[0] != '\0')
		return;
	strlcpy(st.damage, why, sizeof(st.damage));
	sk_persist(tl, &st, "damage");
}

void
sk_set_damaged(SkTimeline *tl, const char *why)
{
	bool		own_lock = sk_holds_lock(tl);

	mark_damaged(tl, why);
	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->dirty = true;
	SpinLockRelease(&tl->shared->mutex);
	/* A writer must not wait for the lock: then the next refresh persists it. */
	if (own_lock || sk_trylock(tl))
	{
		persist_damage(tl, why);
		if (!own_lock)
			sk_unlock(tl);
	}
}

/* ---- the end of the log ---- */

/*
 * Where to begin reading: the segment of commit_lsn as a whole is read, for
 * what is committed must be good too.  False and a reason if a page header is
 * wrong.
 */
static bool
reading_start(SkTimeline *tl, const SkState *st, XLogRecPtr *start, char **why)
{
	XLogRecPtr	segment = st->commit_lsn - st->commit_lsn % st->wal_segment_size;

	*start = st->commit_lsn;
	if (segment == st->commit_lsn)
		return true;
	if (segment < st->wal_start)
	{
		*start = Min(st->wal_start, st->commit_lsn);
		return true;
	}
	if (skreader_first_record(tl, segment, st->commit_lsn, start))
		return true;
	*why = psprintf("The page at %X/%X, below commit_lsn %X/%X, is not valid.",
					LSN_FORMAT_ARGS(*start), LSN_FORMAT_ARGS(st->commit_lsn));
	return false;
}

/* Follows records from start; passed tells whether one ended exactly at commit_lsn. */
static XLogRecPtr
find_end(SkTimeline *tl, XLogRecPtr start, XLogRecPtr commit_lsn)
{
	const char *problem;
	SkReader   *r = skreader_open(tl, start);
	XLogRecPtr	end = start;

	/* First to commit_lsn: it must be the end of a record. */
	if (start < commit_lsn)
		end = skreader_follow(r, commit_lsn, &problem);
	if (end == commit_lsn)
		end = skreader_follow(r, PG_UINT64_MAX, &problem);
	skreader_close(r);
	return end;
}

/* What the end that was found says about this member; NULL: all is well. */
static char *
judge_end(const SkState *st, XLogRecPtr end, XLogRecPtr memory_commit)
{
	if (end < st->commit_lsn)
		return psprintf("WAL can be read up to %X/%X only, but it is committed up to %X/%X.",
						LSN_FORMAT_ARGS(end), LSN_FORMAT_ARGS(st->commit_lsn));
	if (end < st->acked_lsn || end < memory_commit)
		return psprintf("WAL can be read up to %X/%X only, but was acknowledged up to %X/%X.",
						LSN_FORMAT_ARGS(end), LSN_FORMAT_ARGS(Max(st->acked_lsn, memory_commit)));
	if (st->clean_end != InvalidXLogRecPtr && end != st->clean_end)
		return psprintf("WAL can be read up to %X/%X, but it ended at %X/%X when it was closed.",
						LSN_FORMAT_ARGS(end), LSN_FORMAT_ARGS(st->clean_end));
	return NULL;
}

static char *
judge_state(const SkState *st, const SkTimeline *tl)
{
	char		hex[NEON_ID_HEXLEN + 1];
	char		wal[MAXPGPATH];

	if (!neon_id_equal(&st->node, sk_node()))
		return psprintf("The state file is that of node %s.", neon_id_format(&st->node, hex));
	if (!neon_id_equal(&st->tenant, &tl->tenant) || !neon_id_equal(&st->timeline, &tl->timeline))
		return psprintf("The state file is that of timeline %s.",
						neon_id_format(&st->timeline, hex));
	if (!IsValidWalSegSize(st->wal_segment_size) || st->history.n == 0 ||
		st->commit_lsn < st->start_lsn || st->wal_start > st->commit_lsn)
		return "The state file contradicts itself.";
	if (!durable_exists(sk_path(tl, "wal", wal)))
		return "The directory of its WAL is missing.";
	return NULL;
}

/* ---- opening ---- */

/* The slot takes over what the file says; what only memory knew stays. */
static void
take_state(SkTimeline *tl, const SkState *st, XLogRecPtr *memory_commit)
{
	SkShared   *s = tl->shared;

	SpinLockAcquire(&s->mutex);
	*memory_commit = s->opened ? s->st.commit_lsn : InvalidXLogRecPtr;
	s->st = *st;
	if (!s->opened)
	{
		/* Every lease that was granted ends at the latest then. */
		s->lease_term = st->promised;
		s->lease_until = st->lease_ms ? sktable_started_ms() + st->lease_ms : 0;
	}
	s->stop_term = st->promised;
	s->op_unsafe = false;
	s->dirty = false;
	SpinLockRelease(&s->mutex);
	tl->system_identifier = st->system_identifier;
	tl->wal_segment_size = st->wal_segment_size;
	tl->start_lsn = st->start_lsn;
}

static void
set_opened(SkTimeline *tl, SkStatus status, XLogRecPtr end, XLogRecPtr memory_commit)
{
	SkShared   *s = tl->shared;

	SpinLockAcquire(&s->mutex);
	s->flush_lsn = s->written_lsn = end;
	if (memory_commit > s->st.commit_lsn && memory_commit <= end)
	{
		s->st.commit_lsn = memory_commit;
		s->dirty = true;
	}
	s->opened = true;
	s->status = status;
	SpinLockRelease(&s->mutex);
	ConditionVariableBroadcast(&s->commit_cv);
}

static void
open_damaged(SkTimeline *tl, XLogRecPtr end, const char *why)
{
	mark_damaged(tl, why);
	set_opened(tl, SK_DAMAGED, end, InvalidXLogRecPtr);
	persist_damage(tl, why);
}

/* The log is good up to end: only that is there afterwards, and durably. */
static void
open_good(SkTimeline *tl, const SkState *st, XLogRecPtr start, XLogRecPtr end,
		  XLogRecPtr memory_commit)
{
	NEON_TEST_POINT("open-found-end");
	if (st->clean_end == InvalidXLogRecPtr)
		skwal_secure(tl, Min(Max(start, st->wal_start), st->commit_lsn), end);
	if (skwal_anything_from(tl, end))
		skwal_zero_from(tl, end);
	set_opened(tl, SK_ACTIVE, end, memory_commit);
}

static void
open_wal(SkTimeline *tl, const SkState *st, XLogRecPtr memory_commit)
{
	XLogRecPtr	start;
	XLogRecPtr	end;
	char	   *why = NULL;

	if (!reading_start(tl, st, &start, &why))
	{
		open_damaged(tl, start, why);
		return;
	}
	end = find_end(tl, start, st->commit_lsn);
	if (st->damage[0] == '\0')
		why = judge_end(st, end, memory_commit);
	if (st->damage[0] != '\0' || why != NULL)
		open_damaged(tl, end, why ? why : st->damage);
	else
		open_good(tl, st, start, end, memory_commit);
}

/* A crash may have come between the tombstone and the removal of the files. */
static void
open_deleted(SkTimeline *tl)
{
	char		path[MAXPGPATH];

	durable_remove_tree(sk_path(tl, "wal", path));
	durable_remove_tree(sk_path(tl, "slots", path));
	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->status = SK_DELETED;
	SpinLockRelease(&tl->shared->mutex);
	ConditionVariableBroadcast(&tl->shared->commit_cv);
}

void
sk_open_from_disk(SkTimeline *tl)
{
	char		dir[MAXPGPATH];
	XLogRecPtr	memory_commit;
	SkStateResult result;
	SkState		st;
	char	   *problem = NULL;

	Assert(sk_holds_lock(tl));
	sk_stop_writer(tl, 0);
	skwal_forget(tl);
	result = skstate_read(sk_path(tl, NULL, dir), &st, &problem);
	if (result == SK_STATE_MISSING)
		problem = "it is missing";
	else if (result == SK_STATE_OK && !st.deleted)
		problem = judge_state(&st, tl);
	if (problem != NULL)
	{
		mark_damaged(tl, result == SK_STATE_OK ? problem :
					 psprintf("The state file cannot be used: %s.", problem));
		return;
	}
	if (st.deleted)
	{
		open_deleted(tl);
		return;
	}
	take_state(tl, &st, &memory_commit);
	open_wal(tl, &st, memory_commit);
}
