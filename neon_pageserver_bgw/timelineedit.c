/*-------------------------------------------------------------------------
 *
 * timelineedit.c
 *	  A timeline's manifest while the instance runs: reading its state, one
 *	  change at a time, file ids, and the last writer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "timeline_shared.h"

#define FILE_IDS_AT_ONCE	64

void
timeline_path(const NeonId *tenant, const NeonId *timeline, const char *below, char *path)
{
	char		t[NEON_ID_HEXLEN + 1];
	char		l[NEON_ID_HEXLEN + 1];
	int			n;

	n = snprintf(path, MAXPGPATH, "neon/tenants/%s/timelines/%s%s%s",
				 neon_id_format(tenant, t), neon_id_format(timeline, l),
				 below ? "/" : "", below ? below : "");
	if (n >= MAXPGPATH)
		elog(ERROR, "path is too long");
}

static void
timeline_dir(Timeline *tl, char *path)
{
	timeline_path(&tl->id.tenant, &tl->id.timeline, NULL, path);
}

Manifest *
timeline_read_manifest(Timeline *tl)
{
	char		dir[MAXPGPATH];
	Manifest   *m;

	timeline_dir(tl, dir);
	LWLockAcquire(&tl->shared->manifest_lock, LW_SHARED);
	timeline_check(tl);
	m = manifest_read(dir, &tl->shared->manifest);
	LWLockRelease(&tl->shared->manifest_lock);
	return m;
}

/* The log goes on in a new file.  manifest_lock is held. */
static bool
rewrite_manifest(Timeline *tl, const char *dir)
{
	Manifest   *m = manifest_read(dir, &tl->shared->manifest);
	bool		ok;

	ok = manifest_write_snapshot(dir, m, &tl->shared->manifest);
	manifest_free(m);
	return ok;
}

static void
edit_locked(Timeline *tl, const char *body, uint32 len)
{
	TimelineShared *s = tl->shared;
	char		dir[MAXPGPATH];
	bool		ok = true;

	timeline_dir(tl, dir);
	if (timeline_state(tl) != TIMELINE_DELETING)
		timeline_check_writable(tl);
	if (manifest_wants_rewrite(&s->manifest))
		ok = rewrite_manifest(tl, dir);
	if (ok)
		ok = manifest_append(dir, &s->manifest, body, len);
	if (!ok)
	{
		timeline_set_readonly(tl, "The manifest could not be synchronized to disk.");
		timeline_report_state(tl, TIMELINE_READONLY);
	}
}

void
timeline_edit(Timeline *tl, const char *body, uint32 len)
{
	LWLockAcquire(&tl->shared->manifest_lock, LW_EXCLUSIVE);
	timeline_check(tl);
	edit_locked(tl, body, len);
	LWLockRelease(&tl->shared->manifest_lock);
}

uint64
timeline_new_file_id(Timeline *tl)
{
	TimelineShared *s = tl->shared;
	uint64		id;

	LWLockAcquire(&s->manifest_lock, LW_EXCLUSIVE);
	timeline_check(tl);
	if (s->next_file_id >= s->reserved_file_id)
	{
		StringInfoData body;

		initStringInfo(&body);
		manifest_op_file_ids(&body, s->next_file_id + FILE_IDS_AT_ONCE);
		edit_locked(tl, body.data, body.len);
		s->reserved_file_id = s->next_file_id + FILE_IDS_AT_ONCE;
		pfree(body.data);
	}
	id = s->next_file_id++;
	LWLockRelease(&s->manifest_lock);
	return id;
}

void
timeline_lock_writer(Timeline *tl)
{
	LWLockAcquire(&tl->shared->change_lock, LW_EXCLUSIVE);
}

void
timeline_unlock_writer(Timeline *tl)
{
	LWLockRelease(&tl->shared->change_lock);
}

void
timeline_get_writer(Timeline *tl, TimelineWriter *writer)
{
	timeline_check(tl);
	LWLockAcquire(&tl->shared->lock, LW_SHARED);
	*writer = tl->shared->writer;
	LWLockRelease(&tl->shared->lock);
}

void
timeline_set_writer(Timeline *tl, const TimelineWriter *writer)
{
	StringInfoData body;

	initStringInfo(&body);
	manifest_op_writer(&body, writer);
	timeline_edit(tl, body.data, body.len);
	LWLockAcquire(&tl->shared->lock, LW_EXCLUSIVE);
	tl->shared->writer = *writer;
	LWLockRelease(&tl->shared->lock);
	pfree(body.data);
}
