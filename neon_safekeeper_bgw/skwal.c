/*-------------------------------------------------------------------------
 *
 * skwal.c
 *	  The segment files of a timeline.
 *
 * Behind the last byte that was ever written there are zeros: that is how a
 * restart knows where the log ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "init.h"
#include "neon_durable.h"
#include "neon_testpoint.h"
#include "pgstat.h"
#include "skwal.h"
#include "skwal_private.h"
#include "storage/fd.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#define WAL_TLI			1
#define COPY_CHUNK		(128 * 1024)
#define ZERO_AHEAD		(256 * 1024)
#define SMALL_WRITE		(64 * 1024)

/* What this process has open of a timeline. */
typedef struct WalFiles
{
	int			write_fd;		/* -1: none */
	XLogSegNo	write_segno;
	bool		write_dirty;
	off_t		write_zeroed;	/* bytes below are more than just allocated */
	File		read_file;		/* -1: none */
	XLogSegNo	read_segno;
	uint32		read_epoch;
} WalFiles;

static int	min_free_disk_mb = 1024;

void
skwal_define_gucs(void)
{
	DefineCustomIntVariable("neon_safekeeper.min_free_disk",
							"Free disk space below which no more WAL is taken.",
							NULL, &min_free_disk_mb, 1024, 0, INT_MAX / 2,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
}

bool
skwal_disk_has_space(void)
{
	struct statvfs fs;

	/* it may be a file system of its own */
	if (statvfs("neon", &fs) != 0)
		return true;
	return (uint64) fs.f_bavail * fs.f_frsize >= (uint64) min_free_disk_mb * 1024 * 1024;
}

/* ---- names ---- */

void
skwal_segment_path(SkTimeline *tl, XLogSegNo segno, char *path)
{
	char		name[MAXFNAMELEN];
	char		below[MAXFNAMELEN + 8];

	XLogFileName(name, WAL_TLI, segno, tl->wal_segment_size);
	snprintf(below, sizeof(below), "wal/%s", name);
	sk_path(tl, below, path);
}

static XLogSegNo
segment_of(SkTimeline *tl, XLogRecPtr lsn)
{
	return lsn / tl->wal_segment_size;
}

static XLogRecPtr
segment_start(SkTimeline *tl, XLogSegNo segno)
{
	return segno * tl->wal_segment_size;
}

static WalFiles *
wal_files(SkTimeline *tl)
{
	WalFiles   *f = tl->wal_private;

	if (f == NULL)
	{
		f = MemoryContextAllocZero(TopMemoryContext, sizeof(WalFiles));
		f->write_fd = -1;
		f->read_file = -1;
		tl->wal_private = f;
	}
	return f;
}

static void
close_writer(WalFiles *f)
{
	if (f->write_fd < 0)
		return;
	close(f->write_fd);
	ReleaseExternalFD();
	f->write_fd = -1;
	f->write_dirty = false;
}

static void
close_reader(WalFiles *f)
{
	if (f->read_file >= 0)
		FileClose(f->read_file);
	f->read_file = -1;
}

void
skwal_forget(SkTimeline *tl)
{
	WalFiles   *f = tl->wal_private;

	if (f == NULL)
		return;
	close_writer(f);
	close_reader(f);
	pfree(f);
	tl->wal_private = NULL;
}

/* ---- new segments ---- */

static bool
preallocate(int fd, off_t size)
{
	int			rc = posix_fallocate(fd, 0, size);

	if (rc == 0)
		return true;
	if (rc == EINVAL || rc == EOPNOTSUPP)
		return ftruncate(fd, size) == 0;
	errno = rc;
	return false;
}

/* A file of zeros that begins with len bytes of data, under its name and durable. */
static bool
install_segment(SkTimeline *tl, XLogSegNo segno, const char *data, size_t len)
{
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];
	char		dir[MAXPGPATH];
	int			fd;
	bool		ok;
	int			save_errno;

	skwal_segment_path(tl, segno, path);
	sk_path(tl, "wal/segment.temp", temp);
	fd = OpenTransientFile(temp, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0)
		return false;
	ok = preallocate(fd, tl->wal_segment_size) && durable_pwrite(fd, data, len, 0) &&
		pg_fsync(fd) == 0;
	save_errno = errno;
	CloseTransientFile(fd);
	errno = save_errno;
	NEON_TEST_POINT("segment-made");
	return ok && rename(temp, path) == 0 && durable_try_sync_dir(sk_path(tl, "wal", dir));
}

