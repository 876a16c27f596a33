/*-------------------------------------------------------------------------
 *
 * repo.c
 *	  The state directory: its layout, its config file, its locks.
 *
 *-------------------------------------------------------------------------
 */
#include "repo.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fsutil.h"
#include "neon_id.h"
#include "output.h"
#include "run.h"

/* Ports that are taken where any will do; the system's own begin at 32768. */
#define FIRST_FREE_PORT	12000
#define FREE_PORTS		20000
#define PORT_TRIES		100

#define CONFIG_FORMAT	1
#define PASSWORD_LENGTH	48

Repo		repo;

const char *
repo_path(const char *fmt,...)
{
	char		below[MAXPGPATH];
	char		path[MAXPGPATH];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(below, sizeof(below), fmt, args);
	va_end(args);
	make_path(path, "%s/%s", repo.dir, below);
	return strf("%s", path);
}

/* The directory as the user named it, made absolute. */
static void
name_directory(const Invocation *inv, char *path)
{
	const char *dir = inv->option[OPT_REPO_DIR];
	char		cwd[MAXPGPATH];

	if (dir == NULL)
		dir = getenv("NEON_REPO_DIR");
	if (dir == NULL || dir[0] == '\0')
		dir = ".neon";
	if (strpbrk(dir, "\r\n") != NULL)
		die(EXIT_USAGE, "Choose another path.",
			"the path of the state directory has a line break in it");
	if (dir[0] == '/')
		make_path(path, "%s", dir);
	else
	{
		if (getcwd(cwd, sizeof(cwd)) == NULL)
			die(EXIT_GENERAL, "Give an absolute path by -D.",
				"could not find out the current directory: %m");
		make_path(path, "%s/%s", cwd, dir);
	}
}

static void
no_repo(const char *path)
{
	die(EXIT_GENERAL,
		"Create it by \"neon init\", or name another one by -D DIR or $NEON_REPO_DIR.",
		"there is no state directory \"%s\"", path);
}

/* As root: the server's user may not get there (a home directory, often). */
static void
unreachable(const char *path)
{
	if (called_by_root())
		die(EXIT_GENERAL, "Use a place that this user can reach: neon -D /var/lib/neon init",
			"user \"%s\" cannot reach the state directory \"%s\": %m", server_user(), path);
	die(EXIT_GENERAL, "Check its owner and permissions, or name another one by -D DIR.",
		"could not use the state directory \"%s\": %m", path);
}

static void
check_reachable(const char *path)
{
	if (faccessat(AT_FDCWD, path, R_OK | W_OK | X_OK, AT_EACCESS) < 0)
		unreachable(path);
}

void
repo_open(const Invocation *inv)
{
	char		path[MAXPGPATH];
	char		real[PATH_MAX];
	struct stat st;

	name_directory(inv, path);
	if (realpath(path, real) == NULL || stat(real, &st) < 0)
	{
		if (errno == EACCES)
			check_reachable(path);
		no_repo(path);
	}
	assume_server_user(inv->option[OPT_USER]);
	make_path(repo.dir, "%s", real);
	/* The directory's owner runs the servers. */
	if (called_by_root() && inv->option[OPT_USER] == NULL && st.st_uid != server_uid())
	{
		KvFile		peek;
		bool		found;

		assume_caller();
		found = kv_load(&peek, repo_path("config"));
		if (found && kv_get(&peek, "user") != NULL)
			assume_server_user(kv_get(&peek, "user"));
		else
			reassume_server_user();
		kv_free(&peek);
	}
	if (access(repo_path("config"), F_OK) < 0 && errno == ENOENT)
		no_repo(path);
	check_reachable(repo.dir);
	config_reload();
	if (strcmp(kv_get_default(&repo.config, "state", ""), "ready") != 0)
		die(EXIT_GENERAL, "Run \"neon init --force\".",
			"\"neon init\" did not come to its end in \"%s\"", repo.dir);
}

/*
 * As root: a directory just made, or an empty one of root's, becomes the
 * server's user's.
 */
