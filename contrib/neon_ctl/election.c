/*-------------------------------------------------------------------------
 *
 * election.c
 *	  The launcher's half of the WAL service's protocol.
 *
 * The rules, by their numbers in docs/wal-service.md: a majority promises a
 * term above all that were seen (R1, R3); the one of them that has the longest
 * log gives X and the history (R4); the election is over when a majority
 * counts, that is, has the history with the new term and all WAL up to X (R9).
 * Every step may be repeated, and a launcher that dies at any of them leaves
 * nothing but a term that nobody uses.
 *
 *-------------------------------------------------------------------------
 */
#include "election.h"

#include "endpoint.h"
#include "instance.h"
#include "output.h"
#include "repo.h"
#include "run.h"

#define MAX_TRIES			10
#define ASK_TIMEOUT_MS		10000
#define GRACE_MS			700
#define ELECTED_GRACE_MS	200
#define ELECTED_WAIT_S		30	/* of one question */
#define ELECTION_TIMEOUT_MS 180000
#define SYNC_TIMEOUT_MS		5000
#define HEAD_MAX			(64 * 1024 * 1024)
#define TIMELINE_ID			"1" /* PostgreSQL's; branches share it */

static const char *
generation_text(const Quorum *q)
{
	return strf(INT64_FORMAT, q->generation);
}

/* ---- creating ---- */

static const char *
create_role_sql(const char *tenant)
{
	return strf("DO $$ BEGIN CREATE ROLE tenant_%s LOGIN REPLICATION IN ROLE neon_tenant;"
				" EXCEPTION WHEN duplicate_object THEN NULL; END $$", tenant);
}

static void
set_role_password(PGconn *conn, const char *tenant)
{
	char		role[NEON_ID_HEXLEN + 16];
	char	   *verifier;

	if (repo.trust)
		return;
	snprintf(role, sizeof(role), "tenant_%s", tenant);
	verifier = PQencryptPasswordConn(conn, tenant_secret(tenant, "role"), role, "scram-sha-256");
	if (verifier == NULL)
		die(EXIT_GENERAL, "Try again.", "could not hash a password: %s", PQerrorMessage(conn));
	PQclear(db_exec(conn, 30, NULL, strf("ALTER ROLE %s PASSWORD '%s'", role, verifier), 0));
	PQfreemem(verifier);
}

void
election_create_role(PGconn *conn, const char *tenant)
{
	PQclear(db_exec(conn, 30, NULL, create_role_sql(tenant), 0));
	set_role_password(conn, tenant);
}

/* The role by which the tenant's computes come. */
static void
create_tenant_role(Quorum *q)
{
	quorum_ask(q, ASK_TIMEOUT_MS, GRACE_MS, NULL, NULL, create_role_sql(q->tenant), 0);
	for (int i = 0; i < q->set.n; i++)
	{
		if (q->member[i].conn != NULL && quorum_answered(q, i))
			set_role_password(q->member[i].conn, q->tenant);
	}
}

char *
election_read_head(PGconn *ps, const TimelineInfo *tl, XLogRecPtr lsn)
{
	uint32		len = (uint32) (lsn % tl->segment_size);
	PGresult   *res;
	const char *value;
	char	   *head;

	if (len == 0 || len > HEAD_MAX)
		return NULL;
	res = db_exec(ps, 60, "reading the branch's first WAL",
				  "SELECT neon_pageserver.wal_read($1, $2, $3, $4) AS head", 4, tl->tenant, tl->id,
				  lsn_text(lsn - len), strf("%u", len));
	value = db_value(res, 0, "head");
	head = value ? pg_strdup(value) : NULL;
	PQclear(res);
	return head;
}

const char *
election_system_identifier(PGconn *ps, const TimelineInfo *tl)
{
	PGresult   *res = db_exec(ps, 60, NULL,
							  "SELECT system_identifier FROM neon_pageserver.timelines"
							  " WHERE tenant_id = $1 AND timeline_id = $2", 2, tl->tenant, tl->id);
	const char *value = db_value(res, 0, "system_identifier");
	const char *result;

	if (value == NULL)
		die(EXIT_GENERAL, "See \"neon timeline list\".", "branch \"%s\" is no longer there",
			tl->name);
	/* bigint has the same bits */
	result = strf(INT64_FORMAT, (int64) strtoull(value, NULL, 10));
	PQclear(res);
	return result;
}