static void
create_segment(SkTimeline *tl, XLogSegNo segno, const char *data, size_t len)
{
	char		path[MAXPGPATH];

	if (install_segment(tl, segno, data, len))
		return;
	skwal_segment_path(tl, segno, path);
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not create file \"%s\": %m", path)));
}

void
skwal_make_first(SkTimeline *tl, XLogRecPtr start, const char *head, size_t len)
{
	create_segment(tl, segment_of(tl, start), head, len);
}

void
skwal_put_segments(SkTimeline *tl, XLogRecPtr start, const char *data, size_t len)
{
	Assert(sk_holds_lock(tl) && start % tl->wal_segment_size == 0);
	do
	{
		size_t		n = Min(len, tl->wal_segment_size);

		create_segment(tl, segment_of(tl, start), data, n);
		start += n;
		data += n;
		len -= n;
	} while (len > 0);
	pg_atomic_fetch_add_u32(&tl->shared->wal_epoch, 1);
}

/* ---- writing ---- */

/*
 * After a write or sync that failed nothing is known of the file: it is made
 * anew from what was durable before.
 */
static void
remake_segment(SkTimeline *tl, XLogSegNo segno, const char *what)
{
	XLogRecPtr	from = segment_start(tl, segno);
	XLogRecPtr	flush_lsn = sk_flush_lsn(tl);
	size_t		len = flush_lsn > from ? Min(flush_lsn - from, tl->wal_segment_size) : 0;
	int			save_errno = errno;
	char		path[MAXPGPATH];
	char	   *data = palloc(Max(len, 1));
	bool		ok;

	close_writer(wal_files(tl));
	ok = skwal_read(tl, from, data, len) && !NEON_TEST_FAILS("segment-remake") &&
		install_segment(tl, segno, data, len);
	pg_atomic_fetch_add_u32(&tl->shared->wal_epoch, 1);
	skwal_segment_path(tl, segno, path);
	if (!ok)
		sk_set_damaged(tl, psprintf("File \"%s\" could not be %s and not be made anew.",
									path, what));
	pfree(data);
	errno = save_errno;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("file \"%s\" could not be %s: %m", path, what)));
}

static void
sync_writer(SkTimeline *tl)
{
	WalFiles   *f = wal_files(tl);

	if (f->write_fd < 0 || !f->write_dirty)
		return;
	f->write_dirty = false;
	if (pg_fdatasync(f->write_fd) != 0 || NEON_TEST_FAILS("wal-sync"))
		remake_segment(tl, f->write_segno, "synchronized");
}

/* Has the segment open for writing; the one before it is durable then. */
static WalFiles *
writer_at(SkTimeline *tl, XLogSegNo segno)
{
	WalFiles   *f = wal_files(tl);
	char		path[MAXPGPATH];
	int			fd;

	if (f->write_fd >= 0 && f->write_segno == segno)
		return f;
	sync_writer(tl);
	close_writer(f);
	skwal_segment_path(tl, segno, path);
	fd = BasicOpenFile(path, O_RDWR | PG_BINARY);
	if (fd < 0 && errno == ENOENT)
	{
		create_segment(tl, segno, NULL, 0);
		fd = BasicOpenFile(path, O_RDWR | PG_BINARY);
	}
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	ReserveExternalFD();
	f->write_fd = fd;
	f->write_segno = segno;
	f->write_zeroed = 0;
	return f;
}

static void
note_written(SkTimeline *tl, XLogRecPtr end)
{
	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->written_lsn = Max(tl->shared->written_lsn, end);
	SpinLockRelease(&tl->shared->mutex);
}

