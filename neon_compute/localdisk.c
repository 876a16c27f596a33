/*-------------------------------------------------------------------------
 *
 * localdisk.c
 *	  The limit of local disk space: how much is in use, and who waits for it.
 *
 * Space is what is allocated below base, global and pg_tblspc.  It is counted
 * from time to time by the evictor (evict.c); in between, whoever makes a
 * file larger or fills a hole adds to it, and the evictor takes off what it
 * drops.
 *
 * With SLACK the eighth of the limit (at most 256 MB) that is to stay free,
 * chunks are dropped from LIMIT - SLACK on, down to LIMIT - 5/4 SLACK; from
 * LIMIT - SLACK/2 on those who need space are held (diskhold.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/xlog.h"
#include "common/relpath.h"
#include "diskhold.h"
#include "fmgr.h"
#include "funcapi.h"
#include "map.h"
#include "miscadmin.h"
#include "neon_testpoint.h"
#include "port/atomics.h"
#include "storage/fd.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"

#define KILOBYTE			1024
#define LIMIT_MIN_KB		(16 * 1024)
#define SLACK_PART			8
#define SLACK_MAX			(UINT64CONST(256) * 1024 * 1024)
#define RANGE_PART			512
#define TEMPORARY_PART		2
#define STAT_BLOCK			512 /* the unit of st_blocks */

/* Whose temporary file it is, if that is no process. */
#define NOT_TEMPORARY		(-1)
#define NO_OWNER			0	/* not known */
#define OWNERS				64

/* Field 4 of the advisory locks that pin databases; SQL uses 1 and 2. */
#define PIN_LOCK_CLASS		0x4E45

#define PROBE_FILE			"base/neon.probe"

typedef struct DiskShared
{
	pg_atomic_uint64 used;		/* bytes */
	pg_atomic_uint64 reserved;	/* bytes, for a directory that is being copied */
	pg_atomic_uint64 request_lsn;
	pg_atomic_uint64 evicted_chunks;
	pg_atomic_uint64 evicted_bytes;
	pg_atomic_uint32 limit_kb;	/* the setting, as the evictor has read it last */
	slock_t		mutex;			/* protects the fields below */
	Latch	   *evictor;		/* NULL if it does not run */
	Oid			copy_db;		/* its copy is not counted, but what is reserved */
	Oid			copy_spc;
	XLogRecPtr	clean_before;
	int			blocker_pid;	/* 0: none */
	char		blocker[DISK_BLOCKER_SIZE]; /* or "" */
} DiskShared;

int			neon_local_size_limit = 0;
bool		disk_is_limited = false;

static DiskShared *disk = NULL;

/* Of temporary files, when this process has counted last. */
static struct
{
	uint64		bytes;
	int			nowners;
	struct
	{
		int			pid;
		uint64		bytes;
	}			owners[OWNERS];	/* those that were met first */
}			temporary;

PG_FUNCTION_INFO_V1(neon_sql_local_disk);
extern PGDLLEXPORT Datum neon_sql_local_disk(PG_FUNCTION_ARGS);

/* ----------
 * The setting
 * ----------
 */

/*
 * A limit can be changed and lifted, but not be set where there was none: what
 * this takes is made at the start.  At the start itself a value that is
 * refused here would be a warning only: disk_check_start() looks at it.
 */
static bool
check_limit(int *newval, void **extra, GucSource source)
{
	if (disk == NULL || *newval == 0)
		return true;
	if (*newval < LIMIT_MIN_KB)
	{
		GUC_check_errdetail("The limit is at least %d MB.", LIMIT_MIN_KB / KILOBYTE);
		return false;
	}
	if (!disk_is_limited)
	{
		GUC_check_errmsg("parameter \"neon.local_size_limit\" cannot be changed from 0 without restarting the server");
		GUC_check_errhint("Run \"neon endpoint config %s neon.local_size_limit=...\", then \"neon endpoint restart %s\".",
						  neon_boot.endpoint, neon_boot.endpoint);
		return false;
	}
	return true;
}

void
disk_define_settings(void)
{
	DefineCustomIntVariable("neon.local_size_limit",
							"Local disk space for relations and temporary files.",
							"0 means that there is no limit.",
							&neon_local_size_limit, 0, 0, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, check_limit, NULL, NULL);
}

/*
 * A session reads the files of settings between two statements only.  One that
 * is held in the middle of one has to know when the limit is raised.
 */
