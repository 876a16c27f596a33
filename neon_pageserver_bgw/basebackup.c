/*-------------------------------------------------------------------------
 *
 * basebackup.c
 *	  PROCEDURE basebackup: what a compute needs to boot at an LSN, as a tar.
 *
 * Everything but relation files: those are fetched page by page, and their
 * sizes are in neon.relsizes.  Forks of unlogged relations are the exception:
 * their init forks are real files, each with a copy as main fork, because a
 * start without recovery does not reset them.  The control file comes last.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/multixact.h"
#include "access/xlog_internal.h"
#include "blobs.h"
#include "bootfiles.h"
#include "catalog/catversion.h"
#include "catalog/pg_tablespace_d.h"
#include "common/relpath.h"
#include "copyio.h"
#include "fmgr.h"
#include "history.h"
#include "ingest.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "read.h"
#include "savedstate.h"
#include "service.h"
#include "slru.h"
#include "sqlutil.h"
#include "store.h"
#include "tarstream.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(neon_basebackup);

#define SLRU_FILE_PAGES		32
#define PAGES_PER_READ		32
/*
 * A lease of the boot LSN, for a boot that never comes; neon_compute/bootlease.c
 * makes it longer when the endpoint has started.
 */
#define BOOT_LEASE_US		(10 * USECS_PER_MINUTE)

#define PG_VERSION_FILE		PG_MAJORVERSION "\n"

/* pg_logical/replorigin_checkpoint */
#define ORIGIN_MAGIC		((uint32) 0x1257DADE)

static const char *const directories[] = {
	"base", "global", "pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_logical/mappings",
	"pg_logical/snapshots", "pg_multixact", "pg_multixact/members", "pg_multixact/offsets",
	"pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp",
	"pg_subtrans", "pg_tblspc", "pg_twophase", "pg_wal", "pg_wal/archive_status", "pg_xact",
};

/* One entry of neon.relsizes, as it is written. */
typedef struct SizeEntry
{
	uint32		spc;
	uint32		db;
	uint32		rel;
	uint32		fork;
	uint32		nblocks;
} SizeEntry;

typedef struct SizeHeader
{
	char		magic[4];
	uint32		version;
	uint64		lsn;
	uint32		nforks;
	uint32		crc;			/* CRC32C of the entries */
} SizeHeader;

typedef struct DatabaseDir
{
	Oid			spc;
	Oid			db;
} DatabaseDir;

typedef struct Backup
{
	BootPlan	plan;
	char	   *wal;
	SizeEntry  *sizes;			/* all forks, in key order */
	uint64		nsizes;
	uint64		maxsizes;
	DatabaseDir *dirs;			/* written so far */
	int			ndirs;
	int			maxdirs;
	StringInfoData origins;
	MemoryContext temp;			/* reset often */
} Backup;

/* ---- scanning ---- */

static void
scan_kind(Backup *backup, NeonKeyKind kind, StoreScanCallback cb)
{
	NeonKey		lo = neon_key(kind, 0, 0, 0, 0, 0);
	NeonKey		hi = neon_key(kind, PG_UINT32_MAX, PG_UINT32_MAX, PG_UINT32_MAX, MAX_FORKNUM,
							  PG_UINT32_MAX);

	store_scan(backup->plan.tl, &lo, &hi, backup->plan.lsn, cb, backup);
}

static void
bad_blob(const NeonKey *key)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("stored state of kind 0x%02X (%u/%u/%u) is damaged",
					key->kind, key->spc, key->db, key->rel)));
}

/* ---- databases and tablespaces ---- */

/* Directory of a database in a tablespace, palloc'd. */
static char *
database_path(Oid spc, Oid db)
{
	if (spc == GLOBALTABLESPACE_OID)
		return pstrdup("global");
	if (spc == DEFAULTTABLESPACE_OID)
		return psprintf("base/%u", db);
	return psprintf("pg_tblspc/%u/%s/%u", spc, TABLESPACE_VERSION_DIRECTORY, db);
}

/* Writes the directory unless it is there. */
static void
need_database_directory(Backup *backup, Oid spc, Oid db)
{
	char	   *path;

	if (spc == GLOBALTABLESPACE_OID)
		return;
	for (int i = backup->ndirs - 1; i >= 0; i--)
		if (backup->dirs[i].spc == spc && backup->dirs[i].db == db)
			return;
	if (backup->ndirs == backup->maxdirs)
	{
		backup->maxdirs *= 2;
		backup->dirs = repalloc(backup->dirs, backup->maxdirs * sizeof(DatabaseDir));
	}
	backup->dirs[backup->ndirs].spc = spc;
	backup->dirs[backup->ndirs++].db = db;
	path = database_path(spc, db);
	tar_directory(path);
	pfree(path);
}

