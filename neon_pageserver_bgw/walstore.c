/*-------------------------------------------------------------------------
 *
 * walstore.c
 *	  A timeline's stored WAL: segments of full size in wal/.
 *
 * The owner keeps the segment that it writes open; readers have a cache of
 * open segments per process.  Bytes below a branch's start are read from its
 * ancestor, even in the first segment, whose copy of them is for those who look
 * at the files, and for the day when the ancestor has them no longer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "neon_diskfull.h"
#include "neon_durable.h"
#include "nodes/pg_list.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "neon_testpoint.h"
#include "timeline_shared.h"
#include "utils/memutils.h"
#include "neon_walpage.h"
#include "walstore_private.h"

#define WAL_TLI			1
#define CACHED_SEGMENTS	64
#define COPY_CHUNK		(128 * 1024)

/* What the owner writes. */
typedef struct WalWriter
{
	int			fd;				/* -1: none */
	XLogSegNo	segno;
	bool		dirty;
} WalWriter;

typedef struct CachedSegment
{
	Timeline   *tl;				/* NULL: unused */
	XLogSegNo	segno;
	uint32		epoch;
	File		file;
	const char *map;			/* of the whole segment; NULL: none */
	uint32		used;			/* clock of the last use */
} CachedSegment;

static CachedSegment cache[CACHED_SEGMENTS];
static uint32 cache_clock = 0;

/* ---- names ---- */

void
walstore_segment_path(Timeline *tl, XLogSegNo segno, char *path)
{
	char		name[MAXFNAMELEN];
	char		below[MAXFNAMELEN + 8];

	XLogFileName(name, WAL_TLI, segno, tl->id.wal_segment_size);
	snprintf(below, sizeof(below), "wal/%s", name);
	timeline_path(&tl->id.tenant, &tl->id.timeline, below, path);
}

static XLogSegNo
segment_of(Timeline *tl, XLogRecPtr lsn)
{
	return lsn / tl->id.wal_segment_size;
}

static XLogRecPtr
segment_start(Timeline *tl, XLogSegNo segno)
{
	return segno * tl->id.wal_segment_size;
}

/* ---- writing ---- */

static WalWriter *
wal_writer(Timeline *tl)
{
	WalWriter  *w = tl->wal_private;

	if (w == NULL)
	{
		w = MemoryContextAllocZero(TopMemoryContext, sizeof(WalWriter));
		w->fd = -1;
		tl->wal_private = w;
	}
	return w;
}

static void
writer_close(WalWriter *w)
{
	if (w->fd < 0)
		return;
	close(w->fd);
	ReleaseExternalFD();
	w->fd = -1;
}

static void
sync_failed(Timeline *tl, XLogSegNo segno)
{
	char		path[MAXPGPATH];
	char		why[TIMELINE_DETAIL_MAX];

	walstore_segment_path(tl, segno, path);
	snprintf(why, sizeof(why), "File \"%s\" could not be synchronized to disk.", path);
	timeline_set_readonly(tl, why);
	ereport(ERROR,
			(errcode(ERRCODE_IO_ERROR),
			 errmsg("could not synchronize file \"%s\"", path)));
}

void
walstore_sync(Timeline *tl)
{
	WalWriter  *w = wal_writer(tl);

	if (w->fd < 0 || !w->dirty)
		return;
	/* Whatever happens, these bytes are never synchronized again. */
	w->dirty = false;
	if (pg_fdatasync(w->fd) != 0 || NEON_TEST_FAILS("wal-sync"))
		sync_failed(tl, w->segno);
}

/* Only the owner's own segments are open for writing: others may have removed them since. */
void
walstore_owner_changed(Timeline *tl)
{
	if (tl->wal_private)
		writer_close(tl->wal_private);
}

/*
 * The segment's bytes up to end are written again and not only synchronized:
 * after a sync that failed the kernel takes pages for clean that never reached
 * the disk.  Its name may be as new as they are.
 */
