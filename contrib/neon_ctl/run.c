/*-------------------------------------------------------------------------
 *
 * run.c
 *	  Who we are, and how other programs are run.
 *
 *-------------------------------------------------------------------------
 */
#include "run.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fsutil.h"
#include "output.h"

extern char **environ;

bool		children_end_with_us = false;

static struct
{
	char		name[64];
	uid_t		uid;
	gid_t		gid;
}			server;

static gid_t caller_gid;

bool
called_by_root(void)
{
	return getuid() == 0;
}

void
assume_server_user(const char *name)
{
	struct passwd *pw;

	caller_gid = getgid();
	if (!called_by_root())
	{
		pw = getpwuid(getuid());
		strlcpy(server.name, pw ? pw->pw_name : "", sizeof(server.name));
		server.uid = getuid();
		server.gid = getgid();
		if (name != NULL && strcmp(name, server.name) != 0)
			die(EXIT_USAGE, strf("Call neon as \"%s\" or as root.", name),
				"only root can run the servers as another user");
		return;
	}
	if (name == NULL)
		name = "postgres";
	pw = getpwnam(name);
	if (pw == NULL)
		die(EXIT_USAGE, "Name another user by --user.",
			"there is no user \"%s\" on this machine", name);
	if (pw->pw_uid == 0)
		die(EXIT_USAGE, "Name another user by --user.", "PostgreSQL does not run as root");
	strlcpy(server.name, name, sizeof(server.name));
	server.uid = pw->pw_uid;
	server.gid = pw->pw_gid;
	if (initgroups(server.name, server.gid) < 0)
		die(EXIT_GENERAL, "Check the groups of this user.",
			"could not take on the groups of user \"%s\": %m", name);
	reassume_server_user();
}

const char *
server_user(void)
{
	return server.name;
}

uid_t
server_uid(void)
{
	return server.uid;
}

gid_t
server_gid(void)
{
	return server.gid;
}

void
assume_caller(void)
{
	if (!called_by_root())
		return;
	if (seteuid(0) < 0 || setegid(caller_gid) < 0)
		die(EXIT_GENERAL, "Call neon as the server's user.", "could not become root again: %m");
}

void
reassume_server_user(void)
{
	if (!called_by_root())
		return;
	if (seteuid(0) < 0 || setegid(server.gid) < 0 || seteuid(server.uid) < 0)
		die(EXIT_GENERAL, "Check that this user may log in.", "could not become user \"%s\": %m",
			server.name);
}

void
give_up_root(void)
{
	if (called_by_root() &&
		(seteuid(0) < 0 || setgid(server.gid) < 0 || setuid(server.uid) < 0))
		_exit(126);
}

const char *
pg_program(const char *name)
{
	const char *path = strf("%s/%s", NEON_PG_BINDIR, name);

	if (access(path, X_OK) < 0)
		die(EXIT_GENERAL, "Install the server package of PostgreSQL " PG_MAJORVERSION ".",
			"could not find the program \"%s\": %m", path);
	return path;
}

/* The environment of children: ours without libpq's and the server's variables. */
static char **
clean_environment(void)
{
	int			n = 0;
	char	  **result;

	while (environ[n] != NULL)
		n++;
	result = pg_malloc((n + 1) * sizeof(char *));
	n = 0;
	for (char **e = environ; *e != NULL; e++)
	{
		if (strncmp(*e, "PG", 2) != 0)
			result[n++] = *e;
	}
	result[n] = NULL;
	return result;
}

/*
 * In the child, between fork and exec.  Gives root up for good.  death_signal,
 * if not 0, is what it gets when we are gone.
 */
static void
become_child(const char *const argv[], int out_fd, char **env, pid_t parent, int death_signal)
{
	int			null_fd = open("/dev/null", O_RDONLY);

	give_up_root();
	/* Giving up root would forget it, exec does not. */
	if (death_signal != 0 && (prctl(PR_SET_PDEATHSIG, death_signal) < 0 || getppid() != parent))
		_exit(126);
	if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 ||
		dup2(out_fd, STDOUT_FILENO) < 0 || dup2(out_fd, STDERR_FILENO) < 0)
		_exit(126);
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	if (chdir("/") < 0)
		_exit(126);
	umask(077);
	signal(SIGPIPE, SIG_DFL);
	execve(argv[0], (char *const *) argv, env);
	_exit(127);
}

static pid_t
fork_child(const char *const argv[], int out_fd, bool new_session, int death_signal)
{
	char	  **env = clean_environment();
	pid_t		parent = getpid();
	pid_t		pid;

	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid < 0)
		die(EXIT_GENERAL, "Check the limit of processes.", "could not start \"%s\": %m", argv[0]);
	if (pid == 0)
	{
		if (new_session)
			(void) setsid();
		become_child(argv, out_fd, env, parent, death_signal);
	}
	free(env);
	return pid;
}

/* Reads what is there; false at the end of the file. */
static bool
collect_output(int fd, PQExpBuffer output, int timeout_ms)
{
	struct pollfd pfd = {fd, POLLIN, 0};
	char		buf[4096];
	ssize_t		n;

	if (poll(&pfd, 1, timeout_ms) <= 0)
		return true;
	n = read(fd, buf, sizeof(buf));
	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	appendBinaryPQExpBuffer(output, buf, n);
	return n > 0;
}

int
run_program(const char *const argv[], PQExpBuffer output, int timeout_s, const char *progress)
{
	int			fds[2];
	pid_t		pid;
	int			status;
	int64		deadline = now_ms() + (int64) timeout_s * 1000;
	bool		timed_out = false;

	if (pipe(fds) < 0 || fcntl(fds[0], F_SETFD, FD_CLOEXEC) < 0)
		die(EXIT_GENERAL, "Check the limit of open files.", "could not create a pipe: %m");
	/* initdb that goes on without us, or cleans up, would meet who repeats the command */
	pid = fork_child(argv, fds[1], false, SIGKILL);
	close(fds[1]);
	if (progress != NULL)
		progress_begin(progress);
	while (!timed_out && collect_output(fds[0], output, 100))
	{
		progress_tick();
		timed_out = now_ms() > deadline;
	}
	close(fds[0]);
	if (timed_out)
		(void) kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (progress != NULL)
		progress_end();
	if (timed_out)
		appendPQExpBuffer(output, "no end after %d s", timeout_s);
	return (!timed_out && WIFEXITED(status)) ? WEXITSTATUS(status) : -1;
}

pid_t
run_server(const char *const argv[], const char *log)
{
	int			fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, S_IRUSR | S_IWUSR);
	pid_t		pid;

	if (fd < 0)
		die(EXIT_GENERAL, "Check the permissions of its directory.",
			"could not open log \"%s\": %m", log);
	pid = fork_child(argv, fd, true, children_end_with_us ? SIGQUIT : 0);
	close(fd);
	return pid;
}

#ifdef NEON_TESTING
void
test_point(const char *name)
{
	const char *wanted = getenv("NEON_TEST_KILL_AT");
	const char *stop = getenv("NEON_TEST_STOP_AT");

	if (wanted != NULL && strcmp(wanted, name) == 0)
		(void) kill(getpid(), SIGKILL);
	if (stop != NULL && strcmp(stop, name) == 0)
		(void) kill(getpid(), SIGSTOP);
}
#endif

int64
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void
sleep_ms(int ms)
{
	struct timespec ts = {ms / 1000, (long) (ms % 1000) * 1000000};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}