static bool
write_tablespace(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	char		path[MAXPGPATH];

	snprintf(path, sizeof(path), "pg_tblspc/%u", key->spc);
	tar_directory(path);
	snprintf(path, sizeof(path), "pg_tblspc/%u/%s", key->spc, TABLESPACE_VERSION_DIRECTORY);
	tar_directory(path);
	return true;
}

static bool
write_database(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	Backup	   *backup = arg;
	DatabaseBlob *blob = palloc(sizeof(DatabaseBlob));
	char	   *dir = database_path(key->spc, key->db);

	if (newest->value_kind != NEON_VALUE_BLOB ||
		!blob_get_database(newest->data, newest->len, blob))
		bad_blob(key);
	need_database_directory(backup, key->spc, key->db);
	if (key->db != InvalidOid)
		tar_file(psprintf("%s/PG_VERSION", dir), PG_VERSION_FILE, strlen(PG_VERSION_FILE));
	if (blob->relmap_len > 0)
		tar_file(psprintf("%s/pg_filenode.map", dir), blob->relmap, blob->relmap_len);
	pfree(dir);
	pfree(blob);
	return true;
}

/* ---- relation sizes and unlogged relations ---- */

static bool
collect_size(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	Backup	   *backup = arg;
	SizeEntry  *entry;
	RelSize		size;

	if (newest->value_kind != NEON_VALUE_SIZE ||
		!relsize_decode(newest->data, newest->len, &size))
		bad_blob(key);
	if (size.dropped || key->fork == FSM_FORKNUM)
		return true;
	if (backup->nsizes == backup->maxsizes)
	{
		backup->maxsizes *= 2;
		backup->sizes = repalloc_huge(backup->sizes, backup->maxsizes * sizeof(SizeEntry));
	}
	entry = &backup->sizes[backup->nsizes++];
	entry->spc = key->spc;
	entry->db = key->db;
	entry->rel = key->rel;
	entry->fork = key->fork;
	entry->nblocks = size.nblocks;
	return true;
}

static bool
same_relation(const SizeEntry *a, const SizeEntry *b)
{
	return a->spc == b->spc && a->db == b->db && a->rel == b->rel;
}

/* All pages of an init fork into one file. */
static void
write_init_fork(Backup *backup, const SizeEntry *entry, ForkNumber as)
{
	RelFileNode rnode = {entry->spc, entry->db, entry->rel};
	char	   *path = GetRelationPath(entry->db, entry->spc, entry->rel, InvalidBackendId, as);
	char	   *page = palloc(BLCKSZ);

	tar_file_begin(path, (uint64) entry->nblocks * BLCKSZ);
	for (BlockNumber blk = 0; blk < entry->nblocks; blk++)
	{
		NeonKey		key = neon_page_key(rnode, INIT_FORKNUM, blk);

		read_page(backup->plan.tl, &key, backup->plan.lsn, page);
		tar_file_bytes(page, BLCKSZ);
	}
	tar_file_end();
	pfree(page);
	pfree(path);
}

/*
 * Takes the forks of unlogged relations out of the list and writes their init
 * forks.
 */
static void
write_unlogged(Backup *backup)
{
	uint64		kept = 0;

	for (uint64 i = 0; i < backup->nsizes;)
	{
		uint64		next = i;

		while (next < backup->nsizes && same_relation(&backup->sizes[i], &backup->sizes[next]))
			next++;
		if (backup->sizes[next - 1].fork == INIT_FORKNUM)
		{
			write_init_fork(backup, &backup->sizes[next - 1], INIT_FORKNUM);
			write_init_fork(backup, &backup->sizes[next - 1], MAIN_FORKNUM);
		}
		else
		{
			memmove(&backup->sizes[kept], &backup->sizes[i], (next - i) * sizeof(SizeEntry));
			kept += next - i;
		}
		i = next;
	}
	backup->nsizes = kept;
}

/* Directories of databases in other tablespaces than their own. */
static void
write_relation_directories(Backup *backup)
{
	for (uint64 i = 0; i < backup->nsizes; i++)
		if (i == 0 || backup->sizes[i].spc != backup->sizes[i - 1].spc ||
			backup->sizes[i].db != backup->sizes[i - 1].db)
			need_database_directory(backup, backup->sizes[i].spc, backup->sizes[i].db);
}