static void
give_directory(const char *path, bool made)
{
	struct stat st;

	if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		die(EXIT_GENERAL, "Choose another place by -D DIR.", "\"%s\" is no directory", path);
	if (!made && (st.st_uid != 0 || !directory_is_empty(path)))
		return;
	if (chown(path, server_uid(), server_gid()) < 0)
		die(EXIT_GENERAL, "Choose another place by -D DIR.",
			"could not give \"%s\" to user \"%s\": %m", path, server_user());
}

/* The directory that repo_prepare made. */
static char made_directory[MAXPGPATH];

/* At the end of the command: a failed init leaves no directory that it made. */
static void
remove_if_empty(void)
{
	assume_caller();
	(void) rmdir(made_directory);
}

bool
repo_prepare(const Invocation *inv)
{
	char		path[MAXPGPATH];
	char		real[PATH_MAX];
	bool		made;

	name_directory(inv, path);
	assume_server_user(inv->option[OPT_USER]);
	assume_caller();
	made = mkdir(path, S_IRWXU) == 0;
	if (!made && (errno != EEXIST || !is_directory(path)))
		die(EXIT_GENERAL, "Choose another place by -D DIR.",
			"could not create directory \"%s\": %m", path);
	if (made)
	{
		make_path(made_directory, "%s", path);
		atexit(remove_if_empty);
	}
	if (called_by_root())
		give_directory(path, made);
	reassume_server_user();
	check_reachable(path);
	if (realpath(path, real) == NULL)
		die(EXIT_GENERAL, "Choose another place by -D DIR.", "could not resolve \"%s\": %m", path);
	make_path(repo.dir, "%s", real);
	return path_exists(repo_path("config"));
}

void
config_reload(void)
{
	kv_free(&repo.config);
	if (!kv_load(&repo.config, repo_path("config")))
		no_repo(repo.dir);
	if (kv_get_int(&repo.config, "format", 0) != CONFIG_FORMAT)
		die(EXIT_GENERAL, "Use the neon command of the version that made it.",
			"\"%s\" is not of format %d", repo_path("config"), CONFIG_FORMAT);
	repo.trust = strcmp(kv_get_default(&repo.config, "auth", "scram"), "trust") == 0;
}

void
config_save(void)
{
	kv_save(&repo.config, repo_path("config"),
			"State directory of neon.  Holds secrets; written by the neon command.");
}

/* ---- locks ---- */

void
lock_note(int lock, pid_t holder)
{
	char		note[64];
	int			len = snprintf(note, sizeof(note), "%d\n", (int) holder);

	if (ftruncate(lock, 0) < 0 || pwrite(lock, note, len, 0) != len)
		warn("could not write into a lock file: %m");
}

static int
open_lock(const char *path)
{
	int			fd;

	make_directory(repo_path("run"));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
	if (fd < 0)
		die(EXIT_GENERAL, "Check the permissions of its directory.",
			"could not open lock file \"%s\": %m", path);
	return fd;
}

int
lock_acquire(const char *name, int timeout_s, bool *waited)
{
	const char *path = repo_path("run/%s.lock", name);
	int64		deadline = now_ms() + (int64) timeout_s * 1000;
	int			fd = open_lock(path);

	if (waited != NULL)
		*waited = false;
	progress_begin("waiting for another neon command");
	while (flock(fd, LOCK_EX | LOCK_NB) < 0)
	{
		char		holder[32] = "";

		if (errno != EWOULDBLOCK && errno != EINTR)
			die(EXIT_GENERAL, "Check the file system.", "could not lock \"%s\": %m", path);
		if (waited != NULL)
			*waited = true;
		if (now_ms() > deadline)
		{
			ssize_t		n = pread(fd, holder, sizeof(holder) - 1, 0);

			holder[n > 0 ? n : 0] = '\0';
			holder[strcspn(holder, "\n")] = '\0';
			die(EXIT_TIMEOUT, "Wait for it to end, or look what it waits for.",
				"another neon command (process %s) works on \"%s\"", holder, name);
		}
		progress_tick();
		sleep_ms(20);
	}
	progress_end();
	lock_note(fd, getpid());
	return fd;
}