/*
 * All members get the same arguments whenever it is: one that missed it has
 * never promised anything, so it begins as they all did.  The first term of a
 * branch is above its ancestor's because launchers look at those, too.
 */
static void
ask_create(PGconn *ps, const TimelineInfo *tl, Quorum *q)
{
	char	   *head = election_read_head(ps, tl, q->start_lsn);
	char		sysid[32];

	strlcpy(sysid, election_system_identifier(ps, tl), sizeof(sysid));
	quorum_ask(q, 60000, GRACE_MS, NULL, "creating the branch on the safekeepers",
			   "SELECT neon_safekeeper.timeline_create($1, $2, $3, $4, " TIMELINE_ID ", $5, 0, $6, $7, $8)",
			   8, q->tenant, q->timeline, sysid, strf("%d", tl->segment_size),
			   lsn_text(q->start_lsn), strf("[[0, \"%s\"]]", lsn_text(q->start_lsn)),
			   q->config, head);
	free(head);
}

void
election_create(PGconn *ps, const TimelineInfo *tl, Quorum *q)
{
	Position	pos[NEON_MEMBERS_UNION_MAX];
	bool		has_it[NEON_MEMBERS_UNION_MAX];
	int			missing = 0;

	quorum_positions(q, pos);
	quorum_need_majority(q, "this command");
	for (int i = 0; i < q->set.n; i++)
	{
		has_it[i] = pos[i].known;
		q->member[i].skip = !pos[i].answered || pos[i].known;
		missing += !q->member[i].skip;
	}
	if (missing > 0)
	{
		create_tenant_role(q);
		ask_create(ps, tl, q);
		for (int i = 0; i < q->set.n; i++)
			has_it[i] |= quorum_answered(q, i);
	}
	for (int i = 0; i < q->set.n; i++)
		q->member[i].skip = false;
	if (!quorum_is_majority(q, has_it))
		die(EXIT_NOT_RUNNING, quorum_hint(q),
			"branch \"%s\" is not on a majority of its safekeepers: %s", tl->name,
			quorum_problems(q));
}

void
election_create_timeline(PGconn *ps, const char *tenant, const char *timeline)
{
	TimelineInfo tl;
	Quorum		q;

	if (safekeeper_count() == 0 || !ps_timeline_by_id(ps, tenant, timeline, &tl))
		return;
	quorum_open(ps, &tl, &q);
	election_create(ps, &tl, &q);
	quorum_close(&q);
}

void
election_check_running(const char *what)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			ninstances = instance_all(all);
	int			n = 0;
	int			running = 0;

	for (int i = 1; i < ninstances && safekeeper_count() > 0; i++)
	{
		ServerInfo	info;

		if (!safekeeper_is_member(all[i].id))
			continue;
		server_info(instance_pgdata(&all[i]), &info);
		running += info.state == SERVER_RUNNING;
		n++;
	}
	if (n > 0 && running < n / 2 + 1)
		die(EXIT_NOT_RUNNING, "Start them by \"neon start\".",
			"%s needs a majority of the safekeepers, and %d of %d run", what, running, n);
}

/* ---- the last writer ---- */

/* The word after "key=" in a launcher's text. */
static void
writer_word(const char *text, const char *key, char *word, size_t size)
{
	const char *p = strstr(text, key);

	word[0] = '\0';
	if (p == NULL || (p > text && p[-1] != ' '))
		return;
	strlcpy(word, p + strlen(key), size);
	word[strcspn(word, " ")] = '\0';
}

