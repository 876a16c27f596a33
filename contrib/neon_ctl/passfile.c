/*-------------------------------------------------------------------------
 *
 * passfile.c
 *	  Password files as libpq reads them.
 *
 * Lines are host:port:database:user:password, the first that fits counts, and
 * libpq ignores a file that others may read.  A file is replaced by rename,
 * under a lock on the file that is replaced; who waited for the lock looks
 * whether it is still the file of that name.
 *
 *-------------------------------------------------------------------------
 */
#include "passfile.h"

#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "output.h"
#include "pqexpbuffer.h"
#include "run.h"

#define PASSFILE_LIMIT	(16 * 1024 * 1024)
#define LOCK_TIMEOUT_MS 10000

/* Colons and backslashes of a field are escaped by a backslash. */
static void
append_field(PQExpBuffer buf, const char *field)
{
	for (; *field; field++)
	{
		if (*field == ':' || *field == '\\')
			appendPQExpBufferChar(buf, '\\');
		appendPQExpBufferChar(buf, *field);
	}
}

/* "host:port:*:user:", which identifies a line. */
static void
append_prefix(PQExpBuffer buf, const char *host, int port, const char *user)
{
	append_field(buf, host);
	appendPQExpBuffer(buf, ":%d:*:", port);
	append_field(buf, user);
	appendPQExpBufferChar(buf, ':');
}

/* Opens and locks the file of that name, making it if need be; -1 with errno. */
static int
open_locked(const char *path)
{
	int64		deadline = now_ms() + LOCK_TIMEOUT_MS;

	for (;;)
	{
		int			fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
		struct stat by_name;
		struct stat by_fd;

		if (fd < 0)
			return -1;
		while (flock(fd, LOCK_EX | LOCK_NB) < 0)
		{
			if ((errno != EWOULDBLOCK && errno != EINTR) || now_ms() > deadline)
			{
				close(fd);
				return -1;
			}
			sleep_ms(20);
		}
		if (fstat(fd, &by_fd) == 0 && stat(path, &by_name) == 0 &&
			by_fd.st_ino == by_name.st_ino && by_fd.st_dev == by_name.st_dev)
			return fd;
		close(fd);				/* replaced while we waited */
	}
}

static bool
read_all(int fd, PQExpBuffer content)
{
	char		buf[8192];
	ssize_t		n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
	{
		appendBinaryPQExpBuffer(content, buf, n);
		if (content->len > PASSFILE_LIMIT)
		{
			errno = EFBIG;
			return false;
		}
	}
	return n == 0 && !PQExpBufferBroken(content);
}

static bool
replace_file(const char *path, PQExpBuffer content)
{
	char		temp[MAXPGPATH];
	int			fd;
	bool		ok;
	int			save_errno;

	if (snprintf(temp, sizeof(temp), "%s.neon.%d", path, (int) getpid()) >= sizeof(temp))
	{
		errno = ENAMETOOLONG;
		return false;
	}
	fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
	if (fd < 0)
		return false;
	errno = ENOSPC;
	ok = write(fd, content->data, content->len) == content->len && fsync(fd) == 0;
	ok = (close(fd) == 0) && ok;
	if (ok && rename(temp, path) == 0)
		return true;
	save_errno = errno;
	(void) unlink(temp);
	errno = save_errno;
	return false;
}

/* Appends the old lines but those that begin with one of the prefixes. */
static void
append_other_lines(PQExpBuffer out, char *old, char *const *prefixes, int n)
{
	for (char *line = old; line != NULL && *line != '\0';)
	{
		char	   *next = strchr(line, '\n');
		size_t		len = next ? (size_t) (next - line) : strlen(line);
		bool		replaced = false;

		for (int i = 0; i < n; i++)
			replaced |= strncmp(line, prefixes[i], strlen(prefixes[i])) == 0;
		if (!replaced)
		{
			appendBinaryPQExpBuffer(out, line, len);
			appendPQExpBufferChar(out, '\n');
		}
		line = next ? next + 1 : NULL;
	}
}

