/*-------------------------------------------------------------------------
 *
 * cli_endpoint_list.c
 *	  neon endpoint list, destroy, logs, config.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include "credentials.h"
#include "discard.h"
#include "endpoint.h"
#include "fsutil.h"
#include "instance.h"
#include "kvfile.h"
#include "neon_lsn.h"
#include "output.h"
#include "passfile.h"
#include "repo.h"
#include "supervise.h"

/* ---- list ---- */

static const TimelineInfo *
find_timeline(const TimelineInfo *all, int n, const Endpoint *ep)
{
	for (int i = 0; i < n; i++)
	{
		if (strcmp(all[i].tenant, ep->tenant) == 0 && strcmp(all[i].id, ep->timeline) == 0)
			return &all[i];
	}
	return NULL;
}

/* Where a running endpoint was booted; InvalidXLogRecPtr if that is not known. */
static XLogRecPtr
boot_lsn(const Endpoint *ep)
{
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	KvFile		boot;

	if (!kv_load(&boot, endpoint_path(ep, "pgdata/neon.boot")))
		return InvalidXLogRecPtr;
	(void) neon_lsn_parse(kv_get_default(&boot, "boot_lsn", ""), &lsn);
	kv_free(&boot);
	return lsn;
}

static void
list_endpoint(Table *table, const Endpoint *ep, const TimelineInfo *tl)
{
	ServerInfo	info;
	XLogRecPtr	lsn = ep->lsn;
	const char *status;

	server_info(endpoint_path(ep, "pgdata"), &info);
	if (lsn == InvalidXLogRecPtr && ep->kind != ENDPOINT_PRIMARY && info.state == SERVER_RUNNING)
		lsn = boot_lsn(ep);
	if (lsn == InvalidXLogRecPtr && tl != NULL)
		lsn = tl->last_record_lsn;
	status = info.state == SERVER_RUNNING ? (info.ready ? "running" : "starting") :
		info.state == SERVER_STOPPED ? "stopped" : "crashed";
	table_cell(table, ep->name);
	table_cell(table, strf("%s:%d", LOOPBACK, ep->port));
	table_cell(table, ep->timeline);
	table_cell(table, tl ? tl->name : NULL);
	table_cell(table, lsn != InvalidXLogRecPtr ? lsn_text(lsn) : NULL);
	table_cell(table, ep->kind == ENDPOINT_PRIMARY ? status :
			   strf("%s, %s", status, endpoint_kind_name(ep->kind)));
	table_cell(table, status);
	table_cell(table, endpoint_kind_name(ep->kind));
}

int
cmd_endpoint_list(Invocation *inv)
{
	static const char *const titles[] = {"ENDPOINT", "ADDRESS", "TIMELINE", "BRANCH NAME", "LSN", "STATUS", NULL, NULL};
	static const char *const json_names[] = {"endpoint", "address", "timeline_id", "branch_name", "lsn", NULL, "status", "kind"};
	Table	   *table = table_new(8, titles, json_names);
	const char *wanted = option_given(inv, OPT_TENANT_ID) ? chosen_tenant(inv) : NULL;
	PGconn	   *conn = ps_try_connect();
	TimelineInfo *all = NULL;
	int			ntimelines = 0;
	int			n;
	char	  **names = endpoint_names(&n);

	if (conn != NULL)
		all = ps_timelines(conn, NULL, &ntimelines);
	for (int i = 0; i < n; i++)
	{
		Endpoint	ep;

		endpoint_load(&ep, names[i]);
		if (!ep.exists || (wanted != NULL && strcmp(wanted, ep.tenant) != 0))
			continue;
		list_endpoint(table, &ep, find_timeline(all, ntimelines, &ep));
	}
	table_print(table);
	PQfinish(conn);
	return EXIT_OK;
}

/* ---- destroy ---- */

static void
forget_passwords(const Endpoint *ep)
{
	if (repo.trust)
		return;
	credentials_forget_endpoint(ep);
	user_passfile_remove(socket_directory(ep->port), ep->port, SUPERUSER,
						 tenant_secret(ep->tenant, "superuser"));
}

