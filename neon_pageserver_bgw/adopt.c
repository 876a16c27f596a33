/*-------------------------------------------------------------------------
 *
 * adopt.c
 *	  A user's cleanly stopped data directory as the beginning of a timeline.
 *
 * Computes and the storage need roles that the directory does not have, and
 * roles are made by a server.  So that the user's files stay as they are, and
 * are not copied as a whole, a small data directory is made of what a
 * single-user server touches: shared relations, template1, transaction status
 * and the last WAL.  The other databases are imported from where they are: the
 * server writes nothing of them.
 *
 * The WAL of the new roles goes on where the user's ended, so a standby made
 * from the user's directory can follow.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "adopt.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "storage/copydir.h"
#include "storage/fd.h"

/* What a server writes to when it makes a role. */
static const char *const copied_directories[] = {
	"global", IMPORT_TEMPLATE_DIR, "pg_xact", "pg_multixact", "pg_commit_ts",
};

/* Directories that a server wants to be there. */
static const char *const made_directories[] = {
	"base", "pg_dynshmem", "pg_logical", "pg_logical/mappings", "pg_logical/snapshots",
	"pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp",
	"pg_subtrans", "pg_tblspc", "pg_twophase", "pg_wal", "pg_wal/archive_status",
};

/* Their settings are the user's own, and of the server that he had. */
static const char *const empty_files[] = {
	"postgresql.conf", "pg_hba.conf", "pg_ident.conf",
};

static const char *const forbidden_files[] = {
	"standby.signal", "recovery.signal", "backup_label", "tablespace_map",
};

/* ---- what is refused ---- */

static bool
exists(const char *dir, const char *name)
{
	char		path[MAXPGPATH];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return access(path, F_OK) == 0;
}

static void
check_version(const char *pgdata)
{
	char		path[MAXPGPATH];
	char		line[16] = "";
	FILE	   *f;

	snprintf(path, sizeof(path), "%s/PG_VERSION", pgdata);
	f = AllocateFile(path, "r");
	if (f == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("\"%s\" cannot be read as a data directory: %m", pgdata),
				 errhint("The pageserver's operating system user must be able to read it.")));
	if (fgets(line, sizeof(line), f) != NULL)
		line[strcspn(line, "\n")] = '\0';
	FreeFile(f);
	if (strcmp(line, PG_MAJORVERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("data directory \"%s\" is of PostgreSQL %s, not %s", pgdata, line,
						PG_MAJORVERSION),
				 errhint("Upgrade it by pg_upgrade first.")));
}

static void
check_not_running(const char *pgdata)
{
	char		path[MAXPGPATH];
	FILE	   *f;
	int			pid = 0;

	snprintf(path, sizeof(path), "%s/postmaster.pid", pgdata);
	f = AllocateFile(path, "r");
	if (f == NULL)
		return;
	if (fscanf(f, "%d", &pid) != 1)
		pid = 0;
	FreeFile(f);
	pid = abs(pid);				/* negative: a single-user server */
	if (pid > 0 && (kill(pid, 0) == 0 || errno == EPERM))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("data directory \"%s\" is in use by a server with PID %d", pgdata, pid),
				 errhint("Stop it: pg_ctl stop -D \"%s\" -m fast", pgdata)));
}

static void
check_empty(const char *pgdata, const char *name, const char *what, const char *hint)
{
	char		path[MAXPGPATH];
	DIR		   *d;
	struct dirent *de;

	snprintf(path, sizeof(path), "%s/%s", pgdata, name);
	d = AllocateDir(path);
	while ((de = ReadDir(d, path)) != NULL)
	{
		if (de->d_name[0] != '.')
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("data directory \"%s\" has %s", pgdata, what),
					 errhint("%s", hint)));
	}
	FreeDir(d);
}

static void
check_directory(const char *pgdata)
{
	check_version(pgdata);
	check_not_running(pgdata);
	for (int i = 0; i < lengthof(forbidden_files); i++)
	{
		if (exists(pgdata, forbidden_files[i]))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("data directory \"%s\" is a standby or a backup: it has a file \"%s\"",
							pgdata, forbidden_files[i]),
					 errhint("Start a server in it, let recovery end, and stop it.")));
	}
	check_empty(pgdata, "pg_tblspc", "tablespaces",
				"Start a server in it, move everything to pg_default and drop the tablespaces.");
	check_empty(pgdata, "pg_twophase", "prepared transactions",
				"Start a server in it, and commit them or roll them back.");
}

