/*-------------------------------------------------------------------------
 *
 * election.c
 *	  Promise, elected, commit, release, members: the protocol's decisions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "election.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "skwal.h"

/* An opened timeline under its operation lock, as every decision needs it. */
static void
lock_opened(SkTimeline *tl)
{
	sk_lock(tl);
	if (sk_status(tl) == SK_UNOPENED)
		sk_open_from_disk(tl);
}

static void pg_attribute_noreturn()
superseded(SkTimeline *tl, uint32 promised)
{
	ereport(ERROR,
			(errcode(ERRCODE_NS_SUPERSEDED),
			 errmsg("superseded by term %u", promised),
			 sk_errdetail_state(tl)));
}

/* ---- promise ---- */

/* R1 and R2, the operation lock held: what is reported afterwards is final below term. */
static void
promise_locked(SkTimeline *tl, SkState *st, uint32 term, const char *launcher)
{
	sk_stop_writer(tl, term);
	sk_get_state(tl, st);
	st->promised = term;
	/* whose term it is, is not known here if the promise was not asked for */
	strlcpy(st->launcher, launcher ? launcher : "", sizeof(st->launcher));
	sk_op_begin(tl);
	sk_persist(tl, st, "promise");
	sk_op_end(tl);
}

void
sk_promise(SkTimeline *tl, uint64 generation, uint32 term, const char *launcher,
		   SkPromise *result)
{
	lock_opened(tl);
	sk_check_healthy(tl);
	sk_check_generation(tl, generation);
	sk_check_member(tl);
	sk_get_state(tl, &result->state);
	if (term <= result->state.promised)
		superseded(tl, result->state.promised);
	strlcpy(result->last_writer, result->state.launcher, sizeof(result->last_writer));
	promise_locked(tl, &result->state, term, launcher);
	sk_get_positions(tl, &result->positions);
	result->lease_left_ms = result->positions.lease_left_ms;
	sk_unlock(tl);
	sk_note_active(tl);
}

/* ---- elected ---- */

static void
check_history(uint32 term, XLogRecPtr x, const SkHistory *history)
{
	const SkTerm *last = skhistory_last(history);

	if (last == NULL || last->term != term || last->start != x)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the history does not end with term %u at %X/%X",
						term, LSN_FORMAT_ARGS(x))));
}

/* R7: the election is known here already; true if so. */
static bool
already_elected(const SkState *st, uint32 term, XLogRecPtr x)
{
	const SkTerm *known = skhistory_find(&st->history, term);

	if (known != NULL && known->start != x)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("term %u begins at %X/%X here, not at %X/%X", term,
						LSN_FORMAT_ARGS(known->start), LSN_FORMAT_ARGS(x))));
	return known != NULL;
}

/* R6: what is beyond the common part goes, and never a byte that is committed. */
static XLogRecPtr
common_end(SkTimeline *tl, const SkState *st, const SkHistory *history)
{
	XLogRecPtr	end = skhistory_common(&st->history, sk_flush_lsn(tl), history, st->commit_lsn);

	if (end < st->commit_lsn)
	{
		(void) sk_set_problem(tl, "An election was refused whose history lacks committed WAL.");
		ereport(ERROR,
				(errcode(ERRCODE_NS_DAMAGED),
				 errmsg("the elected history shares WAL up to %X/%X only, but it is committed up to %X/%X here",
						LSN_FORMAT_ARGS(end), LSN_FORMAT_ARGS(st->commit_lsn)),
				 sk_errdetail_state(tl)));
	}
	return end;
}

/* A crash in the cut must not look like WAL that was lost. */
static void
forget_beyond(SkTimeline *tl, SkState *st, XLogRecPtr end)
{
	if (st->acked_lsn <= end && st->clean_end == InvalidXLogRecPtr)
		return;
	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->st.acked_lsn = Min(tl->shared->st.acked_lsn, end);
	SpinLockRelease(&tl->shared->mutex);
	st->acked_lsn = Min(st->acked_lsn, end);
	st->clean_end = InvalidXLogRecPtr;
	sk_persist(tl, st, "cut");
}

static void
adopt_history(SkTimeline *tl, SkState *st, const SkHistory *history)
{
	SkHistory	kept = *history;
	XLogRecPtr	end;

	sk_get_state(tl, st);
	end = common_end(tl, st, history);
	if (!skhistory_compact(&kept, st->commit_lsn))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many terms above the committed WAL"),
				 sk_errdetail_state(tl)));
	sk_op_begin(tl);
	forget_beyond(tl, st, end);
	skwal_truncate(tl, end);
	st->history = kept;
	sk_persist(tl, st, "history");
	sk_op_end(tl);
}

void
sk_elected(SkTimeline *tl, uint64 generation, uint32 term, XLogRecPtr x,
		   const SkHistory *history)
{
	SkState		st;

	check_history(term, x, history);
	lock_opened(tl);
	sk_check_healthy(tl);
	sk_check_generation(tl, generation);
	sk_check_member(tl);
	sk_get_state(tl, &st);
	if (st.promised > term)
		superseded(tl, st.promised);
	if (!already_elected(&st, term, x))
	{
		if (st.promised < term)
			promise_locked(tl, &st, term, NULL);
		else
			sk_stop_writer(tl, 0);
		adopt_history(tl, &st, history);
	}
	sk_unlock(tl);
	sk_note_active(tl);
}

/* ---- commit and the read lease ---- */

/*
 * May a compute that knows this generation hold a lease here?  The one before
 * will do: of it and this one, one is joint, and a majority of a joint one is a
 * majority of either of its neighbours.
 */
static bool
lease_generation_ok(const SkState *st, uint64 generation)
{
	return generation == st->config.generation || generation + 1 == st->config.generation;
}

