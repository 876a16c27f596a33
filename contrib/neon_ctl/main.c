/*-------------------------------------------------------------------------
 *
 * main.c
 *	  The table of commands and their help.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <locale.h>
#include <signal.h>
#include <sys/stat.h>

#include "cli.h"
#include "common/logging.h"
#include "output.h"
#include "repo.h"

#define NEON_VERSION "1.0"

#define MODE	OPT_BIT(OPT_MODE)
#define TENANT	OPT_BIT(OPT_TENANT_ID)

static const Command commands[] = {
	{NULL, "init", "", 0, 0,
		OPT_BIT(OPT_SAFEKEEPERS) | OPT_BIT(OPT_AUTH) | OPT_BIT(OPT_PAGESERVER_PORT) |
		OPT_BIT(OPT_SAFEKEEPER_PORT) | OPT_BIT(OPT_FORCE), false,
		"Create a state directory with its pageserver and its safekeepers, three unless told.  Without any (laptop mode) there is one copy of the WAL.",
		"  neon init\n  neon init --safekeepers 0\n"
		"  neon -D /var/lib/neon init --pageserver-port 0 --safekeeper-port 0 --auth trust\n", cmd_init},
	{NULL, "start", "", 0, 0, OPT_BIT(OPT_ENDPOINTS) | OPT_BIT(OPT_NO_SUPERVISE), true,
		"Start the pageserver and the safekeepers, and with --endpoints those endpoints that ran before.",
		"  neon start\n  neon start --endpoints\n", cmd_start},
	{NULL, "stop", "", 0, 0, MODE, true,
		"Stop everything: endpoints, drained, then the pageserver, then the safekeepers.  -m immediate skips the draining and loses nothing.",
		"  neon stop\n  neon stop -m immediate\n", cmd_stop},
	{NULL, "status", "", 0, 0, 0, true,
		"Show what runs.  Exit code 3 if the pageserver or a safekeeper does not.",
		"  neon status\n  neon --json status\n", cmd_status},

	{"pageserver", "start", "", 0, 0, 0, true,
		"Start the pageserver.", "  neon pageserver start\n", cmd_pageserver_start},
	{"pageserver", "stop", "", 0, 0, MODE, true,
		"Stop the pageserver only; endpoints wait for it.", "  neon pageserver stop -m immediate\n", cmd_pageserver_stop},
	{"pageserver", "status", "", 0, 0, 0, true,
		"Show whether it runs.  Exit code 3 if not.", "  neon pageserver status\n", cmd_pageserver_status},
	{"pageserver", "logs", "", 0, 0, 0, true,
		"Print its log.", "  neon pageserver logs | tail\n", cmd_pageserver_logs},

	{"safekeeper", "start", "[ID]", 0, 1, 0, true,
		"Start a safekeeper, or all.", "  neon safekeeper start\n  neon safekeeper start 2\n", cmd_safekeeper_start},
	{"safekeeper", "stop", "[ID]", 0, 1, MODE, true,
		"Stop a safekeeper, or all; commits wait while a majority is stopped.",
		"  neon safekeeper stop 2\n  neon safekeeper stop 2 -m immediate\n", cmd_safekeeper_stop},
	{"safekeeper", "status", "[ID]", 0, 1, 0, true,
		"Show whether they run.  Exit code 3 if one does not.", "  neon safekeeper status\n", cmd_safekeeper_status},
	{"safekeeper", "logs", "ID", 0, 1, 0, true,
		"Print its log.", "  neon safekeeper logs 2 | tail\n", cmd_safekeeper_logs},

	{"safekeeper", "add", "", 0, 0, OPT_BIT(OPT_SAFEKEEPERS) | OPT_BIT(OPT_PORT), true,
		"Have more safekeepers: 3, or 5 if there are 3 already.  Laptop mode gets its first ones, and its primaries are started again.",
		"  neon safekeeper add\n  neon safekeeper add --safekeepers 5 --port 0\n", cmd_safekeeper_add},
	{"safekeeper", "replace", "ID", 1, 1, OPT_BIT(OPT_PORT), true,
		"Put a new safekeeper in the place of one that is dead, or that runs; commits go on meanwhile.",
		"  neon safekeeper replace 2\n  neon safekeeper replace 2 --port 5460\n", cmd_safekeeper_replace},
	{"safekeeper", "remove", "ID ...", 1, 4, 0, true,
		"Have fewer safekeepers: two of 5 or of 3 are removed at a time; commits go on meanwhile.",
		"  neon safekeeper remove 4 5\n", cmd_safekeeper_remove},

	{"tenant", "create", "", 0, 0,
		TENANT | OPT_BIT(OPT_SET_DEFAULT) | OPT_BIT(OPT_LOCALE) | OPT_BIT(OPT_ENCODING) |
		OPT_BIT(OPT_DATA_CHECKSUMS) | OPT_BIT(OPT_WAL_SEGSIZE) | OPT_BIT(OPT_PGDATA), true,
		"Create a tenant with a first branch, main, of fresh databases or of those in a data directory.",
		"  neon tenant create --set-default\n  neon tenant create --locale C.UTF-8 --data-checksums --wal-segsize 4\n"
		"  neon tenant create --pgdata /var/lib/postgresql/15/main\n",
		cmd_tenant_create},
	{"tenant", "list", "", 0, 0, 0, true,
		"List the tenants.", "  neon tenant list\n", cmd_tenant_list},
	{"tenant", "config", "[SETTING=VALUE ...]", 0, MAX_ARGUMENTS, TENANT, true,
		"Set how much history of a tenant is kept; SETTING= is the pageserver's; without any, show it.",
		"  neon tenant config pitr_interval=1d gc_horizon=1GB\n  neon tenant config pitr_interval=\n",
		cmd_tenant_config},
	{"tenant", "set-default", "ID", 1, 1, 0, true,
		"Choose the tenant that commands mean without --tenant-id.",
		"  neon tenant set-default 9ef87a5bf0d92544f6fafeeb3239695c\n", cmd_tenant_set_default},
	{"tenant", "delete", "ID", 1, 1, 0, true,
		"Delete a tenant with all its branches and their history.",
		"  neon tenant delete 9ef87a5bf0d92544f6fafeeb3239695c\n", cmd_tenant_delete},

	{"timeline", "list", "", 0, 0, TENANT, true,
		"Show the branches as a tree.", "  neon timeline list\n", cmd_timeline_list},
	{"timeline", "branch", "", 0, 0,
		TENANT | OPT_BIT(OPT_BRANCH_NAME) | OPT_BIT(OPT_ANCESTOR_BRANCH_NAME) |
		OPT_BIT(OPT_ANCESTOR_START_LSN) | OPT_BIT(OPT_ANCESTOR_START_TIME), true,
		"Create a branch of what a branch is now, or was at an LSN or a time.",
		"  neon timeline branch --branch-name migration_check\n"
		"  neon timeline branch --branch-name restored --ancestor-branch-name main --ancestor-start-time '2024-05-01 12:00+00'\n"
		"  neon timeline branch --branch-name before --ancestor-start-lsn 0/16F9A00\n", cmd_timeline_branch},
	{"timeline", "create", "", 0, 0, TENANT | OPT_BIT(OPT_BRANCH_NAME), true,
		"Create a branch of fresh databases that comes from no other branch.",
		"  neon timeline create --branch-name empty\n", cmd_timeline_create},
	{"timeline", "rename", "OLD NEW", 2, 2, TENANT, true,
		"Give a branch another name.", "  neon timeline rename main old_main\n", cmd_timeline_rename},
	{"timeline", "delete", "NAME|ID", 1, 1, TENANT, true,
		"Delete a branch that has no branches and no endpoints.",
		"  neon timeline delete migration_check\n", cmd_timeline_delete},

	{"endpoint", "create", "NAME", 1, 1, OPTS_START, true,
		"Create an endpoint without starting it.",
		"  neon endpoint create main\n  neon endpoint create before --lsn 0/16F9A00\n", cmd_endpoint_create},
	{"endpoint", "start", "NAME", 1, 1, OPTS_START, true,
		"Start an endpoint, creating it if it is new.  --branch-name moves a stopped one to another branch.",
		"  neon endpoint start main\n"
		"  neon endpoint start migration_check --branch-name migration_check\n"
		"  neon endpoint start report --branch-name main --time '2024-05-01 12:00+00'\n"
		"  neon endpoint start second --branch-name main --take-over\n", cmd_endpoint_start},
	{"endpoint", "run", "NAME", 1, 1, OPTS_START & ~OPT_BIT(OPT_NO_SUPERVISE), true,
		"Start an endpoint and stay: start it again after a crash, stop it at Ctrl-C or SIGTERM.",
		"  neon endpoint run main\n", cmd_endpoint_run},
	{"endpoint", "stop", "NAME", 1, 1, MODE, true,
		"Stop an endpoint and let the pageserver have all its WAL.  -m immediate leaves that to the next start.",
		"  neon endpoint stop main\n", cmd_endpoint_stop},
	{"endpoint", "restart", "NAME", 1, 1, MODE | OPT_BIT(OPT_NO_SUPERVISE), true,
		"Stop an endpoint, if it runs, and start it.",
		"  neon endpoint restart main\n", cmd_endpoint_restart},
	{"endpoint", "list", "", 0, 0, TENANT, true,
		"List the endpoints.", "  neon endpoint list\n", cmd_endpoint_list},
	{"endpoint", "destroy", "NAME", 1, 1, OPT_BIT(OPT_ACCEPT_DATA_LOSS), true,
		"Stop an endpoint and remove it with its settings.  The branch stays.",
		"  neon endpoint destroy migration_check\n", cmd_endpoint_destroy},
	{"endpoint", "logs", "NAME", 1, 1, 0, true,
		"Print its log.", "  neon endpoint logs main | tail\n", cmd_endpoint_logs},
	{"endpoint", "config", "NAME [SETTING=VALUE ...]", 1, MAX_ARGUMENTS, 0, true,
		"Set what applies from the next start on; SETTING= takes it away; without any, show them.",
		"  neon endpoint config main work_mem=64MB shared_preload_libraries=pg_stat_statements\n"
		"  neon endpoint config main work_mem=\n", cmd_endpoint_config},

	{"storage", "verify", "", 0, 0, TENANT | OPT_BIT(OPT_BRANCH_NAME) | OPT_BIT(OPT_REPAIR), true,
		"Read all that is stored of a branch, or of all, and report what is damaged.",
		"  neon storage verify\n  neon storage verify --branch-name main --repair\n", cmd_storage_verify},
	{"storage", "gc", "", 0, 0, TENANT | OPT_BIT(OPT_BRANCH_NAME), true,
		"Let go of the history of a branch, or of all, that is older than is kept, and compact the rest.",
		"  neon storage gc\n  neon storage gc --branch-name main\n", cmd_storage_gc},

	{"layer", "dump", "FILE", 1, 1, OPT_BIT(OPT_KEYS) | OPT_BIT(OPT_VERSIONS), false,
		"Read a whole layer file of the pageserver, verify it, and show what is in it.",
		"  neon layer dump 0000000000000007-00000001.delta\n"
		"  neon layer dump --versions 0000000000000007-00000001.delta | grep 'page 1663/5/16384 main 0:' -A 20\n"
		"  neon --json layer dump --keys 0000000000000001-00000001.image\n", cmd_layer_dump},
	{NULL, NULL}
};

static void
print_command_line(const Command *c)
{
	char		left[64];

	snprintf(left, sizeof(left), "%s%s%s%s%s", c->group ? c->group : "", c->group ? " " : "", c->verb,
			 c->arguments[0] ? " " : "", c->arguments);
	printf("  neon %-22s  %s\n", left, c->summary);
}

/* All commands, or those of one group. */
static void
help_overview(const char *group)
{
	printf("neon: PostgreSQL whose storage lives elsewhere\n\nCommands:\n");
	for (const Command *c = commands; c->verb != NULL; c++)
	{
		if (group == NULL || (c->group != NULL && strcmp(c->group, group) == 0))
			print_command_line(c);
	}
	printf("\nOptions of all commands:\n");
	options_help(OPTS_GLOBAL);
	printf("\nExamples:\n"
		   "  neon init && neon start && neon tenant create --set-default\n"
		   "  neon endpoint start main\n"
		   "  psql -p 55432 -h 127.0.0.1 -U cloud_admin postgres\n"
		   "\nMore: \"neon COMMAND --help\".\n");
}

