/*-------------------------------------------------------------------------
 *
 * cli_init.c
 *	  neon init: a state directory with its storage services.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include <sys/stat.h>
#include <unistd.h>

#include "credentials.h"
#include "endpoint.h"
#include "fsutil.h"
#include "instance.h"
#include "output.h"
#include "passfile.h"
#include "repo.h"
#include "run.h"
#include "server.h"

/* --force: only a directory that is ours, with nothing running in it. */
static void
check_stopped(void)
{
	int			n;
	char	  **names;
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			ninstances = instance_all(all);

	for (int i = 0; i < ninstances; i++)
	{
		if (server_in_use(instance_pgdata(&all[i])))
			die(EXIT_GENERAL, "Stop it by \"neon stop\".", "the %s of \"%s\" is running",
				all[i].name, repo.dir);
	}
	names = endpoint_names(&n);
	for (int i = 0; i < n; i++)
	{
		if (server_in_use(repo_path("endpoints/%s/pgdata", names[i])))
			die(EXIT_GENERAL, "Stop it by \"neon stop\".",
				"endpoint \"%s\" of \"%s\" is running", names[i], repo.dir);
	}
}

static void
wipe_old(void)
{
	static const char *const parts[] = {"endpoints", "pageserver", "safekeepers", "run", "config"};

	for (int i = 0; i < lengthof(parts); i++)
		remove_path_tree(repo_path("%s", parts[i]));
}

static void
check_old(const Invocation *inv, bool has_config)
{
	if (has_config)
	{
		config_reload();		/* dies if it is not ours */
		if (!option_given(inv, OPT_FORCE))
			die(EXIT_GENERAL, "Use it, or wipe it with all its data by \"neon init --force\".",
				strcmp(kv_get_default(&repo.config, "state", ""), "ready") == 0 ?
				"there is a state directory \"%s\" already" :
				"there is a state directory \"%s\" already, of a \"neon init\" that did not come to its end", repo.dir);
		check_stopped();
	}
	else if (!directory_is_empty(repo.dir))
		die(EXIT_GENERAL, "Choose another place by -D DIR.",
			"directory \"%s\" is not empty and no state directory of neon", repo.dir);
}

/* ---- ports ---- */

/* Ports of the pageserver ([0]) and of the safekeepers. */
typedef struct Ports
{
	int			n;
	int			port[MAX_SAFEKEEPERS + 1];
} Ports;

/* port 0: any free one.  option is the one that would choose another. */
static void
take_port(Ports *ports, int port, const char *what, const char *option)
{
	bool		any = port == 0;
	bool		taken;

	do
	{
		if (any)
			port = any_free_port();
		taken = false;
		for (int i = 0; i < ports->n; i++)
			taken |= ports->port[i] == port;
	} while (any && taken);
	if (taken || port > 65535)
		die(EXIT_USAGE, strf("Choose another one by %s (0: any free one).", option),
			"port %d of %s is %s", port, what, taken ? "that of another service" : "too large");
	if (!any && !port_is_free(port))
		die(EXIT_GENERAL, strf("Choose another one by %s (0: any free one).", option),
			"port %d is already in use", port);
	ports->port[ports->n++] = port;
}

static void
choose_ports(const Invocation *inv, int safekeepers, Ports *ports)
{
	int			first = option_given(inv, OPT_SAFEKEEPER_PORT) ?
		option_int(inv, OPT_SAFEKEEPER_PORT) : DEFAULT_SAFEKEEPER_PORT;

	ports->n = 0;
	take_port(ports, option_given(inv, OPT_PAGESERVER_PORT) ?
			  option_int(inv, OPT_PAGESERVER_PORT) : DEFAULT_PAGESERVER_PORT,
			  "the pageserver", "--pageserver-port");
	for (int i = 1; i <= safekeepers; i++)
		take_port(ports, first ? first + i - 1 : 0, strf("safekeeper %d", i), "--safekeeper-port");
}

/* ---- init ---- */

