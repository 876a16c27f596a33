/*-------------------------------------------------------------------------
 *
 * lifecycle.c
 *	  Creation, renaming and deletion of timelines and tenants.
 *
 * All of it is serialised by the registry's create_lock.  Order of a branch:
 * point in the parent's manifest, child's directory with its manifest, slot;
 * of a deletion: directory renamed to *.deleted, parent's point dropped,
 * slot freed, files removed.  What a crash leaves is cleaned by the supervisor.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "history.h"
#include "miscadmin.h"
#include "neon_diskfull.h"
#include "neon_durable.h"
#include "nodes/pg_list.h"
#include "storage/fd.h"
#include "store_private.h"

#define STOP_WRITER_TIMEOUT_MS	30000

/* Branches that keep a timeline from being deleted and are named for it. */
#define MAX_NAMED_CHILDREN		10

/* ---- names ---- */

static void
check_name(const char *name)
{
	size_t		len = strlen(name);

	if (len == 0 || len >= NEON_NAME_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid branch name \"%s\"", name),
				 errdetail("A name has 1 to %d bytes.", NEON_NAME_MAX - 1)));
	for (const char *p = name; *p; p++)
	{
		if ((unsigned char) *p < ' ' || *p == 0x7f)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("invalid branch name"),
					 errdetail("It contains a control character.")));
	}
}

/* create_lock is held.  Unfinished roots count. */
static void
check_name_is_free(const NeonId *tenant, const char *name)
{
	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);
		bool		taken;

		if (pg_atomic_read_u32(&s->state) == TIMELINE_UNUSED ||
			!neon_id_equal(&s->id.tenant, tenant))
			continue;
		LWLockAcquire(&s->lock, LW_SHARED);
		taken = strcmp(s->name, name) == 0;
		LWLockRelease(&s->lock);
		if (taken)
		{
			char		hex[NEON_ID_HEXLEN + 1];

			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("branch \"%s\" already exists", name),
					 errdetail("It is timeline \"%s\".",
							   neon_id_format(&s->id.timeline, hex))));
		}
	}
}

static void
tenant_path(const NeonId *tenant, const char *suffix, char *path)
{
	char		hex[NEON_ID_HEXLEN + 1];

	snprintf(path, MAXPGPATH, "%s/%s%s", TENANTS_DIR, neon_id_format(tenant, hex), suffix);
}

/* ---- tenants ---- */

void
tenant_create_dir(const NeonId *tenant)
{
	char		path[MAXPGPATH];
	char		below[MAXPGPATH];

	durable_make_dir("neon", true);
	durable_make_dir(TENANTS_DIR, true);
	tenant_path(tenant, "", path);
	durable_make_dir(path, false);
	snprintf(below, sizeof(below), "%s/timelines", path);
	durable_make_dir(below, false);
}

bool
tenant_exists(const NeonId *tenant)
{
	char		path[MAXPGPATH];

	tenant_path(tenant, "", path);
	return durable_exists(path);
}

/* ---- creation ---- */

/* Directory and manifest of a new timeline, under another name than its own. */
static void
make_directory(const char *dir, const Manifest *m, ManifestPos *pos)
{
	char		below[MAXPGPATH];

	durable_remove_tree(dir);
	if (MakePGDirectory(dir) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", dir),
				 neon_hint_if_full(dir)));
	NEON_TEST_POINT("branch-directory");
	snprintf(below, sizeof(below), "%s/layers", dir);
	durable_make_dir(below, false);
	snprintf(below, sizeof(below), "%s/wal", dir);
	durable_make_dir(below, false);
	if (!manifest_write_snapshot(dir, m, pos))
		ereport(ERROR,
				(errcode(ERRCODE_IO_ERROR),
				 errmsg("could not synchronize the manifest of a new timeline")));
	NEON_TEST_POINT("branch-manifest");
}

/* Renames a directory, durably. */
static void
rename_directory(const char *path, const char *target, bool missing_ok)
{
	char		parent[MAXPGPATH];

	if (rename(path, target) != 0 && !(missing_ok && errno == ENOENT))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rename \"%s\" to \"%s\": %m", path, target)));
	NEON_TEST_POINT("directory-renamed");
	strlcpy(parent, path, sizeof(parent));
	get_parent_directory(parent);
	durable_sync_dir(parent);
}