int
disk_limit_kb(void)
{
	return disk == NULL ? neon_local_size_limit : (int) pg_atomic_read_u32(&disk->limit_kb);
}

void
disk_publish_limit(void)
{
	pg_atomic_write_u32(&disk->limit_kb, neon_local_size_limit);
}

static bool
has_limit(void)
{
	return disk_is_limited && disk_limit_kb() != 0;
}

/* Beyond all disks if the limit was lifted. */
static uint64
limit_bytes(void)
{
	int			kb = disk_is_limited ? disk_limit_kb() : 0;

	return kb != 0 ? (uint64) kb * KILOBYTE : (uint64) PG_INT64_MAX;
}

static uint64
slack_bytes(void)
{
	return Min(limit_bytes() / SLACK_PART, SLACK_MAX);
}

uint64
disk_evict_from(void)
{
	return limit_bytes() - slack_bytes();
}

uint64
disk_evict_to(void)
{
	return disk_evict_from() - slack_bytes() / 4;
}

uint64
disk_hold_from(void)
{
	return limit_bytes() - slack_bytes() / 2;
}

uint64
disk_full_from(void)
{
	return limit_bytes() - slack_bytes() / 16;
}

uint32
disk_max_range(void)
{
	if (!disk_is_limited)
		return MAP_CHUNK_BLOCKS;
	return Min(limit_bytes() / RANGE_PART / BLCKSZ, MAP_CHUNK_BLOCKS);
}

/* ----------
 * Start
 * ----------
 */

void
disk_request_shmem(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(DiskShared)));
}

void
disk_shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	disk = ShmemInitStruct("neon local disk", sizeof(DiskShared), &found);
	if (!found)
	{
		memset(disk, 0, sizeof(DiskShared));
		pg_atomic_init_u64(&disk->used, 0);
		pg_atomic_init_u64(&disk->reserved, 0);
		pg_atomic_init_u64(&disk->request_lsn, neon_boot.boot_lsn);
		pg_atomic_init_u64(&disk->evicted_chunks, 0);
		pg_atomic_init_u64(&disk->evicted_bytes, 0);
		pg_atomic_init_u32(&disk->limit_kb, neon_local_size_limit);
		SpinLockInit(&disk->mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Nobody is held for temporary files, so a process may have half of the limit
 * for them, unless the configuration says something else.
 */
static void
limit_temporary_files(void)
{
	char		kilobytes[32];

	snprintf(kilobytes, sizeof(kilobytes), "%dkB", neon_local_size_limit / TEMPORARY_PART);
	SetConfigOption("temp_file_limit", kilobytes, PGC_POSTMASTER, PGC_S_DYNAMIC_DEFAULT);
}

/* Gives the space of a part of a file back, as the evictor will. */
static bool
probe_punching(int fd)
{
	char		page[BLCKSZ] = {0};

	if (NEON_TEST_FAILS("punch_hole"))
		return false;
	return pg_pwrite(fd, page, BLCKSZ, 0) == BLCKSZ &&
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BLCKSZ) == 0;
}

void
disk_check_start(void)
{
	int			fd;
	bool		ok;
	int			save_errno;

	if (neon_local_size_limit == 0)
		return;
	if (neon_local_size_limit < LIMIT_MIN_KB)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for parameter \"neon.local_size_limit\": %d kB",
						neon_local_size_limit),
				 errhint("Set it to 0 (no limit), or to at least %d MB.", LIMIT_MIN_KB / KILOBYTE)));
	fd = BasicOpenFile(PROBE_FILE, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", PROBE_FILE)));
	ok = probe_punching(fd);
	save_errno = errno;
	(void) close(fd);
	(void) unlink(PROBE_FILE);
	errno = save_errno;
	if (!ok)
		ereport(FATAL,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("local disk space cannot be limited here: %m"),
				 errdetail("The file system of the data directory does not give back parts of files (FALLOC_FL_PUNCH_HOLE)."),
				 errhint("Use another file system, or set \"neon.local_size_limit\" to 0.")));
	disk_is_limited = true;
	limit_temporary_files();
	if ((uint64) NBuffers * BLCKSZ > limit_bytes() / 2)
		ereport(WARNING,
				(errmsg("\"neon.local_size_limit\" is less than twice \"shared_buffers\""),
				 errdetail("Pages that a checkpoint writes may need more space than the limit leaves.")));
}

