/*-------------------------------------------------------------------------
 *
 * quorum.c
 *	  The safekeepers of one timeline, asked all at once.
 *
 * All sessions are driven by one poll().  A member is who it says it is: its
 * node id is asked for with its positions, so a safekeeper that was made anew
 * at the same port is none.
 *
 *-------------------------------------------------------------------------
 */
#include "quorum.h"

#include <poll.h>

#include "instance.h"
#include "neon_lsn.h"
#include "options.h"
#include "output.h"
#include "repo.h"
#include "run.h"

#define CONNECT_TIMEOUT_MS	10000
#define GRACE_MS			700
#define POSITIONS_TIMEOUT_MS 10000
#define MAX_PARAMS			12
#define LOCK_TIMEOUT		60	/* seconds */

/* ---- one member ---- */

static void
set_problem(QuorumMember *m, const char *problem)
{
	strlcpy(m->problem, problem, sizeof(m->problem));
}

static void
drop_member(QuorumMember *m, const char *problem)
{
	set_problem(m, problem);
	PQfinish(m->conn);
	m->conn = NULL;
	m->connecting = false;
}

static void
drive_connect(QuorumMember *m, PostgresPollingStatusType *state)
{
	*state = PQconnectPoll(m->conn);
	if (*state == PGRES_POLLING_OK)
		m->connecting = false;
	else if (*state == PGRES_POLLING_FAILED)
		drop_member(m, db_connection_problem(m->conn));
}

/* Takes what has come; true when the answer is complete. */
static bool
drive_answer(QuorumMember *m)
{
	PGresult   *next;

	if (PQconsumeInput(m->conn) == 0)
	{
		drop_member(m, db_connection_problem(m->conn));
		return true;
	}
	while (!PQisBusy(m->conn))
	{
		next = PQgetResult(m->conn);
		if (next == NULL)
		{
			if (PQstatus(m->conn) == CONNECTION_BAD)
				drop_member(m, db_connection_problem(m->conn));
			return true;
		}
		PQclear(m->res);
		m->res = next;
	}
	return false;
}

/* What an answer that is an error says. */
static void
note_error(QuorumMember *m)
{
	const char *detail;

	if (m->res == NULL || PQresultStatus(m->res) == PGRES_TUPLES_OK ||
		PQresultStatus(m->res) == PGRES_COMMAND_OK)
		return;
	detail = PQresultErrorField(m->res, PG_DIAG_MESSAGE_DETAIL);
	if (m->problem[0] == '\0')
		snprintf(m->problem, sizeof(m->problem), "%s%s%s%s", db_primary(m->res),
				 detail ? " (" : "", detail ? detail : "", detail ? ")" : "");
}

/* ---- all of them ---- */

bool
quorum_is_majority(const Quorum *q, const bool *is_one)
{
	uint64		values[NEON_MEMBERS_UNION_MAX];

	for (int i = 0; i < q->set.n; i++)
		values[i] = is_one[i] ? 1 : 0;
	return q->set.n > 0 && members_majority_value(&q->set, values) == 1;
}

static bool
answered_majority(const Quorum *q)
{
	bool		is_one[NEON_MEMBERS_UNION_MAX];

	for (int i = 0; i < q->set.n; i++)
		is_one[i] = quorum_answered(q, i);
	return quorum_is_majority(q, is_one);
}

static bool
connected_majority(const Quorum *q)
{
	bool		is_one[NEON_MEMBERS_UNION_MAX];

	for (int i = 0; i < q->set.n; i++)
		is_one[i] = q->member[i].conn != NULL && !q->member[i].connecting;
	return quorum_is_majority(q, is_one);
}

/* How long may the rest be waited for?  *grace_end is set when a majority is there. */
static bool
time_is_up(int64 deadline, bool majority, int grace_ms, int64 *grace_end)
{
	if (majority && *grace_end == 0)
		*grace_end = now_ms() + grace_ms;
	return now_ms() > deadline || (*grace_end != 0 && now_ms() > *grace_end);
}

const char *
quorum_repo_members(void)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);
	PQExpBufferData buf;
	const char *separator = "[";
	const char *result;

	initPQExpBuffer(&buf);
	for (int i = 1; i < n; i++)
	{
		if (!safekeeper_is_member(all[i].id))
			continue;
		appendPQExpBuffer(&buf, "%s{\"id\": %d, \"node\": \"%s\", \"host\": \"%s\", \"port\": %d}",
						  separator, all[i].id,
						  kv_get_default(&repo.config, strf("safekeeper.%d.node", all[i].id), ""),
						  LOOPBACK, all[i].port);
		separator = ", ";
	}
	appendPQExpBufferChar(&buf, ']');
	if (PQExpBufferBroken(&buf))
		die_oom();
	result = strf("%s", buf.data);
	termPQExpBuffer(&buf);
	return result;
}

