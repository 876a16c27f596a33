/*-------------------------------------------------------------------------
 *
 * discard.c
 *	  Old data directories, which are removed behind the command's back.
 *
 * To remove 100,000 files takes many times as long as everything else in a
 * start.  So the old directory is only renamed, to pgdata.old.N, and when the
 * endpoint runs a process is left that removes all of these.  What it has not
 * removed when it is killed, the next start's does.  "neon stop" ends it, so
 * that the state directory can be copied then.
 *
 *-------------------------------------------------------------------------
 */
#include "discard.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fsutil.h"
#include "output.h"
#include "repo.h"
#include "run.h"

#define OLD_PREFIX		"pgdata.old."
#define END_TIMEOUT_MS	30000
#define END_POLL_MS		10
#define NICE			10

static const char *
lock_name(const char *endpoint)
{
	return strf("discard.%s", endpoint);
}

void
discard_pgdata(const Endpoint *ep, const char *pgdata)
{
	char		old[MAXPGPATH];
	int			n = 0;

	do
	{
		make_path(old, "%s%d", endpoint_path(ep, OLD_PREFIX), n++);
	} while (path_exists(old));
	/* one that cannot be renamed, such as a mount point, is emptied */
	if (rename(pgdata, old) != 0 && errno != ENOENT)
		remove_path_tree(pgdata);
}

/* Any one of them, in path[MAXPGPATH]. */
static bool
find_old(const Endpoint *ep, char *path)
{
	const char *dir_path = repo_path("endpoints/%s", ep->name);
	DIR		   *dir = opendir(dir_path);
	struct dirent *entry;
	bool		found = false;

	while (dir != NULL && !found && (entry = readdir(dir)) != NULL)
	{
		found = strncmp(entry->d_name, OLD_PREFIX, strlen(OLD_PREFIX)) == 0;
		if (found)
			make_path(path, "%s/%s", dir_path, entry->d_name);
	}
	if (dir != NULL)
		closedir(dir);
	return found;
}

/* In the process that is left: nothing of the caller's terminal, files and rights stays. */
static void
detach(void)
{
	int			null = open("/dev/null", O_RDWR);

	if (setsid() < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
		dup2(null, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0 || chdir("/") < 0)
		_exit(EXIT_GENERAL);
	for (int fd = 3; fd < 1024; fd++)
		close(fd);
	give_up_root();
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	(void) setpriority(PRIO_PROCESS, 0, NICE);
}

/* One process at a time, which also does what comes meanwhile. */
static void
remove_all(const Endpoint *ep)
{
	char		old[MAXPGPATH];

	if (lock_try(lock_name(ep->name)) < 0)
		return;
	while (find_old(ep, old) && rmtree(old, true))
		;
}

void
discard_remove(const Endpoint *ep)
{
	char		old[MAXPGPATH];
	pid_t		pid;

	if (!find_old(ep, old))
		return;
	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid == 0)
	{
		/* init waits for the one that does it */
		if (fork() == 0)
		{
			detach();
			remove_all(ep);
		}
		_exit(EXIT_OK);
	}
	/* if there is none, the next start's will do it */
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* A file that is being removed may take it a moment. */
void
discard_end(const char *name)
{
	int64		deadline = now_ms() + END_TIMEOUT_MS;
	pid_t		pid;

	while ((pid = lock_holder(lock_name(name))) != 0 && now_ms() < deadline)
	{
		if (pid > 1)
			(void) kill(pid, SIGTERM);
		sleep_ms(END_POLL_MS);
	}
}
