/*-------------------------------------------------------------------------
 *
 * history.c
 *	  History points: LSNs of a timeline that must stay readable below its
 *	  horizon; and what compaction has to keep because of them.
 *
 * A point is made and dropped under the timeline's history_lock, under which
 * the horizon is published too: whoever makes a point sees the horizon that
 * it must not lie below, and whoever takes the set sees both.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "historygc.h"
#include "timeline_shared.h"
#include "utils/timestamp.h"

/* ---- points ---- */

/* One edit; readers below the horizon look at the list again.  history_lock is held. */
static void
edit_points(Timeline *tl, const StringInfoData *body)
{
	timeline_edit(tl, body->data, body->len);
	pg_atomic_fetch_add_u32(&tl->shared->points_version, 1);
}

static void
put_point(Timeline *tl, const ManifestPoint *point)
{
	StringInfoData body;

	initStringInfo(&body);
	manifest_op_add_point(&body, point);
	edit_points(tl, &body);
	pfree(body.data);
}

/* May a new point be made here?  history_lock is held. */
static void
check_new_point(Timeline *tl, XLogRecPtr lsn)
{
	history_check(tl, lsn, pg_atomic_read_u64(&tl->shared->gc_cutoff),
				  ERRCODE_INVALID_PARAMETER_VALUE);
}

void
history_add_branch(Timeline *tl, const NeonId *child, XLogRecPtr lsn)
{
	ManifestPoint point = {.kind = HISTORY_BRANCH,.id = *child,.lsn = lsn};

	LWLockAcquire(&tl->shared->history_lock, LW_EXCLUSIVE);
	check_new_point(tl, lsn);
	put_point(tl, &point);
	LWLockRelease(&tl->shared->history_lock);
}

void
history_drop_branch(Timeline *tl, const NeonId *child)
{
	StringInfoData body;

	initStringInfo(&body);
	manifest_op_drop_point(&body, HISTORY_BRANCH, child);
	LWLockAcquire(&tl->shared->history_lock, LW_EXCLUSIVE);
	edit_points(tl, &body);
	LWLockRelease(&tl->shared->history_lock);
	pfree(body.data);
}

/* Puts an ended lease in the point's place; false if there is no such point. */
static bool
end_point(Timeline *tl, HistoryPointKind kind, const NeonId *id)
{
	const ManifestPoint *found;
	StringInfoData body;

	LWLockAcquire(&tl->shared->history_lock, LW_EXCLUSIVE);
	found = history_find_point(tl, kind, id);
	if (found != NULL)
	{
		ManifestPoint ended = *found;

		initStringInfo(&body);
		manifest_op_drop_point(&body, kind, id);
		ended.kind = HISTORY_LEASE;
		ended.expires = GetCurrentTimestamp();
		ended.length = 0;
		manifest_op_add_point(&body, &ended);
		edit_points(tl, &body);
		pfree(body.data);
	}
	LWLockRelease(&tl->shared->history_lock);
	if (found != NULL)
		history_wake();
	return found != NULL;
}

void
history_release_branch(Timeline *tl, const NeonId *child)
{
	(void) end_point(tl, HISTORY_BRANCH, child);
}

/* ---- leases ---- */

static bool
is_fresh(const ManifestPoint *lease, XLogRecPtr lsn, int64 length, TimestampTz now)
{
	return lease != NULL && lease->lsn == lsn && lease->length == (uint64) length &&
		lease->expires - now > length / 3 * 2;
}

TimestampTz
history_lease(Timeline *tl, const NeonId *id, XLogRecPtr lsn, int64 length)
{
	TimestampTz now = GetCurrentTimestamp();
	ManifestPoint lease = {.kind = HISTORY_LEASE,.id = *id,.lsn = lsn,.length = length};
	const ManifestPoint *old;

	lease.expires = now + length;
	LWLockAcquire(&tl->shared->history_lock, LW_EXCLUSIVE);
	check_new_point(tl, lsn);
	old = history_find_point(tl, HISTORY_LEASE, id);
	if (is_fresh(old, lsn, length, now))
		lease = *old;
	else
		put_point(tl, &lease);
	LWLockRelease(&tl->shared->history_lock);
	return lease.expires;
}

bool
history_release_lease(Timeline *tl, const NeonId *id)
{
	return end_point(tl, HISTORY_LEASE, id);
}

bool
history_drop_ended(Timeline *tl, TimestampTz before)
{
	StringInfoData body;
	Manifest   *m;
	bool		any;

	initStringInfo(&body);
	LWLockAcquire(&tl->shared->history_lock, LW_EXCLUSIVE);
	m = timeline_read_manifest(tl);
	for (int i = 0; i < m->npoints; i++)
	{
		if (history_end_of(&m->points[i]) <= before)
			manifest_op_drop_point(&body, m->points[i].kind, &m->points[i].id);
	}
	any = body.len > 0;
	if (any)
		edit_points(tl, &body);
	LWLockRelease(&tl->shared->history_lock);
	manifest_free(m);
	pfree(body.data);
	return any;
}

/* ---- what compaction has to keep ---- */

static int
compare_lsn(const void *a, const void *b)
{
	XLogRecPtr	x = *(const XLogRecPtr *) a;
	XLogRecPtr	y = *(const XLogRecPtr *) b;

	return x == y ? 0 : (x < y ? -1 : 1);
}

RetentionSet *
history_retention(Timeline *tl)
{
	RetentionSet *set;
	Manifest   *m;
	int			n = 0;

	LWLockAcquire(&tl->shared->history_lock, LW_SHARED);
	m = timeline_read_manifest(tl);
	set = palloc(sizeof(RetentionSet) + m->npoints * sizeof(XLogRecPtr));
	set->horizon = history_usable_horizon(tl);
	LWLockRelease(&tl->shared->history_lock);

	set->points = (XLogRecPtr *) (set + 1);
	for (int i = 0; i < m->npoints; i++)
	{
		if (m->points[i].lsn <= set->horizon)
			set->points[n++] = m->points[i].lsn;
	}
	manifest_free(m);
	qsort(set->points, n, sizeof(XLogRecPtr), compare_lsn);
	set->npoints = 0;
	for (int i = 0; i < n; i++)
	{
		if (set->npoints == 0 || set->points[set->npoints - 1] != set->points[i])
			set->points[set->npoints++] = set->points[i];
	}
	return set;
}
