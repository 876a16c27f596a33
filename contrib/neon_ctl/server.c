/*-------------------------------------------------------------------------
 *
 * server.c
 *	  A PostgreSQL instance as seen from outside.
 *
 * A process id in postmaster.pid proves nothing by itself: it counts only if
 * that process works in this very directory.  And a dead postmaster is not a
 * stopped server: its backends go on until they notice, so the shared memory
 * that postmaster.pid names is asked how many processes are attached, and
 * /proc for those that work in the directory.
 *
 *-------------------------------------------------------------------------
 */
#include "server.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dsm.h"
#include "fsutil.h"
#include "miscadmin.h"
#include "output.h"
#include "repo.h"
#include "run.h"
#include "utils/pidfile.h"

#define PIDFILE_LIMIT		(64 * 1024)
#define IMMEDIATE_TIMEOUT_MS 5000
#define KILL_TIMEOUT_MS		20000
#define LAST_LOG_TIMEOUT_MS 3000

typedef struct PidFile
{
	pid_t		pid;
	int			port;
	bool		has_shmem;
	unsigned long shmem_key;
	unsigned long shmem_id;
	bool		ready;
} PidFile;

static bool
read_pid_file(const char *pgdata, PidFile *result)
{
	char		path[MAXPGPATH];
	char	   *data;
	char	   *next;
	int			line_number = 0;

	memset(result, 0, sizeof(*result));
	make_path(path, "%s/postmaster.pid", pgdata);
	data = read_small_file(path, PIDFILE_LIMIT, NULL);
	if (data == NULL)
		return false;
	for (char *line = data; line != NULL; line = next)
	{
		next = strchr(line, '\n');
		if (next != NULL)
			*next++ = '\0';
		line_number++;
		if (line_number == LOCK_FILE_LINE_PID)
			result->pid = (pid_t) abs(atoi(line));
		else if (line_number == LOCK_FILE_LINE_PORT)
			result->port = atoi(line);
		else if (line_number == LOCK_FILE_LINE_SHMEM_KEY)
			result->has_shmem = sscanf(line, "%lu %lu", &result->shmem_key, &result->shmem_id) == 2;
		else if (line_number == LOCK_FILE_LINE_PM_STATUS)
			result->ready = strncmp(line, PM_STATUS_READY, strlen(PM_STATUS_READY)) == 0 ||
				strncmp(line, PM_STATUS_STANDBY, strlen(PM_STATUS_STANDBY)) == 0;
	}
	free(data);
	return true;
}

/* Is the process's working directory this one? */
static bool
works_in(pid_t pid, const struct stat *dir)
{
	char		path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/cwd", (int) pid);
	return stat(path, &st) == 0 && st.st_dev == dir->st_dev && st.st_ino == dir->st_ino;
}

/* The same for a directory that has been deleted meanwhile: then only its name is left. */
static bool
worked_in(pid_t pid, const char *pgdata)
{
	char		path[64];
	char		link[MAXPGPATH + 32];
	char		deleted[MAXPGPATH + 32];
	ssize_t		len;

	snprintf(path, sizeof(path), "/proc/%d/cwd", (int) pid);
	len = readlink(path, link, sizeof(link) - 1);
	if (len <= 0)
		return false;
	link[len] = '\0';
	snprintf(deleted, sizeof(deleted), "%s (deleted)", pgdata);
	return strcmp(link, deleted) == 0;
}

/* Is it a server process, and not somebody's shell there? */
static bool
is_postgres(pid_t pid)
{
	char		path[64];
	char		link[MAXPGPATH];
	ssize_t		len;
	const char *base;

	snprintf(path, sizeof(path), "/proc/%d/exe", (int) pid);
	len = readlink(path, link, sizeof(link) - 1);
	if (len <= 0)
		return false;
	link[len] = '\0';
	base = strrchr(link, '/');
	return base != NULL && strncmp(base + 1, "postgres", 8) == 0;
}