static void
help_command(const Command *c)
{
	printf("Usage: neon %s%s%s%s%s [OPTION ...]\n\n%s\n", c->group ? c->group : "", c->group ? " " : "",
		   c->verb, c->arguments[0] ? " " : "", c->arguments, c->summary);
	if (c->options != 0)
	{
		printf("\nOptions:\n");
		options_help(c->options);
	}
	printf("\nOptions of all commands:\n");
	options_help(OPTS_GLOBAL);
	printf("\nExamples:\n%s", c->examples);
}

static void
show_help(const Invocation *inv)
{
	const char *group = inv->command == NULL && inv->nargs > 0 ? inv->arg[0] : NULL;

	if (inv->command != NULL)
		help_command(inv->command);
	else
		help_overview(group);
}

int
main(int argc, char **argv)
{
	Invocation	inv;

	/* Rows of numbers and messages are for machines and people alike. */
	setlocale(LC_ALL, "C");
	pg_logging_init("neon");
	pg_logging_set_level(PG_LOG_OFF);
	umask(077);
	signal(SIGPIPE, SIG_IGN);
	options_parse(argc, argv, commands, &inv);
	output_json = option_given(&inv, OPT_JSON);
	if (option_given(&inv, OPT_VERSION))
	{
		printf("neon %s (PostgreSQL %s)\n", NEON_VERSION, PG_MAJORVERSION);
		return EXIT_OK;
	}
	if (option_given(&inv, OPT_HELP))
	{
		show_help(&inv);
		return EXIT_OK;
	}
	if (inv.command == NULL)
		die(EXIT_USAGE, "Try \"neon --help\".", "no command is given");
	if (inv.command->needs_repo)
		repo_open(&inv);
	return inv.command->run(&inv);
}