/* The timeline's first configuration: the safekeepers of this directory. */
static const char *
first_config(void)
{
	PQExpBufferData buf;
	const char *result;

	initPQExpBuffer(&buf);
	appendPQExpBuffer(&buf, "{\"generation\": 1, \"floor\": 0, \"new_members\": null, \"members\": %s}",
					  quorum_repo_members());
	if (PQExpBufferBroken(&buf))
		die_oom();
	result = strf("%s", buf.data);
	termPQExpBuffer(&buf);
	return result;
}

/*
 * Under a lock that a change of the safekeepers takes as well when it says who
 * keeps new branches: it finds every branch that was made before.
 */
static void
store_first_config(PGconn *ps, const TimelineInfo *tl)
{
	int			lock = lock_acquire("safekeepers", LOCK_TIMEOUT, NULL);

	config_reload();
	PQclear(db_exec(ps, 60, NULL, "SELECT neon_pageserver.timeline_members($1, $2, 0, $3)", 3,
					tl->tenant, tl->id, first_config()));
	lock_release(lock);
}

static PGresult *
get_members(PGconn *ps, const TimelineInfo *tl)
{
	return db_exec(ps, 60, NULL,
				   "SELECT g.generation, g.config::pg_catalog.text AS config, g.config->>'start' AS start,"
				   " (SELECT pg_catalog.string_agg(pg_catalog.format('%s:%s:%s:%s', m->>'id', m->>'node', m->>'host', m->>'port'), ',' ORDER BY n)"
				   "  FROM pg_catalog.jsonb_array_elements(g.config->'members') WITH ORDINALITY AS e(m, n))"
				   " || coalesce(';' || (SELECT pg_catalog.string_agg(pg_catalog.format('%s:%s:%s:%s', m->>'id', m->>'node', m->>'host', m->>'port'), ',' ORDER BY n)"
				   "  FROM pg_catalog.jsonb_array_elements(nullif(g.config->'new_members', 'null')) WITH ORDINALITY AS e(m, n)), '') AS members"
				   " FROM neon_pageserver.timeline_members_get($1, $2) g", 2, tl->tenant, tl->id);
}

static void
read_config(PGconn *ps, const TimelineInfo *tl, Quorum *q)
{
	PGresult   *res = get_members(ps, tl);
	const char *text;
	const char *start;
	const char *problem = "there are none";

	if (PQntuples(res) == 0)
	{
		PQclear(res);
		store_first_config(ps, tl);
		res = get_members(ps, tl);
	}
	text = PQntuples(res) == 1 ? db_value(res, 0, "members") : NULL;
	if (text == NULL || !members_parse(text, &q->set, &problem))
		die(EXIT_GENERAL, "Look into the pageserver's view neon_pageserver.timelines.",
			"the safekeepers of branch \"%s\" are not known: %s", tl->name, problem);
	q->generation = strtoll(db_value(res, 0, "generation"), NULL, 10);
	q->config = pg_strdup(db_value(res, 0, "config"));
	start = db_value(res, 0, "start");
	if (start == NULL || !neon_lsn_parse(start, &q->start_lsn))
		q->start_lsn = tl->start_lsn;
	PQclear(res);
}

static void
connect_all(Quorum *q)
{
	PostgresPollingStatusType state[NEON_MEMBERS_UNION_MAX];
	int64		deadline = now_ms() + CONNECT_TIMEOUT_MS;
	int64		grace_end = 0;
	int			pending;

	for (int i = 0; i < q->set.n; i++)
	{
		QuorumMember *m = &q->member[i];
		Instance	inst = instance_safekeeper(q->set.member[i].id);

		state[i] = PGRES_POLLING_WRITING;
		m->connecting = true;
		m->conn = db_start_connect(q->set.member[i].host, q->set.member[i].port, SUPERUSER,
								   instance_password(&inst));
		if (PQstatus(m->conn) == CONNECTION_BAD)
			drop_member(m, db_connection_problem(m->conn));
	}
	progress_begin("connecting to the safekeepers");
	do
	{
		struct pollfd pfd[NEON_MEMBERS_UNION_MAX];

		pending = 0;
		for (int i = 0; i < q->set.n; i++)
		{
			pfd[i].fd = q->member[i].connecting ? PQsocket(q->member[i].conn) : -1;
			pfd[i].events = state[i] == PGRES_POLLING_READING ? POLLIN : POLLOUT;
			pfd[i].revents = 0;
			pending += q->member[i].connecting;
		}
		if (pending == 0)
			break;
		progress_tick();
		if (poll(pfd, q->set.n, 50) > 0)
		{
			for (int i = 0; i < q->set.n; i++)
			{
				if (pfd[i].revents != 0)
					drive_connect(&q->member[i], &state[i]);
			}
		}
	} while (!time_is_up(deadline, connected_majority(q), GRACE_MS, &grace_end));
	progress_end();
	for (int i = 0; i < q->set.n; i++)
	{
		if (q->member[i].connecting)
			drop_member(&q->member[i], "it does not answer");
	}
}