/* ----------
 * What is in use
 * ----------
 */

/* It cannot fall below zero: a count may have come in between. */
void
disk_add_used(int64 bytes)
{
	uint64		old = pg_atomic_read_u64(&disk->used);
	uint64		new;

	do
	{
		new = bytes < 0 && old < (uint64) -bytes ? 0 : old + bytes;
	} while (!pg_atomic_compare_exchange_u64(&disk->used, &old, new));
}

uint64
disk_used(void)
{
	return pg_atomic_read_u64(&disk->used) + pg_atomic_read_u64(&disk->reserved);
}

uint64
disk_only_here(uint64 *absent)
{
	uint64		used = disk_used();
	uint64		present;

	map_count_blocks(&present, absent);
	*absent *= BLCKSZ;
	return used - Min(used, present * BLCKSZ);
}

static void
add_temporary(int pid, uint64 bytes)
{
	int			i = 0;

	temporary.bytes += bytes;
	while (i < temporary.nowners && temporary.owners[i].pid != pid)
		i++;
	if (i == OWNERS)
		return;
	if (i == temporary.nowners)
	{
		temporary.owners[i].pid = pid;
		temporary.owners[i].bytes = 0;
		temporary.nowners++;
	}
	temporary.owners[i].bytes += bytes;
}

/* A parallel worker's are its leader's. */
static void
add_workers_to_leaders(void)
{
	int			n = temporary.nowners;

	for (int i = 0; i < n; i++)
	{
		int			pid = temporary.owners[i].pid;
		const PGPROC *proc = pid == NO_OWNER ? NULL : BackendPidGetProc(pid);
		const PGPROC *leader = proc ? *(PGPROC *volatile *) &proc->lockGroupLeader : NULL;
		uint64		bytes = temporary.owners[i].bytes;

		if (leader == NULL || leader == proc)
			continue;
		temporary.owners[i].bytes = 0;
		temporary.bytes -= bytes;
		add_temporary(leader->pid, bytes);
	}
}

/*
 * Whose temporary file or directory of such has this name: the process, or
 * NOT_TEMPORARY.  What is below a directory is of the same process.
 */
static int
temporary_owner(int owner_of_directory, const char *name)
{
	int			pid;

	if (strcmp(name, PG_TEMP_FILES_DIR) == 0)
		return NO_OWNER;
	if (owner_of_directory == NO_OWNER && sscanf(name, PG_TEMP_FILE_PREFIX "%d.", &pid) == 1 && pid > 0)
		return pid;
	return owner_of_directory;
}

/*
 * Allocated bytes of a directory with all that is in it, but for one path;
 * what vanishes counts nothing.
 */
