/*-------------------------------------------------------------------------
 *
 * cli_member.c
 *	  neon safekeeper add, replace, remove: other safekeepers for all branches
 *	  of the state directory.
 *
 * What is being done is in the config from the first step to the last:
 * member_change is the command, safekeeper.N.change says of each that joins
 * ("add") or leaves ("to-remove", then "remove").  So a command that was killed
 * is repeated, and goes on where it was.  New safekeepers are made and started
 * first; then, under a lock that the creation of branches takes too, they keep
 * new branches and those that leave do not any more; then each branch is
 * changed (member.c); at last those that leave are removed.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include <sys/wait.h>
#include <unistd.h>

#include "credentials.h"
#include "endpoint.h"
#include "fsutil.h"
#include "member.h"
#include "output.h"
#include "repo.h"
#include "run.h"

#define ADD_COMMAND			"add --safekeepers "
#define CHANGE_LOCK_TIMEOUT 2	/* seconds */
#define CONFIG_LOCK_TIMEOUT 60
#define ALL_SAFEKEEPERS		(MAX_SAFEKEEPERS + 1)

typedef struct Counts
{
	int			branches;		/* that were changed by this call */
	int64		elapsed_ms;
} Counts;

/* ---- the config ---- */

static const char *
change_key(int id)
{
	return strf("safekeeper.%d.change", id);
}

static bool
is_joining(int id)
{
	return strcmp(kv_get_default(&repo.config, change_key(id), ""), "add") == 0;
}

static int
begin_config(void)
{
	int			lock = lock_acquire("config", CONFIG_LOCK_TIMEOUT, NULL);

	config_reload();
	return lock;
}

static void
end_config(int lock)
{
	config_save();
	lock_release(lock);
}

static bool
has_safekeeper(int id)
{
	return kv_get(&repo.config, strf("safekeeper.%d.port", id)) != NULL;
}

static int
next_id(void)
{
	Instance	all[ALL_SAFEKEEPERS];
	int			n = instance_all(all);

	return n > 1 ? all[n - 1].id + 1 : 1;
}

static bool
port_is_taken(int port)
{
	Instance	all[ALL_SAFEKEEPERS];
	int			n = instance_all(all);

	for (int i = 0; i < n; i++)
	{
		if (all[i].port == port)
			return true;
	}
	return !port_is_free(port);
}

/* wanted 0: any free one; -1: the next one. */
static int
choose_port(int wanted)
{
	int			port = wanted;

	if (wanted == 0)
		return any_free_port();
	if (wanted > 0)
	{
		if (port_is_taken(wanted))
			die(EXIT_GENERAL, "Choose another one by --port (0: any free one).",
				"port %d is already in use", wanted);
		return wanted;
	}
	for (port = DEFAULT_SAFEKEEPER_PORT; port < DEFAULT_SAFEKEEPER_PORT + 1000; port++)
	{
		if (!port_is_taken(port))
			return port;
	}
	return any_free_port();
}

static void
note_joining(int port)
{
	int			id = next_id();

	kv_set_int(&repo.config, strf("safekeeper.%d.port", id), choose_port(port));
	if (!repo.trust)
		kv_set(&repo.config, strf("safekeeper.%d.password", id), new_password());
	kv_set(&repo.config, change_key(id), "add");
}

static int
wanted_port(const Invocation *inv)
{
	return option_given(inv, OPT_PORT) ? option_int(inv, OPT_PORT) : -1;
}

/* ---- new instances ---- */

/* Its node id is in the config when all of it is made and durable. */
static void
make_instance(const Instance *inst)
{
	char		node[NEON_ID_HEXLEN + 1];
	int			lock;

	say("Initializing safekeeper %d at '%s:%d' in \"%s\"", inst->id, LOOPBACK, inst->port,
		repo_path("%s", inst->dir));
	make_directory(repo_path("safekeepers"));
	if (server_in_use(instance_pgdata(inst)))
		(void) instance_stop(inst, true);
	remove_path_tree(repo_path("%s", inst->dir));
	children_end_with_us = true;
	instance_create(inst);
	children_end_with_us = false;
	sync_tree(repo_path("%s", inst->dir));
	strlcpy(node, kv_get_default(&repo.config, strf("safekeeper.%d.node", inst->id), ""), sizeof(node));
	test_point("instance-made");
	lock = begin_config();
	kv_set(&repo.config, strf("safekeeper.%d.node", inst->id), node);
	end_config(lock);
}

