/*-------------------------------------------------------------------------
 *
 * import.c
 *	  A cleanly stopped data directory becomes the first state of a timeline.
 *
 * Every page is an image at the end of the shutdown checkpoint record, but
 * those of free space maps: importsaved.c has these.  The true WAL below that LSN in its segment is
 * stored too, so that the timeline's WAL has no hole.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/heaptoast.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "blobs.h"
#include "catalog/catversion.h"
#include "catalog/pg_database_d.h"
#include "catalog/pg_tablespace_d.h"
#include "common/controldata_utils.h"
#include "common/relpath.h"
#include "import.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "slru.h"
#include "storage/bufpage.h"
#include "storage/checksum.h"
#include "storage/fd.h"
#include "storage/large_object.h"
#include "storage/reinit.h"
#include "store.h"
#include "timeblock.h"
#include "utils/memutils.h"
#include "walstore.h"

#define IMPORT_TLI			1
#define SLRU_FILE_PAGES		32

#define IMPORT_ORIGIN_MAGIC	((uint32) 0x1257DADE)

/* As replorigin_checkpoint has it. */
typedef struct ImportOrigin
{
	RepOriginId origin;
	XLogRecPtr	remote_lsn;
} ImportOrigin;

typedef struct ImportJob
{
	const ImportSource *source;
	Timeline   *tl;
	StoreImport *store;
	uint64		logical_size;
	MemoryContext file_context; /* reset after each file */
} ImportJob;

static void
report_file_error(const char *verb, const char *path)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s file \"%s\": %m", verb, path)));
}

static int
open_file(const char *path)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);

	if (fd < 0)
		report_file_error("open", path);
	return fd;
}

static void
close_file(int fd, const char *path)
{
	if (CloseTransientFile(fd) != 0)
		report_file_error("close", path);
}

/* Reads up to len bytes; fewer only at the end of the file. */
static size_t
read_some(int fd, const char *path, char *buf, size_t len)
{
	size_t		done = 0;

	while (done < len)
	{
		ssize_t		n = read(fd, buf + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			report_file_error("read", path);
		if (n == 0)
			break;
		done += n;
	}
	return done;
}

/* ---- the control file and its checkpoint record ---- */

typedef struct WalFiles
{
	const char *dir;
	uint32		segsize;
	TimeLineID	tli;
} WalFiles;

static int
read_wal_page(XLogReaderState *reader, XLogRecPtr page, int reqlen, XLogRecPtr target, char *buf)
{
	WalFiles   *files = reader->private_data;
	char		name[MAXFNAMELEN];
	char		path[MAXPGPATH];
	XLogSegNo	segno;
	size_t		n;
	int			fd;

	XLByteToSeg(page, segno, files->segsize);
	XLogFileName(name, files->tli, segno, files->segsize);
	snprintf(path, sizeof(path), "%s/pg_wal/%s", files->dir, name);
	fd = open_file(path);
	if (lseek(fd, XLogSegmentOffset(page, files->segsize), SEEK_SET) < 0)
		report_file_error("seek in", path);
	n = read_some(fd, path, buf, XLOG_BLCKSZ);
	close_file(fd, path);
	return n == XLOG_BLCKSZ ? XLOG_BLCKSZ : -1;
}

/* End of the shutdown checkpoint record at start. */
static XLogRecPtr
checkpoint_record_end(const char *dir, const ControlFileData *control)
{
	WalFiles	files = {dir, control->xlog_seg_size, control->checkPointCopy.ThisTimeLineID};
	XLogReaderState *reader;
	XLogRecord *record;
	XLogRecPtr	end;
	char	   *problem = NULL;

	reader = XLogReaderAllocate(control->xlog_seg_size, NULL,
								XL_ROUTINE(.page_read = read_wal_page), &files);
	if (reader == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	reader->system_identifier = control->system_identifier;
	XLogBeginRead(reader, control->checkPoint);
	record = XLogReadRecord(reader, &problem);
	if (record == NULL ||
		XLogRecGetRmid(reader) != RM_XLOG_ID ||
		(XLogRecGetInfo(reader) & ~XLR_INFO_MASK) != XLOG_CHECKPOINT_SHUTDOWN)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("no shutdown checkpoint record at %X/%X in \"%s\"",
						LSN_FORMAT_ARGS(control->checkPoint), dir),
				 problem ? errdetail_internal("%s", problem) : 0));
	end = reader->EndRecPtr;
	XLogReaderFree(reader);
	return end;
}

