/*-------------------------------------------------------------------------
 *
 * position.c
 *	  Positions of a timeline: looking at them, moving commit_lsn, waiting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "neon_clock.h"
#include "pgstat.h"
#include "table.h"
#include "utils/timestamp.h"

#define ACTIVE_MS	60000
#define SAME_PROBLEM_MS	60000	/* between two messages of the same problem */

/* ---- looking ---- */

SkStatus
sk_status(SkTimeline *tl)
{
	SkStatus	status;

	SpinLockAcquire(&tl->shared->mutex);
	status = sk_handle_current(tl) ? tl->shared->status : SK_DELETED;
	SpinLockRelease(&tl->shared->mutex);
	return status;
}

XLogRecPtr
sk_flush_lsn(SkTimeline *tl)
{
	XLogRecPtr	lsn;

	SpinLockAcquire(&tl->shared->mutex);
	lsn = tl->shared->flush_lsn;
	SpinLockRelease(&tl->shared->mutex);
	return lsn;
}

XLogRecPtr
sk_commit_lsn(SkTimeline *tl)
{
	XLogRecPtr	lsn;

	SpinLockAcquire(&tl->shared->mutex);
	lsn = tl->shared->st.commit_lsn;
	SpinLockRelease(&tl->shared->mutex);
	return lsn;
}

void
sk_get_state(SkTimeline *tl, SkState *st)
{
	SpinLockAcquire(&tl->shared->mutex);
	*st = tl->shared->st;
	SpinLockRelease(&tl->shared->mutex);
}

/* R9: the history has the promised term, and its start is reached.  Mutex held. */
static bool
counts_locked(SkShared *s, bool member)
{
	const SkTerm *last = skhistory_last(&s->st.history);

	return member && s->status == SK_ACTIVE && last != NULL &&
		last->term == s->st.promised && s->flush_lsn >= last->start;
}

static int
lease_left_locked(SkShared *s, uint64 now)
{
	return s->lease_until > now ? (int) Min(s->lease_until - now, PG_INT32_MAX) : 0;
}

static void
fill_positions(SkShared *s, uint64 now, SkPositions *p)
{
	const SkTerm *last = skhistory_last(&s->st.history);

	p->status = s->status;
	p->member = skconfig_member(&s->st.config, sk_node()) != NULL;
	p->counts = counts_locked(s, p->member);
	p->generation = s->st.config.generation;
	p->floor = s->st.config.floor;
	p->promised = s->st.promised;
	p->last_log_term = skhistory_term_at(&s->st.history, s->flush_lsn);
	p->term = last ? last->term : 0;
	p->term_start = last ? last->start : InvalidXLogRecPtr;
	p->flush_lsn = s->flush_lsn;
	p->commit_lsn = s->st.commit_lsn;
	p->wal_start = s->st.wal_start;
	p->stop_term = s->stop_term;
	p->writer_pid = s->writer_pid;
	p->lease_left_ms = lease_left_locked(s, now);
	p->pageserver = s->pageserver;
	strlcpy(p->problem, s->problem, sizeof(p->problem));
}

void
sk_get_positions(SkTimeline *tl, SkPositions *p)
{
	uint64		now = neon_boottime_ms();

	SpinLockAcquire(&tl->shared->mutex);
	fill_positions(tl->shared, now, p);
	if (!sk_handle_current(tl))
		p->status = SK_DELETED;
	SpinLockRelease(&tl->shared->mutex);
}

int
sk_errdetail_state(SkTimeline *tl)
{
	SkPositions p;

	sk_get_positions(tl, &p);
	return errdetail("generation " UINT64_FORMAT ", promised term %u, last log term %u, flush_lsn %X/%X, commit_lsn %X/%X",
					 p.generation, p.promised, p.last_log_term,
					 LSN_FORMAT_ARGS(p.flush_lsn), LSN_FORMAT_ARGS(p.commit_lsn));
}

/* ---- commit_lsn ---- */

