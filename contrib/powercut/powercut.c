/*-------------------------------------------------------------------------
 *
 * powercut.c
 *	  A preload library that remembers what a power cut would take away.
 *
 * kill -9 never finds a missing fsync: the kernel still has the bytes.  With
 * this library in a server's processes (LD_PRELOAD), each change below the
 * directories POWERCUT_DIRS is logged in POWERCUT_LOG with what was there
 * before, and forgotten again when it is synchronized: contents with the file,
 * names with their directory.  After all processes are dead, PowerCut.pm
 * undoes what is still logged.
 *
 *	  f.DEV.INO		contents of a file: the old bytes of each write, old sizes
 *	  d.DEV.INO		names in a directory: created, removed, renamed
 *	  saved/N		what a removed or replaced name was a link to
 *	  state			counters that all processes map, and the cut flag
 *
 * With POWERCUT_AT=k the k'th change or sync does not happen any more: the
 * first process of the server is killed, and the others stand still at their
 * next one.  One lock covers a change and its logging, so the log is exact.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT		__attribute__((visibility("default")))
#define MAX_FDS		65536
#define MAX_DIRS	16
#define BOOT_ID_FILE	"/proc/sys/kernel/random/boot_id"
#define LOG_MAGIC	0x31435750	/* "PWC1" */

/* What a record is; the names are those of the state before. */
enum
{
	REC_BYTES = 1,				/* offset, old bytes */
	REC_SIZE,					/* offset: old size */
	REC_CREATED,				/* name */
	REC_REMOVED,				/* name, saved */
	REC_RENAMED,				/* name, new name, saved (0: the new one was not there) */
	REC_MADE_DIR,				/* name */
	REC_REMOVED_DIR,			/* name */
};

/* Head of a record; len bytes follow: data, or "name\0newname\0". */
typedef struct Record
{
	uint32_t	magic;
	uint32_t	type;
	uint64_t	sequence;
	uint64_t	offset;
	uint64_t	saved;
	uint64_t	len;
} Record;

typedef struct State
{
	uint64_t	sequence;
	uint64_t	changes;		/* changes and syncs that were begun */
	uint64_t	saved;
	uint64_t	cut_at;			/* 0: never */
	volatile uint32_t cut;		/* nothing may change any more */
	int32_t		root;			/* first process that had the library */
} State;

typedef struct FileId
{
	dev_t		dev;
	ino_t		ino;
} FileId;

enum
{
	FD_UNKNOWN = 0, FD_WATCHED, FD_OTHER
};

static char log_dir[PATH_MAX / 2];
static char dirs[MAX_DIRS][PATH_MAX / 2];
static int	ndirs = 0;
static State *state = NULL;
static int	lock_fd = -1;
static unsigned char fd_kind[MAX_FDS];

#define CALLS(X) \
	X(int, open, const char *, int, ...) \
	X(int, openat, int, const char *, int, ...) \
	X(int, close, int) \
	X(ssize_t, write, int, const void *, size_t) \
	X(ssize_t, pwrite, int, const void *, size_t, off_t) \
	X(ssize_t, writev, int, const struct iovec *, int) \
	X(ssize_t, pwritev, int, const struct iovec *, int, off_t) \
	X(int, ftruncate, int, off_t) \
	X(int, truncate, const char *, off_t) \
	X(int, posix_fallocate, int, off_t, off_t) \
	X(int, rename, const char *, const char *) \
	X(int, unlink, const char *) \
	X(int, link, const char *, const char *) \
	X(int, mkdir, const char *, mode_t) \
	X(int, rmdir, const char *) \
	X(int, fsync, int) \
	X(int, fdatasync, int) \
	X(int, syncfs, int)

#define REAL(ret, name, ...) static ret (*real_##name) (__VA_ARGS__);
CALLS(REAL)

/* ---- start ---- */