static void
make_instances(void)
{
	Instance	all[ALL_SAFEKEEPERS];
	int			n = instance_all(all);

	for (int i = 1; i < n; i++)
	{
		if (is_joining(all[i].id) &&
			kv_get(&repo.config, strf("safekeeper.%d.node", all[i].id)) == NULL)
			make_instance(&all[i]);
		if (!is_joining(all[i].id))
			continue;
		credentials_of_safekeeper(&all[i]);
		if (instance_start(&all[i]))
			say("%s started", all[i].name);
	}
	test_point("instances-started");
}

/* ---- branches ---- */

/* From now on new branches are kept by those who are to keep all. */
static void
switch_new_branches(void)
{
	Instance	all[ALL_SAFEKEEPERS];
	int			n;
	int			branches = lock_acquire("safekeepers", CONFIG_LOCK_TIMEOUT, NULL);
	int			lock = begin_config();

	n = instance_all(all);
	for (int i = 1; i < n; i++)
	{
		if (is_joining(all[i].id))
			kv_unset(&repo.config, change_key(all[i].id));
		else if (strcmp(kv_get_default(&repo.config, change_key(all[i].id), ""), "to-remove") == 0)
			kv_set(&repo.config, change_key(all[i].id), "remove");
	}
	end_config(lock);
	lock_release(branches);
	test_point("change-begun");
}

/* Until a look finds nothing to do: branches were created meanwhile. */
static void
change_branches(PGconn *ps, Counts *counts,
				bool (*change) (PGconn *ps, const MemberTarget *target, const char *tenant,
								const char *timeline))
{
	MemberTarget target;
	int			changed;

	member_target_load(&target);
	do
	{
		int			n;
		TimelineInfo *all = ps_timelines(ps, NULL, &n);

		changed = 0;
		for (int i = 0; i < n; i++)
		{
			int64		begin = now_ms();

			if (!change(ps, &target, all[i].tenant, all[i].id))
				continue;
			say("Branch '%s' is kept by its new safekeepers (%d ms).", all[i].name,
				(int) (now_ms() - begin));
			changed++;
		}
		free(all);
		counts->branches += changed;
	} while (changed > 0);
}

/* ---- the end ---- */

static void
remove_instance(const Instance *inst)
{
	/* no branch needs it: one that hangs is not waited for */
	if (instance_stop(inst, true))
		say("%s stopped", inst->name);
	remove_path_tree(repo_path("%s", inst->dir));
	say("%s removed", inst->name);
	kv_unset(&repo.config, strf("safekeeper.%d.port", inst->id));
	kv_unset(&repo.config, strf("safekeeper.%d.node", inst->id));
	kv_unset(&repo.config, strf("safekeeper.%d.password", inst->id));
	kv_unset(&repo.config, change_key(inst->id));
}

static void
remove_leaving(void)
{
	Instance	all[ALL_SAFEKEEPERS];
	int			n;
	int			lock = begin_config();
	int			members = 0;

	n = instance_all(all);
	for (int i = 1; i < n; i++)
	{
		if (safekeeper_is_leaving(all[i].id))
			remove_instance(&all[i]);
		else
			members++;
	}
	kv_set_int(&repo.config, "safekeepers", members);
	kv_unset(&repo.config, "member_change");
	test_point("before-end");
	end_config(lock);
}

static void
print_result(const Counts *counts)
{
	PQExpBufferData buf;
	int			n = safekeeper_count();

	say("Commits are kept by %d of %d safekeepers.", n / 2 + 1, n);
	if (!output_json)
		return;
	json_begin(&buf);
	json_number(&buf, "safekeepers", n);
	json_number(&buf, "branches_changed", counts->branches);
	json_number(&buf, "elapsed_ms", counts->elapsed_ms);
	json_end_print(&buf);
}

/* ---- beginning ---- */

/*
 * The command as it is repeated.  True if it is in the middle already; dies if
 * another one is.
 */