bool
election_last_writer(Quorum *q, LastWriter *writer)
{
	Position	pos[NEON_MEMBERS_UNION_MAX];

	memset(writer, 0, sizeof(*writer));
	quorum_positions(q, pos);
	for (int i = 0; i < q->set.n; i++)
	{
		if (!pos[i].known)
			continue;
		/* who learnt of the term from another does not always know whose it is */
		if (pos[i].promised > writer->term ||
			(pos[i].promised == writer->term && writer->text[0] == '\0'))
		{
			writer->term = pos[i].promised;
			strlcpy(writer->text, pos[i].last_writer, sizeof(writer->text));
		}
		writer->lease_left_ms = Max(writer->lease_left_ms, pos[i].lease_left_ms);
	}
	writer_word(writer->text, "endpoint=", writer->endpoint, sizeof(writer->endpoint));
	writer_word(writer->text, "boot_id=", writer->boot_id, sizeof(writer->boot_id));
	return writer->endpoint[0] != '\0' && writer->boot_id[0] != '\0';
}

void
election_release(Quorum *q, uint32 term)
{
	quorum_ask(q, ASK_TIMEOUT_MS, ELECTED_GRACE_MS, NULL, NULL,
			   "SELECT neon_safekeeper.release($1, $2, $3, $4)", 4, q->tenant, q->timeline,
			   generation_text(q), strf("%u", term));
}

/* ---- the election ---- */

void
election_tell_members(Quorum *q, const Position *pos)
{
	int			older = 0;

	for (int i = 0; i < q->set.n; i++)
	{
		q->member[i].skip = !pos[i].known || pos[i].generation >= q->generation;
		older += !q->member[i].skip;
		if (pos[i].known && pos[i].generation > q->generation)
			die(EXIT_GENERAL, "Try again; if it stays so, the pageserver's manifest is an old copy.",
				"safekeeper %d knows generation " INT64_FORMAT " of branch \"%s\", the pageserver "
				INT64_FORMAT, q->set.member[i].id, pos[i].generation, q->branch, q->generation);
	}
	if (older > 0)
		quorum_ask(q, ASK_TIMEOUT_MS, GRACE_MS, NULL, NULL,
				   "SELECT neon_safekeeper.members($1, $2, $3, $4)", 4, q->tenant, q->timeline,
				   generation_text(q), q->config);
	for (int i = 0; i < q->set.n; i++)
		q->member[i].skip = false;
}

/* Did a member refuse because of a higher term? */
static bool
superseded(const Quorum *q)
{
	for (int i = 0; i < q->set.n; i++)
	{
		if (strcmp(quorum_sqlstate(q, i), SQLSTATE_SUPERSEDED) == 0)
			return true;
	}
	return false;
}

/* R1, R3.  The place of the donor (R4), or -1 if the term is taken already. */
static int
ask_promises(Quorum *q, uint32 term, const char *writer, Election *e)
{
	int			donor = -1;

	quorum_ask(q, ASK_TIMEOUT_MS, GRACE_MS, NULL, "asking the safekeepers for their promises",
			   "SELECT * FROM neon_safekeeper.promise($1, $2, $3, $4, $5)", 5, q->tenant,
			   q->timeline, generation_text(q), strf("%u", term), writer);
	if (superseded(q))
		return -1;
	quorum_need_majority(q, "an election");
	e->lease_left_ms = 0;
	for (int i = 0; i < q->set.n; i++)
	{
		if (!quorum_answered(q, i))
			continue;
		e->lease_left_ms = Max(e->lease_left_ms, (int) quorum_number(q, i, "lease_left_ms"));
		if (donor < 0 ||
			quorum_number(q, i, "last_log_term") > quorum_number(q, donor, "last_log_term") ||
			(quorum_number(q, i, "last_log_term") == quorum_number(q, donor, "last_log_term") &&
			 quorum_lsn(q, i, "flush_lsn") > quorum_lsn(q, donor, "flush_lsn")))
			donor = i;
	}
	return donor;
}

