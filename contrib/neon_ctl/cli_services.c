/*-------------------------------------------------------------------------
 *
 * cli_services.c
 *	  neon start, stop, status; neon pageserver start, stop, status, logs.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include <sys/wait.h>
#include <unistd.h>

#include "endpoint.h"
#include "fsutil.h"
#include "output.h"
#include "passfile.h"
#include "repo.h"
#include "run.h"

#define START_TIMEOUT	120
#define STOP_TIMEOUT	60

/* ---- the pageserver ---- */

void
start_pageserver(void)
{
	const char *argv[10];
	char		pgdata[MAXPGPATH];
	char		log[MAXPGPATH];
	char		program[MAXPGPATH];
	char		port[MAXPGPATH];
	char		passfile[MAXPGPATH];
	char		sockets[MAXPGPATH];
	const char *socket_dir;
	ServerInfo	info;

	make_path(pgdata, "%s", pageserver_pgdata());
	make_path(log, "%s", pageserver_log());
	make_path(program, "%s", pg_program("postgres"));
	server_info(pgdata, &info);
	if (info.state == SERVER_ORPHANED)
		server_stop(pgdata, STOP_IMMEDIATE, 0, "the pageserver");
	if (!port_is_free(pageserver_port()))
		die(EXIT_GENERAL,
			"End what listens there, or change pageserver_port in the state directory's config.",
			"port %d of the pageserver is already in use", pageserver_port());
	server_clear_leftovers(pgdata, pageserver_port());
	make_path(port, "port=%d", pageserver_port());
	make_path(passfile, "neon_pageserver.passfile=%s", repo_path("pageserver/passfile"));
	socket_dir = socket_directory(pageserver_port());
	make_path(sockets, "unix_socket_directories=%s", socket_dir ? strf("\"%s\"", socket_dir) : "");

	/*
	 * What depends on DIR's place and config is in postgresql.conf too, for
	 * pg_ctl; but a copy of DIR works at another place by these.
	 */
	argv[0] = program;
	argv[1] = "-D";
	argv[2] = pgdata;
	argv[3] = "-c";
	argv[4] = port;
	argv[5] = "-c";
	argv[6] = passfile;
	argv[7] = "-c";
	argv[8] = sockets;
	argv[9] = NULL;
	server_start(argv, pgdata, log, "the pageserver", "neon pageserver logs", START_TIMEOUT);
	if (!repo.trust)
		user_passfile_put(socket_directory(pageserver_port()), pageserver_port(), SUPERUSER,
						  kv_get_default(&repo.config, "pageserver_password", ""));
}

void
stop_pageserver(bool immediate)
{
	char		pgdata[MAXPGPATH];

	make_path(pgdata, "%s", pageserver_pgdata());
	server_stop(pgdata, immediate ? STOP_IMMEDIATE : STOP_FAST, STOP_TIMEOUT, "the pageserver");
}

static void
print_service(const char *service, const char *state, int port, int pid)
{
	PQExpBufferData buf;

	if (!output_json)
		return;
	json_begin(&buf);
	json_string(&buf, "service", service);
	json_string(&buf, "status", state);
	json_number(&buf, "port", port);
	json_number(&buf, "pid", pid);
	json_end_print(&buf);
}

/* False if it ran already. */
static bool
ensure_pageserver(void)
{
	int			lock = lock_acquire("pageserver", START_TIMEOUT + 10, NULL);
	ServerInfo	info;
	bool		started = false;

	server_info(pageserver_pgdata(), &info);
	if (info.state != SERVER_RUNNING)
	{
		say("Starting pageserver node 1 at '%s:%d' in \"%s\".", LOOPBACK, pageserver_port(),
			repo_path("pageserver"));
		start_pageserver();
		server_info(pageserver_pgdata(), &info);
		say("pageserver started, pid: %d", (int) info.pid);
		started = true;
	}
	else
		say("pageserver is already running, pid: %d", (int) info.pid);
	lock_release(lock);
	return started;
}

int
cmd_pageserver_start(Invocation *inv)
{
	ServerInfo	info;

	(void) ensure_pageserver();
	server_info(pageserver_pgdata(), &info);
	print_service("pageserver", "running", pageserver_port(), (int) info.pid);
	return EXIT_OK;
}

int
cmd_pageserver_stop(Invocation *inv)
{
	int			lock = lock_acquire("pageserver", START_TIMEOUT + 10, NULL);
	ServerInfo	info;

	server_info(pageserver_pgdata(), &info);
	if (info.state == SERVER_STOPPED || info.state == SERVER_CRASHED)
		die(EXIT_NOT_RUNNING, "Start it by \"neon start\".", "the pageserver is not running");
	stop_pageserver(option_immediate(inv));
	lock_release(lock);
	say("pageserver stopped");
	print_service("pageserver", "stopped", pageserver_port(), 0);
	return EXIT_OK;
}

static const char *
state_name(ServerState state)
{
	switch (state)
	{
		case SERVER_RUNNING:
			return "running";
		case SERVER_STOPPED:
			return "stopped";
		case SERVER_CRASHED:
		case SERVER_ORPHANED:
			break;
	}
	return "crashed";
}