static bool
resumes(const char *command)
{
	const char *begun = kv_get(&repo.config, "member_change");

	if (begun == NULL)
		return false;
	if (strcmp(begun, command) != 0)
		die(EXIT_GENERAL, strf("Finish it by \"neon safekeeper %s\".", begun),
			"another change of the safekeepers has begun: %s", begun);
	say("Going on with \"neon safekeeper %s\".", command);
	return true;
}

static void
begin_change(int lock, const char *command)
{
	kv_set(&repo.config, "member_change", command);
	end_config(lock);
	test_point("change-noted");
}

static int	changes_lock = -1;

/* Only one of these commands at a time. */
static void
lock_changes(void)
{
	/* not found out when half of it is done */
	PQfinish(ps_connect());
	changes_lock = lock_acquire("members", CHANGE_LOCK_TIMEOUT, NULL);
}

static int
run_change(void)
{
	int64		begin = now_ms();
	Counts		counts = {0};
	PGconn	   *ps;

	make_instances();
	switch_new_branches();
	ps = ps_connect();
	change_branches(ps, &counts, member_change_timeline);
	test_point("branches-changed");
	PQfinish(ps);
	remove_leaving();
	counts.elapsed_ms = now_ms() - begin;
	print_result(&counts);
	return EXIT_OK;
}

/* ---- from laptop mode ---- */

/* "neon endpoint VERB NAME" in a child: its failure is told, and ends this. */
static void
run_endpoint_command(const char *name, int (*run) (Invocation *inv))
{
	Invocation	inv = {0};
	pid_t		pid;
	int			status;

	inv.nargs = 1;
	inv.arg[0] = name;
	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid < 0)
		die(EXIT_GENERAL, "Check the limit of processes.", "could not start a process: %m");
	if (pid == 0)
	{
		/* a supervisor that it leaves must not keep it */
		lock_release(changes_lock);
		if (output_json && freopen("/dev/null", "w", stdout) == NULL)
			_exit(EXIT_GENERAL);
		exit(run(&inv));
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_OK)
		exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_GENERAL);
}

/*
 * Primaries write in laptop mode until they are stopped.  Those that ran are
 * noted in the config, to be started again.
 */
static void
stop_primaries(void)
{
	int			n;
	char	  **names = endpoint_names(&n);

	for (int i = 0; i < n; i++)
	{
		Endpoint	ep;
		ServerInfo	info;
		int			lock;

		endpoint_load(&ep, names[i]);
		server_info(endpoint_path(&ep, "pgdata"), &info);
		if (!ep.exists || ep.kind != ENDPOINT_PRIMARY || info.state != SERVER_RUNNING)
			continue;
		lock = begin_config();
		kv_set(&repo.config, strf("member_restart.%s", ep.name), "1");
		end_config(lock);
		run_endpoint_command(ep.name, cmd_endpoint_stop);
	}
	test_point("primaries-stopped");
}

static void
restart_primaries(void)
{
	int			n;
	char	  **names = endpoint_names(&n);

	for (int i = 0; i < n; i++)
	{
		char		key[128];
		ServerInfo	info;
		Endpoint	ep;
		int			lock;

		snprintf(key, sizeof(key), "member_restart.%s", names[i]);
		if (kv_get(&repo.config, key) == NULL)
			continue;
		endpoint_load(&ep, names[i]);
		server_info(endpoint_path(&ep, "pgdata"), &info);
		if (ep.exists && info.state != SERVER_RUNNING)
			run_endpoint_command(names[i], cmd_endpoint_start);
		lock = begin_config();
		kv_unset(&repo.config, key);
		end_config(lock);
	}
}

/*
 * The number of safekeepers, by which all commands know the mode, changes
 * between two looks at the branches: one that is created in between has the
 * one mode or the other.
 */
static int
leave_laptop_mode(void)
{
	int64		begin = now_ms();
	Counts		counts = {0};
	PGconn	   *ps;
	MemberTarget target;
	int			lock;

	make_instances();
	switch_new_branches();
	stop_primaries();
	ps = ps_connect();
	change_branches(ps, &counts, member_begin_timeline);
	member_target_load(&target);
	lock = begin_config();
	kv_set_int(&repo.config, "safekeepers", target.n);
	end_config(lock);
	test_point("mode-changed");
	change_branches(ps, &counts, member_begin_timeline);
	PQfinish(ps);
	restart_primaries();
	lock = begin_config();
	kv_unset(&repo.config, "member_change");
	kv_unset(&repo.config, "member_laptop");
	end_config(lock);
	counts.elapsed_ms = now_ms() - begin;
	print_result(&counts);
	return EXIT_OK;
}

