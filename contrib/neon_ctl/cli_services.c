/*-------------------------------------------------------------------------
 *
 * cli_services.c
 *	  neon start, stop, status; neon pageserver and neon safekeeper start,
 *	  stop, status, logs.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include <sys/wait.h>
#include <unistd.h>

#include "credentials.h"
#include "discard.h"
#include "election.h"
#include "endpoint.h"
#include "fsutil.h"
#include "instance.h"
#include "output.h"
#include "repo.h"
#include "supervise.h"

/* ---- one of many ---- */

/*
 * Runs a function that may die in a child, so that the failure of one thing does
 * not keep the others from it.  *result becomes the largest exit code.
 */
static void
in_child(int (*run) (void *arg), void *arg, int *result)
{
	pid_t		pid;
	int			status;

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
		exit(run(arg));
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	status = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_GENERAL;
	*result = Max(*result, status);
}

/* ---- one service, or all of a kind ---- */

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

/* The instances that "neon pageserver" or "neon safekeeper [ID]" means. */
static int
chosen_instances(const Invocation *inv, bool safekeepers, Instance *chosen)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);
	int			found = 0;

	if (safekeepers && n == 1)
		die(EXIT_GENERAL, "Laptop mode has none; \"neon safekeeper add\" makes the first ones.",
			"\"%s\" has no safekeepers", repo.dir);
	for (int i = 0; i < n; i++)
	{
		if ((all[i].id > 0) != safekeepers ||
			(inv->nargs > 0 && strcmp(inv->arg[0], strf("%d", all[i].id)) != 0))
			continue;
		chosen[found++] = all[i];
	}
	if (found == 0)
		die(EXIT_USAGE, "See \"neon safekeeper status\".", "there is no safekeeper \"%s\"",
			inv->arg[0]);
	return found;
}

static int
start_instance(void *arg)
{
	const Instance *inst = arg;
	ServerInfo	info;
	bool		started;

	if (inst->id > 0 && !is_directory(instance_pgdata(inst)))
		die(EXIT_NOT_RUNNING,
			strf("Put another one in its place by \"neon safekeeper replace %d\".", inst->id),
			"%s has lost its data directory", inst->name);
	server_info(instance_pgdata(inst), &info);
	if (info.state != SERVER_RUNNING)
	{
		if (inst->id == 0)
			say("Starting pageserver node 1 at '%s:%d' in \"%s\".", LOOPBACK, inst->port,
				repo_path("%s", inst->dir));
		else
			say("Starting safekeeper at '%s:%d' in \"%s\".", LOOPBACK, inst->port,
				repo_path("%s", inst->dir));
	}
	credentials_complete(inst);
	started = instance_start(inst);
	server_info(instance_pgdata(inst), &info);
	say(started ? "%s started, pid: %d" : "%s is already running, pid: %d", inst->name,
		(int) info.pid);
	return EXIT_OK;
}

/* A branch that was made or deleted while a safekeeper did not run is to be so there, too. */
static int
complete_branches(void *arg)
{
	PGconn	   *conn = safekeeper_count() > 0 ? ps_try_connect() : NULL;

	if (conn == NULL)
		return EXIT_OK;			/* the next start of an endpoint does it */
	missed_catch_up(conn);
	PQfinish(conn);
	return EXIT_OK;
}

/*
 * One service is one JSON object, safekeepers are an array of them.  Returns
 * whether all run.
 */
static bool
print_services(const Instance *list, int n, bool as_array)
{
	static const char *const names[] = {"service", "id", "status", "port", "pid"};
	Table	   *table = table_new(5, names, names);
	bool		all_run = true;

	for (int c = 1; c < 5; c++)
	{
		if (c != 2)
			table_number_column(table, c);
	}
	for (int i = 0; i < n; i++)
	{
		ServerInfo	info;

		server_info(instance_pgdata(&list[i]), &info);
		all_run &= info.state == SERVER_RUNNING;
		table_cell(table, list[i].service);
		table_cell(table, strf("%d", Max(list[i].id, 1)));
		table_cell(table, state_name(info.state));
		table_cell(table, strf("%d", list[i].port));
		table_cell(table, strf("%d", (int) info.pid));
	}
	if (output_json && as_array)
		table_print(table);
	else if (output_json)
		table_print_object(table);
	return all_run;
}