/* Directory, manifest and slot of a new timeline.  create_lock is held. */
static void
make_timeline(const Manifest *m, TimelineState state)
{
	ManifestPos pos;
	char		dir[MAXPGPATH];
	char		unfinished[MAXPGPATH];
	char		hex[NEON_ID_HEXLEN + 1];

	timeline_path(&m->identity.tenant, &m->identity.timeline, NULL, dir);
	if (durable_exists(dir))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("timeline \"%s\" already exists",
						neon_id_format(&m->identity.timeline, hex))));
	strlcpy(unfinished, dir, sizeof(unfinished));
	strlcat(unfinished, CREATING_SUFFIX, sizeof(unfinished));
	PG_TRY();
	{
		memset(&pos, 0, sizeof(pos));
		make_directory(unfinished, m, &pos);
		rename_directory(unfinished, dir, false);
		if (timeline_register(m, &pos, state, NULL) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("this pageserver has no room for another timeline"),
					 errhint("Increase neon_pageserver.max_timelines.")));
	}
	PG_CATCH();
	{
		durable_remove_tree(unfinished);
		durable_remove_tree(dir);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

void
timeline_create_root(const TimelineIdentity *id, const char *name)
{
	Manifest	m;

	Assert(neon_id_is_zero(&id->ancestor));
	check_name(name);
	memset(&m, 0, sizeof(m));
	m.identity = *id;
	strlcpy(m.name, name, sizeof(m.name));
	m.disk_consistent_lsn = id->start_lsn;
	m.prev_record_lsn = id->start_prev;
	m.next_file_id = 1;

	timeline_lock_registry();
	check_name_is_free(&id->tenant, name);
	make_timeline(&m, TIMELINE_CREATING);
	timeline_unlock_registry();
}

void
timeline_finish_root(Timeline *tl)
{
	StringInfoData body;

	initStringInfo(&body);
	manifest_op_finished(&body);
	manifest_op_logical_size(&body, timeline_logical_size(tl));
	timeline_edit(tl, body.data, body.len);
	timeline_set_state(tl->shared, TIMELINE_ACTIVE);
	pfree(body.data);
}

static void
branch_manifest(Timeline *ancestor, const NeonId *new_id, const char *name, XLogRecPtr lsn,
				XLogRecPtr prev_record, Manifest *m)
{
	XLogRecPtr	boot_record_end;

	memset(m, 0, sizeof(*m));
	m->identity = ancestor->id;
	m->identity.timeline = *new_id;
	m->identity.ancestor = ancestor->id.timeline;
	m->identity.ancestor_lsn = lsn;
	m->identity.start_lsn = lsn;
	m->identity.start_prev = prev_record;
	strlcpy(m->name, name, sizeof(m->name));
	m->finished = true;
	m->disk_consistent_lsn = lsn;
	m->prev_record_lsn = prev_record;
	m->term = timeline_term(ancestor, &boot_record_end);
	m->boot_record_end = Min(boot_record_end, lsn);
	m->logical_size = timeline_logical_size(ancestor);
	m->next_file_id = 1;
}

void
timeline_create_branch(Timeline *ancestor, const NeonId *new_id, const char *name,
					   XLogRecPtr lsn, XLogRecPtr prev_record)
{
	Manifest	m;

	check_name(name);
	timeline_check_readable(ancestor);
	if (lsn < ancestor->id.start_lsn || lsn > timeline_last_record_lsn(ancestor))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("branch point %X/%X is outside the history of the timeline",
						LSN_FORMAT_ARGS(lsn)),
				 errdetail("The history reaches from %X/%X to %X/%X.",
						   LSN_FORMAT_ARGS(ancestor->id.start_lsn),
						   LSN_FORMAT_ARGS(timeline_last_record_lsn(ancestor)))));
	branch_manifest(ancestor, new_id, name, lsn, prev_record, &m);

	timeline_lock_registry();
	timeline_check_writable(ancestor);
	check_name_is_free(&ancestor->id.tenant, name);
	history_add_branch(ancestor, new_id, lsn);
	NEON_TEST_POINT("branch-point");
	PG_TRY();
	{
		make_timeline(&m, TIMELINE_ACTIVE);
	}
	PG_CATCH();
	{
		history_drop_branch(ancestor, new_id);
		PG_RE_THROW();
	}
	PG_END_TRY();
	timeline_unlock_registry();
}

void
timeline_rename(Timeline *tl, const char *new_name)
{
	StringInfoData body;
	char		dir[MAXPGPATH];

	check_name(new_name);
	timeline_check(tl);
	initStringInfo(&body);
	manifest_op_name(&body, new_name);
	timeline_lock_registry();
	check_name_is_free(&tl->id.tenant, new_name);
	timeline_edit(tl, body.data, body.len);
	LWLockAcquire(&tl->shared->lock, LW_EXCLUSIVE);
	strlcpy(tl->shared->name, new_name, sizeof(tl->shared->name));
	LWLockRelease(&tl->shared->lock);
	timeline_path(&tl->id.tenant, &tl->id.timeline, NULL, dir);
	manifest_note_name(dir, new_name);
	(void) durable_try_sync_dir(dir);
	timeline_unlock_registry();
	pfree(body.data);
}