int
cmd_pageserver_status(Invocation *inv)
{
	ServerInfo	info;

	server_info(pageserver_pgdata(), &info);
	print_service("pageserver", state_name(info.state), pageserver_port(), (int) info.pid);
	if (info.state == SERVER_RUNNING)
		say("pageserver is running at %s:%d, pid: %d", LOOPBACK, pageserver_port(), (int) info.pid);
	else
		say("pageserver is not running (%s)", state_name(info.state));
	return info.state == SERVER_RUNNING ? EXIT_OK : EXIT_NOT_RUNNING;
}

int
cmd_pageserver_logs(Invocation *inv)
{
	server_print_log(pageserver_log(), "the pageserver");
	return EXIT_OK;
}

/* ---- everything ---- */

/*
 * Runs a command of an endpoint in a child, so that the failure of one does
 * not keep the others from it.  *result becomes the largest exit code.
 */
static void
for_endpoint(const Invocation *inv, const char *name, int (*run) (Invocation *inv), int *result)
{
	Invocation	child_inv = *inv;
	pid_t		pid;
	int			status;

	memset(child_inv.option, 0, sizeof(child_inv.option));
	child_inv.option[OPT_MODE] = inv->option[OPT_MODE];
	child_inv.nargs = 1;
	child_inv.arg[0] = name;
	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid < 0)
		die(EXIT_GENERAL, "Check the limit of processes.", "could not start a process: %m");
	if (pid == 0)
	{
		/* The one JSON document is the parent's. */
		if (output_json && freopen("/dev/null", "w", stdout) == NULL)
			_exit(EXIT_GENERAL);
		exit(run(&child_inv));
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	status = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_GENERAL;
	*result = Max(*result, status);
}

int
cmd_start(Invocation *inv)
{
	int			result = EXIT_OK;
	ServerInfo	info;

	(void) ensure_pageserver();
	if (option_given(inv, OPT_ENDPOINTS))
	{
		int			n;
		char	  **names = endpoint_names(&n);

		for (int i = 0; i < n; i++)
		{
			Endpoint	ep;

			endpoint_load(&ep, names[i]);
			server_info(endpoint_path(&ep, "pgdata"), &info);
			if (ep.wanted && info.state != SERVER_RUNNING)
				for_endpoint(inv, names[i], cmd_endpoint_start, &result);
		}
	}
	server_info(pageserver_pgdata(), &info);
	print_service("pageserver", "running", pageserver_port(), (int) info.pid);
	return result;
}

/* Running, or dead and with something that the pageserver lacks; conn may be NULL. */
static bool
endpoint_needs_stop(PGconn *conn, const Endpoint *ep, bool immediate)
{
	ServerInfo	info;

	server_info(endpoint_path(ep, "pgdata"), &info);
	if (info.state == SERVER_RUNNING || info.state == SERVER_ORPHANED)
		return true;
	return conn != NULL && !immediate && endpoint_needs_drain(conn, ep);
}

int
cmd_stop(Invocation *inv)
{
	int			result = EXIT_OK;
	int			n;
	char	  **names = endpoint_names(&n);
	PGconn	   *conn = ps_try_connect();
	ServerInfo	info;

	for (int i = 0; i < n; i++)
	{
		Endpoint	ep;
		bool		wanted;

		endpoint_load(&ep, names[i]);
		if (!ep.exists || !endpoint_needs_stop(conn, &ep, option_immediate(inv)))
			continue;
		wanted = ep.wanted;
		for_endpoint(inv, names[i], cmd_endpoint_stop, &result);
		/* "neon start --endpoints" shall bring it back. */
		endpoint_load(&ep, names[i]);
		if (ep.exists && wanted && !ep.wanted)
		{
			ep.wanted = true;
			endpoint_save(&ep);
		}
	}
	PQfinish(conn);
	server_info(pageserver_pgdata(), &info);
	if (info.state == SERVER_RUNNING || info.state == SERVER_ORPHANED)
	{
		int			lock = lock_acquire("pageserver", START_TIMEOUT + 10, NULL);

		stop_pageserver(option_immediate(inv));
		lock_release(lock);
		say("pageserver stopped");
	}
	else
		say("pageserver is not running");
	print_service("pageserver", "stopped", pageserver_port(), 0);
	return result;
}

int
cmd_status(Invocation *inv)
{
	static const char *const titles[] = {"SERVICE", "ADDRESS", "PID", "STATUS"};
	static const char *const json_names[] = {"service", "address", "pid", "status"};
	Table	   *table = table_new(4, titles, json_names);
	ServerInfo	pageserver;
	int			n;
	char	  **names = endpoint_names(&n);

	table_number_column(table, 2);
	server_info(pageserver_pgdata(), &pageserver);
	table_cell(table, "pageserver");
	table_cell(table, strf("%s:%d", LOOPBACK, pageserver_port()));
	table_cell(table, pageserver.pid ? strf("%d", (int) pageserver.pid) : NULL);
	table_cell(table, state_name(pageserver.state));
	for (int i = 0; i < n; i++)
	{
		Endpoint	ep;
		ServerInfo	info;

		endpoint_load(&ep, names[i]);
		server_info(endpoint_path(&ep, "pgdata"), &info);
		table_cell(table, strf("endpoint %s", names[i]));
		table_cell(table, strf("%s:%d", LOOPBACK, ep.port));
		table_cell(table, info.pid ? strf("%d", (int) info.pid) : NULL);
		table_cell(table, state_name(info.state));
	}
	table_print(table);
	return pageserver.state == SERVER_RUNNING ? EXIT_OK : EXIT_NOT_RUNNING;
}