static int
services_start(Invocation *inv, bool safekeepers)
{
	Instance	list[MAX_SAFEKEEPERS + 1];
	int			n = chosen_instances(inv, safekeepers, list);
	int			result = EXIT_OK;

	for (int i = 0; i < n; i++)
		in_child(start_instance, &list[i], &result);
	in_child(complete_branches, NULL, &result);
	(void) print_services(list, n, safekeepers);
	return result;
}

static int
services_stop(Invocation *inv, bool safekeepers)
{
	Instance	list[MAX_SAFEKEEPERS + 1];
	int			n = chosen_instances(inv, safekeepers, list);
	int			stopped = 0;

	for (int i = 0; i < n; i++)
	{
		if (!instance_stop(&list[i], option_immediate(inv)))
			continue;
		say("%s stopped", list[i].name);
		stopped++;
	}
	if (stopped == 0)
		die(EXIT_NOT_RUNNING, "See \"neon status\".", "the %s is not running",
			n == 1 ? list[0].name : list[0].service);
	(void) print_services(list, n, safekeepers);
	return EXIT_OK;
}

static int
services_status(Invocation *inv, bool safekeepers)
{
	Instance	list[MAX_SAFEKEEPERS + 1];
	int			n = chosen_instances(inv, safekeepers, list);

	for (int i = 0; i < n; i++)
	{
		ServerInfo	info;

		server_info(instance_pgdata(&list[i]), &info);
		if (info.state == SERVER_RUNNING)
			say("%s is running at %s:%d, pid: %d", list[i].name, LOOPBACK, list[i].port,
				(int) info.pid);
		else
			say("%s is not running (%s)", list[i].name, state_name(info.state));
	}
	return print_services(list, n, safekeepers) ? EXIT_OK : EXIT_NOT_RUNNING;
}

static int
services_logs(Invocation *inv, bool safekeepers)
{
	Instance	list[MAX_SAFEKEEPERS + 1];
	int			n = chosen_instances(inv, safekeepers, list);

	if (n > 1)
		die(EXIT_USAGE, "Give the number of one; see \"neon safekeeper status\".",
			"there are %d safekeepers", n);
	server_print_log(instance_log(&list[0]), strf("the %s", list[0].name));
	return EXIT_OK;
}

int
cmd_pageserver_start(Invocation *inv)
{
	return services_start(inv, false);
}

int
cmd_pageserver_stop(Invocation *inv)
{
	return services_stop(inv, false);
}

int
cmd_pageserver_status(Invocation *inv)
{
	return services_status(inv, false);
}

int
cmd_pageserver_logs(Invocation *inv)
{
	return services_logs(inv, false);
}

int
cmd_safekeeper_start(Invocation *inv)
{
	return services_start(inv, true);
}

int
cmd_safekeeper_stop(Invocation *inv)
{
	return services_stop(inv, true);
}

int
cmd_safekeeper_status(Invocation *inv)
{
	return services_status(inv, true);
}

int
cmd_safekeeper_logs(Invocation *inv)
{
	return services_logs(inv, true);
}

/* ---- everything ---- */

typedef struct EndpointCommand
{
	int			(*run) (Invocation *inv);
	Invocation	inv;
} EndpointCommand;

static int
run_endpoint_command(void *arg)
{
	EndpointCommand *command = arg;

	return command->run(&command->inv);
}

static void
for_endpoint(const Invocation *inv, const char *name, int (*run) (Invocation *inv), int *result)
{
	EndpointCommand command = {run, *inv};

	memset(command.inv.option, 0, sizeof(command.inv.option));
	command.inv.option[OPT_MODE] = inv->option[OPT_MODE];
	command.inv.option[OPT_NO_SUPERVISE] = inv->option[OPT_NO_SUPERVISE];
	command.inv.nargs = 1;
	command.inv.arg[0] = name;
	in_child(run_endpoint_command, &command, result);
}