static bool
write_zeros(int fd, off_t from, off_t to)
{
	static const char zeros[COPY_CHUNK];

	while (from < to)
	{
		size_t		n = Min(to - from, COPY_CHUNK);

		if (!durable_pwrite(fd, zeros, n, from))
			return false;
		from += n;
	}
	return true;
}

/*
 * The first write to space that is only allocated makes the next sync wait for
 * the file system's journal as well.  So small writes, which are commits, find
 * zeros that were written before them.
 */
static bool
zero_ahead(SkTimeline *tl, WalFiles *f, off_t end, size_t len)
{
	off_t		to = Min((end / ZERO_AHEAD + 1) * ZERO_AHEAD, tl->wal_segment_size);

	if (len >= SMALL_WRITE || end <= f->write_zeroed)
		return true;
	f->write_zeroed = to;
	return write_zeros(f->write_fd, end, to);
}

void
skwal_write(SkTimeline *tl, XLogRecPtr lsn, const char *data, size_t len)
{
	while (len > 0)
	{
		XLogSegNo	segno = segment_of(tl, lsn);
		off_t		offset = lsn - segment_start(tl, segno);
		size_t		n = Min(len, tl->wal_segment_size - offset);
		WalFiles   *f;

		sk_check_write(tl);
		f = writer_at(tl, segno);
		note_written(tl, lsn + n);
		f->write_dirty = true;
		if (!durable_pwrite(f->write_fd, data, n, offset) ||
			!zero_ahead(tl, f, offset + n, n) || NEON_TEST_FAILS("wal-write"))
			remake_segment(tl, segno, "written");
		lsn += n;
		data += n;
		len -= n;
	}
}

void
skwal_sync(SkTimeline *tl)
{
	NEON_TEST_POINT("before-wal-sync");
	sync_writer(tl);
	NEON_TEST_POINT("after-wal-sync");
}

/* ---- which segments there are ---- */

static int
compare_segno(const void *a, const void *b)
{
	XLogSegNo	x = *(const XLogSegNo *) a;
	XLogSegNo	y = *(const XLogSegNo *) b;

	return x == y ? 0 : (x < y ? -1 : 1);
}

/* Numbers in [from, to) of the stored segments, ascending; palloc'd. */
int
skwal_segments(SkTimeline *tl, XLogSegNo from, XLogSegNo to, XLogSegNo **result)
{
	char		path[MAXPGPATH];
	DIR		   *dir;
	struct dirent *de;
	int			n = 0;
	int			max = 16;

	*result = palloc(max * sizeof(XLogSegNo));
	dir = AllocateDir(sk_path(tl, "wal", path));
	while ((de = ReadDir(dir, path)) != NULL)
	{
		XLogSegNo	segno;
		TimeLineID	tli;

		if (!IsXLogFileName(de->d_name))
			continue;
		XLogFromFileName(de->d_name, &tli, &segno, tl->wal_segment_size);
		if (tli != WAL_TLI || segno < from || segno >= to)
			continue;
		if (n == max)
		{
			max *= 2;
			*result = repalloc(*result, max * sizeof(XLogSegNo));
		}
		(*result)[n++] = segno;
	}
	FreeDir(dir);
	qsort(*result, n, sizeof(XLogSegNo), compare_segno);
	return n;
}

uint64
skwal_disk_size(SkTimeline *tl)
{
	XLogSegNo  *segno;
	int			n;

	if (tl->wal_segment_size == 0)
		return 0;
	n = skwal_segments(tl, 0, PG_UINT64_MAX, &segno);
	pfree(segno);
	return (uint64) n * tl->wal_segment_size;
}