void
quorum_open(PGconn *ps, const TimelineInfo *tl, Quorum *q)
{
	memset(q, 0, sizeof(*q));
	strlcpy(q->tenant, tl->tenant, sizeof(q->tenant));
	strlcpy(q->timeline, tl->id, sizeof(q->timeline));
	strlcpy(q->branch, tl->name, sizeof(q->branch));
	read_config(ps, tl, q);
	connect_all(q);
}

void
quorum_close(Quorum *q)
{
	for (int i = 0; i < q->set.n; i++)
	{
		PQclear(q->member[i].res);
		PQfinish(q->member[i].conn);
	}
	free(q->config);
	memset(q, 0, sizeof(*q));
}

/* Sends the question to all that are connected; waiting[] tells to whom. */
static void
send_all(Quorum *q, const char *sql, int nparams, const char *const *values, bool *waiting)
{
	for (int i = 0; i < q->set.n; i++)
	{
		QuorumMember *m = &q->member[i];

		PQclear(m->res);
		m->res = NULL;
		waiting[i] = false;
		if (m->conn == NULL || m->skip)
			continue;
		m->problem[0] = '\0';
		if (PQsendQueryParams(m->conn, sql, nparams, NULL, values, NULL, NULL, 0))
			waiting[i] = true;
		else
			drop_member(m, db_connection_problem(m->conn));
	}
}

/* Gets what has come within a moment; returns how many are still waited for. */
static int
collect_answers(Quorum *q, bool *waiting)
{
	struct pollfd pfd[NEON_MEMBERS_UNION_MAX];
	int			pending = 0;

	for (int i = 0; i < q->set.n; i++)
	{
		pfd[i].fd = waiting[i] ? PQsocket(q->member[i].conn) : -1;
		pfd[i].events = POLLIN;
		pfd[i].revents = 0;
	}
	progress_tick();
	(void) poll(pfd, q->set.n, 50);
	for (int i = 0; i < q->set.n; i++)
	{
		if (waiting[i] && pfd[i].revents != 0 && drive_answer(&q->member[i]))
		{
			waiting[i] = false;
			note_error(&q->member[i]);
		}
		pending += waiting[i];
	}
	return pending;
}

void
quorum_ask(Quorum *q, int timeout_ms, int grace_ms, bool (*enough) (const Quorum *q),
		   const char *progress, const char *sql, int nparams,...)
{
	const char *values[MAX_PARAMS];
	bool		waiting[NEON_MEMBERS_UNION_MAX];
	int64		deadline = now_ms() + timeout_ms;
	int64		grace_end = 0;
	va_list		args;

	Assert(nparams <= MAX_PARAMS);
	va_start(args, nparams);
	for (int i = 0; i < nparams; i++)
		values[i] = va_arg(args, const char *);
	va_end(args);
	send_all(q, sql, nparams, values, waiting);
	if (progress != NULL)
		progress_begin(progress);
	while (collect_answers(q, waiting) > 0)
	{
		if (time_is_up(deadline, enough ? enough(q) : answered_majority(q), grace_ms, &grace_end))
			break;
	}
	if (progress != NULL)
		progress_end();
	/* Who owes an answer cannot be asked again. */
	for (int i = 0; i < q->set.n; i++)
	{
		if (waiting[i])
			drop_member(&q->member[i], "it does not answer");
	}
}

/* ---- answers ---- */

bool
quorum_answered(const Quorum *q, int i)
{
	const QuorumMember *m = &q->member[i];

	return m->res != NULL && m->problem[0] == '\0' &&
		(PQresultStatus(m->res) == PGRES_TUPLES_OK || PQresultStatus(m->res) == PGRES_COMMAND_OK);
}

const char *
quorum_value(const Quorum *q, int i, const char *column)
{
	return db_value(q->member[i].res, 0, column);
}

XLogRecPtr
quorum_lsn(const Quorum *q, int i, const char *column)
{
	const char *value = quorum_value(q, i, column);
	XLogRecPtr	lsn = InvalidXLogRecPtr;

	if (value != NULL && !neon_lsn_parse(value, &lsn))
		die(EXIT_GENERAL, "Install the same version of the neon command and of its extensions.",
			"\"%s\" is no LSN", value);
	return lsn;
}