static void
die(const char *what)
{
	fprintf(stderr, "powercut: %s: %s\n", what, strerror(errno));
	_exit(99);
}

/* Other libraries' constructors may come before ours. */
#define READY() \
	do { if (real_open == NULL) find_real(); } while (0)

static void
find_real(void)
{
#define FIND(ret, name, ...) \
	if ((*(void **) &real_##name = dlsym(RTLD_NEXT, #name)) == NULL) \
		die(#name);
	CALLS(FIND)
}

static void
map_state(void)
{
	char		path[PATH_MAX];
	int			fd;
	struct stat st;

	snprintf(path, sizeof(path), "%s/state", log_dir);
	fd = real_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0 || fstat(fd, &st) < 0 ||
		(st.st_size < (off_t) sizeof(State) && real_ftruncate(fd, sizeof(State)) < 0))
		die(path);
	state = mmap(NULL, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (state == MAP_FAILED)
		die(path);
	real_close(fd);
	if (state->root == 0)
	{
		const char *at = getenv("POWERCUT_AT");

		state->root = getpid();
		state->cut_at = at ? strtoull(at, NULL, 10) : 0;
	}
}

static void __attribute__((constructor))
begin(void)
{
	const char *log = getenv("POWERCUT_LOG");
	const char *list = getenv("POWERCUT_DIRS");

	READY();
	if (log == NULL || list == NULL || strlen(log) >= sizeof(log_dir))
		return;
	strcpy(log_dir, log);
	while (*list && ndirs < MAX_DIRS)
	{
		size_t		len = strcspn(list, ":");

		if (len > 0 && len < sizeof(dirs[0]))
			memcpy(dirs[ndirs++], list, len);
		list += len + (list[len] == ':');
	}
	map_state();
}

/* ---- lock ---- */

/* The record lock of a file belongs to the process, so it ends with it. */
static void
set_lock(short type)
{
	struct flock fl = {.l_type = type, .l_whence = SEEK_SET};
	char		path[PATH_MAX];

	if (lock_fd < 0)
	{
		snprintf(path, sizeof(path), "%s/lock", log_dir);
		lock_fd = real_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		if (lock_fd >= 0 && lock_fd < 256)
		{
			/* out of the way of programs that count on low numbers */
			int			high = fcntl(lock_fd, F_DUPFD_CLOEXEC, 1000);

			if (high >= 0)
			{
				real_close(lock_fd);
				lock_fd = high;
			}
		}
		if (lock_fd < 0)
			die(path);
	}
	while (fcntl(lock_fd, F_SETLKW, &fl) < 0)
	{
		if (errno != EINTR)
			die("lock");
	}
}

static void
stand_still(void)
{
	for (;;)
		pause();
}

/* Before a change or sync.  Does not return once the power is off. */
static void
enter(void)
{
	sigset_t	all;

	if (state->cut)
		stand_still();
	set_lock(F_WRLCK);
	if (!state->cut && ++state->changes >= state->cut_at && state->cut_at != 0)
		state->cut = 1;
	if (state->cut)
	{
		sigfillset(&all);
		sigprocmask(SIG_BLOCK, &all, NULL);
		set_lock(F_UNLCK);
		kill(state->root, SIGKILL);
		stand_still();
	}
}

static void
leave(void)
{
	int			save = errno;

	set_lock(F_UNLCK);
	errno = save;
}

/* ---- what is watched ---- */

/* Is path the directory or in it?  "DIR/." is DIR without its subdirectories. */
static int
below_watched(const char *path)
{
	for (int i = 0; i < ndirs; i++)
	{
		size_t		len = strlen(dirs[i]);
		int			flat = len > 2 && strcmp(dirs[i] + len - 2, "/.") == 0;

		if (flat)
			len -= 2;
		if (strncmp(path, dirs[i], len) == 0 &&
			(path[len] == '\0' ||
			 (path[len] == '/' && (!flat || strchr(path + len + 1, '/') == NULL))))
			return 1;
	}
	return 0;
}

static int
fd_watched(int fd)
{
	char		link_path[64];
	char		path[PATH_MAX];
	ssize_t		len;

	READY();
	if (state == NULL || fd < 0 || fd >= MAX_FDS)
		return 0;
	if (fd_kind[fd] == FD_UNKNOWN)
	{
		snprintf(link_path, sizeof(link_path), "/proc/self/fd/%d", fd);
		len = readlink(link_path, path, sizeof(path) - 1);
		if (len < 0)
			return 0;
		path[len] = '\0';
		fd_kind[fd] = below_watched(path) ? FD_WATCHED : FD_OTHER;
	}
	return fd_kind[fd] == FD_WATCHED;
}

/* Absolute path of a directory entry; false if its directory is not watched. */
static int
entry_watched(const char *path, char *parent, const char **name)
{
	char		copy[PATH_MAX];
	char	   *slash;
	size_t		len = strlen(path);

	if (state == NULL || len == 0 || len >= sizeof(copy))
		return 0;
	memcpy(copy, path, len + 1);
	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	slash = strrchr(copy, '/');
	*name = path + (slash ? slash - copy + 1 : 0);
	if (slash == NULL)
		strcpy(copy, ".");
	else if (slash == copy)
		copy[1] = '\0';
	else
		*slash = '\0';
	if (realpath(copy, parent) == NULL)
		return 0;
	/* of a directory that is watched without its subdirectories, those are not it */
	snprintf(copy, sizeof(copy), "%s/x", parent);
	return below_watched(copy);
}

/* ---- logs ---- */

static int
open_log(char kind, FileId id)
{
	char		path[PATH_MAX];
	int			fd;

	snprintf(path, sizeof(path), "%s/%c.%lu.%lu", log_dir, kind,
			 (unsigned long) id.dev, (unsigned long) id.ino);
	fd = real_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		die(path);
	return fd;
}

static void
write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len > 0)
	{
		ssize_t		n = real_write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			die("writing the log");
		p += n;
		len -= n;
	}
}

static void
put_record(char kind, FileId id, uint32_t type, uint64_t offset, uint64_t saved,
		   const void *data, size_t len)
{
	Record		rec = {LOG_MAGIC, type, ++state->sequence, offset, saved, len};
	int			fd = open_log(kind, id);

	write_all(fd, &rec, sizeof(rec));
	write_all(fd, data, len);
	real_close(fd);
}

static void
forget(char kind, FileId id)
{
	char		path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%c.%lu.%lu", log_dir, kind,
			 (unsigned long) id.dev, (unsigned long) id.ino);
	real_unlink(path);
}