/* What a first start has left that was killed in its middle: it has no data of its own yet. */
static bool
remove_unfinished(const char *name)
{
	Endpoint	ep;

	endpoint_load(&ep, name);
	if (ep.exists || !path_exists(repo_path("endpoints/%s", name)) ||
		path_exists(repo_path("endpoints/%s/pgdata", name)))
		return false;
	remove_path_tree(repo_path("endpoints/%s", name));
	say("Removed what an unfinished start of endpoint %s has left", name);
	return true;
}

int
cmd_endpoint_destroy(Invocation *inv)
{
	XLogRecPtr	accept_loss = InvalidXLogRecPtr;
	Endpoint	ep;
	char		pgdata[MAXPGPATH];
	int			lock;

	check_endpoint_name(inv->arg[0]);
	if (supervise_runs(inv->arg[0]))
		supervise_end(inv->arg[0]);
	lock = endpoint_lock(inv->arg[0], NULL);
	if (remove_unfinished(inv->arg[0]))
	{
		lock_release(lock);
		return EXIT_OK;
	}
	endpoint_load_existing(&ep, inv->arg[0]);
	if (option_given(inv, OPT_ACCEPT_DATA_LOSS))
		accept_loss = option_lsn(inv, OPT_ACCEPT_DATA_LOSS);
	make_path(pgdata, "%s", endpoint_path(&ep, "pgdata"));
	if (ep.kind == ENDPOINT_PRIMARY)
	{
		/* What only its directory has goes to the pageserver first. */
		PGconn	   *conn = ps_connect();

		drain_endpoint(conn, &ep, accept_loss);
		PQfinish(conn);
	}
	server_stop(pgdata, STOP_IMMEDIATE, 0, strf("endpoint \"%s\"", ep.name));
	if (ep.kind == ENDPOINT_PRIMARY && safekeeper_count() > 0)
	{
		PGconn	   *conn = ps_try_connect();

		release_lease(conn, &ep);
		PQfinish(conn);
	}
	forget_passwords(&ep);
	/* Without this file it is no endpoint any more. */
	remove_file_durably(endpoint_path(&ep, "conf/endpoint"));
	discard_end(ep.name);
	remove_path_tree(repo_path("endpoints/%s", ep.name));
	say("Endpoint %s destroyed", ep.name);
	lock_release(lock);
	return EXIT_OK;
}

/* ---- logs, config ---- */

int
cmd_endpoint_logs(Invocation *inv)
{
	Endpoint	ep;

	endpoint_load_existing(&ep, inv->arg[0]);
	server_print_log(endpoint_path(&ep, "postgres.log"), strf("endpoint \"%s\"", ep.name));
	return EXIT_OK;
}

/* "name=value", or "name=" to take it away. */
static Setting
parse_setting(const char *arg)
{
	Setting		result;
	char	   *name = pg_strdup(arg);
	char	   *equals = strchr(name, '=');

	if (equals == NULL || equals == name)
		die(EXIT_USAGE, "Give it as name=value; name= takes the setting away.",
			"\"%s\" is no setting", arg);
	*equals++ = '\0';
	if (strpbrk(equals, "\r\n") != NULL)
		die(EXIT_USAGE, "Give it in one line.", "the value of \"%s\" has a line break", name);
	result.name = name;
	result.value = *equals != '\0' ? equals : NULL;
	return result;
}

int
cmd_endpoint_config(Invocation *inv)
{
	int			lock = endpoint_lock(inv->arg[0], NULL);
	Setting		settings[MAX_ARGUMENTS];
	Endpoint	ep;
	ServerInfo	info;

	endpoint_load_existing(&ep, inv->arg[0]);
	for (int i = 1; i < inv->nargs; i++)
		settings[i - 1] = parse_setting(inv->arg[i]);
	if (inv->nargs == 1)
		conf_print(&ep);
	else
	{
		conf_set(&ep, settings, inv->nargs - 1);
		server_info(endpoint_path(&ep, "pgdata"), &info);
		say("Settings of endpoint %s changed%s", ep.name,
			info.state == SERVER_RUNNING ? "; they apply at its next start" : "");
	}
	lock_release(lock);
	return EXIT_OK;
}