/* R4: the donor's history cut at X, and the new term.  malloc'd. */
static char *
new_history(PGconn *ps, const char *history, uint32 term, XLogRecPtr x)
{
	PGresult   *res = db_exec(ps, 30, NULL,
							  "SELECT coalesce((SELECT pg_catalog.jsonb_agg(e ORDER BY n)"
							  " FROM pg_catalog.jsonb_array_elements($1::pg_catalog.jsonb) WITH ORDINALITY AS a(e, n)"
							  " WHERE (e->>1)::pg_catalog.pg_lsn OPERATOR(pg_catalog.<=) $2::pg_catalog.text::pg_catalog.pg_lsn), '[]')"
							  " || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_array($3::pg_catalog.int8, $2::pg_catalog.text))"
							  " AS history", 3, history, lsn_text(x), strf("%u", term));
	char	   *result = pg_strdup(db_value(res, 0, "history"));

	PQclear(res);
	return result;
}

static bool
majority_counts(const Quorum *q)
{
	bool		counts[NEON_MEMBERS_UNION_MAX];

	for (int i = 0; i < q->set.n; i++)
		counts[i] = quorum_answered(q, i) && quorum_bool(q, i, "counts");
	return quorum_is_majority(q, counts);
}

/* Why members do not count for a term: "safekeeper 2: the disk is nearly full; ...", in a buffer of strf(). */
static const char *
what_they_lack(Quorum *q, const Election *e)
{
	PQExpBufferData buf;
	const char *result;

	initPQExpBuffer(&buf);
	/* who is slow is the one that lacks something: it must not lose its session */
	quorum_ask(q, ASK_TIMEOUT_MS, ASK_TIMEOUT_MS, NULL, NULL,
			   "SELECT t.flush_lsn, t.problem FROM neon_safekeeper.timelines t"
			   " WHERE t.tenant_id = $1 AND t.timeline_id = $2", 2, q->tenant, q->timeline);
	for (int i = 0; i < q->set.n; i++)
	{
		const char *problem = "it does not answer";

		if (quorum_answered(q, i))
		{
			if (quorum_value(q, i, "flush_lsn") != NULL && quorum_lsn(q, i, "flush_lsn") >= e->lsn)
				continue;
			problem = quorum_value(q, i, "problem");
		}
		appendPQExpBuffer(&buf, "%ssafekeeper %d: %s", buf.len ? "; " : "", q->set.member[i].id,
						  problem && problem[0] ? problem : "it copies from the others");
	}
	if (PQExpBufferBroken(&buf))
		die_oom();
	result = strf("%s", buf.data);
	termPQExpBuffer(&buf);
	return result;
}

/* R9.  False if a higher term was promised meanwhile. */
static bool
ask_elected(Quorum *q, const Election *e, const char *history, int donor)
{
	int64		deadline = now_ms() + ELECTION_TIMEOUT_MS;
	bool		warned = false;
	char		conninfo[NEON_MEMBER_HOST_MAX + 128];

	snprintf(conninfo, sizeof(conninfo), "host=%s port=%d user=%s dbname=%s",
			 q->set.member[donor].host, q->set.member[donor].port, STORAGE_ROLE, MAINTENANCE_DB);
	for (;;)
	{
		quorum_ask(q, (ELECTED_WAIT_S + 10) * 1000, ELECTED_GRACE_MS, majority_counts,
				   "electing: waiting until a majority of the safekeepers has the WAL",
				   "SELECT * FROM neon_safekeeper.elected($1, $2, $3, $4, $5, $6, $7, $8)", 8,
				   q->tenant, q->timeline, generation_text(q), strf("%u", e->term),
				   lsn_text(e->lsn), history, conninfo, strf("%d s", ELECTED_WAIT_S));
		if (majority_counts(q))
			return true;
		if (superseded(q))
			return false;
		quorum_need_majority(q, "an election");
		if (now_ms() > deadline)
			die(EXIT_TIMEOUT, "See the view neon_safekeeper.timelines of the safekeepers, and try again.",
				"a majority of the safekeepers of branch \"%s\" does not have its WAL up to %s in time: %s",
				q->branch, lsn_text(e->lsn), what_they_lack(q, e));
		if (!warned)
			warn("a majority of the safekeepers of branch \"%s\" does not have its WAL up to %s yet: %s",
				 q->branch, lsn_text(e->lsn), what_they_lack(q, e));
		warned = true;
		sleep_ms(100);
	}
}