/* Mutex held; true if it rose. */
static bool
raise_commit_locked(SkShared *s, XLogRecPtr lsn)
{
	lsn = Min(lsn, s->flush_lsn);
	if (s->status != SK_ACTIVE || lsn <= s->st.commit_lsn)
		return false;
	s->st.commit_lsn = lsn;
	s->dirty = true;
	return true;
}

XLogRecPtr
sk_raise_commit(SkTimeline *tl, uint32 term, XLogRecPtr lsn)
{
	SkShared   *s = tl->shared;
	bool		raised = false;
	XLogRecPtr	result;

	SpinLockAcquire(&s->mutex);
	if (skhistory_term_at(&s->st.history, s->flush_lsn) == term)
		raised = raise_commit_locked(s, lsn);
	result = s->st.commit_lsn;
	SpinLockRelease(&s->mutex);
	if (raised)
		ConditionVariableBroadcast(&s->commit_cv);
	return result;
}

XLogRecPtr
sk_raise_commit_copied(SkTimeline *tl, XLogRecPtr lsn)
{
	SkShared   *s = tl->shared;
	bool		raised;
	XLogRecPtr	result;

	SpinLockAcquire(&s->mutex);
	raised = raise_commit_locked(s, lsn);
	result = s->st.commit_lsn;
	SpinLockRelease(&s->mutex);
	if (raised)
		ConditionVariableBroadcast(&s->commit_cv);
	return result;
}

typedef struct QuorumView
{
	SkPositions own;
	SkPeer		peer[SK_MAX_PEERS];
	int			npeers;
} QuorumView;

/* A member's flush_lsn if it may be counted for the own term under the own configuration. */
static XLogRecPtr
counted_position(const SkMember *member, void *arg)
{
	QuorumView *view = arg;

	if (neon_id_equal(&member->node, sk_node()))
		return view->own.flush_lsn;
	for (int i = 0; i < view->npeers; i++)
	{
		SkPeer	   *peer = &view->peer[i];

		if (neon_id_equal(&peer->node, &member->node))
			return peer->counts && peer->generation == view->own.generation &&
				peer->promised == view->own.promised &&
				peer->last_log_term == view->own.promised ? peer->flush_lsn : InvalidXLogRecPtr;
	}
	return InvalidXLogRecPtr;
}

XLogRecPtr
sk_raise_commit_by_peers(SkTimeline *tl)
{
	QuorumView	view;
	SkState		st;

	sk_get_positions(tl, &view.own);
	sk_get_state(tl, &st);
	if (!view.own.counts || view.own.last_log_term != view.own.promised ||
		st.config.generation != view.own.generation)
		return view.own.commit_lsn;
	view.npeers = sk_get_peers(tl, view.peer);
	return sk_raise_commit(tl, view.own.promised,
						   skconfig_quorum_lsn(&st.config, counted_position, &view));
}

/* ---- what others told ---- */

/* The place of a node in the list, or the one not heard of for the longest time. */
static SkPeer *
peer_place(SkShared *s, const NeonId *node)
{
	SkPeer	   *oldest = &s->peer[0];

	for (int i = 0; i < SK_MAX_PEERS; i++)
	{
		if (s->peer[i].at != 0 && neon_id_equal(&s->peer[i].node, node))
			return &s->peer[i];
		if (s->peer[i].at < oldest->at)
			oldest = &s->peer[i];
	}
	return oldest;
}

void
sk_note_peer(SkTimeline *tl, const SkPeer *peer)
{
	SkPeer		noted = *peer;

	if (noted.at == 0)
		noted.at = neon_clock();
	SpinLockAcquire(&tl->shared->mutex);
	*peer_place(tl->shared, &peer->node) = noted;
	SpinLockRelease(&tl->shared->mutex);
}

int
sk_get_peers(SkTimeline *tl, SkPeer *peers)
{
	int			n = 0;

	SpinLockAcquire(&tl->shared->mutex);
	for (int i = 0; i < SK_MAX_PEERS; i++)
	{
		if (tl->shared->peer[i].at != 0)
			peers[n++] = tl->shared->peer[i];
	}
	SpinLockRelease(&tl->shared->mutex);
	return n;
}