/* What a server is compiled with; a stock one has no choice but these. */
static void
check_layout(const char *dir, const ControlFileData *control)
{
	if (control->blcksz != BLCKSZ || control->relseg_size != RELSEG_SIZE ||
		control->xlog_blcksz != XLOG_BLCKSZ || control->maxAlign != MAXIMUM_ALIGNOF ||
		control->nameDataLen != NAMEDATALEN || control->indexMaxKeys != INDEX_MAX_KEYS ||
		control->toast_max_chunk_size != TOAST_MAX_CHUNK_SIZE ||
		control->loblksize != LOBLKSIZE || control->floatFormat != FLOATFORMAT_VALUE ||
		!control->float8ByVal)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("data directory \"%s\" has another file layout than this server", dir),
				 errdetail("Blocks have %u bytes, those of WAL %u; here %d and %d.",
						   control->blcksz, control->xlog_blcksz, BLCKSZ, XLOG_BLCKSZ)));
}

void
import_open(ImportSource *source, const char *dir)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(dir, &crc_ok);

	if (!crc_ok)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("control file of \"%s\" has a wrong checksum", dir)));
	if (control->pg_control_version != PG_CONTROL_VERSION ||
		control->catalog_version_no != CATALOG_VERSION_NO)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("data directory \"%s\" is of another PostgreSQL version", dir)));
	if (control->state != DB_SHUTDOWNED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("data directory \"%s\" was not shut down cleanly", dir),
				 errhint("Start a server in it and stop it by pg_ctl stop -m fast.")));
	if (control->checkPointCopy.ThisTimeLineID != IMPORT_TLI)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("data directory \"%s\" is on WAL timeline %u", dir,
						control->checkPointCopy.ThisTimeLineID),
				 errdetail("Only WAL timeline 1 is supported.")));
	check_layout(dir, control);
	strlcpy(source->dir, dir, sizeof(source->dir));
	strlcpy(source->databases, dir, sizeof(source->databases));
	source->user_checkpoint = InvalidXLogRecPtr;
	source->control = *control;
	source->start = control->checkPoint;
	source->end = checkpoint_record_end(dir, control);
	pfree(control);
}

/* ---- relations ---- */

static void
put_blob(ImportJob *job, NeonKey key, StringInfo buf)
{
	store_import_put(job->store, &key, NEON_VALUE_BLOB, buf->data, buf->len);
	pfree(buf->data);
}

static void
check_page(ImportJob *job, char *page, BlockNumber blk, const char *path)
{
	PageHeader	header = (PageHeader) page;

	if (PageIsNew(page))
		return;
	if (job->source->control.data_checksum_version != 0 &&
		header->pd_checksum != pg_checksum_page(page, blk))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("checksum of block %u in file \"%s\" is wrong", blk, path)));
	if (PageGetLSN(page) > job->source->end)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("block %u in file \"%s\" is newer than the end of the WAL", blk, path)));
}

/* A page of nothing but zeros is what a block without a version is read as. */
static bool
is_zero_page(const char *page)
{
	return page[0] == '\0' && memcmp(page, page + 1, BLCKSZ - 1) == 0;
}

/*
 * Goes to where a hole of the file that begins at its next block ends, and
 * returns how many whole blocks that are.  A file system that cannot tell has none.
 */