/*
 * Server processes that work in pgdata: counts them and, if signo is not 0,
 * signals them.  Zombies have no working directory and do not count.
 */
static int
server_processes(const char *pgdata, int signo)
{
	DIR		   *proc = opendir("/proc");
	struct dirent *entry;
	struct stat dir;
	bool		exists = stat(pgdata, &dir) == 0;
	int			n = 0;

	if (proc == NULL)
		return 0;
	while ((entry = readdir(proc)) != NULL)
	{
		pid_t		pid = (pid_t) atoi(entry->d_name);

		if (pid <= 1 || pid == getpid())
			continue;
		if (!((exists && works_in(pid, &dir)) || worked_in(pid, pgdata)) || !is_postgres(pid))
			continue;
		n++;
		if (signo != 0)
			(void) kill(pid, signo);
	}
	closedir(proc);
	return n;
}

/* As PostgreSQL asks it before it starts on a directory. */
static bool
memory_attached(const PidFile *pidfile)
{
	struct shmid_ds ds;

	if (!pidfile->has_shmem)
		return false;
	if (shmctl((int) pidfile->shmem_id, IPC_STAT, &ds) < 0)
		return false;			/* removed, or another user's with this id */
	if ((unsigned long) ds.shm_perm.__key != pidfile->shmem_key)
		return false;
	return ds.shm_nattch > 0;
}

/*
 * Removes what a killed postmaster left: its lock file, and the shared memory
 * that only the next start on the same directory would remove.
 */
static void
remove_leftovers(const char *pgdata, const PidFile *pidfile)
{
	char		path[MAXPGPATH];
	struct shmid_ds ds;

	if (pidfile->has_shmem && shmctl((int) pidfile->shmem_id, IPC_STAT, &ds) == 0 &&
		(unsigned long) ds.shm_perm.__key == pidfile->shmem_key && ds.shm_nattch == 0)
	{
		dsm_remove_leftovers((int) pidfile->shmem_id);
		(void) shmctl((int) pidfile->shmem_id, IPC_RMID, NULL);
	}
	make_path(path, "%s/postmaster.pid", pgdata);
	remove_file_durably(path);
}

static bool
postmaster_alive(const char *pgdata, const PidFile *pidfile)
{
	struct stat dir;

	return pidfile->pid > 1 && stat(pgdata, &dir) == 0 && works_in(pidfile->pid, &dir);
}

bool
server_in_use(const char *pgdata)
{
	PidFile		pidfile;

	return (read_pid_file(pgdata, &pidfile) && memory_attached(&pidfile)) ||
		server_processes(pgdata, 0) > 0;
}

void
server_info(const char *pgdata, ServerInfo *info)
{
	PidFile		pidfile;
	bool		found = read_pid_file(pgdata, &pidfile);

	memset(info, 0, sizeof(*info));
	if (found && postmaster_alive(pgdata, &pidfile))
	{
		info->state = SERVER_RUNNING;
		info->pid = pidfile.pid;
		info->port = pidfile.port;
		info->ready = pidfile.ready;
	}
	else if (server_in_use(pgdata))
		info->state = SERVER_ORPHANED;
	else
		info->state = found ? SERVER_CRASHED : SERVER_STOPPED;
}

/* ---- stop ---- */

static bool
wait_until_unused(const char *pgdata, const PidFile *pidfile, int timeout_ms)
{
	int64		deadline = now_ms() + timeout_ms;

	/* The last to leave removes postmaster.pid, hence the copy of what it said. */
	while (memory_attached(pidfile) || server_processes(pgdata, 0) > 0)
	{
		if (now_ms() >= deadline)
			return false;
		progress_tick();
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		sleep_ms(20);
	}
	return true;
}

