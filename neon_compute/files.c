/*-------------------------------------------------------------------------
 *
 * files.c
 *	  Local files of the relations in the map.
 *
 * A file is an md.c segment file with the size that it had at the boot LSN,
 * and nothing in it.  It is created when its relation is first touched, and a
 * worker creates the rest some time after the start: a short life needs few of
 * them.  Who looks at files without the storage manager, as the size functions
 * do, creates what is missing first.  Files of the life before are taken at
 * the start, by the postmaster if there are not many forks.
 *
 * Fetched pages are written through descriptors of our own, not through those
 * of md.c, so no layout private to md.c is relied on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/objectaccess.h"
#include "catalog/pg_control.h"
#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_tablespace.h"
#include "common/controldata_utils.h"
#include "common/file_perm.h"
#include "files.h"
#include "kept.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/fmgroids.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* As many forks cost the postmaster a few hundredths of a second at most. */
#define FILES_EAGER			2000

/* The first statements, and lives that are shorter, have the disk for themselves. */
#define CREATOR_DELAY_MS	60000
#define CREATOR_POLL_MS		1000

#define WORKER_RESTART_SECONDS	1

static object_access_hook_type prev_object_access = NULL;

extern PGDLLEXPORT void neon_file_creator_main(Datum arg);

/* The path of a segment, in path[MAXPGPATH]. */
static void
relation_segment_path(RelFileNode rnode, ForkNumber forknum, BlockNumber segno, char *path)
{
	char	   *base = relpathperm(rnode, forknum);

	if (segno == 0)
		strlcpy(path, base, MAXPGPATH);
	else
		snprintf(path, MAXPGPATH, "%s.%u", base, segno);
	pfree(base);
}

static void
segment_path(const MapFork *fork, BlockNumber segno, char *path)
{
	relation_segment_path(fork->rnode, fork->forknum, segno, path);
}

/* Makes the segment, or takes that of the life before. */
static void
create_segment(MapFork *fork, BlockNumber segno, BlockNumber nblocks)
{
	char		path[MAXPGPATH];
	BlockNumber kept;
	int			fd;

	segment_path(fork, segno, path);
	kept = kept_take_segment(fork, segno, path);
	fd = BasicOpenFile(path, O_RDWR | O_CREAT | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	if (ftruncate(fd, (off_t) nblocks * BLCKSZ) != 0)
	{
		int			save_errno = errno;

		close(fd);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not set the size of file \"%s\": %m", path)));
	}
	if (kept > 0)
		kept_set_present(fork, segno, Min(kept, nblocks), fd);
	if (close(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", path)));
}

/* Every segment but the last one is full; a fork without blocks has one too. */
static void
create_segments(MapFork *fork)
{
	BlockNumber left = fork->boot_blocks;
	BlockNumber segno = 0;

	do
	{
		BlockNumber nblocks = Min(left, RELSEG_SIZE);

		create_segment(fork, segno, nblocks);
		left -= nblocks;
		segno++;
	} while (left > 0);
}

/* The caller holds the lock, or is alone, and they are missing. */
static void
create_files(MapFork *fork)
{
	create_segments(fork);
	map_file_done(fork);
}

void
files_create(MapFork *fork)
{
	LWLock	   *lock = map_file_lock(fork);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (files_missing(fork))
		create_files(fork);
	LWLockRelease(lock);
}

void
files_create_all(void)
{
	for (uint64 i = 0; i < map_nforks() && map_missing_files() > 0; i++)
	{
		CHECK_FOR_INTERRUPTS();
		files_ensure(map_fork_at(i));
	}
}

void
files_forget(MapFork *fork)
{
	LWLock	   *lock = map_file_lock(fork);

	if (pg_atomic_read_u32(&fork->file_state) == MAP_FILE_DONE)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (files_missing(fork))
		map_file_done(fork);
	LWLockRelease(lock);
}

/* So many forks at most are created by the postmaster. */
static uint64
eager_limit(void)
{
#ifdef NEON_TESTING
	if (getenv("NEON_TEST_FILES_EAGER") != NULL)
		return strtoul(getenv("NEON_TEST_FILES_EAGER"), NULL, 10);
#endif
	return FILES_EAGER;
}

/*
 * Whoever makes a relation asks the file system whether a number is in use.  The
 * counter meets numbers that are only when it has once gone round: from this on.
 */
static Oid
next_number(void)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	/* the postmaster has checked it before; if it is wrong, any number may be met */
	Oid			next = crc_ok ? control->checkPointCopy.nextOid : InvalidOid;

	pfree(control);
	return next;
}