/* ---- deletion ---- */

/* Appends the branch's name, as long as there are few. */
static void
name_child(TimelineShared *child, int nchildren, StringInfo names)
{
	char		name[NEON_NAME_MAX];

	if (nchildren >= MAX_NAMED_CHILDREN)
		return;
	LWLockAcquire(&child->lock, LW_SHARED);
	strlcpy(name, child->name, sizeof(name));
	LWLockRelease(&child->lock);
	appendStringInfo(names, "%s\"%s\"", nchildren > 0 ? ", " : "", name);
}

/* create_lock is held. */
static void
check_no_children(Timeline *tl)
{
	StringInfoData names;
	int			n = 0;

	initStringInfo(&names);
	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);

		if (pg_atomic_read_u32(&s->state) != TIMELINE_UNUSED &&
			neon_id_equal(&s->id.tenant, &tl->id.tenant) &&
			neon_id_equal(&s->id.ancestor, &tl->id.timeline))
			name_child(s, n++, &names);
	}
	if (n == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg_plural("the timeline has %d branch", "the timeline has %d branches", n, n),
			 n == 1 ? errdetail("Branch %s starts from it.", names.data) :
			 n <= MAX_NAMED_CHILDREN ? errdetail("Branches %s start from it.", names.data) :
			 errdetail("Branches %s and %d more start from it.", names.data, n - MAX_NAMED_CHILDREN),
			 errhint("Delete its branches first.")));
}

/* Renames to *.deleted; what an earlier deletion left under that name goes first. */
static void
rename_away(const char *path, const char *target)
{
	durable_remove_tree(target);
	rename_directory(path, target, true);
}

static void
stop_writer(Timeline *tl, TimelineState old_state)
{
	if (timeline_acquire_ownership(tl, true, STOP_WRITER_TIMEOUT_MS) &&
		store_wait_for_flusher(tl->shared, STOP_WRITER_TIMEOUT_MS))
		return;
	timeline_release_ownership(tl);
	timeline_set_state(tl->shared, old_state);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("the process that writes the timeline did not stop"),
			 errhint("Try again.")));
}

void
timeline_drop(Timeline *tl)
{
	char		path[MAXPGPATH];
	char		target[MAXPGPATH];
	TimelineState old_state;

	timeline_check(tl);
	timeline_lock_registry();
	check_no_children(tl);
	old_state = timeline_state(tl);
	timeline_set_state(tl->shared, TIMELINE_DELETING);
	timeline_unlock_registry();
	stop_writer(tl, old_state == TIMELINE_DELETING ? TIMELINE_ACTIVE : old_state);

	timeline_path(&tl->id.tenant, &tl->id.timeline, NULL, path);
	timeline_path(&tl->id.tenant, &tl->id.timeline, NULL, target);
	strlcat(target, DELETED_SUFFIX, sizeof(target));
	timeline_lock_registry();
	rename_away(path, target);
	NEON_TEST_POINT("timeline-renamed-away");
	timeline_unregister(tl->shared);
	if (tl->ancestor != NULL && timeline_state(tl->ancestor) == TIMELINE_ACTIVE)
		history_release_branch(tl->ancestor, &tl->id.timeline);
	timeline_unlock_registry();
	durable_remove_tree(target);
}

/* Handles of all timelines of the tenant. */
static List *
tenant_timelines(const NeonId *tenant)
{
	List	   *result = NIL;

	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);
		NeonId		timeline = s->id.timeline;
		Timeline   *tl;

		if (pg_atomic_read_u32(&s->state) == TIMELINE_UNUSED ||
			!neon_id_equal(&s->id.tenant, tenant))
			continue;
		tl = timeline_open(tenant, &timeline, true);
		if (tl != NULL)
			result = lappend(result, tl);
	}
	return result;
}

void
tenant_drop(const NeonId *tenant)
{
	char		path[MAXPGPATH];
	char		target[MAXPGPATH];
	List	   *timelines;
	ListCell   *lc;

	timelines = tenant_timelines(tenant);
	foreach(lc, timelines)
	{
		Timeline   *tl = lfirst(lc);
		TimelineState old_state = timeline_state(tl);

		timeline_set_state(tl->shared, TIMELINE_DELETING);
		stop_writer(tl, old_state == TIMELINE_DELETING ? TIMELINE_ACTIVE : old_state);
	}

	tenant_path(tenant, "", path);
	tenant_path(tenant, DELETED_SUFFIX, target);
	timeline_lock_registry();
	rename_away(path, target);
	foreach(lc, tenant_timelines(tenant))
		timeline_unregister(((Timeline *) lfirst(lc))->shared);
	timeline_unlock_registry();
	durable_remove_tree(target);
}