int
lock_try(const char *name)
{
	const char *path = repo_path("run/%s.lock", name);
	int			fd = open_lock(path);

	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
	{
		lock_note(fd, getpid());
		return fd;
	}
	if (errno != EWOULDBLOCK)
		die(EXIT_GENERAL, "Check the file system.", "could not lock \"%s\": %m", path);
	close(fd);
	return -1;
}

pid_t
lock_holder(const char *name)
{
	int			fd = open_lock(repo_path("run/%s.lock", name));
	char		note[32] = "";
	ssize_t		n;
	pid_t		holder = 0;

	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
	{
		n = pread(fd, note, sizeof(note) - 1, 0);
		holder = n > 0 ? (pid_t) atoi(note) : -1;
	}
	close(fd);
	return holder;
}

void
lock_release(int lock)
{
	close(lock);
}

/* ---- values of the config ---- */

const char *
chosen_tenant(const Invocation *inv)
{
	const char *given = inv->option[OPT_TENANT_ID];
	NeonId		id;
	static char hex[NEON_ID_HEXLEN + 1];

	if (given == NULL)
		given = kv_get(&repo.config, "default_tenant");
	if (given == NULL)
		die(EXIT_GENERAL,
			"Give --tenant-id, choose one by \"neon tenant set-default ID\", or create one by \"neon tenant create --set-default\".",
			"there is no default tenant");
	if (!neon_id_parse(given, &id))
		die(EXIT_GENERAL, "Correct the config file.", "\"%s\" is no id of a tenant", given);
	return neon_id_format(&id, hex);
}

const char *
new_password(void)
{
	char		hex[2 * NEON_ID_HEXLEN + 1];
	NeonId		a;
	NeonId		b;

	if (!neon_id_generate(&a) || !neon_id_generate(&b))
		die(EXIT_GENERAL, "Check the machine's random number source.",
			"could not generate a password");
	neon_id_format(&a, hex);
	neon_id_format(&b, hex + NEON_ID_HEXLEN);
	hex[PASSWORD_LENGTH] = '\0';
	return strf("%s", hex);
}

const char *
tenant_secret(const char *tenant, const char *which)
{
	const char *secret = kv_get(&repo.config, strf("tenant.%s.%s_password", tenant, which));

	if (repo.trust)
		return "";
	if (secret == NULL)
		die(EXIT_GENERAL, "Restore the config file from a copy.",
			"\"%s\" has no secrets of tenant %s", repo_path("config"), tenant);
	return secret;
}

const char *
socket_directory(int port)
{
	struct sockaddr_un address;
	const char *dir = repo_path("run");
	const char *name = strf("%s/.s.PGSQL.%d", dir, port);

	return strlen(name) < sizeof(address.sun_path) ? dir : NULL;
}

/* Binds as the server will.  Returns the port, or 0. */
static int
try_bind(int port)
{
	struct sockaddr_in address = {0};
	socklen_t	len = sizeof(address);
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int			one = 1;
	int			result = 0;

	if (fd < 0)
		die(EXIT_GENERAL, "Check the limit of open files.", "could not create a socket: %m");
	(void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	address.sin_family = AF_INET;
	address.sin_port = htons((uint16) port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *) &address, sizeof(address)) == 0 && listen(fd, 1) == 0 &&
		getsockname(fd, (struct sockaddr *) &address, &len) == 0)
		result = ntohs(address.sin_port);
	close(fd);
	return result;
}

bool
port_is_free(int port)
{
	return try_bind(port) != 0;
}

/*
 * Not of the range from which the system gives ports to connections: until the
 * server listens on it, one of them might get it.
 */
int
any_free_port(void)
{
	NeonId		random;
	int			port = 0;

	for (int i = 0; i < PORT_TRIES && port == 0 && neon_id_generate(&random); i++)
		port = try_bind(FIRST_FREE_PORT + (random.b[0] << 8 | random.b[1]) % FREE_PORTS);
	if (port == 0)
		port = try_bind(0);
	if (port == 0)
		die(EXIT_GENERAL, "Give one by --port.", "could not find a free port");
	return port;
}