static void
remove_segment(SkTimeline *tl, XLogSegNo segno)
{
	char		path[MAXPGPATH];

	skwal_segment_path(tl, segno, path);
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

/* ---- cutting ---- */

/* The highest go first: what is left is the beginning of a log at any time. */
static void
remove_segments_from(SkTimeline *tl, XLogSegNo first)
{
	XLogSegNo  *segno;
	char		dir[MAXPGPATH];
	int			n = skwal_segments(tl, first, PG_UINT64_MAX, &segno);

	if (n > 0)
	{
		for (int i = n - 1; i >= 0; i--)
			remove_segment(tl, segno[i]);
		pg_atomic_fetch_add_u32(&tl->shared->wal_epoch, 1);
		durable_sync_dir(sk_path(tl, "wal", dir));
	}
	pfree(segno);
}

/* Zeros from lsn to the end of its segment, if there is such a file. */
static void
zero_rest(SkTimeline *tl, XLogRecPtr lsn)
{
	char		path[MAXPGPATH];
	int			fd;
	bool		ok;

	if (lsn % tl->wal_segment_size == 0 || NEON_TEST_FAILS("forget-zeros"))
		return;
	skwal_segment_path(tl, segment_of(tl, lsn), path);
	fd = OpenTransientFile(path, O_RDWR | PG_BINARY);
	ok = fd >= 0 && write_zeros(fd, lsn % tl->wal_segment_size, tl->wal_segment_size) &&
		pg_fsync(fd) == 0 && !NEON_TEST_FAILS("truncate-sync");
	if (fd >= 0)
		CloseTransientFile(fd);
	if (!ok)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write zeros to file \"%s\": %m", path)));
}

void
skwal_zero_from(SkTimeline *tl, XLogRecPtr lsn)
{
	XLogSegNo	first = (lsn + tl->wal_segment_size - 1) / tl->wal_segment_size;

	Assert(sk_holds_lock(tl));
	NEON_TEST_POINT("before-truncate");
	close_writer(wal_files(tl));
	remove_segments_from(tl, first);
	NEON_TEST_POINT("truncate-removed");
	zero_rest(tl, lsn);
	NEON_TEST_POINT("after-truncate");
}

void
skwal_truncate(SkTimeline *tl, XLogRecPtr lsn)
{
	SkShared   *s = tl->shared;
	XLogRecPtr	written;

	SpinLockAcquire(&s->mutex);
	written = s->written_lsn;
	SpinLockRelease(&s->mutex);
	if (written <= lsn)
		return;
	skwal_zero_from(tl, lsn);
	SpinLockAcquire(&s->mutex);
	s->flush_lsn = Min(s->flush_lsn, lsn);
	s->written_lsn = lsn;
	SpinLockRelease(&s->mutex);
}

/* What R10 asks for of the running term is kept in the state. */
void
skwal_remember_boot(SkTimeline *tl, SkState *st, XLogRecPtr new_start)
{
	const SkTerm *last = skhistory_last(&st->history);

	if (last && last->start >= st->wal_start && last->start < new_start &&
		!skreader_boot_record(tl, last->start, sk_flush_lsn(tl), &st->boot_term, &st->boot_id))
		st->boot_term = 0;
}

void
skwal_remove_files_below(SkTimeline *tl, XLogRecPtr lsn)
{
	XLogSegNo  *segno;
	char		dir[MAXPGPATH];
	int			n = skwal_segments(tl, 0, segment_of(tl, lsn), &segno);

	for (int i = 0; i < n; i++)
		remove_segment(tl, segno[i]);
	pfree(segno);
	pg_atomic_fetch_add_u32(&tl->shared->wal_epoch, 1);
	durable_sync_dir(sk_path(tl, "wal", dir));
}

XLogRecPtr
skwal_remove_below(SkTimeline *tl, XLogRecPtr lsn)
{
	XLogRecPtr	new_start = segment_start(tl, segment_of(tl, Min(lsn, sk_commit_lsn(tl))));
	SkState		st;

	Assert(sk_holds_lock(tl));
	sk_get_state(tl, &st);
	if (new_start <= st.wal_start)
		return st.wal_start;
	skwal_remember_boot(tl, &st, new_start);
	st.wal_start = new_start;
	sk_op_begin(tl);
	sk_persist(tl, &st, "wal-start");
	sk_op_end(tl);
	skwal_remove_files_below(tl, new_start);
	return st.wal_start;
}

/* ---- reading ---- */