static BlockNumber
skip_hole(int fd, const char *path)
{
	off_t		at = lseek(fd, 0, SEEK_CUR);
	off_t		data = lseek(fd, at, SEEK_DATA);
	BlockNumber blocks = 0;

	if (data < 0 && errno == ENXIO)
		data = lseek(fd, 0, SEEK_END);
	if (data > at)
		blocks = (data - at) / BLCKSZ;
	if (at < 0 || lseek(fd, at + (off_t) blocks * BLCKSZ, SEEK_SET) < 0)
		report_file_error("seek in", path);
	return blocks;
}

/* Stores one segment file's pages; returns how many there are, zeros included. */
static BlockNumber
import_segment(ImportJob *job, RelFileNode rnode, ForkNumber fork, BlockNumber first,
			   const char *path)
{
	PGAlignedBlock page;
	BlockNumber blk = first;
	int			fd = open_file(path);
	size_t		n;

	while ((n = read_some(fd, path, page.data, BLCKSZ)) == BLCKSZ)
	{
		NeonKey		key = neon_page_key(rnode, fork, blk);

		CHECK_FOR_INTERRUPTS();
		blk++;
		if (is_zero_page(page.data))
		{
			blk += skip_hole(fd, path);
			continue;
		}
		check_page(job, page.data, key.blk, path);
		store_import_put(job->store, &key, NEON_VALUE_IMAGE, page.data, BLCKSZ);
	}
	if (n != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" ends in the middle of a block", path)));
	close_file(fd, path);
	return blk - first;
}

/* One fork, beginning with its file without a segment number. */
static void
import_fork(ImportJob *job, RelFileNode rnode, ForkNumber fork, const char *path)
{
	NeonKey		key = neon_size_key(rnode, fork);
	BlockNumber nblocks = import_segment(job, rnode, fork, 0, path);
	StringInfoData buf;
	RelSize		size;

	for (int segno = 1; nblocks == (BlockNumber) segno * RELSEG_SIZE; segno++)
	{
		char	   *segment = psprintf("%s.%d", path, segno);

		if (access(segment, F_OK) != 0)
			break;
		nblocks += import_segment(job, rnode, fork, nblocks, segment);
		pfree(segment);
	}
	relsize_init(&size);
	relsize_create(&size);
	relsize_extend(&size, nblocks);
	initStringInfo(&buf);
	relsize_encode(&size, &buf);
	store_import_put(job->store, &key, NEON_VALUE_SIZE, buf.data, buf.len);
	pfree(buf.data);
	job->logical_size += (uint64) nblocks * BLCKSZ;
}

static void
import_relmap(ImportJob *job, Oid spc, Oid db, const char *dir)
{
	char	   *path = psprintf("%s/pg_filenode.map", dir);
	DatabaseBlob *blob = palloc0(sizeof(DatabaseBlob));
	int			fd = open_file(path);
	StringInfoData buf;

	blob->relmap_len = read_some(fd, path, blob->relmap, sizeof(blob->relmap));
	close_file(fd, path);
	if (blob->relmap_len == 0 || blob->relmap_len == sizeof(blob->relmap))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" has an unexpected size", path)));
	initStringInfo(&buf);
	blob_put_database(&buf, blob);
	put_blob(job, neon_key(NEON_KEY_DATABASE, spc, db, 0, 0, 0), &buf);
	pfree(blob);
	pfree(path);
}

/* All relations of one database directory. */
static void
import_database(ImportJob *job, Oid spc, Oid db, const char *dir)
{
	DIR		   *d = AllocateDir(dir);
	struct dirent *de;

	while ((de = ReadDir(d, dir)) != NULL)
	{
		RelFileNode rnode = {.spcNode = spc, .dbNode = db};
		ForkNumber	fork;
		int			oidchars;
		MemoryContext old;

		if (!parse_filename_for_nontemp_relation(de->d_name, &oidchars, &fork) ||
			fork == FSM_FORKNUM || strchr(de->d_name, '.') != NULL)
			continue;
		rnode.relNode = atooid(de->d_name);
		old = MemoryContextSwitchTo(job->file_context);
		import_fork(job, rnode, fork, psprintf("%s/%s", dir, de->d_name));
		MemoryContextSwitchTo(old);
		MemoryContextReset(job->file_context);
	}
	FreeDir(d);
	import_relmap(job, spc, db, dir);
}