static int
fd_id(int fd, FileId *id, off_t *size, int *is_dir)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
		return 0;
	id->dev = st.st_dev;
	id->ino = st.st_ino;
	*size = st.st_size;
	*is_dir = S_ISDIR(st.st_mode);
	return 1;
}

/* The old bytes of [offset, offset + len), read by a descriptor of our own. */
static void
log_old_bytes(int fd, off_t offset, size_t len)
{
	FileId		id;
	off_t		size;
	int			is_dir;
	char		path[64];
	char	   *old;
	int			rfd;
	ssize_t		n = -1;

	if (!fd_id(fd, &id, &size, &is_dir) || is_dir)
		return;
	if (offset + (off_t) len > size)
		put_record('f', id, REC_SIZE, size, 0, "", 0);
	if (offset >= size || len == 0)
		return;
	if (offset + (off_t) len > size)
		len = size - offset;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	rfd = real_open(path, O_RDONLY | O_CLOEXEC);
	old = malloc(len);
	if (rfd >= 0 && old != NULL)
		n = pread(rfd, old, len, offset);
	if (n < 0)
		die("reading old bytes");
	put_record('f', id, REC_BYTES, offset, 0, old, n);
	free(old);
	real_close(rfd);
}

static void
log_name(const char *parent, uint32_t type, uint64_t saved, const char *name, const char *second)
{
	char		data[2 * PATH_MAX];
	size_t		len = strlen(name) + 1;
	struct stat st;
	FileId		id;

	if (stat(parent, &st) < 0)
		return;
	id.dev = st.st_dev;
	id.ino = st.st_ino;
	memset(data, 0, sizeof(data));
	snprintf(data, PATH_MAX, "%s", name);
	if (second)
	{
		snprintf(data + len, PATH_MAX, "%s", second);
		len += strlen(second) + 1;
	}
	put_record('d', id, type, 0, saved, data, len);
}