static void
write_again(Timeline *tl, XLogRecPtr start, XLogRecPtr end)
{
	char		dir[MAXPGPATH];
	char	   *buf = palloc(COPY_CHUNK);

	while (start < end)
	{
		size_t		n = Min(COPY_CHUNK, end - start);

		if (!walstore_read(tl, start, buf, n))
			break;
		walstore_write(tl, start, buf, n);
		start += n;
	}
	pfree(buf);
	walstore_sync(tl);
	timeline_path(&tl->id.tenant, &tl->id.timeline, "wal", dir);
	durable_sync_dir(dir);
}

void
walstore_secure(Timeline *tl, XLogRecPtr end)
{
	WalWriter  *w = wal_writer(tl);
	XLogSegNo	segno;

	walstore_sync(tl);
	if (end <= tl->id.start_lsn)
		return;
	segno = segment_of(tl, end - 1);
	if (w->fd < 0 || w->segno < segno)
		write_again(tl, Max(segment_start(tl, segno), tl->id.start_lsn), end);
}

/* A branch's first segment begins with its ancestor's bytes. */
static bool
copy_ancestor_bytes(Timeline *tl, XLogSegNo segno, int fd)
{
	uint32		below = XLogSegmentOffset(tl->id.start_lsn, tl->id.wal_segment_size);
	char	   *buf;
	bool		ok;

	if (tl->ancestor == NULL || segno != segment_of(tl, tl->id.start_lsn) || below == 0)
		return true;
	buf = MemoryContextAllocHuge(CurrentMemoryContext, below);
	walstore_read_head(tl, tl->id.start_lsn, tl->id.start_prev, buf);
	ok = durable_pwrite(fd, buf, below, 0);
	pfree(buf);
	return ok;
}

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

/* Makes a segment of zeros under its name, durably; below: a name of the caller's own. */
static void
create_segment(Timeline *tl, XLogSegNo segno, const char *below)
{
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];
	char		dir[MAXPGPATH];
	int			fd;
	bool		ok;

	walstore_segment_path(tl, segno, path);
	timeline_path(&tl->id.tenant, &tl->id.timeline, "wal", dir);
	timeline_path(&tl->id.tenant, &tl->id.timeline, below, temp);
	fd = OpenTransientFile(temp, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", temp),
				 neon_hint_if_full(temp)));
	ok = preallocate(fd, tl->id.wal_segment_size) &&
		copy_ancestor_bytes(tl, segno, fd) &&
		pg_fsync(fd) == 0;
	if (!ok)
	{
		int			save_errno = errno;

		CloseTransientFile(fd);
		unlink(temp);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", temp),
				 neon_hint_if_full(temp)));
	}
	CloseTransientFile(fd);
	if (rename(temp, path) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rename file \"%s\" to \"%s\": %m", temp, path)));
	if (!durable_try_sync_dir(dir))
		sync_failed(tl, segno);
}

/* Has the segment open for writing. */
static WalWriter *
writer_at(Timeline *tl, XLogSegNo segno)
{
	WalWriter  *w = wal_writer(tl);
	char		path[MAXPGPATH];
	int			fd;

	if (w->fd >= 0 && w->segno == segno)
		return w;
	walstore_sync(tl);
	writer_close(w);
	walstore_segment_path(tl, segno, path);
	fd = BasicOpenFile(path, O_RDWR | PG_BINARY);
	if (fd < 0 && errno == ENOENT)
	{
		create_segment(tl, segno, "wal/segment.temp");
		fd = BasicOpenFile(path, O_RDWR | PG_BINARY);
	}
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	ReserveExternalFD();
	/* Space may have been given back; without it a write says so. */
	(void) fallocate(fd, 0, 0, tl->id.wal_segment_size);
	w->fd = fd;
	w->segno = segno;
	w->dirty = false;
	return w;
}

void
walstore_write(Timeline *tl, XLogRecPtr lsn, const char *data, size_t len)
{
	Assert(timeline_is_owner(tl));
	timeline_check_writable(tl);
	while (len > 0)
	{
		XLogSegNo	segno = segment_of(tl, lsn);
		off_t		offset = lsn - segment_start(tl, segno);
		size_t		n = Min(len, tl->id.wal_segment_size - offset);
		WalWriter  *w = writer_at(tl, segno);

		w->dirty = true;
		if (!durable_pwrite(w->fd, data, n, offset))
		{
			char		path[MAXPGPATH];

			walstore_segment_path(tl, segno, path);
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write file \"%s\": %m", path),
					 neon_hint_if_full(path)));
		}
		lsn += n;
		data += n;
		len -= n;
	}
}