/* Has the life before left something for it? */
static bool
has_kept_file(const MapFork *fork)
{
	char		path[MAXPGPATH];

	segment_path(fork, 0, path);
	return kept_has_file(fork, path);
}

/* No other process exists yet, so errors end the start and no lock is needed. */
void
files_startup(void)
{
	Oid			next = next_number();
	bool		few = map_nforks() <= eager_limit();

	for (uint64 i = 0; i < map_nforks(); i++)
	{
		MapFork    *fork = map_fork_at(i);

		if (files_missing(fork) && (fork->rnode.relNode >= next || (few && has_kept_file(fork))))
			create_files(fork);
	}
}

/* ----------
 * The worker
 * ----------
 */

void
neon_files_register_worker(void)
{
	BackgroundWorker worker;

	library_worker(&worker, "neon", "neon_file_creator_main", "neon file creator");
	worker.bgw_start_time = BgWorkerStart_PostmasterStart;
	worker.bgw_restart_time = WORKER_RESTART_SECONDS;
	RegisterBackgroundWorker(&worker);
}

/* Under the lock: who has begun to take a fork's files takes all of them. */
static void
take_kept_files(void)
{
	for (uint64 i = 0; i < map_nforks(); i++)
	{
		MapFork    *fork = map_fork_at(i);
		LWLock	   *lock = map_file_lock(fork);

		CHECK_FOR_INTERRUPTS();
		if (!files_missing(fork))
			continue;
		LWLockAcquire(lock, LW_EXCLUSIVE);
		if (files_missing(fork) && has_kept_file(fork))
			create_files(fork);
		LWLockRelease(lock);
	}
}

/* A stop meanwhile is no error. */
static void
wait_before_creating(void)
{
	TimestampTz until = TimestampTzPlusMilliseconds(neon_clock(), CREATOR_DELAY_MS);
	long		left;

	while (map_missing_files() > 0 &&
		   (left = TimestampDifferenceMilliseconds(neon_clock(), until)) > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(left, CREATOR_POLL_MS), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		if (ProcDiePending)
			proc_exit(0);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Ends by itself, and for good, when all files exist. */
void
neon_file_creator_main(Datum arg)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();

	take_kept_files();
	kept_finish();
	wait_before_creating();
	files_create_all();
	proc_exit(0);
}

/* ----------
 * Who needs all of them
 * ----------
 */

/*
 * Does the server look at files, or directories, without the storage manager?
 * The size functions stat() files, DROP TABLESPACE and the function that lists
 * databases in one take a directory without files for unused, and DROP DATABASE
 * removes what is there.
 */
static bool
looks_at_files(ObjectAccessType access, Oid class_id, Oid object_id)
{
	if (access == OAT_DROP)
		return class_id == DatabaseRelationId || class_id == TableSpaceRelationId;
	if (access != OAT_FUNCTION_EXECUTE)
		return false;
	switch (object_id)
	{
		case F_PG_RELATION_SIZE_REGCLASS_TEXT:
		case F_PG_TABLE_SIZE:
		case F_PG_INDEXES_SIZE:
		case F_PG_TOTAL_RELATION_SIZE:
		case F_PG_DATABASE_SIZE_NAME:
		case F_PG_DATABASE_SIZE_OID:
		case F_PG_TABLESPACE_SIZE_NAME:
		case F_PG_TABLESPACE_SIZE_OID:
		case F_PG_TABLESPACE_DATABASES:
		case F_PG_STAT_FILE_TEXT:
		case F_PG_STAT_FILE_TEXT_BOOL:
		case F_PG_LS_DIR_TEXT:
		case F_PG_LS_DIR_TEXT_BOOL_BOOL:
			return true;
		default:
			return false;
	}
}

static void
files_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (unlikely(map_missing_files() > 0) && looks_at_files(access, class_id, object_id))
		files_create_all();
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
}