/* Keeps what the path is a link to; 0 if there is nothing. */
static uint64_t
save_link(const char *path)
{
	char		saved[PATH_MAX];
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	snprintf(saved, sizeof(saved), "%s/saved/%lu", log_dir, (unsigned long) ++state->saved);
	if (real_link(path, saved) < 0)
		die(saved);
	return state->saved;
}

/* ---- calls: names ---- */

static int
open_logged(int dirfd, const char *path, int flags, mode_t mode)
{
	const char *boot_id = getenv("POWERCUT_BOOT_ID");

	char		parent[PATH_MAX];
	const char *name;
	struct stat st;
	int			fd;

	READY();
	if (boot_id != NULL && strcmp(path, BOOT_ID_FILE) == 0)
		path = boot_id;
	if (state == NULL || (flags & (O_CREAT | O_TRUNC)) == 0 ||
		(dirfd != AT_FDCWD && path[0] != '/') || !entry_watched(path, parent, &name))
	{
		fd = real_openat(dirfd, path, flags, mode);
		if (fd >= 0 && fd < MAX_FDS)
			fd_kind[fd] = FD_UNKNOWN;
		return fd;
	}
	enter();
	if (stat(path, &st) < 0)
	{
		fd = real_openat(dirfd, path, flags, mode);
		if (fd >= 0 && (flags & O_CREAT))
			log_name(parent, REC_CREATED, 0, name, NULL);
	}
	else
	{
		if ((flags & O_TRUNC) && S_ISREG(st.st_mode) && st.st_size > 0)
		{
			int			old = real_open(path, O_RDONLY | O_CLOEXEC);

			if (old >= 0)
			{
				FileId		id = {st.st_dev, st.st_ino};

				put_record('f', id, REC_SIZE, st.st_size, 0, "", 0);
				log_old_bytes(old, 0, st.st_size);
				real_close(old);
			}
		}
		fd = real_openat(dirfd, path, flags, mode);
	}
	if (fd >= 0 && fd < MAX_FDS)
		fd_kind[fd] = FD_UNKNOWN;
	leave();
	return fd;
}