static void
write_sizes(Backup *backup)
{
	SizeHeader	header = {.magic = {'N', 'R', 'S', '1'}, .version = 1};
	uint64		bytes = backup->nsizes * sizeof(SizeEntry);

	if (backup->nsizes > PG_UINT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many relations")));
	header.lsn = backup->plan.lsn;
	header.nforks = backup->nsizes;
	INIT_CRC32C(header.crc);
	COMP_CRC32C(header.crc, backup->sizes, bytes);
	FIN_CRC32C(header.crc);
	tar_file_begin("neon.relsizes", sizeof(header) + bytes);
	tar_file_bytes(&header, sizeof(header));
	tar_file_bytes(backup->sizes, bytes);
	tar_file_end();
}

/* ---- SLRUs ---- */

/* Number of pages after which page numbers of an SLRU begin again. */
static uint64
slru_page_limit(NeonSlru slru)
{
	uint64		items = (uint64) 1 << 32;
	uint32		per_page = 1;

	switch (slru)
	{
		case NEON_SLRU_CLOG:
			per_page = BLCKSZ * 4;
			break;
		case NEON_SLRU_MXOFFSETS:
			per_page = BLCKSZ / sizeof(MultiXactOffset);
			break;
		case NEON_SLRU_MXMEMBERS:
			per_page = BLCKSZ / 20 * 4;
			break;
		case NEON_SLRU_COMMIT_TS:
			per_page = BLCKSZ / 10;
			break;
	}
	return (items + per_page - 1) / per_page;
}

/* One segment file, with npages pages. */
static void
write_slru_segment(Backup *backup, NeonSlru slru, uint32 segno, uint32 npages)
{
	PGAlignedBlock page;
	char		path[MAXPGPATH];

	snprintf(path, sizeof(path), "%s/%04X", slru_dir(slru), segno);
	tar_file_begin(path, (uint64) npages * BLCKSZ);
	for (uint32 i = 0; i < npages; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(backup->temp);

		slru_page_at(backup->plan.tl, slru, segno * SLRU_FILE_PAGES + i, backup->plan.lsn,
					 page.data);
		MemoryContextSwitchTo(old);
		MemoryContextReset(backup->temp);
		tar_file_bytes(page.data, BLCKSZ);
	}
	tar_file_end();
}

static void
write_slru(Backup *backup, NeonSlru slru)
{
	uint32		last_segno = (slru_page_limit(slru) - 1) / SLRU_FILE_PAGES;
	BlockNumber oldest;
	BlockNumber latest;
	uint32		segno;

	if (!slru_bounds_at(backup->plan.tl, slru, backup->plan.lsn, &oldest, &latest))
		return;
	if (oldest >= slru_page_limit(slru) || latest >= slru_page_limit(slru))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored bounds of %s are damaged", slru_dir(slru))));
	segno = oldest / SLRU_FILE_PAGES;
	while (segno != latest / SLRU_FILE_PAGES)
	{
		write_slru_segment(backup, slru, segno, SLRU_FILE_PAGES);
		segno = segno == last_segno ? 0 : segno + 1;
	}
	write_slru_segment(backup, slru, segno, latest % SLRU_FILE_PAGES + 1);
}

/* ---- prepared transactions and replication origins ---- */

static bool
write_twophase(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	char		path[MAXPGPATH];
	const char *state = NULL;
	uint32		len = 0;
	pg_crc32c	crc;

	if (newest->value_kind != NEON_VALUE_BLOB ||
		!blob_get_twophase(newest->data, newest->len, &state, &len))
		bad_blob(key);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, state, len);
	FIN_CRC32C(crc);
	snprintf(path, sizeof(path), "pg_twophase/%08X", key->blk);
	tar_file_begin(path, len + sizeof(crc));
	tar_file_bytes(state, len);
	tar_file_bytes(&crc, sizeof(crc));
	tar_file_end();
	return true;
}

static bool
collect_origin(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	Backup	   *backup = arg;
	struct
	{
		RepOriginId origin;
		XLogRecPtr	remote_lsn;
	}			entry;

	memset(&entry, 0, sizeof(entry));
	entry.origin = (RepOriginId) key->rel;
	if (newest->value_kind != NEON_VALUE_BLOB ||
		!blob_get_origin(newest->data, newest->len, &entry.remote_lsn))
		bad_blob(key);
	appendBinaryStringInfo(&backup->origins, (char *) &entry, sizeof(entry));
	return true;
}

static void
write_origins(Backup *backup)
{
	StringInfo	file = &backup->origins;
	uint32		magic = ORIGIN_MAGIC;
	pg_crc32c	crc;

	initStringInfo(file);
	appendBinaryStringInfo(file, (char *) &magic, sizeof(magic));
	scan_kind(backup, NEON_KEY_ORIGIN, collect_origin);
	if (file->len == sizeof(magic))
		return;
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, file->data, file->len);
	FIN_CRC32C(crc);
	appendBinaryStringInfo(file, (char *) &crc, sizeof(crc));
	tar_file("pg_logical/replorigin_checkpoint", file->data, file->len);
}

/* ---- the whole ---- */