/* The segment open for writing, in its whole size, whatever was left of it; -1 with errno. */
static int
open_to_replace(Timeline *tl, XLogSegNo segno, const char *path)
{
	struct stat st;
	int			fd = OpenTransientFile(path, O_RDWR | PG_BINARY);

	if (fd < 0 && errno == ENOENT)
	{
		create_segment(tl, segno, "wal/segment.fetched");
		pg_atomic_fetch_add_u32(&tl->shared->wal_epoch, 1);
		fd = OpenTransientFile(path, O_RDWR | PG_BINARY);
	}
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size < tl->id.wal_segment_size &&
		!preallocate(fd, tl->id.wal_segment_size))
	{
		int			save_errno = errno;

		CloseTransientFile(fd);
		errno = save_errno;
		return -1;
	}
	return fd;
}

void
walstore_replace(Timeline *tl, XLogRecPtr lsn, const char *data, size_t len)
{
	timeline_check_writable(tl);
	while (len > 0)
	{
		XLogSegNo	segno = segment_of(tl, lsn);
		off_t		offset = lsn - segment_start(tl, segno);
		size_t		n = Min(len, tl->id.wal_segment_size - offset);
		char		path[MAXPGPATH];
		int			fd;

		walstore_segment_path(tl, segno, path);
		fd = open_to_replace(tl, segno, path);
		if (fd < 0 || !durable_pwrite(fd, data, n, offset))
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write file \"%s\": %m", path),
					 neon_hint_if_full(path)));
		if (pg_fdatasync(fd) != 0)
			sync_failed(tl, segno);
		CloseTransientFile(fd);
		lsn += n;
		data += n;
		len -= n;
	}
}

static int
compare_segno_desc(const ListCell *a, const ListCell *b)
{
	XLogSegNo	x = *(XLogSegNo *) lfirst(a);
	XLogSegNo	y = *(XLogSegNo *) lfirst(b);

	return x == y ? 0 : (x > y ? -1 : 1);
}

List *
walstore_segments(Timeline *tl)
{
	List	   *result = NIL;
	char		path[MAXPGPATH];
	DIR		   *dir;
	struct dirent *de;

	timeline_path(&tl->id.tenant, &tl->id.timeline, "wal", path);
	dir = AllocateDir(path);
	while ((de = ReadDir(dir, path)) != NULL)
	{
		XLogSegNo  *found;
		TimeLineID	tli;

		if (!IsXLogFileName(de->d_name))
			continue;
		found = palloc(sizeof(XLogSegNo));
		XLogFromFileName(de->d_name, &tli, found, tl->id.wal_segment_size);
		result = lappend(result, found);
	}
	FreeDir(dir);
	list_sort(result, compare_segno_desc);
	return result;
}

XLogRecPtr
walstore_oldest(Timeline *tl)
{
	List	   *segments = walstore_segments(tl);
	XLogRecPtr	start = segments ? segment_start(tl, *(XLogSegNo *) llast(segments)) : 0;

	list_free_deep(segments);
	return start;
}

bool
walstore_unlink(Timeline *tl, XLogSegNo segno)
{
	char		path[MAXPGPATH];

	walstore_segment_path(tl, segno, path);
	return unlink(path) == 0 || errno == ENOENT;
}

static void
remove_segments_above(Timeline *tl, XLogSegNo segno)
{
	List	   *segments = walstore_segments(tl);
	char		path[MAXPGPATH];
	ListCell   *lc;

	if (segments == NIL || *(XLogSegNo *) linitial(segments) <= segno)
		return;
	writer_close(wal_writer(tl));
	foreach(lc, segments)
	{
		XLogSegNo	found = *(XLogSegNo *) lfirst(lc);

		if (found > segno && !walstore_unlink(tl, found))
		{
			walstore_segment_path(tl, found, path);
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not remove file \"%s\": %m", path)));
		}
	}
	pg_atomic_fetch_add_u32(&tl->shared->wal_epoch, 1);
	timeline_path(&tl->id.tenant, &tl->id.timeline, "wal", path);
	durable_sync_dir(path);
	list_free_deep(segments);
}