void
sk_note_pageserver(SkTimeline *tl, const SkPageserver *ps)
{
	SkPageserver *p = &tl->shared->pageserver;
	TimestampTz now = neon_clock();

	SpinLockAcquire(&tl->shared->mutex);
	p->received_lsn = Max(p->received_lsn, ps->received_lsn);
	p->flush_lsn = Max(p->flush_lsn, ps->flush_lsn);
	p->layers_lsn = Max(p->layers_lsn, ps->layers_lsn);
	p->at = ps->at ? ps->at : now;
	SpinLockRelease(&tl->shared->mutex);
}

void
sk_note_copy(SkTimeline *tl, XLogRecPtr lsn)
{
	TimestampTz now = neon_clock();

	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->copied_lsn = lsn;
	tl->shared->copied_at = now;
	SpinLockRelease(&tl->shared->mutex);
}

XLogRecPtr
sk_copied_lsn(SkTimeline *tl, int within_ms)
{
	TimestampTz now = neon_clock();
	TimestampTz at;
	XLogRecPtr	lsn;

	SpinLockAcquire(&tl->shared->mutex);
	lsn = tl->shared->copied_lsn;
	at = tl->shared->copied_at;
	SpinLockRelease(&tl->shared->mutex);
	return at != 0 && !TimestampDifferenceExceeds(at, now, within_ms) ? lsn : InvalidXLogRecPtr;
}

void
sk_note_active(SkTimeline *tl)
{
	TimestampTz now = neon_clock();

	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->active_at = now;
	SpinLockRelease(&tl->shared->mutex);
}

bool
sk_recently_active(SkTimeline *tl)
{
	TimestampTz at;
	int			pid;

	SpinLockAcquire(&tl->shared->mutex);
	at = tl->shared->active_at;
	pid = tl->shared->writer_pid;
	SpinLockRelease(&tl->shared->mutex);
	return pid != 0 ||
		(at != 0 && !TimestampDifferenceExceeds(at, neon_clock(), ACTIVE_MS));
}

void
sk_note_retention(SkTimeline *tl, XLogRecPtr keep_from, const char *retained_by)
{
	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->keep_from = keep_from;
	strlcpy(tl->shared->retained_by, retained_by, sizeof(tl->shared->retained_by));
	SpinLockRelease(&tl->shared->mutex);
}

bool
sk_set_problem(SkTimeline *tl, const char *text)
{
	SkShared   *s = tl->shared;
	uint64		now = neon_boottime_ms();
	bool		news;

	SpinLockAcquire(&s->mutex);
	news = strncmp(s->problem, text, sizeof(s->problem) - 1) != 0 ||
		now - s->problem_told_at >= SAME_PROBLEM_MS;
	strlcpy(s->problem, text, sizeof(s->problem));
	if (news)
		s->problem_told_at = now;
	SpinLockRelease(&s->mutex);
	return news;
}

/* ---- waiting ---- */

static long
left_ms(TimestampTz deadline)
{
	return TimestampDifferenceMilliseconds(neon_clock(), deadline);
}

bool
sk_wait_commit(SkTimeline *tl, XLogRecPtr lsn, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), timeout_ms);
	bool		reached;

	ConditionVariablePrepareToSleep(&tl->shared->commit_cv);
	while (!(reached = sk_commit_lsn(tl) >= lsn) && sk_handle_current(tl))
	{
		long		left = left_ms(deadline);

		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&tl->shared->commit_cv, left, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return reached;
}

bool
sk_wait_flush(SkTimeline *tl, XLogRecPtr lsn, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), timeout_ms);
	SkPositions p;

	ConditionVariablePrepareToSleep(&tl->shared->flush_cv);
	for (;;)
	{
		long		left = left_ms(deadline);

		sk_get_positions(tl, &p);
		if (p.flush_lsn >= lsn || p.writer_pid == 0 || p.status != SK_ACTIVE || left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&tl->shared->flush_cv, left, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return p.flush_lsn >= lsn;
}