int64
quorum_number(const Quorum *q, int i, const char *column)
{
	const char *value = quorum_value(q, i, column);

	return value ? strtoll(value, NULL, 10) : 0;
}

bool
quorum_bool(const Quorum *q, int i, const char *column)
{
	const char *value = quorum_value(q, i, column);

	return value != NULL && value[0] == 't';
}

const char *
quorum_sqlstate(const Quorum *q, int i)
{
	return q->member[i].res ? db_sqlstate(q->member[i].res) : "";
}

static void
fill_position(const Quorum *q, int i, Position *pos)
{
	const char *writer = quorum_value(q, i, "last_writer");
	const char *state = quorum_value(q, i, "state");

	pos->answered = true;
	pos->known = quorum_value(q, i, "promised") != NULL;
	pos->generation = quorum_number(q, i, "generation");
	pos->promised = (uint32) quorum_number(q, i, "promised");
	pos->last_log_term = (uint32) quorum_number(q, i, "last_log_term");
	pos->flush_lsn = quorum_lsn(q, i, "flush_lsn");
	pos->commit_lsn = quorum_lsn(q, i, "commit_lsn");
	pos->counts = quorum_bool(q, i, "counts");
	pos->lease_left_ms = (int) quorum_number(q, i, "lease_left_ms");
	strlcpy(pos->last_writer, writer ? writer : "", sizeof(pos->last_writer));
	strlcpy(pos->state, state ? state : "", sizeof(pos->state));
}

static bool
is_deleted(const Quorum *q, int i)
{
	const char *state = quorum_value(q, i, "state");

	return state != NULL && strcmp(state, "deleted") == 0;
}

void
quorum_positions(Quorum *q, Position *positions)
{
	memset(positions, 0, sizeof(Position) * q->set.n);
	quorum_ask(q, POSITIONS_TIMEOUT_MS, GRACE_MS, NULL, "asking the safekeepers where they are",
			   "SELECT neon_safekeeper.node_uuid() AS node, p.*"
			   " FROM (SELECT) one LEFT JOIN neon_safekeeper.positions($1, $2) p ON true",
			   2, q->tenant, q->timeline);
	for (int i = 0; i < q->set.n; i++)
	{
		const char *node;

		if (!quorum_answered(q, i))
			continue;
		node = quorum_value(q, i, "node");
		if (node == NULL || strcmp(node, q->set.member[i].node) != 0)
			drop_member(&q->member[i], strf("another safekeeper (node %s) is there", node ? node : "?"));
		else if (is_deleted(q, i))
		{
			q->member[i].deleted = true;
			set_problem(&q->member[i], "the timeline was deleted there");
		}
		else
			fill_position(q, i, &positions[i]);
	}
}

const char *
quorum_problems(const Quorum *q)
{
	PQExpBufferData buf;
	const char *result;

	initPQExpBuffer(&buf);
	for (int i = 0; i < q->set.n; i++)
	{
		if (q->member[i].problem[0] != '\0')
			appendPQExpBuffer(&buf, "%ssafekeeper %d (%s:%d): %s", buf.len ? "; " : "",
							  q->set.member[i].id, q->set.member[i].host, q->set.member[i].port,
							  q->member[i].problem);
	}
	if (PQExpBufferBroken(&buf))
		die_oom();
	result = strf("%s", buf.data);
	termPQExpBuffer(&buf);
	return result;
}

const char *
quorum_hint(const Quorum *q)
{
	int			id = 0;
	bool		down = false;

	for (int i = 0; i < q->set.n; i++)
	{
		Instance	inst = instance_safekeeper(q->set.member[i].id);
		ServerInfo	info;

		if (q->member[i].deleted)
			return strf("Finish its deletion by \"neon timeline delete %s\".", q->branch);
		if (q->member[i].problem[0] == '\0')
			continue;
		server_info(instance_pgdata(&inst), &info);
		if (info.state != SERVER_RUNNING)
			down = true;
		if (id == 0)
			id = inst.id;
	}
	if (down)
		return "Start the safekeepers by \"neon start\", then repeat this.";
	return strf("Look into its log: \"neon safekeeper logs %d\", and repeat this.", id);
}

static void
need_majority(const Quorum *q, bool there, const char *what)
{
	if (!there)
		die(EXIT_NOT_RUNNING, quorum_hint(q),
			"%s needs a majority of the safekeepers of branch \"%s\": %s", what, q->branch,
			quorum_problems(q));
}

void
quorum_need_majority(const Quorum *q, const char *what)
{
	need_majority(q, answered_majority(q), what);
}

void
quorum_need_sessions(const Quorum *q, const char *what)
{
	need_majority(q, connected_majority(q), what);
}