static void
write_wal(Backup *backup)
{
	uint32		segsize = backup->plan.tl->id.wal_segment_size;
	XLogSegNo	segno;

	XLByteToSeg(backup->plan.lsn, segno, segsize);
	for (int i = 0; i < backup->plan.place.nsegments; i++)
	{
		char		name[MAXFNAMELEN];
		char		path[MAXPGPATH];

		XLogFileName(name, 1, segno + i, segsize);
		snprintf(path, sizeof(path), "pg_wal/%s", name);
		tar_file(path, backup->wal + (Size) i * segsize, segsize);
	}
}

static void
write_boot_text(Backup *backup)
{
	StringInfoData text;

	initStringInfo(&text);
	boot_text(&backup->plan, &text);
	tar_file("neon.boot", text.data, text.len);
}

static void
write_all(Backup *backup)
{
	char		control[PG_CONTROL_FILE_SIZE];

	for (int i = 0; i < lengthof(directories); i++)
		tar_directory(directories[i]);
	tar_file("PG_VERSION", PG_VERSION_FILE, strlen(PG_VERSION_FILE));
	scan_kind(backup, NEON_KEY_TABLESPACE, write_tablespace);
	scan_kind(backup, NEON_KEY_DATABASE, write_database);
	scan_kind(backup, NEON_KEY_SIZE, collect_size);
	write_relation_directories(backup);
	write_unlogged(backup);
	for (int slru = 0; slru < NEON_NUM_SLRUS; slru++)
		write_slru(backup, slru);
	scan_kind(backup, NEON_KEY_TWOPHASE, write_twophase);
	write_origins(backup);
	write_sizes(backup);
	savedstate_send(backup->plan.tl, backup->plan.kind);
	write_boot_text(backup);
	write_wal(backup);
	boot_control_file(&backup->plan, control);
	tar_file("global/pg_control", control, sizeof(control));
}

/*
 * An endpoint that will read as of its boot LSN gets a lease of it, anew when
 * the copy ends; it renews it.  Where nothing can be written, nothing is removed
 * either.
 */
static void
hold_boot_lsn(Timeline *tl, BootKind kind, const NeonId *boot_id, XLogRecPtr lsn)
{
	if (kind != BOOT_PRIMARY && !neon_id_is_zero(boot_id) &&
		timeline_state(tl) == TIMELINE_ACTIVE)
		(void) history_lease(tl, boot_id, lsn, BOOT_LEASE_US);
}

static void
prepare(FunctionCallInfo fcinfo, Backup *backup)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	BootKind	kind;
	int32		term;
	NeonId		boot_id = {{0}};

	if (PG_ARGISNULL(2) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lsn and term must not be null")));
	term = PG_GETARG_INT32(3);
	if (term < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("term must not be negative")));
	kind = boot_kind_from_name(sql_text_arg(fcinfo, 4, "kind"));
	if (!PG_ARGISNULL(5))
		boot_id = sql_id_arg(fcinfo, 5, "boot");
	timeline_check_readable(tl);
	ingest_catch_up(tl);
	boot_wait(tl, PG_GETARG_LSN(2));
	history_read_begin_at(tl, PG_GETARG_LSN(2));
	hold_boot_lsn(tl, kind, &boot_id, PG_GETARG_LSN(2));
	boot_plan(&backup->plan, tl, kind, term, &boot_id, PG_GETARG_LSN(2));
	backup->wal = boot_wal(&backup->plan);
	backup->maxsizes = 1024;
	backup->sizes = palloc(backup->maxsizes * sizeof(SizeEntry));
	backup->maxdirs = 64;
	backup->dirs = palloc(backup->maxdirs * sizeof(DatabaseDir));
}

Datum
neon_basebackup(PG_FUNCTION_ARGS)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "neon base backup",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Backup		backup = {0};

	PG_TRY();
	{
		backup.temp = AllocSetContextCreate(context, "neon base backup page",
											ALLOCSET_DEFAULT_SIZES);
		prepare(fcinfo, &backup);
		MemoryContextSwitchTo(old);
		copyio_begin(fcinfo, "basebackup", COPYIO_OUT);
		MemoryContextSwitchTo(context);
		/* the read that began above ended with its transaction */
		history_read_begin_at(backup.plan.tl, backup.plan.lsn);
		pgstat_report_activity(STATE_RUNNING, "basebackup");
		tar_begin();
		write_all(&backup);
		hold_boot_lsn(backup.plan.tl, backup.plan.kind, &backup.plan.boot_id, backup.plan.lsn);
		history_read_end();
		service_count(SERVE_BYTES_SENT, tar_end());
		service_count(SERVE_BASEBACKUPS, 1);
		copyio_end();
	}
	PG_CATCH();
	{
		history_read_end();
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}