static mode_t
mode_of(int flags, va_list ap)
{
	return (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(ap, mode_t) : 0;
}

EXPORT int
open(const char *path, int flags,...)
{
	va_list		ap;
	mode_t		mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return open_logged(AT_FDCWD, path, flags, mode);
}

EXPORT int	open64(const char *path, int flags,...) __attribute__((alias("open")));

EXPORT int
openat(int dirfd, const char *path, int flags,...)
{
	va_list		ap;
	mode_t		mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return open_logged(dirfd, path, flags, mode);
}

/* What programs built with _FORTIFY_SOURCE call. */
EXPORT int	openat64(int dirfd, const char *path, int flags,...) __attribute__((alias("openat")));

extern int	__open_2(const char *path, int flags);

EXPORT int
__open_2(const char *path, int flags)
{
	return open_logged(AT_FDCWD, path, flags, 0);
}

EXPORT int	__open64_2(const char *path, int flags) __attribute__((alias("__open_2")));

EXPORT int
close(int fd)
{
	READY();
	/* whoever closes everything must not close this */
	if (fd >= 0 && fd == lock_fd)
		return 0;
	if (fd >= 0 && fd < MAX_FDS)
		fd_kind[fd] = FD_UNKNOWN;
	return real_close(fd);
}

EXPORT int
rename(const char *from, const char *to)
{
	char		parent[PATH_MAX];
	char		from_parent[PATH_MAX];
	char		full[PATH_MAX * 2];
	const char *name;
	const char *from_name;
	uint64_t	saved;
	int			rc;

	READY();
	if (state == NULL || !entry_watched(to, parent, &name) ||
		!entry_watched(from, from_parent, &from_name))
		return real_rename(from, to);
	enter();
	saved = save_link(to);
	rc = real_rename(from, to);
	if (rc == 0)
	{
		snprintf(full, sizeof(full), "%s/%s", from_parent, from_name);
		log_name(parent, REC_RENAMED, saved, name, full);
	}
	leave();
	return rc;
}

EXPORT int
unlink(const char *path)
{
	char		parent[PATH_MAX];
	const char *name;
	uint64_t	saved;
	int			rc;

	READY();
	if (state == NULL || !entry_watched(path, parent, &name))
		return real_unlink(path);
	enter();
	saved = save_link(path);
	rc = real_unlink(path);
	if (rc == 0 && saved)
		log_name(parent, REC_REMOVED, saved, name, NULL);
	leave();
	return rc;
}

EXPORT int
link(const char *from, const char *to)
{
	char		parent[PATH_MAX];
	const char *name;
	int			rc;

	READY();
	if (state == NULL || !entry_watched(to, parent, &name))
		return real_link(from, to);
	enter();
	rc = real_link(from, to);
	if (rc == 0)
		log_name(parent, REC_CREATED, 0, name, NULL);
	leave();
	return rc;
}

EXPORT int
mkdir(const char *path, mode_t mode)
{
	char		parent[PATH_MAX];
	const char *name;
	int			rc;

	READY();
	if (state == NULL || !entry_watched(path, parent, &name))
		return real_mkdir(path, mode);
	enter();
	rc = real_mkdir(path, mode);
	if (rc == 0)
		log_name(parent, REC_MADE_DIR, 0, name, NULL);
	leave();
	return rc;
}

EXPORT int
rmdir(const char *path)
{
	char		parent[PATH_MAX];
	const char *name;
	struct stat st;
	int			known;
	int			rc;

	READY();
	if (state == NULL || !entry_watched(path, parent, &name))
		return real_rmdir(path);
	enter();
	known = stat(path, &st) == 0;
	rc = real_rmdir(path);
	if (rc == 0)
	{
		log_name(parent, REC_REMOVED_DIR, 0, name, NULL);
		/* the inode may become another directory's */
		if (known)
			forget('d', (FileId) {st.st_dev, st.st_ino});
	}
	leave();
	return rc;
}

/* ---- calls: contents ---- */

static size_t
iov_length(const struct iovec *iov, int n)
{
	size_t		len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	return len;
}

/* Where write() will write. */
static off_t
write_position(int fd)
{
	struct stat st;
	int			flags = fcntl(fd, F_GETFL);

	if (flags >= 0 && (flags & O_APPEND) && fstat(fd, &st) == 0)
		return st.st_size;
	return lseek(fd, 0, SEEK_CUR);
}

EXPORT ssize_t
write(int fd, const void *buf, size_t len)
{
	ssize_t		rc;

	if (!fd_watched(fd))
		return real_write(fd, buf, len);
	enter();
	log_old_bytes(fd, write_position(fd), len);
	rc = real_write(fd, buf, len);
	leave();
	return rc;
}

EXPORT ssize_t
pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	ssize_t		rc;

	if (!fd_watched(fd))
		return real_pwrite(fd, buf, len, offset);
	enter();
	log_old_bytes(fd, offset, len);
	rc = real_pwrite(fd, buf, len, offset);
	leave();
	return rc;
}

