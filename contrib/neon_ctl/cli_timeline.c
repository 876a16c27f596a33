/*-------------------------------------------------------------------------
 *
 * cli_timeline.c
 *	  neon timeline list, branch, create, rename, delete.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include "db.h"
#include "election.h"
#include "endpoint.h"
#include "neon_lsn.h"
#include "output.h"
#include "pageserver.h"
#include "repo.h"

#define CREATE_TIMEOUT	300
#define TREE_DEPTH		200

/* ---- the tree ---- */

typedef struct Tree
{
	const TimelineInfo *all;
	int			n;
	int			printed;
	bool		more[TREE_DEPTH];	/* at each depth: do siblings follow? */
} Tree;

static int
next_child(const Tree *tree, const char *parent, int after)
{
	for (int i = after + 1; i < tree->n; i++)
	{
		if (strcmp(tree->all[i].ancestor, parent) == 0)
			return i;
	}
	return -1;
}

/* As Neon prints it: "(L)" for what is on this machine, the branch point, the name, the id. */
static void
print_node(Tree *tree, const TimelineInfo *node, int depth)
{
	bool		active = strcmp(node->state, "active") == 0;

	printf("(L) ");
	for (int d = 1; d < depth; d++)
		printf("%s", tree->more[d] ? "┃ " : "  ");
	if (depth > 0)
		printf("%s @%s: ", tree->more[depth] ? "┣━" : "┗━", lsn_text(node->ancestor_lsn));
	printf("%s [%s]%s%s\n", node->name, node->id, active ? "" : " ", active ? "" : node->state);
	tree->printed++;
}

static void
print_branch(Tree *tree, int index, int depth)
{
	const TimelineInfo *node = &tree->all[index];
	int			child = next_child(tree, node->id, -1);

	print_node(tree, node, depth);
	if (depth + 1 >= TREE_DEPTH)
		return;
	while (child >= 0)
	{
		int			following = next_child(tree, node->id, child);

		tree->more[depth + 1] = following >= 0;
		print_branch(tree, child, depth + 1);
		child = following;
	}
}

static void
print_json(const TimelineInfo *all, int n)
{
	static const char *const json_names[] = {"tenant_id", "timeline_id", "name", "ancestor_id",
	"ancestor_lsn", "last_record_lsn", "state"};
	Table	   *table = table_new(7, json_names, json_names);

	for (int i = 0; i < n; i++)
	{
		table_cell(table, all[i].tenant);
		table_cell(table, all[i].id);
		table_cell(table, all[i].name);
		table_cell(table, all[i].ancestor[0] ? all[i].ancestor : NULL);
		table_cell(table, all[i].ancestor[0] ? lsn_text(all[i].ancestor_lsn) : NULL);
		table_cell(table, lsn_text(all[i].last_record_lsn));
		table_cell(table, all[i].state);
	}
	table_print(table);
}

int
cmd_timeline_list(Invocation *inv)
{
	const char *tenant = chosen_tenant(inv);
	PGconn	   *conn = ps_connect();
	Tree		tree = {0};

	tree.all = ps_timelines(conn, tenant, &tree.n);
	PQfinish(conn);
	if (tree.n == 0)
		die(EXIT_GENERAL, "See \"neon tenant list\".", "there is no tenant %s", tenant);
	if (output_json)
	{
		print_json(tree.all, tree.n);
		return EXIT_OK;
	}
	for (int i = 0; i < tree.n; i++)
	{
		if (tree.all[i].ancestor[0] == '\0')
			print_branch(&tree, i, 0);
	}
	return EXIT_OK;
}

/* ---- branch ---- */

static void
print_created(const char *id, const char *name, XLogRecPtr lsn, const char *tenant,
			  const char *ancestor)
{
	PQExpBufferData buf;

	if (ancestor != NULL)
		say("Created timeline '%s' at Lsn %s for tenant: %s. Ancestor timeline: '%s'", id,
			lsn_text(lsn), tenant, ancestor);
	else
		say("Created timeline '%s' at Lsn %s for tenant: %s", id, lsn_text(lsn), tenant);
	json_begin(&buf);
	json_string(&buf, "tenant_id", tenant);
	json_string(&buf, "timeline_id", id);
	json_string(&buf, "name", name);
	json_string(&buf, "lsn", lsn_text(lsn));
	json_string(&buf, "ancestor", ancestor);
	json_end_print(&buf);
}