/* All but the promises; false: begin again with a higher term. */
static bool
try_term(PGconn *ps, Quorum *q, const char *writer, Election *e)
{
	int			donor = ask_promises(q, e->term, writer, e);
	char	   *history;
	bool		won;

	if (donor < 0)
		return false;
	test_point("promised");
	e->lsn = quorum_lsn(q, donor, "flush_lsn");
	history = new_history(ps, quorum_value(q, donor, "history"), e->term, e->lsn);
	won = ask_elected(q, e, history, donor);
	free(history);
	if (!won)
		return false;
	test_point("elected");
	quorum_ask(q, ASK_TIMEOUT_MS, ELECTED_GRACE_MS, NULL, NULL,
			   "SELECT * FROM neon_safekeeper.commit($1, $2, $3, $4, $5, 0)", 5, q->tenant,
			   q->timeline, generation_text(q), strf("%u", e->term), lsn_text(e->lsn));
	test_point("committed");
	return !superseded(q);
}

void
election_run(PGconn *ps, const TimelineInfo *tl, Quorum *q, const char *writer, Election *result)
{
	uint32		floor = ps_highest_term(ps, tl);

	for (int try = 0; try < MAX_TRIES; try++)
	{
		Position	pos[NEON_MEMBERS_UNION_MAX];
		uint32		highest = floor;

		if (try > 0)
			sleep_ms(50 + (int) (now_ms() * 2654435761U % 400));
		quorum_positions(q, pos);
		quorum_need_majority(q, "an election");
		test_point("positions");
		election_tell_members(q, pos);
		for (int i = 0; i < q->set.n; i++)
		{
			if (pos[i].known)
				highest = Max(highest, pos[i].promised);
		}
		result->term = highest + 1;
		if (try_term(ps, q, writer, result))
			return;
	}
	die(EXIT_GENERAL, "Look who else starts endpoints on this branch, and try again.",
		"other launchers won %d elections of branch \"%s\" meanwhile", MAX_TRIES, q->branch);
}

/* ---- what is acknowledged ---- */

/*
 * One look: is there a term that a majority counts for?  *flush is then the
 * largest position of those members, *commit the largest that they say is
 * committed.
 */
static bool
counting_term(const Quorum *q, const Position *pos, uint32 *term, XLogRecPtr *flush,
			  XLogRecPtr *commit)
{
	bool		counts[NEON_MEMBERS_UNION_MAX];

	*term = 0;
	*flush = *commit = InvalidXLogRecPtr;
	for (int i = 0; i < q->set.n; i++)
	{
		if (pos[i].known && pos[i].counts)
			*term = Max(*term, pos[i].promised);
	}
	for (int i = 0; i < q->set.n; i++)
	{
		counts[i] = pos[i].known && pos[i].counts && pos[i].promised == *term;
		if (!counts[i])
			continue;
		*flush = Max(*flush, pos[i].flush_lsn);
		*commit = Max(*commit, pos[i].commit_lsn);
	}
	return quorum_is_majority(q, counts);
}

/* Who keeps the largest position from being committed; wanted 0/0: no majority follows the term. */
static void
die_lagging(const Quorum *q, const Position *pos, uint32 term, XLogRecPtr wanted)
{
	PQExpBufferData buf;

	initPQExpBuffer(&buf);
	for (int i = 0; i < q->set.n; i++)
	{
		if (!pos[i].known)
			appendPQExpBuffer(&buf, "%ssafekeeper %d does not answer", buf.len ? "; " : "",
							  q->set.member[i].id);
		else if (!pos[i].counts || pos[i].promised != term || pos[i].flush_lsn < wanted)
			appendPQExpBuffer(&buf, "%ssafekeeper %d is at %s of term %u", buf.len ? "; " : "",
							  q->set.member[i].id, lsn_text(pos[i].flush_lsn), pos[i].promised);
	}
	die(EXIT_TIMEOUT, "Try again when a majority of the safekeepers follows; see \"neon safekeeper status\".",
		"%s of branch \"%s\" is not committed by a majority of its safekeepers: %s",
		wanted != InvalidXLogRecPtr ? lsn_text(wanted) : strf("what term %u wrote", term),
		q->branch, buf.data);
}

