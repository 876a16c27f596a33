/*-------------------------------------------------------------------------
 *
 * historygc.c
 *	  The horizon of a timeline: where it is, and how it moves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "historygc.h"
#include "timeline_shared.h"

XLogRecPtr
history_cutoff(Timeline *tl, TimestampTz *time)
{
	TimelineShared *s = tl->shared;
	XLogRecPtr	cutoff;

	timeline_check(tl);
	LWLockAcquire(&s->lock, LW_SHARED);
	cutoff = pg_atomic_read_u64(&s->gc_cutoff);
	if (time)
		*time = s->gc_cutoff_time;
	LWLockRelease(&s->lock);
	return cutoff;
}

XLogRecPtr
history_oldest(Timeline *tl)
{
	XLogRecPtr	cutoff = pg_atomic_read_u64(&tl->shared->gc_cutoff);

	if (!XLogRecPtrIsInvalid(cutoff))
		return cutoff;
	if (tl->ancestor == NULL)
		return tl->id.start_lsn;
	return Min(history_oldest(tl->ancestor), tl->id.ancestor_lsn);
}

XLogRecPtr
history_usable_horizon(Timeline *tl)
{
	TimelineShared *s = tl->shared;
	XLogRecPtr	cutoff = pg_atomic_read_u64(&s->gc_cutoff);

	if (pg_atomic_read_u64(&s->gc_horizon) != cutoff &&
		history_epoch_passed(pg_atomic_read_u64(&s->gc_epoch)))
		pg_atomic_write_u64(&s->gc_horizon, cutoff);
	return pg_atomic_read_u64(&s->gc_horizon);
}

/*
 * Readers that do not see it are waited for by who takes the retention set.
 * While those of the last time are not over, nothing new is published: else
 * one long read after another could keep the horizon from ever being used.
 */
bool
history_publish(Timeline *tl, XLogRecPtr cutoff, TimestampTz time)
{
	TimelineShared *s = tl->shared;
	StringInfoData body;
	bool		moves;

	initStringInfo(&body);
	manifest_op_gc_cutoff(&body, cutoff, time);
	LWLockAcquire(&s->history_lock, LW_EXCLUSIVE);
	moves = cutoff > pg_atomic_read_u64(&s->gc_cutoff) &&
		history_usable_horizon(tl) == pg_atomic_read_u64(&s->gc_cutoff);
	if (moves)
	{
		timeline_edit(tl, body.data, body.len);
		LWLockAcquire(&s->lock, LW_EXCLUSIVE);
		pg_atomic_write_u64(&s->gc_cutoff, cutoff);
		s->gc_cutoff_time = time;
		LWLockRelease(&s->lock);
		pg_memory_barrier();
		pg_atomic_write_u64(&s->gc_epoch, history_epoch_advance());
	}
	LWLockRelease(&s->history_lock);
	pfree(body.data);
	return moves;
}