static void
write_config(const Invocation *inv, const Ports *ports)
{
	bool		trust = option_given(inv, OPT_AUTH) && strcmp(inv->option[OPT_AUTH], "trust") == 0;

	kv_free(&repo.config);
	kv_set(&repo.config, "format", "1");
	kv_set(&repo.config, "state", "initializing");
	kv_set(&repo.config, "user", server_user());
	kv_set(&repo.config, "auth", trust ? "trust" : "scram");
	kv_set_int(&repo.config, "safekeepers", ports->n - 1);
	kv_set_int(&repo.config, "pageserver_port", ports->port[0]);
	if (!trust)
	{
		kv_set(&repo.config, "pageserver_password", new_password());
		kv_set(&repo.config, "storage_service_password", new_password());
	}
	for (int i = 1; i < ports->n; i++)
	{
		kv_set_int(&repo.config, strf("safekeeper.%d.port", i), ports->port[i]);
		if (!trust)
			kv_set(&repo.config, strf("safekeeper.%d.password", i), new_password());
	}
	repo.trust = trust;
	config_save();
}

static int
choose_safekeepers(const Invocation *inv)
{
	int			n = option_given(inv, OPT_SAFEKEEPERS) ?
		option_int(inv, OPT_SAFEKEEPERS) : DEFAULT_SAFEKEEPERS;

	if (n != 0 && n != 1 && n != 3 && n != 5)
		die(EXIT_USAGE,
			"Use 1, 3 or 5, or 0: laptop mode, which keeps one copy of the data.",
			"%d is no number of safekeepers", n);
	if (n == 0 && option_given(inv, OPT_SAFEKEEPER_PORT))
		die(EXIT_USAGE, "Leave out one of the two.",
			"without safekeepers there is no use for --safekeeper-port");
	return n;
}

static void
create_instances(void)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);

	for (int i = 0; i < n; i++)
	{
		if (i == 0)
			say("Initializing pageserver node 1 at '%s:%d' in \"%s\"", LOOPBACK, all[i].port,
				repo.dir);
		else
			say("Initializing safekeeper %d at '%s:%d' in \"%s\"", all[i].id, LOOPBACK,
				all[i].port, repo_path("%s", all[i].dir));
		instance_create(&all[i]);
	}
	credentials_of_services(all, n);
}

static void
print_result(void)
{
	PQExpBufferData buf;
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);

	if (n == 1)
		say("Laptop mode: there are no safekeepers, so one copy of the data is kept on this machine.");
	else
		say("Commits are kept by %d of %d safekeepers.", (n - 1) / 2 + 1, n - 1);
	if (!output_json)
		return;
	json_begin(&buf);
	json_string(&buf, "repo_dir", repo.dir);
	json_number(&buf, "pageserver_port", all[0].port);
	json_number(&buf, "safekeepers", n - 1);
	for (int i = 1; i < n; i++)
		json_number(&buf, strf("safekeeper_%d_port", i), all[i].port);
	json_string(&buf, "auth", repo.trust ? "trust" : "scram");
	json_end_print(&buf);
}

/* At exit: if it failed in the middle, the instance that was being made runs. */
static void
stop_instances(void)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);

	for (int i = 0; i < n; i++)
		(void) server_try_stop(instance_pgdata(&all[i]), STOP_IMMEDIATE, 0, all[i].name);
}

int
cmd_init(Invocation *inv)
{
	bool		has_config;
	int			safekeepers = choose_safekeepers(inv);
	Ports		ports;

	has_config = repo_prepare(inv);
	check_old(inv, has_config);
	choose_ports(inv, safekeepers, &ports);
	if (has_config)
		wipe_old();
	write_config(inv, &ports);
	make_directory(repo_path("run"));
	make_directory(repo_path("endpoints"));
	if (safekeepers > 0)
		make_directory(repo_path("safekeepers"));
	children_end_with_us = true;
	atexit(stop_instances);
	create_instances();
	sync_tree(repo.dir);
	kv_set(&repo.config, "state", "ready");
	config_save();
	print_result();
	return EXIT_OK;
}