bool
server_try_stop(const char *pgdata, StopMode mode, int fast_timeout_s, const char *what)
{
	PidFile		pidfile;
	bool		alive = read_pid_file(pgdata, &pidfile) && postmaster_alive(pgdata, &pidfile);
	bool		stopped = true;

	if (!server_in_use(pgdata) && !alive)
	{
		if (is_directory(pgdata))
			remove_leftovers(pgdata, &pidfile);
		return true;
	}
	progress_begin(strf("stopping %s", what));
	if (alive && mode == STOP_FAST)
	{
		(void) kill(pidfile.pid, SIGINT);
		if (wait_until_unused(pgdata, &pidfile, fast_timeout_s * 1000))
		{
			progress_end();
			return true;
		}
	}
	if (alive)
		(void) kill(pidfile.pid, SIGQUIT);
	if (!alive || !wait_until_unused(pgdata, &pidfile, IMMEDIATE_TIMEOUT_MS))
	{
		/* SIGKILL ends stopped processes too. */
		(void) server_processes(pgdata, SIGKILL);
		stopped = wait_until_unused(pgdata, &pidfile, KILL_TIMEOUT_MS);
	}
	if (stopped && is_directory(pgdata))
		remove_leftovers(pgdata, &pidfile);
	progress_end();
	return stopped;
}

void
server_stop(const char *pgdata, StopMode mode, int fast_timeout_s, const char *what)
{
	if (!server_try_stop(pgdata, mode, fast_timeout_s, what))
		die(EXIT_TIMEOUT, "Look for processes of this server that hang, and end them.",
			"%s does not stop: processes are still attached to its shared memory", what);
}

/* ---- start ---- */

void
server_clear_leftovers(const char *pgdata, int port)
{
	PidFile		pidfile;

	if (server_in_use(pgdata))
		return;
	if (read_pid_file(pgdata, &pidfile))
		remove_leftovers(pgdata, &pidfile);
	remove_file_durably(repo_path("run/.s.PGSQL.%d.lock", port));
	remove_file_durably(repo_path("run/.s.PGSQL.%d", port));
}

void
server_await_last_log(const char *pgdata)
{
	PidFile		none = {0};

	(void) wait_until_unused(pgdata, &none, LAST_LOG_TIMEOUT_MS);
}

static void
die_not_started(const char *pgdata, const LogMark *mark, const char *what, const char *logs_command,
				const char *advice)
{
	char		message[2048];
	char		hint[2048];
	const char *hints = strf("Look into its log: \"%s\".", logs_command);

	server_await_last_log(pgdata);
	if (!log_failure(mark, message, hint, sizeof(message)))
		die(EXIT_GENERAL, hints, "%s did not start", what);
	if (hint[0])
		hints = strf("%s", hint);
	/* the library's own hints say what to do; the server's do not know of our files */
	if (advice != NULL && strstr(hint, "neon ") == NULL)
		hints = strf("%s %s", hints, advice);
	die(EXIT_GENERAL, hints, "%s did not start: %s", what, message);
}

void
server_start(const char *const argv[], const char *pgdata, const char *log,
			 const char *what, const char *logs_command, const char *advice, int timeout_s)
{
	LogMark    *mark = log_mark(log);
	int64		deadline = now_ms() + (int64) timeout_s * 1000;
	pid_t		pid;

	log_rotate(log);
	pid = run_server(argv, log);
	progress_begin(strf("starting %s", what));
	for (;;)
	{
		PidFile		pidfile;

		if (waitpid(pid, NULL, WNOHANG) == pid)
			die_not_started(pgdata, mark, what, logs_command, advice);
		if (read_pid_file(pgdata, &pidfile) && pidfile.pid == pid && pidfile.ready)
			break;
		if (now_ms() > deadline)
		{
			server_stop(pgdata, STOP_IMMEDIATE, 0, what);
			die(EXIT_TIMEOUT, strf("Look into its log: \"%s\".", logs_command),
				"%s was not ready after %d s and has been stopped", what, timeout_s);
		}
		progress_tick();
		sleep_ms(10);
	}
	progress_end();
}
