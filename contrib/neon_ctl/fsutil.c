/*-------------------------------------------------------------------------
 *
 * fsutil.c
 *	  Durable files and directories.
 *
 *-------------------------------------------------------------------------
 */
#include "fsutil.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_utils.h"
#include "output.h"

#define SYNC_MAX_DEPTH	16

static const char *const space_hint = "Check the space and the permissions on that file system.";

bool
path_exists(const char *path)
{
	struct stat st;

	if (lstat(path, &st) == 0)
		return true;
	if (errno != ENOENT && errno != ENOTDIR)
		die(EXIT_GENERAL, "Check the permissions of the directories above it.",
			"could not look at \"%s\": %m", path);
	return false;
}

bool
is_directory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool
directory_is_empty(const char *path)
{
	DIR		   *dir = opendir(path);
	struct dirent *entry;
	bool		empty = true;

	if (dir == NULL)
		die(EXIT_GENERAL, "Check its permissions.", "could not open directory \"%s\": %m", path);
	while ((entry = readdir(dir)) != NULL)
	{
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			empty = false;
	}
	closedir(dir);
	return empty;
}

void
make_directory(const char *path)
{
	if (mkdir(path, S_IRWXU) == 0 || (errno == EEXIST && is_directory(path)))
		return;
	die(EXIT_GENERAL, errno == ENOSPC || errno == EDQUOT ? "Make room in the file system, or give it more inodes." :
		"Check the permissions of the directory that it lies in.",
		"could not create directory \"%s\": %m", path);
}

void
remove_path_tree(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
	{
		if (errno == ENOENT)
			return;
		die(EXIT_GENERAL, "Check the permissions of the directories above it.",
			"could not look at \"%s\": %m", path);
	}
	if (!S_ISDIR(st.st_mode))
	{
		if (unlink(path) < 0)
			die(EXIT_GENERAL, "Check the permissions of its directory.",
				"could not remove \"%s\": %m", path);
		return;
	}
	/* a mount point stays */
	if (!rmtree(path, false) || (rmdir(path) < 0 && errno != EBUSY))
		die(EXIT_GENERAL, "Check the permissions below it, and whether something is mounted there.",
			"could not remove \"%s\"", path);
}

static void
sync_parent(const char *path)
{
	if (fsync_parent_path(path) != 0)
		die(EXIT_GENERAL, space_hint, "could not flush the directory of \"%s\" to disk", path);
}

void
remove_file_durably(const char *path)
{
	if (unlink(path) < 0)
	{
		if (errno == ENOENT || errno == ENOTDIR)
			return;
		die(EXIT_GENERAL, "Check the permissions of its directory.",
			"could not remove \"%s\": %m", path);
	}
	sync_parent(path);
}

void
write_file_durably(const char *path, const char *data, size_t len)
{
	char		temp[MAXPGPATH];
	int			fd;

	make_path(temp, "%s.tmp", path);
	if (unlink(temp) < 0 && errno != ENOENT)
		die(EXIT_GENERAL, space_hint, "could not remove \"%s\": %m", temp);
	fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
	if (fd < 0)
		die(EXIT_GENERAL, space_hint, "could not create \"%s\": %m", temp);
	errno = 0;
	if (write(fd, data, len) != (ssize_t) len || fsync(fd) < 0)
	{
		if (errno == 0)
			errno = ENOSPC;
		die(EXIT_GENERAL, space_hint, "could not write \"%s\": %m", temp);
	}
	if (close(fd) < 0)
		die(EXIT_GENERAL, space_hint, "could not close \"%s\": %m", temp);
	rename_durably(temp, path);
}

char *
read_small_file(const char *path, size_t limit, size_t *len)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	char	   *data;
	ssize_t		n;
	size_t		done = 0;

	if (fd < 0)
	{
		if (errno == ENOENT || errno == ENOTDIR)
			return NULL;
		die(EXIT_GENERAL, "Check its permissions.", "could not open \"%s\": %m", path);
	}
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > limit)
	{
		close(fd);
		return NULL;
	}
	data = pg_malloc(limit + 1);
	while (done < limit && (n = read(fd, data + done, limit - done)) != 0)
	{
		if (n < 0)
			die(EXIT_GENERAL, "Check the disk.", "could not read \"%s\": %m", path);
		done += n;
	}
	close(fd);
	data[done] = '\0';
	if (len != NULL)
		*len = done;
	return data;
}

void
rename_durably(const char *from, const char *to)
{
	if (rename(from, to) < 0)
		die(EXIT_GENERAL, space_hint, "could not rename \"%s\" to \"%s\": %m", from, to);
	sync_parent(to);
}

/* sync_file_range starts the writes, so that the fsyncs that follow overlap. */
static void
sync_file(const char *path, bool is_dir, bool start_only)
{
	int			fd = open(path,
							 is_dir ? O_RDONLY | O_DIRECTORY | O_CLOEXEC : O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die(EXIT_GENERAL, space_hint, "could not open \"%s\": %m", path);
	if (start_only)
		(void) sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	else if (fsync(fd) < 0)
		die(EXIT_GENERAL, space_hint, "could not flush \"%s\" to disk: %m", path);
	close(fd);
}

static void
sync_walk(const char *path, bool start_only, int depth)
{
	DIR		   *dir = opendir(path);
	struct dirent *entry;

	if (dir == NULL || depth > SYNC_MAX_DEPTH)
		die(EXIT_GENERAL, space_hint, "could not open directory \"%s\": %m", path);
	while (errno = 0, (entry = readdir(dir)) != NULL)
	{
		char		child[MAXPGPATH];
		struct stat st;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		make_path(child, "%s/%s", path, entry->d_name);
		if (lstat(child, &st) < 0)
			die(EXIT_GENERAL, space_hint, "could not look at \"%s\": %m", child);
		if (S_ISDIR(st.st_mode))
			sync_walk(child, start_only, depth + 1);
		else if (S_ISREG(st.st_mode))
			sync_file(child, false, start_only);
	}
	if (errno != 0)
		die(EXIT_GENERAL, space_hint, "could not read directory \"%s\": %m", path);
	closedir(dir);
	if (!start_only)
		sync_file(path, true, false);
}

void
sync_tree(const char *path)
{
	sync_walk(path, true, 0);
	sync_walk(path, false, 0);
}

void
make_path(char *buf, const char *fmt,...)
{
	va_list		args;
	int			len;

	va_start(args, fmt);
	len = vsnprintf(buf, MAXPGPATH, fmt, args);
	va_end(args);
	if (len < 0 || len >= MAXPGPATH)
		die(EXIT_GENERAL, "Use a state directory with a shorter path.",
			"path is too long: \"%.100s...\"", buf);
}