/* ---- the commands ---- */

static void
check_number(int n)
{
	if (n != 1 && n != 3 && n != 5)
		die(EXIT_USAGE, "There can be 1, 3 or 5 safekeepers.", "%d is no number of safekeepers", n);
}

static int
id_argument(const char *arg)
{
	int			id = atoi(arg);

	if (id < 1 || strcmp(arg, strf("%d", id)) != 0 || !has_safekeeper(id))
		die(EXIT_USAGE, "See \"neon safekeeper status\".", "there is no safekeeper \"%s\"", arg);
	return id;
}

/* How many there shall be: as was said when it began, if that is repeated without a number. */
static int
wanted_number(const Invocation *inv)
{
	const char *begun = kv_get_default(&repo.config, "member_change", "");

	if (option_given(inv, OPT_SAFEKEEPERS))
		return option_int(inv, OPT_SAFEKEEPERS);
	if (strncmp(begun, ADD_COMMAND, strlen(ADD_COMMAND)) == 0)
		return atoi(begun + strlen(ADD_COMMAND));
	return safekeeper_count() < 3 ? 3 : 5;
}

int
cmd_safekeeper_add(Invocation *inv)
{
	int			n;
	int			wanted;
	int			lock;
	bool		laptop;
	const char *command;

	lock_changes();
	lock = begin_config();
	n = safekeeper_count();
	laptop = n == 0 || kv_get(&repo.config, "member_laptop") != NULL;
	wanted = wanted_number(inv);
	check_number(wanted);
	command = pg_strdup(strf(ADD_COMMAND "%d", wanted));
	if (!resumes(command))
	{
		if (wanted <= n)
			die(EXIT_USAGE, n < 5 ? "Give a larger number by --safekeepers." : "5 is the most.",
				"there are %d safekeepers already", n);
		for (int i = n; i < wanted; i++)
			note_joining(wanted_port(inv) > 0 ? wanted_port(inv) + i - n : wanted_port(inv));
		if (laptop)
			kv_set(&repo.config, "member_laptop", "1");
	}
	begin_change(lock, command);
	return laptop ? leave_laptop_mode() : run_change();
}

int
cmd_safekeeper_replace(Invocation *inv)
{
	const char *command = pg_strdup(strf("replace %s", inv->arg[0]));
	int			lock;

	lock_changes();
	lock = begin_config();
	if (!resumes(command))
	{
		int			id = id_argument(inv->arg[0]);

		note_joining(wanted_port(inv));
		kv_set(&repo.config, change_key(id), "to-remove");
	}
	begin_change(lock, command);
	return run_change();
}

int
cmd_safekeeper_remove(Invocation *inv)
{
	PQExpBufferData command;
	int			lock;

	initPQExpBuffer(&command);
	appendPQExpBufferStr(&command, "remove");
	for (int i = 0; i < inv->nargs; i++)
		appendPQExpBuffer(&command, " %s", inv->arg[i]);
	if (PQExpBufferBroken(&command))
		die_oom();
	lock_changes();
	lock = begin_config();
	if (!resumes(command.data))
	{
		int			n = safekeeper_count();

		for (int i = 0; i < inv->nargs; i++)
		{
			int			id = id_argument(inv->arg[i]);

			if (kv_get(&repo.config, change_key(id)) != NULL)
				die(EXIT_USAGE, "Give each one once.", "safekeeper %d is given twice", id);
			kv_set(&repo.config, change_key(id), "to-remove");
		}
		if (n - inv->nargs != 1 && n - inv->nargs != 3)
			die(EXIT_USAGE, "1 or 3 have to stay; \"neon safekeeper replace ID\" puts another one in its place.",
				"%d of %d safekeepers cannot be removed", inv->nargs, n);
	}
	begin_change(lock, command.data);
	return run_change();
}
