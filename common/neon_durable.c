/*-------------------------------------------------------------------------
 *
 * neon_durable.c
 *	  The few durable file operations of the services.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "neon_diskfull.h"
#include "neon_durable.h"
#include "storage/fd.h"

bool
durable_try_sync_dir(const char *path)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	int			rc;
	int			save_errno;

	if (fd < 0)
		return false;
	rc = pg_fsync(fd);
	save_errno = errno;
	CloseTransientFile(fd);
	errno = save_errno;
	return rc == 0;
}

void
durable_sync_dir(const char *path)
{
	if (!durable_try_sync_dir(path))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not synchronize directory \"%s\": %m", path)));
}

static void
sync_parent(const char *path)
{
	char		parent[MAXPGPATH];

	strlcpy(parent, path, sizeof(parent));
	get_parent_directory(parent);
	durable_sync_dir(parent[0] ? parent : ".");
}

void
durable_make_dir(const char *path, bool exists_ok)
{
	if (MakePGDirectory(path) != 0)
	{
		if (errno != EEXIST || !exists_ok)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not create directory \"%s\": %m", path),
					 neon_hint_if_full(path)));
	}
	sync_parent(path);
}

static void
remove_entry(const char *path)
{
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

void
durable_remove_tree(const char *path)
{
	static const volatile sig_atomic_t never = 0;

	durable_remove_tree_until(path, &never);
}

void
durable_remove_tree_until(const char *path, const volatile sig_atomic_t *stop)
{
	struct stat st;
	DIR		   *dir;
	struct dirent *de;

	if (*stop || lstat(path, &st) != 0)
		return;
	if (!S_ISDIR(st.st_mode))
	{
		remove_entry(path);
		return;
	}
	dir = AllocateDir(path);
	while (dir != NULL && (de = ReadDirExtended(dir, path, LOG)) != NULL)
	{
		char		child[MAXPGPATH * 2];

		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		snprintf(child, sizeof(child), "%s/%s", path, de->d_name);
		durable_remove_tree_until(child, stop);
	}
	if (dir != NULL)
		FreeDir(dir);
	if (*stop)
		return;
	if (rmdir(path) != 0 && errno != ENOENT)
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not remove directory \"%s\": %m", path)));
}

/* Bytes read (less than len only at the end of the file), or -1. */
ssize_t
durable_pread(int fd, void *buf, size_t len, off_t offset)
{
	size_t		done = 0;

	while (done < len)
	{
		ssize_t		n = pread(fd, (char *) buf + done, len - done, offset + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		done += n;
	}
	return done;
}

bool
durable_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	size_t		done = 0;

	while (done < len)
	{
		ssize_t		n = pwrite(fd, (const char *) buf + done, len - done, offset + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
		{
			if (n == 0)
				errno = ENOSPC;
			return false;
		}
		done += n;
	}
	return true;
}

bool
durable_exists(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0;
}