void
walstore_zero_after(Timeline *tl, XLogRecPtr lsn)
{
	static const char zeros[XLOG_BLCKSZ];
	XLogSegNo	segno = segment_of(tl, lsn);
	XLogRecPtr	end = segment_start(tl, segno) + tl->id.wal_segment_size;
	char		path[MAXPGPATH];

	walstore_sync(tl);
	remove_segments_above(tl, segno);
	walstore_segment_path(tl, segno, path);
	if (!durable_exists(path))
		return;
	while (lsn < end)
	{
		size_t		n = Min(end - lsn, XLOG_BLCKSZ - lsn % XLOG_BLCKSZ);

		walstore_write(tl, lsn, zeros, n);
		lsn += n;
	}
	walstore_sync(tl);
}

void
walstore_give_space_back(Timeline *tl, XLogRecPtr end)
{
	XLogSegNo	segno = segment_of(tl, end);
	off_t		from = TYPEALIGN(XLOG_BLCKSZ, XLogSegmentOffset(end, tl->id.wal_segment_size));
	char		path[MAXPGPATH];
	int			fd;

	walstore_sync(tl);
	walstore_owner_changed(tl);
	walstore_segment_path(tl, segno, path);
	fd = OpenTransientFile(path, O_RDWR | PG_BINARY);
	if (fd < 0)
		return;
	if (from < tl->id.wal_segment_size &&
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from,
				  tl->id.wal_segment_size - from) != 0)
		ereport(DEBUG1,
				(errcode_for_file_access(),
				 errmsg("could not give back unused space of file \"%s\": %m", path)));
	CloseTransientFile(fd);
}

/* ---- reading ---- */

static void
unmap(CachedSegment *c)
{
	if (c->map != NULL)
		(void) munmap(unconstify(char *, c->map), c->tl->id.wal_segment_size);
	c->map = NULL;
}

static void
cache_drop(CachedSegment *c)
{
	unmap(c);
	FileClose(c->file);
	c->tl = NULL;
}

void
walstore_close_read(Timeline *tl, bool all)
{
	uint32		epoch = pg_atomic_read_u32(&tl->shared->wal_epoch);

	for (int i = 0; i < CACHED_SEGMENTS; i++)
	{
		if (cache[i].tl == tl && (all || cache[i].epoch != epoch))
			cache_drop(&cache[i]);
	}
}

void
walstore_forget(Timeline *tl)
{
	if (tl->wal_private)
		writer_close(tl->wal_private);
	walstore_close_read(tl, true);
}

static void
read_failed(Timeline *tl, const char *path, int save_errno)
{
	char		why[TIMELINE_DETAIL_MAX];

	snprintf(why, sizeof(why), "File \"%s\" could not be read: %s", path, strerror(save_errno));
	timeline_set_damaged(tl, why);
	errno = save_errno;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not read file \"%s\": %m", path)));
}

/* The open segment; NULL if it is not stored. */
static CachedSegment *
cached_segment(Timeline *tl, XLogSegNo segno)
{
	uint32		epoch = pg_atomic_read_u32(&tl->shared->wal_epoch);
	CachedSegment *victim = &cache[0];
	char		path[MAXPGPATH];
	File		file;

	for (int i = 0; i < CACHED_SEGMENTS; i++)
	{
		CachedSegment *c = &cache[i];

		/* what was removed meanwhile must not hold its space */
		if (c->tl == tl && c->epoch != epoch)
			cache_drop(c);
		if (c->tl == tl && c->segno == segno)
		{
			c->used = ++cache_clock;
			return c;
		}
		if (c->tl == NULL)
			victim = c;
		else if (victim->tl != NULL && c->used < victim->used)
			victim = c;
	}
	walstore_segment_path(tl, segno, path);
	file = PathNameOpenFile(path, O_RDONLY | PG_BINARY);
	if (file < 0)
	{
		if (errno != ENOENT)
			read_failed(tl, path, errno);
		return NULL;
	}
	if (victim->tl != NULL)
		cache_drop(victim);
	victim->tl = tl;
	victim->segno = segno;
	victim->epoch = epoch;
	victim->file = file;
	victim->map = NULL;
	victim->used = ++cache_clock;
	return victim;
}