void
files_install_hook(void)
{
	prev_object_access = object_access_hook;
	object_access_hook = files_object_access;
}

/* ----------
 * Contents
 * ----------
 */

int
files_open_segment(const MapFork *fork, BlockNumber blkno)
{
	char		path[MAXPGPATH];
	int			fd;

	segment_path(fork, blkno / RELSEG_SIZE, path);
	fd = OpenTransientFile(path, O_RDWR | PG_BINARY);
	if (fd < 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	return fd;
}

uint64
files_blocks(RelFileNode rnode, ForkNumber forknum)
{
	const MapFork *fork = map_lookup(rnode, forknum);
	uint64		blocks = 0;

	if (files_missing(fork))
		return fork->boot_blocks;
	for (BlockNumber segno = 0;; segno++)
	{
		char		path[MAXPGPATH];
		struct stat st;

		relation_segment_path(rnode, forknum, segno, path);
		if (stat(path, &st) != 0)
		{
			if (errno == ENOENT)
				return blocks;
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not stat file \"%s\": %m", path)));
		}
		blocks += st.st_size / BLCKSZ;
	}
}

static void
report_write_error(const MapFork *fork, BlockNumber blkno)
{
	char		path[MAXPGPATH];
	int			save_errno = errno;

	segment_path(fork, blkno / RELSEG_SIZE, path);
	errno = save_errno;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not write fetched pages to file \"%s\": %m", path),
			 errhint("Check free disk space.")));
}

void
files_write(int fd, const MapFork *fork, BlockNumber blkno, const char *pages, int nblocks)
{
	off_t		offset = (off_t) (blkno % RELSEG_SIZE) * BLCKSZ;
	size_t		left = (size_t) nblocks * BLCKSZ;

	while (left > 0)
	{
		ssize_t		n;

		errno = 0;
		pgstat_report_wait_start(WAIT_EVENT_DATA_FILE_WRITE);
		n = pg_pwrite(fd, pages, left, offset);
		pgstat_report_wait_end();
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			report_write_error(fork, blkno);
		}
		pages += n;
		offset += n;
		left -= n;
	}
}

/* Flushes the segments that exist; a relation may be dropped meanwhile. */
static void
sync_fork(const MapFork *fork)
{
	for (BlockNumber segno = 0;; segno++)
	{
		char		path[MAXPGPATH];
		int			fd;
		int			rc;

		fd = files_open_segment(fork, segno * RELSEG_SIZE);
		if (fd < 0)
			return;
		rc = pg_fsync(fd);
		if (rc != 0)
		{
			segment_path(fork, segno, path);
			ereport(data_sync_elevel(ERROR),
					(errcode_for_file_access(),
					 errmsg("could not fsync file \"%s\": %m", path)));
		}
		CloseTransientFile(fd);
		if (segno >= fork->boot_blocks / RELSEG_SIZE)
			return;
	}
}

static void
sync_directory(const MapFork *fork)
{
	char		path[MAXPGPATH];
	struct stat st;

	segment_path(fork, 0, path);
	get_parent_directory(path);
	if (stat(path, &st) == 0)
		fsync_fname(path, true);
}

void
files_sync_all(void)
{
	const MapFork *previous = NULL;

	for (uint64 i = 0; i < map_nforks(); i++)
	{
		const MapFork *fork = map_fork_at(i);

		CHECK_FOR_INTERRUPTS();
		sync_fork(fork);
		if (previous == NULL ||
			previous->rnode.spcNode != fork->rnode.spcNode ||
			previous->rnode.dbNode != fork->rnode.dbNode)
			sync_directory(fork);
		previous = fork;
	}
}
