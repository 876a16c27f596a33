/*-------------------------------------------------------------------------
 *
 * supervise.c
 *	  The process that starts an endpoint again after a crash.
 *
 * It watches one boot.  When the server of that boot is gone without having
 * been stopped, it boots the endpoint in a child, as "neon endpoint start"
 * does, but only while that boot was the last one that may write the branch.
 * It ends when the endpoint was stopped, removed, started by somebody else or
 * superseded.  The lock "supervisor.NAME" is held by it as long as it lives
 * and has its process id.
 *
 *-------------------------------------------------------------------------
 */
#include "supervise.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "common/controldata_utils.h"
#include "fsutil.h"
#include "output.h"
#include "repo.h"
#include "run.h"

#define WATCH_INTERVAL_MS	500
#define FIRST_DELAY_MS		1000
#define LONGEST_DELAY_MS	60000
#define STEADY_MS			60000	/* who ran so long begins with the first delay again */
#define END_TIMEOUT_MS		10000

static volatile sig_atomic_t end_asked = 0;

static void
note(const char *fmt,...)
{
	char		message[1024];
	char		stamp[64];
	time_t		now = time(NULL);
	va_list		args;

	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S %Z", localtime(&now));
	fprintf(stderr, "%s [%d] neon supervisor: %s\n", stamp, (int) getpid(), message);
}

static const char *
lock_name(const char *name)
{
	return strf("supervisor.%s", name);
}

bool
was_stopped_cleanly(const char *pgdata)
{
	char		path[MAXPGPATH];
	ControlFileData *control;
	bool		crc_ok;
	bool		clean;

	make_path(path, "%s/global/pg_control", pgdata);
	if (!path_exists(path))
		return false;
	control = get_controlfile(pgdata, &crc_ok);
	clean = crc_ok && (control->state == DB_SHUTDOWNED || control->state == DB_SHUTDOWNED_IN_RECOVERY);
	free(control);
	return clean;
}

/* ---- the watch ---- */

/* Waits until the server of that boot is gone; false if there is nothing to watch any more. */
static bool
wait_for_crash(const char *name, const char *boot_id)
{
	while (!end_asked)
	{
		Endpoint	ep;
		ServerInfo	info;
		TicketInfo	ticket;

		endpoint_load(&ep, name);
		if (!ep.exists || !ep.wanted)
			return false;
		server_info(endpoint_path(&ep, "pgdata"), &info);
		if (ticket_read(endpoint_path(&ep, "pgdata"), &ticket) &&
			strcmp(ticket.boot_id, boot_id) != 0)
			return false;
		if (info.state != SERVER_RUNNING)
			return true;
		sleep_ms(WATCH_INTERVAL_MS);
	}
	return false;
}

/* Boots the endpoint in a child, which dies with us.  Its exit code. */
static int
reboot(const char *name, const char *boot_id)
{
	pid_t		parent = getpid();
	pid_t		pid;
	int			status;

	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid < 0)
		return EXIT_GENERAL;
	if (pid == 0)
	{
		signal(SIGINT, SIG_DFL);
		signal(SIGTERM, SIG_DFL);
		if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent)
			_exit(EXIT_GENERAL);
		exit(endpoint_reboot(name, boot_id));
	}
	while (waitpid(pid, &status, 0) < 0)
	{
		if (errno != EINTR)
			return EXIT_GENERAL;
		if (end_asked)
			(void) kill(pid, SIGTERM);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_GENERAL;
}

/* The boot id of what is there now. */
static bool
current_boot(const Endpoint *ep, char *boot_id)
{
	TicketInfo	ticket;

	if (!ticket_read(endpoint_path(ep, "pgdata"), &ticket))
		return false;
	strlcpy(boot_id, ticket.boot_id, NEON_ID_HEXLEN + 1);
	return true;
}

static void
watch(const Endpoint *ep)
{
	char		boot_id[NEON_ID_HEXLEN + 1];
	int			delay = FIRST_DELAY_MS;
	int64		started = now_ms();

	if (!current_boot(ep, boot_id))
		return;
	while (wait_for_crash(ep->name, boot_id))
	{
		int			result;

		if (now_ms() - started > STEADY_MS)
			delay = FIRST_DELAY_MS;
		note("endpoint \"%s\" is gone without having been stopped", ep->name);
		result = reboot(ep->name, boot_id);
		if (result == EXIT_SUPERSEDED || end_asked)
			return;
		started = now_ms();
		if (result == EXIT_OK)
		{
			note("endpoint \"%s\" has been started again", ep->name);
			if (!current_boot(ep, boot_id))
				return;
		}
		else
			note("endpoint \"%s\" could not be started, next try in %d s", ep->name, delay / 1000);
		/* Also after a good start: one that crashes at once shall not do so in a loop. */
		for (int slept = 0; slept < delay && !end_asked; slept += 100)
			sleep_ms(100);
		delay = Min(delay * 2, LONGEST_DELAY_MS);
	}
}

/* ---- leaving one behind ---- */

/* In the child: nothing of the caller's terminal, files and rights stays. */
static void
detach(const Endpoint *ep, int lock)
{
	int			log = open(endpoint_path(ep, "postgres.log"),
						   O_WRONLY | O_CREAT | O_APPEND, S_IRUSR | S_IWUSR);
	int			null = open("/dev/null", O_RDONLY);

	if (setsid() < 0 || log < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
		dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0 ||
		chdir(repo_path("run")) < 0)
		_exit(EXIT_GENERAL);
	for (int fd = 3; fd < 1024; fd++)
	{
		if (fd != lock)
			close(fd);
	}
	give_up_root();
	output_json = false;
}

void
supervise_leave(const Endpoint *ep)
{
	char		boot_id[NEON_ID_HEXLEN + 1];
	int			lock;
	pid_t		pid;

	if (!current_boot(ep, boot_id) || ep->kind == ENDPOINT_EPHEMERAL)
		return;
	supervise_end(ep->name);
	lock = lock_acquire(lock_name(ep->name), 10, NULL);
	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid < 0)
		die(EXIT_GENERAL, "Check the limit of processes.", "could not start a process: %m");
	if (pid == 0)
	{
		detach(ep, lock);
		watch(ep);
		_exit(EXIT_OK);
	}
	lock_note(lock, pid);
	lock_release(lock);
}

bool
supervise_runs(const char *name)
{
	return lock_holder(lock_name(name)) != 0;
}

void
supervise_end(const char *name)
{
	int64		deadline = now_ms() + END_TIMEOUT_MS;
	pid_t		pid;

	while ((pid = lock_holder(lock_name(name))) > 1)
	{
		(void) kill(pid, now_ms() > deadline ? SIGKILL : SIGTERM);
		if (now_ms() > 2 * END_TIMEOUT_MS + deadline)
			die(EXIT_TIMEOUT, strf("Look at process %d.", (int) pid),
				"the supervisor of endpoint \"%s\" does not end", name);
		sleep_ms(10);
	}
}

/* ---- in the foreground ---- */

static void
ask_for_end(int signo)
{
	end_asked = 1;
}

bool
supervise_here(const Endpoint *ep)
{
	struct sigaction action = {0};
	int			lock;

	action.sa_handler = ask_for_end;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	supervise_end(ep->name);
	lock = lock_acquire(lock_name(ep->name), 10, NULL);
	watch(ep);
	lock_release(lock);
	return end_asked != 0;
}