int
cmd_timeline_branch(Invocation *inv)
{
	const char *tenant = chosen_tenant(inv);
	const char *name = inv->option[OPT_BRANCH_NAME];
	const char *from = inv->option[OPT_ANCESTOR_BRANCH_NAME];
	const char *at_time = inv->option[OPT_ANCESTOR_START_TIME];
	XLogRecPtr	at_lsn = InvalidXLogRecPtr;
	XLogRecPtr	insert_lsn;
	XLogRecPtr	lsn;
	TimelineInfo tl;
	char		id[NEON_ID_HEXLEN + 1];
	PGconn	   *conn;
	int			lock;

	if (from == NULL)
		from = "main";
	if (name == NULL)
		die(EXIT_USAGE, "Usage: neon timeline branch --branch-name NAME",
			"\"neon timeline branch\" needs --branch-name");
	if (at_time != NULL && option_given(inv, OPT_ANCESTOR_START_LSN))
		die(EXIT_USAGE, "Give one of them.",
			"--ancestor-start-lsn and --ancestor-start-time exclude each other");
	election_check_running("creating a branch");
	conn = ps_connect();
	ps_find_timeline(conn, tenant, from, &tl);
	lock = timeline_lock(tl.id);
	ps_refresh(conn, &tl);
	if (option_given(inv, OPT_ANCESTOR_START_LSN))
	{
		at_lsn = option_lsn(inv, OPT_ANCESTOR_START_LSN);
		branch_check_lsn(conn, &tl, at_lsn);
	}
	else
	{
		/* All that is acknowledged now is on the branch, or before its time. */
		lsn = branch_sync(conn, &tl, &insert_lsn);
		if (at_time == NULL)
			at_lsn = lsn;
	}
	ps_branch_create(conn, &tl, name, at_lsn, at_time, id, &lsn);
	election_create_timeline(conn, tenant, id);
	lock_release(lock);
	print_created(id, name, lsn, tenant, tl.name);
	PQfinish(conn);
	return EXIT_OK;
}

/* ---- the others ---- */

int
cmd_timeline_create(Invocation *inv)
{
	const char *tenant = chosen_tenant(inv);
	const char *name = inv->option[OPT_BRANCH_NAME];
	XLogRecPtr	lsn = InvalidXLogRecPtr;
	PGconn	   *conn;
	PGresult   *res;

	if (name == NULL)
		die(EXIT_USAGE, "Usage: neon timeline create --branch-name NAME",
			"\"neon timeline create\" needs --branch-name");
	election_check_running("creating a branch");
	conn = ps_connect();
	res = db_exec(conn, CREATE_TIMEOUT, "creating the timeline (initdb)",
				  "SELECT * FROM neon_pageserver.timeline_create($1, $2, $3)", 3,
				  tenant, name, creation_options(conn, inv, tenant, false));
	election_create_timeline(conn, tenant, db_value(res, 0, "timeline_id"));
	(void) neon_lsn_parse(db_value(res, 0, "lsn"), &lsn);
	print_created(db_value(res, 0, "timeline_id"), name, lsn, tenant, NULL);
	PQclear(res);
	PQfinish(conn);
	return EXIT_OK;
}

int
cmd_timeline_rename(Invocation *inv)
{
	const char *tenant = chosen_tenant(inv);
	PGconn	   *conn = ps_connect();
	TimelineInfo tl;

	ps_find_timeline(conn, tenant, inv->arg[0], &tl);
	PQclear(db_exec(conn, 60, NULL, "SELECT neon_pageserver.timeline_rename($1, $2, $3)", 3,
					tenant, tl.id, inv->arg[1]));
	say("Branch '%s' is now named '%s'", tl.name, inv->arg[1]);
	PQfinish(conn);
	return EXIT_OK;
}

/* The pageserver refuses it, too, but the safekeepers are asked first. */
static void
check_no_branches(PGconn *conn, const TimelineInfo *tl)
{
	int			n;
	TimelineInfo *all = ps_timelines(conn, tl->tenant, &n);

	for (int i = 0; i < n; i++)
	{
		if (strcmp(all[i].ancestor, tl->id) == 0)
			die(EXIT_GENERAL, "Delete its branches first.",
				"branch \"%s\" cannot be deleted because branch \"%s\" comes from it", tl->name,
				all[i].name);
	}
	free(all);
}

int
cmd_timeline_delete(Invocation *inv)
{
	const char *tenant = chosen_tenant(inv);
	PGconn	   *conn = ps_connect();
	TimelineInfo tl;
	int			lock;

	ps_find_timeline(conn, tenant, inv->arg[0], &tl);
	lock = timeline_lock(tl.id);
	check_no_endpoints(tenant, tl.id, strf("branch \"%s\"", tl.name));
	check_no_branches(conn, &tl);
	election_delete_timeline(conn, &tl);
	PQclear(db_exec(conn, 120, "deleting the branch",
					"SELECT neon_pageserver.timeline_delete($1, $2)", 2, tenant, tl.id));
	lock_release(lock);
	say("Branch '%s' [%s] deleted", tl.name, tl.id);
	PQfinish(conn);
	return EXIT_OK;
}
