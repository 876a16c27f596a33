/*-------------------------------------------------------------------------
 *
 * cli_storage.c
 *	  neon storage verify, gc: the pageserver's files of a branch, or of all
 *	  branches of a tenant.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include "db.h"
#include "output.h"
#include "pageserver.h"
#include "repo.h"

#define WORK_TIMEOUT	(24 * 3600) /* seconds, of one branch of any size */

/* The branch of the option, else all of the tenant. */
static TimelineInfo *
chosen_branches(const Invocation *inv, PGconn *conn, int *n)
{
	const char *tenant = chosen_tenant(inv);
	TimelineInfo *list;

	if (!option_given(inv, OPT_BRANCH_NAME))
		return ps_timelines(conn, tenant, n);
	list = pg_malloc0(sizeof(TimelineInfo));
	ps_find_timeline(conn, tenant, inv->option[OPT_BRANCH_NAME], list);
	*n = 1;
	return list;
}

/* Rows of a query on one branch into the table, its name first. */
static int
add_rows(PGconn *conn, const TimelineInfo *tl, const char *progress, const char *sql, Table *table)
{
	PGresult   *res = db_exec(conn, WORK_TIMEOUT, progress, sql, 2, tl->tenant, tl->id);
	int			n = PQntuples(res);

	for (int i = 0; i < n; i++)
	{
		table_cell(table, tl->name);
		for (int c = 0; c < PQnfields(res); c++)
			table_cell(table, PQgetisnull(res, i, c) ? NULL : PQgetvalue(res, i, c));
	}
	PQclear(res);
	return n;
}

/* What is still damaged after a repair: the proof of it. */
static int
count_problems(PGconn *conn, const TimelineInfo *tl)
{
	PGresult   *res = db_exec(conn, WORK_TIMEOUT, strf("verifying branch %s again", tl->name),
							  "SELECT 1 FROM neon_pageserver.timeline_verify($1, $2)", 2, tl->tenant, tl->id);
	int			n = PQntuples(res);

	PQclear(res);
	return n;
}

int
cmd_storage_verify(Invocation *inv)
{
	static const char *const titles[] = {"BRANCH", "FILE", "OFFSET", "PROBLEM", "REMEDY"};
	static const char *const json_names[] = {"branch", "file", "byte_offset", "problem", "remedy"};
	bool		repair = option_given(inv, OPT_REPAIR);
	Table	   *table = table_new(5, titles, json_names);
	PGconn	   *conn = ps_connect();
	int			n;
	int			problems = 0;
	int			left = 0;
	TimelineInfo *list = chosen_branches(inv, conn, &n);

	for (int i = 0; i < n; i++)
	{
		problems += add_rows(conn, &list[i], strf("verifying branch %s", list[i].name),
							 repair ?
							 "SELECT file, byte_offset, problem, remedy FROM neon_pageserver.timeline_verify($1, $2, repair => true)" :
							 "SELECT file, byte_offset, problem, remedy FROM neon_pageserver.timeline_verify($1, $2)",
							 table);
		if (repair && problems > 0)
			left += count_problems(conn, &list[i]);
	}
	PQfinish(conn);
	if (problems > 0 || output_json)
		table_print(table);
	else
		say("%d branch%s verified, no problem found", n, n == 1 ? "" : "es");
	if (repair && left == 0)
		return EXIT_OK;
	if (problems > 0)
		die(EXIT_GENERAL, repair ? "The section \"Damaged files\" of docs/operations.md tells what fits of a backup." :
			"\"neon storage verify --repair\" rebuilds what can be rebuilt. What fits of a backup is told by the section \"Damaged files\" of docs/operations.md.",
			"%d place%s damaged", repair ? left : problems, (repair ? left : problems) == 1 ? " is" : "s are");
	return EXIT_OK;
}

int
cmd_storage_gc(Invocation *inv)
{
	static const char *const titles[] = {"BRANCH", "OLDEST LSN", "OLDEST TIME", "STORED"};
	static const char *const json_names[] = {"branch", "gc_cutoff", "gc_cutoff_time", "physical_size"};
	Table	   *table = table_new(4, titles, json_names);
	PGconn	   *conn = ps_connect();
	int			n;
	TimelineInfo *list = chosen_branches(inv, conn, &n);

	table_number_column(table, 3);
	for (int i = 0; i < n; i++)
	{
		PQclear(db_exec(conn, WORK_TIMEOUT, strf("compacting branch %s", list[i].name),
						"SELECT neon_pageserver.timeline_gc($1, $2)", 2, list[i].tenant, list[i].id));
		(void) add_rows(conn, &list[i], NULL,
						output_json ?
						"SELECT gc_cutoff, gc_cutoff_time, physical_size FROM neon_pageserver.timelines WHERE tenant_id = $1 AND timeline_id = $2" :
						"SELECT gc_cutoff, gc_cutoff_time, pg_size_pretty(physical_size) FROM neon_pageserver.timelines WHERE tenant_id = $1 AND timeline_id = $2",
						table);
	}
	PQfinish(conn);
	table_print(table);
	return EXIT_OK;
}