static int
longest_lease(const Quorum *q, const Position *pos)
{
	int			lease_left_ms = 0;

	for (int i = 0; i < q->set.n; i++)
		lease_left_ms = Max(lease_left_ms, pos[i].lease_left_ms);
	return lease_left_ms;
}

XLogRecPtr
election_sync(PGconn *ps, const TimelineInfo *tl, Quorum *q, uint32 *term)
{
	int64		deadline = now_ms() + SYNC_TIMEOUT_MS;
	XLogRecPtr	wanted = InvalidXLogRecPtr;
	Position	pos[NEON_MEMBERS_UNION_MAX];
	Election	election;

	for (;;)
	{
		XLogRecPtr	flush;
		XLogRecPtr	commit;
		bool		counts;

		quorum_positions(q, pos);
		quorum_need_majority(q, "a branch of what is acknowledged now");
		counts = counting_term(q, pos, term, &flush, &commit);
		if (counts && wanted == InvalidXLogRecPtr)
			wanted = flush;
		if (counts && commit >= wanted)
			return wanted;
		/* while a compute lives, members that have just come back join it */
		if ((!counts && longest_lease(q, pos) == 0) || now_ms() > deadline)
			break;
		sleep_ms(50);
	}
	if (longest_lease(q, pos) > 0)
		die_lagging(q, pos, *term, wanted);
	election_run(ps, tl, q, "branch", &election);
	*term = election.term;
	return election.lsn;
}

/* ---- deleting ---- */

void
election_delete_timeline(PGconn *ps, const TimelineInfo *tl)
{
	bool		gone[NEON_MEMBERS_UNION_MAX];
	Quorum		quorum;
	Quorum	   *q = &quorum;

	if (safekeeper_count() == 0)
		return;
	quorum_open(ps, tl, q);
	/* a branch that is deleted on some of them only can be used no more */
	quorum_need_sessions(q, "deleting a branch");
	quorum_ask(q, 60000, GRACE_MS, NULL, "deleting the branch on the safekeepers",
			   "SELECT neon_safekeeper.timeline_delete($1, $2, $3)", 3, q->tenant, q->timeline,
			   generation_text(q));
	for (int i = 0; i < q->set.n; i++)
		gone[i] = quorum_answered(q, i) ||
			strcmp(quorum_sqlstate(q, i), SQLSTATE_UNKNOWN) == 0;
	if (!quorum_is_majority(q, gone))
		die(EXIT_NOT_RUNNING, quorum_hint(q),
			"branch \"%s\" is not deleted on a majority of its safekeepers: %s", q->branch,
			quorum_problems(q));
	quorum_close(q);
}

void
election_forget_tenant(const char *tenant)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);

	for (int i = 1; i < n; i++)
	{
		PGconn	   *conn = instance_try_connect(&all[i]);

		if (conn == NULL)
			continue;
		PQclear(db_exec(conn, 30, NULL,
						strf("DO $$ BEGIN DROP OWNED BY tenant_%s; DROP ROLE tenant_%s;"
							 " EXCEPTION WHEN undefined_object THEN NULL; END $$", tenant, tenant), 0));
		PQfinish(conn);
	}
}

/* ---- the pageserver's source ---- */

void
election_set_source(PGconn *ps, const TimelineInfo *tl, const Quorum *q, uint32 term)
{
	PQExpBufferData buf;

	initPQExpBuffer(&buf);
	for (int i = 0; i < q->set.n; i++)
		appendPQExpBuffer(&buf, "%s\"host=%s port=%d user=%s dbname=%s sslmode=disable\"",
						  i ? "," : "{", q->set.member[i].host, q->set.member[i].port,
						  STORAGE_ROLE, MAINTENANCE_DB);
	appendPQExpBufferChar(&buf, '}');
	if (PQExpBufferBroken(&buf))
		die_oom();
	PQclear(db_exec(ps, 60, NULL,
					"SELECT neon_pageserver.timeline_source($1, $2, $3, $4, 'safekeeper')", 4,
					tl->tenant, tl->id, strf("%u", term), buf.data));
	termPQExpBuffer(&buf);
}