static void
import_databases(ImportJob *job)
{
	char	   *base = psprintf("%s/base", job->source->databases);
	DIR		   *d;
	struct dirent *de;

	import_database(job, GLOBALTABLESPACE_OID, InvalidOid, psprintf("%s/global", job->source->dir));
	d = AllocateDir(base);
	while ((de = ReadDir(d, base)) != NULL)
	{
		if (strspn(de->d_name, "0123456789") != strlen(de->d_name) ||
			atooid(de->d_name) == Template1DbOid)
			continue;
		import_database(job, DEFAULTTABLESPACE_OID, atooid(de->d_name),
						psprintf("%s/%s", base, de->d_name));
	}
	FreeDir(d);
	import_database(job, DEFAULTTABLESPACE_OID, Template1DbOid,
					psprintf("%s/%s", job->source->dir, IMPORT_TEMPLATE_DIR));
}

/* A directory that exists in a source without user tablespaces, but is empty. */
static void
refuse_tablespaces(ImportJob *job)
{
	char	   *path = psprintf("%s/pg_tblspc", job->source->dir);
	DIR		   *d = AllocateDir(path);
	struct dirent *de;

	while ((de = ReadDir(d, path)) != NULL)
		if (de->d_name[0] != '.')
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("data directory \"%s\" has tablespaces", job->source->dir)));
	FreeDir(d);
}

/* ---- everything else ---- */

static void
import_slru_file(ImportJob *job, NeonSlru slru, BlockNumber first, const char *path,
				 BlockNumber *oldest, BlockNumber *latest)
{
	PGAlignedBlock page;
	BlockNumber blk = first;
	int			fd = open_file(path);

	while (read_some(fd, path, page.data, BLCKSZ) == BLCKSZ && blk < first + SLRU_FILE_PAGES)
	{
		NeonKey		key = slru_page_key(slru, blk);

		store_import_put(job->store, &key, NEON_VALUE_IMAGE, page.data, BLCKSZ);
		*oldest = Min(*oldest, blk);
		*latest = Max(*latest, blk);
		blk++;
	}
	close_file(fd, path);
}

static void
import_slru(ImportJob *job, NeonSlru slru)
{
	char	   *dir = psprintf("%s/%s", job->source->dir, slru_dir(slru));
	DIR		   *d = AllocateDir(dir);
	struct dirent *de;
	BlockNumber oldest = InvalidBlockNumber;
	BlockNumber latest = 0;
	StringInfoData buf;

	while ((de = ReadDir(d, dir)) != NULL)
	{
		BlockNumber segno;

		if (strspn(de->d_name, "0123456789ABCDEF") != strlen(de->d_name))
			continue;
		segno = strtoul(de->d_name, NULL, 16);
		import_slru_file(job, slru, segno * SLRU_FILE_PAGES,
						 psprintf("%s/%s", dir, de->d_name), &oldest, &latest);
	}
	FreeDir(d);
	if (oldest == InvalidBlockNumber)
		return;
	initStringInfo(&buf);
	blob_put_slru_bounds(&buf, oldest, latest);
	put_blob(job, slru_bounds_key(slru), &buf);
}