static bool
put_lines(const char *path, char *const *prefixes, int n, const char *password)
{
	int			fd = open_locked(path);
	PQExpBufferData old;
	PQExpBufferData new;
	bool		ok;

	if (fd < 0)
		return false;
	initPQExpBuffer(&old);
	initPQExpBuffer(&new);
	ok = read_all(fd, &old);
	if (ok)
	{
		for (int i = 0; password != NULL && i < n; i++)
		{
			appendPQExpBufferStr(&new, prefixes[i]);
			append_field(&new, password);
			appendPQExpBufferChar(&new, '\n');
		}
		append_other_lines(&new, old.data, prefixes, n);
		if (PQExpBufferBroken(&new))
			die_oom();
		ok = (new.len == old.len && memcmp(new.data, old.data, new.len) == 0 &&
			  fchmod(fd, S_IRUSR | S_IWUSR) == 0) || replace_file(path, &new);
	}
	termPQExpBuffer(&old);
	termPQExpBuffer(&new);
	close(fd);
	return ok;
}

/* The beginning of a line, up to the password, or the whole line if there is one. */
static char *
make_prefix(const char *host, int port, const char *user, const char *password)
{
	PQExpBufferData buf;

	initPQExpBuffer(&buf);
	append_prefix(&buf, host, port, user);
	if (password != NULL)
		append_field(&buf, password);
	if (PQExpBufferBroken(&buf))
		die_oom();
	return buf.data;
}

/* Where libpq looks for it.  A link is followed, so that it stays one. */
static bool
find_user_passfile(char *path)
{
	const char *env = getenv("PGPASSFILE");
	const char *home = getenv("HOME");
	char		real[PATH_MAX];
	struct passwd *pw;

	if (env != NULL && env[0] != '\0')
		strlcpy(path, env, MAXPGPATH);
	else
	{
		if (home == NULL || home[0] == '\0')
		{
			pw = getpwuid(getuid());
			if (pw == NULL)
				return false;
			home = pw->pw_dir;
		}
		snprintf(path, MAXPGPATH, "%s/.pgpass", home);
	}
	if (realpath(path, real) != NULL)
		strlcpy(path, real, MAXPGPATH);
	return true;
}

/*
 * Replaces or, if password is NULL, removes the lines for the server that
 * begin with its address and user and, if it is given, the old password.
 */
static void
change_user_passfile(const char *socket_dir, int port, const char *user,
					 const char *old_password, const char *password)
{
	char		path[MAXPGPATH] = "";
	char	   *prefixes[3];
	int			n = 0;
	bool		ok;

	assume_caller();
	prefixes[n++] = make_prefix("127.0.0.1", port, user, old_password);
	prefixes[n++] = make_prefix("localhost", port, user, old_password);
	if (socket_dir != NULL)
		prefixes[n++] = make_prefix(socket_dir, port, user, old_password);
	ok = find_user_passfile(path);
	if (password != NULL || (ok && access(path, F_OK) == 0))
		ok = ok && put_lines(path, prefixes, n, password);
	if (!ok)
		warn("could not change the passfile \"%s\": %m; passwords are in the state directory's config file", path);
	reassume_server_user();
	while (n > 0)
		free(prefixes[--n]);
}

void
user_passfile_put(const char *socket_dir, int port, const char *user, const char *password)
{
	change_user_passfile(socket_dir, port, user, NULL, password);
}

void
user_passfile_remove(const char *socket_dir, int port, const char *user, const char *password)
{
	change_user_passfile(socket_dir, port, user, password, NULL);
}

/*
 * Is a server's file as it shall be?  Read without a lock: it is only ever
 * replaced as a whole.  So nothing is written to a full disk that needs not be.
 */
static bool
has_line(const char *path, const char *prefix, const char *line)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	PQExpBufferData content;
	bool		has = false;

	if (fd < 0)
		return false;
	initPQExpBuffer(&content);
	if (read_all(fd, &content))
	{
		const char *at = content.data;

		/* the first line that begins so is the one that counts */
		while (at != NULL && strncmp(at, prefix, strlen(prefix)) != 0)
		{
			at = strchr(at, '\n');
			at = at ? at + 1 : NULL;
		}
		if (line == NULL || at == NULL)
			has = line == NULL && at == NULL;
		else
			has = strncmp(at, line, strlen(line)) == 0 &&
				(at[strlen(line)] == '\n' || at[strlen(line)] == '\0');
	}
	termPQExpBuffer(&content);
	close(fd);
	return has;
}

bool
server_passfile_put(const char *path, int port, const char *user, const char *password)
{
	char	   *prefix = make_prefix("127.0.0.1", port, user, NULL);
	char	   *line = password ? make_prefix("127.0.0.1", port, user, password) : NULL;
	bool		ok = has_line(path, prefix, line) || put_lines(path, &prefix, 1, password);
	int			save_errno = errno;

	free(prefix);
	free(line);
	errno = save_errno;
	return ok;
}