EXPORT ssize_t	pwrite64(int fd, const void *buf, size_t len, off_t offset) __attribute__((alias("pwrite")));

EXPORT ssize_t
writev(int fd, const struct iovec *iov, int n)
{
	ssize_t		rc;

	if (!fd_watched(fd))
		return real_writev(fd, iov, n);
	enter();
	log_old_bytes(fd, write_position(fd), iov_length(iov, n));
	rc = real_writev(fd, iov, n);
	leave();
	return rc;
}

EXPORT ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
	ssize_t		rc;

	if (!fd_watched(fd))
		return real_pwritev(fd, iov, n, offset);
	enter();
	log_old_bytes(fd, offset, iov_length(iov, n));
	rc = real_pwritev(fd, iov, n, offset);
	leave();
	return rc;
}

EXPORT ssize_t	pwritev64(int fd, const struct iovec *iov, int n, off_t offset) __attribute__((alias("pwritev")));

/* Caller has the lock. */
static void
log_size_change(int fd, off_t size)
{
	FileId		id;
	off_t		old;
	int			is_dir;

	if (!fd_id(fd, &id, &old, &is_dir) || is_dir || old == size)
		return;
	put_record('f', id, REC_SIZE, old, 0, "", 0);
	if (size < old)
		log_old_bytes(fd, size, old - size);
}

EXPORT int
ftruncate(int fd, off_t size)
{
	int			rc;

	if (!fd_watched(fd))
		return real_ftruncate(fd, size);
	enter();
	log_size_change(fd, size);
	rc = real_ftruncate(fd, size);
	leave();
	return rc;
}

EXPORT int	ftruncate64(int fd, off_t size) __attribute__((alias("ftruncate")));

EXPORT int
truncate(const char *path, off_t size)
{
	char		parent[PATH_MAX];
	const char *name;
	int			fd;
	int			rc;

	READY();
	if (state == NULL || !entry_watched(path, parent, &name))
		return real_truncate(path, size);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	rc = ftruncate(fd, size);
	close(fd);
	return rc;
}

EXPORT int
posix_fallocate(int fd, off_t offset, off_t len)
{
	struct stat st;
	int			rc;

	if (!fd_watched(fd))
		return real_posix_fallocate(fd, offset, len);
	enter();
	if (fstat(fd, &st) == 0 && offset + len > st.st_size)
		log_size_change(fd, offset + len);
	rc = real_posix_fallocate(fd, offset, len);
	leave();
	return rc;
}

/* ---- calls: synchronization ---- */

static int
sync_logged(int fd, int (*real) (int))
{
	FileId		id;
	off_t		size;
	int			is_dir;
	int			rc;

	if (!fd_watched(fd))
		return real(fd);
	enter();
	rc = real(fd);
	if (rc == 0 && fd_id(fd, &id, &size, &is_dir))
		forget(is_dir ? 'd' : 'f', id);
	leave();
	return rc;
}

#define SYNC(name) \
	EXPORT int name(int fd) { READY(); return sync_logged(fd, real_##name); }

SYNC(fsync)
SYNC(fdatasync)

/* All that is remembered; what is watched lies in one file system. */
static void
forget_all(void)
{
	DIR		   *dir = opendir(log_dir);
	struct dirent *de;
	char		path[PATH_MAX];

	if (dir == NULL)
		die(log_dir);
	while ((de = readdir(dir)) != NULL)
	{
		if (de->d_name[1] != '.' || (de->d_name[0] != 'f' && de->d_name[0] != 'd'))
			continue;
		snprintf(path, sizeof(path), "%s/%s", log_dir, de->d_name);
		real_unlink(path);
	}
	closedir(dir);
}

EXPORT int
syncfs(int fd)
{
	int			rc;

	READY();
	if (state == NULL)
		return real_syncfs(fd);
	enter();
	rc = real_syncfs(fd);
	if (rc == 0)
		forget_all();
	leave();
	return rc;
}