static uint64
measure_directory(const char *path, const char *but, int owner)
{
	DIR		   *dir;
	struct dirent *entry;
	uint64		bytes = 0;

	if (strcmp(path, but) == 0 || (dir = AllocateDir(path)) == NULL)
		return 0;
	while ((entry = ReadDirExtended(dir, path, DEBUG1)) != NULL)
	{
		struct stat st;
		char		child[MAXPGPATH];
		int			child_owner = temporary_owner(owner, entry->d_name);
		uint64		own;

		if (strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
		if (stat(child, &st) != 0)
			continue;
		if (S_ISDIR(st.st_mode) && strcmp(entry->d_name, ".") != 0)
		{
			bytes += measure_directory(child, but, child_owner);
			continue;
		}
		own = (uint64) st.st_blocks * STAT_BLOCK;
		bytes += own;
		if (child_owner != NOT_TEMPORARY)
			add_temporary(child_owner, own);
	}
	FreeDir(dir);
	return bytes;
}

/* The directory that is being made as a copy, in path[MAXPGPATH], or "". */
static void
copy_path(char *path)
{
	Oid			db;
	Oid			spc;

	SpinLockAcquire(&disk->mutex);
	db = disk->copy_db;
	spc = disk->copy_spc;
	SpinLockRelease(&disk->mutex);
	path[0] = '\0';
	if (OidIsValid(db))
	{
		char	   *dir = GetDatabasePath(db, spc);

		strlcpy(path, dir, MAXPGPATH);
		pfree(dir);
	}
}

/* What comes in meanwhile may be counted twice, until the next time. */
void
disk_measure(void)
{
	uint64		before = pg_atomic_read_u64(&disk->used);
	char		copy[MAXPGPATH];
	uint64		bytes;

	copy_path(copy);
	temporary.bytes = 0;
	temporary.nowners = 0;
	bytes = measure_directory("base", copy, NOT_TEMPORARY) +
		measure_directory("global", copy, NOT_TEMPORARY) +
		measure_directory("pg_tblspc", copy, NOT_TEMPORARY);
	add_workers_to_leaders();
	disk_add_used((int64) (bytes - before));
}

uint64
disk_temporary_bytes(int *pid, uint64 *most)
{
	*pid = 0;
	*most = 0;
	for (int i = 0; i < temporary.nowners; i++)
	{
		if (temporary.owners[i].pid == NO_OWNER || temporary.owners[i].bytes <= *most)
			continue;
		*most = temporary.owners[i].bytes;
		*pid = temporary.owners[i].pid;
	}
	return temporary.bytes;
}

void
disk_note_dropped(uint32 blocks)
{
	(void) pg_atomic_fetch_add_u64(&disk->evicted_chunks, 1);
	(void) pg_atomic_fetch_add_u64(&disk->evicted_bytes, (uint64) blocks * BLCKSZ);
	disk_add_used(-(int64) blocks * BLCKSZ);
}

XLogRecPtr
disk_request_lsn(void)
{
	if (NEON_TEST_BUG("old_request"))
		return neon_boot.boot_lsn;
	return pg_atomic_read_u64(&disk->request_lsn);
}

void
disk_raise_request_lsn(XLogRecPtr lsn)
{
	if (pg_atomic_read_u64(&disk->request_lsn) < lsn)
		pg_atomic_write_u64(&disk->request_lsn, lsn);
	pg_memory_barrier();
}

/* ----------
 * Pins
 *
 * A pin is a lock of the server, so it ends with the transaction, and with the
 * process.  Those who look can see it in pg_locks.
 * ----------
 */

static LOCKTAG
pin_tag(Oid db)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, db, 0, 0, PIN_LOCK_CLASS);
	return tag;
}

void
disk_pin_database(Oid db)
{
	LOCKTAG		tag = pin_tag(db);

	if (disk_is_limited && !NEON_TEST_BUG("no_pin"))
		(void) LockAcquire(&tag, ShareLock, false, false);
}

bool
disk_lock_database(Oid db)
{
	LOCKTAG		tag = pin_tag(db);

	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

void
disk_unlock_database(Oid db)
{
	LOCKTAG		tag = pin_tag(db);

	(void) LockRelease(&tag, ExclusiveLock, true);
}

/* ----------
 * Copies
 *
 * The server copies a database's directory without asking for space.  So what
 * the copy takes is reserved before it begins.  One at a time: who copies holds
 * the lock of the database that does not exist.
 * ----------
 */

/* The sizes of the files in a directory, of which a copy has no holes. */
static uint64
file_bytes(const char *path)
{
	DIR		   *dir = AllocateDir(path);
	struct dirent *entry;
	uint64		bytes = 0;

	while ((entry = ReadDir(dir, path)) != NULL)
	{
		struct stat st;
		char		child[MAXPGPATH];

		snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
		if (stat(child, &st) == 0 && S_ISREG(st.st_mode))
			bytes += TYPEALIGN(BLCKSZ, (uint64) st.st_size);
	}
	FreeDir(dir);
	return bytes;
}

static void
set_copy(Oid db, Oid spc, uint64 bytes)
{
	SpinLockAcquire(&disk->mutex);
	disk->copy_db = db;
	disk->copy_spc = spc;
	SpinLockRelease(&disk->mutex);
	pg_atomic_write_u64(&disk->reserved, bytes);
}

/* Two copies are there at the end, of which nothing can be dropped. */
void
disk_reserve_copy(Oid db, Oid from, Oid to)
{
	LOCKTAG		tag = pin_tag(InvalidOid);
	char	   *path = GetDatabasePath(db, from);
	uint64		bytes = file_bytes(path);

	if (2 * bytes >= disk_hold_from())
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("the limit of local disk space does not allow to copy a database of %llu MB",
						(unsigned long long) (bytes / KILOBYTE / KILOBYTE)),
				 errdetail("Until it has been copied it needs twice as much; the limit (neon.local_size_limit) is %d MB.",
						   disk_limit_kb() / KILOBYTE),
				 errhint("Raise \"neon.local_size_limit\" until the endpoint has been started again.")));
	(void) LockAcquire(&tag, ExclusiveLock, true, false);
	set_copy(db, to, bytes);
	pfree(path);
}