/* The segment open for reading; false if it is not stored. */
static bool
reader_at(SkTimeline *tl, XLogSegNo segno)
{
	WalFiles   *f = wal_files(tl);
	uint32		epoch = pg_atomic_read_u32(&tl->shared->wal_epoch);
	char		path[MAXPGPATH];

	if (f->read_file >= 0 && f->read_segno == segno && f->read_epoch == epoch)
		return true;
	close_reader(f);
	skwal_segment_path(tl, segno, path);
	f->read_file = PathNameOpenFile(path, O_RDONLY | PG_BINARY);
	f->read_segno = segno;
	f->read_epoch = epoch;
	if (f->read_file < 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	return f->read_file >= 0;
}

static bool
read_segment(SkTimeline *tl, XLogSegNo segno, char *buf, size_t len, off_t offset)
{
	WalFiles   *f = wal_files(tl);

	if (!reader_at(tl, segno))
		return false;
	while (len > 0)
	{
		int			n = FileRead(f->read_file, buf, len, offset, PG_WAIT_EXTENSION);

		if (n < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", FilePathName(f->read_file))));
		if (n == 0)
			return false;
		buf += n;
		offset += n;
		len -= n;
	}
	return true;
}

bool
skwal_read(SkTimeline *tl, XLogRecPtr lsn, char *buf, size_t len)
{
	if (tl->wal_segment_size == 0)
		return false;
	while (len > 0)
	{
		size_t		n = Min(len, tl->wal_segment_size - lsn % tl->wal_segment_size);

		if (!read_segment(tl, segment_of(tl, lsn), buf, n, lsn % tl->wal_segment_size))
			return false;
		lsn += n;
		buf += n;
		len -= n;
	}
	return true;
}

/* ---- making durable what is read at the start ---- */

/*
 * Bytes [from, to) are written again and not only synchronized: after a sync
 * that failed in an earlier life the kernel takes pages for clean that never
 * reached the disk.
 */
static bool
rewrite_range(int fd, off_t from, off_t to)
{
	char	   *buf = palloc(COPY_CHUNK);
	bool		ok = true;

	while (ok && from < to)
	{
		size_t		n = Min(COPY_CHUNK, to - from);

		ok = durable_pread(fd, buf, n, from) == n && durable_pwrite(fd, buf, n, from);
		from += n;
	}
	pfree(buf);
	return ok && pg_fsync(fd) == 0;
}

void
skwal_secure(SkTimeline *tl, XLogRecPtr from, XLogRecPtr to)
{
	char		dir[MAXPGPATH];

	while (from < to)
	{
		XLogRecPtr	base = from - from % tl->wal_segment_size;
		XLogRecPtr	end = Min(to, base + tl->wal_segment_size);
		char		path[MAXPGPATH];
		int			fd;
		bool		ok;

		skwal_segment_path(tl, segment_of(tl, from), path);
		fd = OpenTransientFile(path, O_RDWR | PG_BINARY);
		ok = fd >= 0 && rewrite_range(fd, from - base, end - base);
		if (fd >= 0)
			CloseTransientFile(fd);
		if (!ok)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not make file \"%s\" durable: %m", path)));
		from = end;
	}
	durable_sync_dir(sk_path(tl, "wal", dir));
}

/* Is there anything but zeros from lsn on? */
bool
skwal_anything_from(SkTimeline *tl, XLogRecPtr lsn)
{
	static const PGAlignedXLogBlock zeros;
	char	   *buf = palloc(XLOG_BLCKSZ);
	XLogSegNo  *segno;
	XLogSegNo	next = (lsn + tl->wal_segment_size - 1) / tl->wal_segment_size;
	int			n = skwal_segments(tl, next, PG_UINT64_MAX, &segno);
	bool		found = n > 0;

	pfree(segno);
	while (!found && lsn % tl->wal_segment_size != 0)
	{
		size_t		len = XLOG_BLCKSZ - lsn % XLOG_BLCKSZ;

		if (!skwal_read(tl, lsn, buf, len))
			break;
		found = memcmp(buf, zeros.data, len) != 0;
		lsn += len;
	}
	pfree(buf);
	return found;
}
