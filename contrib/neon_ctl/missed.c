/*-------------------------------------------------------------------------
 *
 * missed.c
 *	  Branches that were made or deleted while a safekeeper did not run.
 *
 * What is deleted here is WAL, so the pageserver's word alone does not do: it
 * may have lost its disk.  A safekeeper that has the tombstone says that the
 * deletion was ordered, and that none of a majority has the branch any more
 * says that it was carried out.
 *
 *-------------------------------------------------------------------------
 */
#include "election.h"

#include "endpoint.h"
#include "instance.h"
#include "output.h"
#include "repo.h"

#define ASK_TIMEOUT		60		/* seconds */

/* The safekeepers that keep branches, and a session with each that answers. */
typedef struct Members
{
	int			n;
	Instance	inst[MAX_SAFEKEEPERS];
	PGconn	   *conn[MAX_SAFEKEEPERS];	/* NULL: it does not answer */
	PGresult   *list[MAX_SAFEKEEPERS];	/* the branches that it has */
} Members;

static void
connect_members(Members *m)
{
	Instance	inst[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(inst);

	memset(m, 0, sizeof(*m));
	for (int i = 1; i < n; i++)
	{
		if (!safekeeper_is_member(inst[i].id))
			continue;
		m->inst[m->n] = inst[i];
		m->conn[m->n++] = instance_try_connect(&inst[i]);
	}
}

static void
disconnect_members(Members *m)
{
	for (int i = 0; i < m->n; i++)
	{
		PQfinish(m->conn[i]);
		PQclear(m->list[i]);
	}
}

/* ---- made ---- */

/* Marks those of the timelines that the safekeeper should have and does not. */
static void
find_missed(PGconn *conn, const TimelineInfo *all, int n, bool *missed)
{
	PGresult   *res = db_exec(conn, ASK_TIMEOUT, NULL,
							  "SELECT timeline_id::pg_catalog.text AS id FROM neon_safekeeper.timelines", 0);

	for (int i = 0; i < n; i++)
	{
		bool		has_it = false;

		for (int row = 0; row < PQntuples(res) && !has_it; row++)
			has_it = strcmp(db_value(res, row, "id"), all[i].id) == 0;
		missed[i] |= !has_it;
	}
	PQclear(res);
}

/* Those members that answer, if they are a majority. */
static void
create_missed(PGconn *ps, const char *tenant, const char *timeline)
{
	Position	pos[NEON_MEMBERS_UNION_MAX];
	bool		answered[NEON_MEMBERS_UNION_MAX];
	TimelineInfo tl;
	Quorum		q;
	int			lock = timeline_lock(timeline);

	if (ps_timeline_by_id(ps, tenant, timeline, &tl))
	{
		quorum_open(ps, &tl, &q);
		quorum_positions(&q, pos);
		for (int i = 0; i < q.set.n; i++)
			answered[i] = pos[i].answered;
		if (quorum_is_majority(&q, answered))
			election_create(ps, &tl, &q);
		quorum_close(&q);
	}
	lock_release(lock);
}

static void
make_missed(PGconn *ps, const Members *m, const TimelineInfo *all, int n)
{
	bool	   *missed = pg_malloc0(n + 1);

	for (int i = 0; i < m->n; i++)
	{
		if (m->conn[i] != NULL)
			find_missed(m->conn[i], all, n, missed);
	}
	for (int i = 0; i < n; i++)
	{
		if (missed[i])
			create_missed(ps, all[i].tenant, all[i].id);
	}
	free(missed);
}

/* ---- deleted ---- */

static bool
is_among(const TimelineInfo *all, int n, const char *tenant, const char *timeline)
{
	for (int i = 0; i < n; i++)
	{
		if (strcmp(all[i].tenant, tenant) == 0 &&
			(timeline == NULL || strcmp(all[i].id, timeline) == 0))
			return true;
	}
	return false;
}

static bool
has_timeline(const PGresult *list, const char *tenant, const char *timeline)
{
	for (int row = 0; row < PQntuples(list); row++)
	{
		if (strcmp(db_value(list, row, "timeline_id"), timeline) == 0 &&
			strcmp(db_value(list, row, "tenant_id"), tenant) == 0)
			return true;
	}
	return false;
}

/* Who has it is not asked: that would open it. */
static bool
was_deleted(const Members *m, const char *tenant, const char *timeline)
{
	const char *values[] = {tenant, timeline};
	int			tombstones = 0;
	int			without = 0;

	for (int i = 0; i < m->n; i++)
	{
		PGresult   *res;

		if (m->conn[i] == NULL || has_timeline(m->list[i], tenant, timeline))
			continue;
		res = db_send(m->conn[i], "SELECT state FROM neon_safekeeper.positions($1, $2)", 2, values,
					  NULL, NULL, ASK_TIMEOUT, NULL);
		if (PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 0)
			without++;
		else if (PQresultStatus(res) == PGRES_TUPLES_OK &&
				 strcmp(db_value(res, 0, "state"), "deleted") == 0)
			tombstones++;
		PQclear(res);
	}
	return tombstones > 0 && tombstones + without > m->n / 2;
}

/* A compute that still streams there keeps it: then the next start tries again. */
static void
delete_missed(const Members *m, int which, const char *tenant, const char *timeline,
			  const char *generation)
{
	const char *values[] = {tenant, timeline, generation};
	PGresult   *res = db_send(m->conn[which],
							  "SELECT neon_safekeeper.timeline_delete($1, $2, $3)", 3, values,
							  NULL, NULL, ASK_TIMEOUT, NULL);

	if (PQresultStatus(res) == PGRES_TUPLES_OK)
		say("Deleted timeline '%s' on %s, which did not run when it was deleted", timeline,
			m->inst[which].name);
	else
		warn("timeline %s, which was deleted, is not deleted on %s: %s", timeline,
			 m->inst[which].name, db_primary(res));
	PQclear(res);
}

static void
remove_missed(const Members *m, int which, const TimelineInfo *all, int n)
{
	const PGresult *list = m->list[which];

	for (int row = 0; row < PQntuples(list); row++)
	{
		const char *tenant = db_value(list, row, "tenant_id");
		const char *timeline = db_value(list, row, "timeline_id");

		if (is_among(all, n, tenant, timeline) || !was_deleted(m, tenant, timeline))
			continue;
		delete_missed(m, which, tenant, timeline, db_value(list, row, "generation"));
		if (!is_among(all, n, tenant, NULL))
			election_forget_tenant(tenant);
	}
}

void
missed_catch_up(PGconn *ps)
{
	int			n;
	TimelineInfo *all = ps_timelines(ps, NULL, &n);
	Members		m;

	connect_members(&m);
	make_missed(ps, &m, all, n);
	for (int i = 0; i < m.n; i++)
	{
		if (m.conn[i] != NULL)
			m.list[i] = db_exec(m.conn[i], ASK_TIMEOUT, NULL,
								"SELECT tenant_id, timeline_id, generation FROM neon_safekeeper.timelines", 0);
	}
	for (int i = 0; i < m.n; i++)
	{
		if (m.conn[i] != NULL)
			remove_missed(&m, i, all, n);
	}
	disconnect_members(&m);
	free(all);
}