void
disk_end_copy(bool copied)
{
	LOCKTAG		tag = pin_tag(InvalidOid);

	if (!LockHeldByMe(&tag, ExclusiveLock))
		return;
	/* that the old one was removed is seen when space is counted */
	if (copied)
		disk_add_used((int64) pg_atomic_read_u64(&disk->reserved));
	set_copy(InvalidOid, InvalidOid, 0);
	(void) LockRelease(&tag, ExclusiveLock, true);
}

const char *
disk_hydration_hint(void)
{
	if (disk_is_limited)
		return "Start the endpoint with \"neon.local_size_limit\" set to 0, and run SELECT neon.hydrate().";
	return "Run SELECT neon.hydrate() first (CREATE EXTENSION neon has it), or set neon.hydrate_rate and wait.";
}

void
disk_refuse_hydration(void)
{
	if (disk_is_limited)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a compute whose local disk space is limited cannot be hydrated"),
				 errdetail("The limit (neon.local_size_limit) is %d MB.",
						   disk_limit_kb() / KILOBYTE),
				 errhint("Start the endpoint with \"neon.local_size_limit\" set to 0. Single relations can be fetched: neon.hydrate(regclass).")));
}

/* ----------
 * The evictor
 * ----------
 */

void
disk_set_evictor(Latch *latch)
{
	SpinLockAcquire(&disk->mutex);
	disk->evictor = latch;
	SpinLockRelease(&disk->mutex);
}

void
disk_wake_evictor(void)
{
	Latch	   *latch;

	SpinLockAcquire(&disk->mutex);
	latch = disk->evictor;
	SpinLockRelease(&disk->mutex);
	if (latch)
		SetLatch(latch);
}

void
disk_set_blocker(const char *text, int pid, XLogRecPtr clean_before)
{
	SpinLockAcquire(&disk->mutex);
	strlcpy(disk->blocker, text, sizeof(disk->blocker));
	disk->blocker_pid = pid;
	disk->clean_before = clean_before;
	SpinLockRelease(&disk->mutex);
}

int
disk_read_blocker(char *text, size_t size, XLogRecPtr *clean_before)
{
	int			pid;

	SpinLockAcquire(&disk->mutex);
	strlcpy(text, disk->blocker, size);
	pid = disk->blocker_pid;
	*clean_before = disk->clean_before;
	SpinLockRelease(&disk->mutex);
	return pid;
}

/* ----------
 * Views
 * ----------
 */

void
disk_fill_stats(NeonLocalStats *stats)
{
	stats->evicted_chunks = pg_atomic_read_u64(&disk->evicted_chunks);
	stats->limit_bytes = has_limit() ? limit_bytes() : 0;
}

Datum
neon_sql_local_disk(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	char		blocker[DISK_BLOCKER_SIZE];
	XLogRecPtr	clean_before;
	int			pid = disk_read_blocker(blocker, sizeof(blocker), &clean_before);
	uint64		present;
	uint64		absent;
	Datum		values[11];
	bool		nulls[11] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!disk_is_limited)
		disk_measure();
	map_count_blocks(&present, &absent);
	present *= BLCKSZ;
	values[0] = Int64GetDatum((int64) limit_bytes());
	nulls[0] = !has_limit();
	values[1] = Int64GetDatum((int64) disk_used());
	values[2] = Int64GetDatum((int64) present);
	values[3] = Int64GetDatum(disk_used() > present ? (int64) (disk_used() - present) : 0);
	values[4] = Int64GetDatum((int64) pg_atomic_read_u64(&disk->evicted_chunks));
	values[5] = Int64GetDatum((int64) pg_atomic_read_u64(&disk->evicted_bytes));
	values[6] = LSNGetDatum(clean_before);
	nulls[6] = clean_before == InvalidXLogRecPtr || clean_before == PG_UINT64_MAX;
	values[7] = Int64GetDatum((int64) disk_holds());
	values[8] = Int32GetDatum((int32) disk_waiting());
	values[9] = CStringGetTextDatum(blocker);
	nulls[9] = blocker[0] == '\0';
	values[10] = Int32GetDatum(pid);
	nulls[10] = pid == 0;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