const char *
walstore_mapped_segment(Timeline *tl, XLogSegNo segno)
{
	CachedSegment *c = cached_segment(tl, segno);
	char		path[MAXPGPATH];
	struct stat st;
	void	   *map;
	int			fd;

	if (c == NULL || c->map != NULL)
		return c ? c->map : NULL;
	walstore_segment_path(tl, segno, path);
	fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
		return NULL;
	/* A segment has its whole size from its first day on. */
	if (fstat(fd, &st) == 0 && st.st_size >= tl->id.wal_segment_size)
	{
		map = mmap(NULL, tl->id.wal_segment_size, PROT_READ, MAP_SHARED, fd, 0);
		if (map != MAP_FAILED)
			c->map = map;
	}
	close(fd);
	return c->map;
}

void
walstore_unmap(void)
{
	for (int i = 0; i < CACHED_SEGMENTS; i++)
	{
		if (cache[i].tl != NULL)
			unmap(&cache[i]);
	}
}

/* Within one segment of the timeline itself. */
static bool
read_own(Timeline *tl, XLogRecPtr lsn, char *buf, size_t len)
{
	XLogSegNo	segno = segment_of(tl, lsn);
	CachedSegment *c = cached_segment(tl, segno);
	size_t		done = 0;

	if (c == NULL)
		return false;
	while (done < len)
	{
		int			n = FileRead(c->file, buf + done, len - done,
								 lsn - segment_start(tl, segno) + done, PG_WAIT_EXTENSION);

		if (n < 0)
		{
			char		path[MAXPGPATH];

			walstore_segment_path(tl, segno, path);
			read_failed(tl, path, errno);
		}
		if (n == 0)
			return false;
		done += n;
	}
	return true;
}

bool
walstore_has_segment(Timeline *tl, XLogRecPtr lsn)
{
	XLogRecPtr	start = lsn - XLogSegmentOffset(lsn, tl->id.wal_segment_size);
	XLogLongPageHeaderData h;

	return walstore_read(tl, start, (char *) &h, sizeof(h)) && walpage_is_own(&h.std, start) &&
		(h.std.xlp_info & XLP_LONG_HEADER) != 0 && h.xlp_sysid == tl->id.system_identifier &&
		h.xlp_seg_size == tl->id.wal_segment_size && h.xlp_xlog_blcksz == XLOG_BLCKSZ;
}

bool
walstore_read(Timeline *tl, XLogRecPtr lsn, char *buf, size_t len)
{
	timeline_check(tl);
	while (len > 0)
	{
		size_t		n = Min(len, tl->id.wal_segment_size - lsn % tl->id.wal_segment_size);
		bool		ok;

		if (tl->ancestor != NULL && lsn < tl->id.start_lsn)
		{
			n = Min(n, tl->id.start_lsn - lsn);
			ok = walstore_read(tl->ancestor, lsn, buf, n) ||
				(segment_of(tl, lsn) == segment_of(tl, tl->id.start_lsn) &&
				 read_own(tl, lsn, buf, n));
		}
		else
			ok = read_own(tl, lsn, buf, n);
		if (!ok)
			return false;
		lsn += n;
		buf += n;
		len -= n;
	}
	return true;
}

void
walstore_read_head(Timeline *tl, XLogRecPtr lsn, XLogRecPtr prev, char *buf)
{
	const WalPages pages = {tl->id.system_identifier, tl->id.wal_segment_size, WAL_TLI};
	uint32		below = XLogSegmentOffset(lsn, pages.segsize);

	if (below > 0 && !walstore_read(tl, lsn - below, buf, below))
		walpage_fill(buf, lsn, prev, &pages);
}

static bool
read_for_cursor(void *source, XLogRecPtr lsn, char *buf, size_t len)
{
	return walstore_read(source, lsn, buf, len);
}

WalCursor *
walstore_cursor(Timeline *tl, XLogRecPtr start, XLogRecPtr prev, XLogRecPtr limit)
{
	return walcursor_open(read_for_cursor, tl, tl->id.system_identifier,
						  tl->id.wal_segment_size, start, prev, limit);
}
