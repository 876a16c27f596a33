/*-------------------------------------------------------------------------
 *
 * discard.c
 *	  Old data directories, which are removed behind the command's back.
 *
 * To remove 100,000 files takes many times as long as everything else in a
 * start.  So the old directory is only renamed, to pgdata.old.N, and when the
 * endpoint runs a process is left that removes all of these.  What it has not
 * removed when it is killed, the next start's does.
 *
 *-------------------------------------------------------------------------
 */
#include "discard.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fsutil.h"
#include "output.h"
#include "repo.h"
#include "run.h"

#define OLD_PREFIX		"pgdata.old."
#define LOCK_TIMEOUT	600		/* seconds */
#define LOCK_POLL_MS	100
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
	(void) setpriority(PRIO_PROCESS, 0, NICE);
}

/* One process at a time; one that waits looks again what there is. */
static void
remove_all(const Endpoint *ep)
{
	char		old[MAXPGPATH];
	int			lock = -1;

	while (find_old(ep, old))
	{
		if (lock < 0 && (lock = lock_try(lock_name(ep->name))) < 0)
			sleep_ms(LOCK_POLL_MS);
		else if (!rmtree(old, true))
			break;
	}
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

int
discard_lock(const char *name)
{
	return lock_acquire(lock_name(name), LOCK_TIMEOUT, NULL);
}