/* The longest lease is on disk before it is granted. */
static void
persist_lease(SkTimeline *tl, uint32 lease_ms)
{
	SkState		st;

	lock_opened(tl);
	sk_get_state(tl, &st);
	if (sk_status(tl) == SK_ACTIVE && st.lease_ms < lease_ms)
	{
		st.lease_ms = lease_ms;
		sk_op_begin(tl);
		sk_persist(tl, &st, "lease");
		sk_op_end(tl);
	}
	sk_unlock(tl);
}

/* A promise may have come since the guard was looked at: it is looked at again. */
static bool
grant_lease(SkTimeline *tl, uint32 term, uint32 lease_ms)
{
	SkShared   *s = tl->shared;
	uint64		now = neon_boottime_ms();
	const SkTerm *last;
	bool		granted;

	SpinLockAcquire(&s->mutex);
	last = skhistory_last(&s->st.history);
	granted = s->status == SK_ACTIVE && s->st.promised == term && s->stop_term <= term &&
		s->st.lease_ms >= lease_ms && last != NULL && last->term == term &&
		s->flush_lsn >= last->start;
	if (granted)
	{
		s->lease_term = term;
		s->lease_until = Max(s->lease_until, now + lease_ms);
	}
	SpinLockRelease(&s->mutex);
	return granted;
}

static bool
renew_lease(SkTimeline *tl, uint64 generation, uint32 term, uint32 lease_ms)
{
	SkPositions p;
	SkState		st;

	sk_get_positions(tl, &p);
	sk_get_state(tl, &st);
	if (!p.counts || p.promised != term || p.stop_term > term ||
		!lease_generation_ok(&st, generation))
		return false;
	if (st.lease_ms < lease_ms)
		persist_lease(tl, lease_ms);
	return grant_lease(tl, term, lease_ms);
}

bool
sk_commit(SkTimeline *tl, uint64 generation, uint32 term, XLogRecPtr lsn, uint32 lease_ms,
		  SkPositions *result)
{
	bool		granted;

	SkPositions p;

	sk_check_healthy(tl);
	sk_get_positions(tl, &p);
	if (generation > p.generation)
		sk_check_generation(tl, generation);
	(void) sk_raise_commit(tl, term, lsn);
	granted = lease_ms > 0 && renew_lease(tl, generation, term, lease_ms);
	sk_note_active(tl);
	sk_get_positions(tl, result);
	return granted;
}

/* Only the lease of this term ends: one of another compute runs on. */
void
sk_release(SkTimeline *tl, uint64 generation, uint32 term)
{
	SkState		st;
	bool		ours;

	lock_opened(tl);
	sk_check_healthy(tl);
	SpinLockAcquire(&tl->shared->mutex);
	ours = tl->shared->lease_term == term;
	if (ours)
		tl->shared->lease_until = 0;
	SpinLockRelease(&tl->shared->mutex);
	sk_get_state(tl, &st);
	if (ours && st.lease_ms != 0)
	{
		st.lease_ms = 0;
		sk_op_begin(tl);
		sk_persist(tl, &st, "release");
		sk_op_end(tl);
	}
	sk_unlock(tl);
}

/* ---- members ---- */

static void
adopt_config(SkTimeline *tl, SkState *st, const SkConfig *config)
{
	if (config->floor > st->promised)
	{
		sk_stop_writer(tl, config->floor);
		sk_get_state(tl, st);
		st->promised = config->floor;
		st->launcher[0] = '\0';
	}
	st->config = *config;
	sk_op_begin(tl);
	sk_persist(tl, st, "members");
	sk_op_end(tl);
}

void
sk_members(SkTimeline *tl, const SkConfig *config)
{
	SkState		st;

	lock_opened(tl);
	sk_check_healthy(tl);
	sk_get_state(tl, &st);
	if (config->generation < st.config.generation ||
		(config->generation == st.config.generation && !skconfig_equal(config, &st.config)))
		sk_check_generation(tl, config->generation == st.config.generation ?
							0 : config->generation);
	if (config->generation > st.config.generation)
		adopt_config(tl, &st, config);
	sk_unlock(tl);
	sk_note_active(tl);
}

/* ---- learners ---- */

static void
check_learner(SkTimeline *tl)
{
	SkPositions p;

	sk_get_positions(tl, &p);
	if (p.member)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this safekeeper is a member of the timeline's configuration"),
				 sk_errdetail_state(tl)));
}

/* All that a learner has is committed, so every committed log goes on from it. */
static void
check_continues(SkTimeline *tl, const SkState *st, const SkHistory *history)
{
	XLogRecPtr	flush_lsn = sk_flush_lsn(tl);

	if (skhistory_common(&st->history, flush_lsn, history, st->commit_lsn) < flush_lsn)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the given history is not that of the WAL that was learnt"),
				 sk_errdetail_state(tl)));
}

uint32
sk_follow(SkTimeline *tl, uint64 generation, const SkHistory *history)
{
	uint32		term = skhistory_last(history)->term;
	SkState		st;

	lock_opened(tl);
	sk_check_healthy(tl);
	sk_check_generation(tl, generation);
	check_learner(tl);
	sk_get_state(tl, &st);
	if (skhistory_last(&st.history)->term < term)
	{
		check_continues(tl, &st, history);
		if (st.promised < term)
			promise_locked(tl, &st, term, NULL);
		else
			sk_stop_writer(tl, 0);
		sk_get_state(tl, &st);
		st.history = *history;
		if (!skhistory_compact(&st.history, st.commit_lsn))
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("too many terms above the WAL that was learnt")));
		sk_op_begin(tl);
		sk_persist(tl, &st, "follow");
		sk_op_end(tl);
	}
	sk_unlock(tl);
	sk_note_active(tl);
	return st.promised;
}