static void
import_control(ImportJob *job)
{
	const ImportSource *source = job->source;
	ControlState state;
	TimeBlock	block = {{0}};
	StringInfoData buf;

	control_init(&state, &source->control, source->start, source->end);
	timeblock_begin(&block, &state, source->end - MAXIMUM_ALIGNOF);
	initStringInfo(&buf);
	timeblock_encode(&block, source->end, &buf);
	put_blob(job, timeblock_key(source->end), &buf);

	initStringInfo(&buf);
	blob_put_file(&buf, IMPORT_CONTROL_PATH, (const char *) &source->control,
				  sizeof(source->control));
	put_blob(job, blob_file_key(IMPORT_CONTROL_PATH), &buf);
}

static void
report_bad_origins(const char *path)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" is damaged", path)));
}

/* pg_logical/replorigin_checkpoint: a magic number, entries, CRC-32C of both. */
static void
import_origins(ImportJob *job)
{
	char	   *path = psprintf("%s/pg_logical/replorigin_checkpoint", job->source->databases);
	ImportOrigin entry;
	uint32		magic;
	pg_crc32c	crc;
	pg_crc32c	stored;
	size_t		n;
	int			fd;

	if (access(path, F_OK) != 0 && errno == ENOENT)
		return;
	fd = open_file(path);
	n = read_some(fd, path, (char *) &magic, sizeof(magic));
	if (n != sizeof(magic) || magic != IMPORT_ORIGIN_MAGIC)
		report_bad_origins(path);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, &magic, sizeof(magic));
	while ((n = read_some(fd, path, (char *) &entry, sizeof(entry))) == sizeof(entry))
	{
		StringInfoData buf;

		COMP_CRC32C(crc, &entry, sizeof(entry));
		initStringInfo(&buf);
		blob_put_origin(&buf, entry.remote_lsn);
		put_blob(job, neon_key(NEON_KEY_ORIGIN, 0, 0, entry.origin, 0, 0), &buf);
	}
	close_file(fd, path);
	FIN_CRC32C(crc);
	memcpy(&stored, &entry, sizeof(stored));
	if (n != sizeof(stored) || !EQ_CRC32C(stored, crc))
		report_bad_origins(path);
}

/* The true bytes of the last segment, up to the first LSN of the timeline. */
static void
import_wal(ImportJob *job)
{
	const ImportSource *source = job->source;
	uint32		segsize = source->control.xlog_seg_size;
	XLogRecPtr	pos = source->end - XLogSegmentOffset(source->end, segsize);
	char		name[MAXFNAMELEN];
	char		path[MAXPGPATH];
	char	   *chunk = palloc(64 * 1024);
	XLogSegNo	segno;
	int			fd;

	if (pos == source->end)
		pos -= segsize;			/* ends exactly with a segment: keep that one */
	XLByteToSeg(pos, segno, segsize);
	XLogFileName(name, IMPORT_TLI, segno, segsize);
	snprintf(path, sizeof(path), "%s/pg_wal/%s", source->dir, name);
	fd = open_file(path);
	while (pos < source->end)
	{
		size_t		len = Min(source->end - pos, 64 * 1024);

		if (read_some(fd, path, chunk, len) != len)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("file \"%s\" is too short", path)));
		walstore_write(job->tl, pos, chunk, len);
		pos += len;
	}
	close_file(fd, path);
	pfree(chunk);
	walstore_sync(job->tl);
}

void
import_data_directory(Timeline *tl, const ImportSource *source)
{
	ImportJob	job = {.source = source, .tl = tl};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "neon import",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	job.file_context = AllocSetContextCreate(context, "neon import file",
											 ALLOCSET_DEFAULT_SIZES);
	refuse_tablespaces(&job);
	import_wal(&job);
	job.store = store_import_begin(tl, source->end);
	import_databases(&job);
	for (int slru = 0; slru < NEON_NUM_SLRUS; slru++)
		import_slru(&job, slru);
	import_origins(&job);
	import_control(&job);
	if (source->user_checkpoint != 0)
		import_saved(tl, source);
	store_import_finish(job.store);
	timeline_set_logical_size(tl, job.logical_size);
	timeline_set_flush_lsn(tl, source->end);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