int
cmd_start(Invocation *inv)
{
	int			result = EXIT_OK;
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);

	for (int i = 0; i < n; i++)
		in_child(start_instance, &all[i], &result);
	in_child(complete_branches, NULL, &result);
	if (option_given(inv, OPT_ENDPOINTS))
	{
		int			nnames;
		char	  **names = endpoint_names(&nnames);

		for (int i = 0; i < nnames; i++)
		{
			Endpoint	ep;
			ServerInfo	info;

			endpoint_load(&ep, names[i]);
			server_info(endpoint_path(&ep, "pgdata"), &info);
			if (ep.wanted && info.state != SERVER_RUNNING)
				for_endpoint(inv, names[i], cmd_endpoint_start, &result);
		}
	}
	(void) print_services(all, 1, false);
	return result;
}

/* Running, or dead and with something that the storage lacks; conn may be NULL. */
static bool
endpoint_needs_stop(PGconn *conn, const Endpoint *ep, bool immediate)
{
	ServerInfo	info;

	server_info(endpoint_path(ep, "pgdata"), &info);
	if (info.state == SERVER_RUNNING || info.state == SERVER_ORPHANED || supervise_runs(ep->name))
		return true;
	return conn != NULL && !immediate && endpoint_needs_drain(conn, ep);
}

static void
stop_endpoints(Invocation *inv, int *result)
{
	int			n;
	char	  **names = endpoint_names(&n);
	PGconn	   *conn = ps_try_connect();

	for (int i = 0; i < n; i++)
	{
		Endpoint	ep;
		bool		wanted;

		endpoint_load(&ep, names[i]);
		if (!ep.exists || !endpoint_needs_stop(conn, &ep, option_immediate(inv)))
			continue;
		wanted = ep.wanted;
		for_endpoint(inv, names[i], cmd_endpoint_stop, result);
		/* "neon start --endpoints" shall bring it back. */
		endpoint_load(&ep, names[i]);
		if (ep.exists && wanted && !ep.wanted)
		{
			ep.wanted = true;
			endpoint_save(&ep);
		}
	}
	for (int i = 0; i < n; i++)
		discard_end(names[i]);
	PQfinish(conn);
}

int
cmd_stop(Invocation *inv)
{
	int			result = EXIT_OK;
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);

	stop_endpoints(inv, &result);
	for (int i = 0; i < n; i++)
		say(instance_stop(&all[i], option_immediate(inv)) ? "%s stopped" : "%s is not running",
			all[i].name);
	(void) print_services(all, 1, false);
	return result;
}

static void
status_row(Table *table, const char *service, const char *pgdata, int port)
{
	ServerInfo	info;

	server_info(pgdata, &info);
	table_cell(table, service);
	table_cell(table, strf("%s:%d", LOOPBACK, port));
	table_cell(table, info.pid ? strf("%d", (int) info.pid) : NULL);
	table_cell(table, state_name(info.state));
}

int
cmd_status(Invocation *inv)
{
	static const char *const titles[] = {"SERVICE", "ADDRESS", "PID", "STATUS"};
	static const char *const json_names[] = {"service", "address", "pid", "status"};
	Table	   *table = table_new(4, titles, json_names);
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			ninstances = instance_all(all);
	bool		all_run = true;
	int			n;
	char	  **names = endpoint_names(&n);

	table_number_column(table, 2);
	for (int i = 0; i < ninstances; i++)
	{
		ServerInfo	info;

		status_row(table, all[i].name, instance_pgdata(&all[i]), all[i].port);
		server_info(instance_pgdata(&all[i]), &info);
		all_run &= info.state == SERVER_RUNNING;
	}
	for (int i = 0; i < n; i++)
	{
		Endpoint	ep;

		endpoint_load(&ep, names[i]);
		status_row(table, strf("endpoint %s", names[i]), endpoint_path(&ep, "pgdata"), ep.port);
	}
	table_print(table);
	return all_run ? EXIT_OK : EXIT_NOT_RUNNING;
}