void
adopt_check_unchanged(const char *pgdata, XLogRecPtr checkpoint)
{
	bool		crc_ok;
	ControlFileData *control;

	check_not_running(pgdata);
	control = get_controlfile(pgdata, &crc_ok);
	if (!crc_ok || control->state != DB_SHUTDOWNED || control->checkPoint != checkpoint)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a server was started in data directory \"%s\" meanwhile", pgdata)));
	pfree(control);
}

/* ---- the small data directory ---- */

static void
make_directory(const char *work, const char *name)
{
	char		path[MAXPGPATH];

	snprintf(path, sizeof(path), "%s/%s", work, name);
	if (MakePGDirectory(path) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", path)));
}

static void
make_empty_file(const char *work, const char *name)
{
	char		path[MAXPGPATH];
	int			fd;

	snprintf(path, sizeof(path), "%s/%s", work, name);
	fd = OpenTransientFile(path, O_WRONLY | O_CREAT | O_EXCL | PG_BINARY);
	if (fd < 0 || CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
}

static void
copy_one(const char *pgdata, const char *work, const char *name)
{
	char		from[MAXPGPATH];
	char		to[MAXPGPATH];

	snprintf(from, sizeof(from), "%s/%s", pgdata, name);
	snprintf(to, sizeof(to), "%s/%s", work, name);
	copy_file(from, to);
}

/* The segments of the checkpoint record: it may cross into the next one. */
static void
copy_wal(const ImportSource *user, const char *work)
{
	uint32		segsize = user->control.xlog_seg_size;
	XLogSegNo	segno;
	XLogSegNo	last;

	XLByteToSeg(user->start, segno, segsize);
	XLByteToPrevSeg(user->end, last, segsize);
	for (; segno <= last; segno++)
	{
		char		name[MAXFNAMELEN];

		XLogFileName(name, user->control.checkPointCopy.ThisTimeLineID, segno, segsize);
		copy_one(user->dir, work, psprintf("pg_wal/%s", name));
	}
}

static void
make_small_directory(const ImportSource *user, const char *work)
{
	if (MakePGDirectory(work) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", work)));
	for (int i = 0; i < lengthof(made_directories); i++)
		make_directory(work, made_directories[i]);
	for (int i = 0; i < lengthof(empty_files); i++)
		make_empty_file(work, empty_files[i]);
	copy_one(user->dir, work, "PG_VERSION");
	for (int i = 0; i < lengthof(copied_directories); i++)
	{
		char		from[MAXPGPATH];
		char		to[MAXPGPATH];

		snprintf(from, sizeof(from), "%s/%s", user->dir, copied_directories[i]);
		snprintf(to, sizeof(to), "%s/%s", work, copied_directories[i]);
		copydir(from, to, true);
	}
	copy_wal(user, work);
}

/* A standby made from the user's files begins to read at the segment of its checkpoint. */
static void
note_segment_switch(const ImportSource *user, const ImportSource *source)
{
	XLogSegNo	first;
	XLogSegNo	last;

	XLByteToSeg(user->start, first, user->control.xlog_seg_size);
	XLByteToPrevSeg(source->end, last, user->control.xlog_seg_size);
	if (first != last)
		ereport(NOTICE,
				(errmsg("a standby made from a copy of \"%s\" cannot follow this tenant", user->dir),
				 errdetail("Its last checkpoint is in the WAL segment before the one in which the tenant's history begins.")));
}

void
adopt_data_directory(ImportSource *source, const char *pgdata, const char *work,
					 const InitdbOptions *options)
{
	ImportSource user;

	check_directory(pgdata);
	import_open(&user, pgdata);
	make_small_directory(&user, work);
	initdb_add_roles(work, &user.control, options);
	import_open(source, work);
	strlcpy(source->databases, pgdata, sizeof(source->databases));
	source->user_checkpoint = user.start;
	note_segment_switch(&user, source);
}
