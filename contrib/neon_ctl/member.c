/*-------------------------------------------------------------------------
 *
 * member.c
 *	  Changing the safekeepers of a timeline.
 *
 * As docs/wal-service.md has it: who joins is a learner first, which copies
 * what is committed; then both sets together decide (a joint configuration);
 * then the new set alone.  The pageserver decides which configuration is the
 * present one, by compare-and-set on its generation, so who runs this twice, or
 * again after it was killed, finds where it stands.  The timeline's lock is held
 * from the joint configuration to the last one, a matter of a second or two.
 *
 *-------------------------------------------------------------------------
 */
#include "member.h"

#include "election.h"
#include "endpoint.h"
#include "neon_lsn.h"
#include "output.h"
#include "repo.h"
#include "run.h"

#define ASK_TIMEOUT_MS		10000
#define GRACE_MS			700
#define FOLLOW_WAIT			"2 s"
#define FOLLOW_TIMEOUT		60	/* seconds */
#define NEAR_ENOUGH			(16 * 1024 * 1024)	/* bytes that a learner may lack */
#define STUCK_MS			60000	/* a learner that gets nothing in this time */
#define JOINT_TIMEOUT_MS	120000
#define ALL_NEW_MS			10000	/* for those beyond a majority of the new set */
#define POLL_MS				20

/* ---- who it shall be ---- */

void
member_target_load(MemberTarget *target)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);

	memset(target, 0, sizeof(*target));
	for (int i = 1; i < n; i++)
	{
		if (!safekeeper_is_member(all[i].id))
			continue;
		target->inst[target->n] = all[i];
		strlcpy(target->node[target->n],
				kv_get_default(&repo.config, strf("safekeeper.%d.node", all[i].id), ""),
				sizeof(target->node[0]));
		target->n++;
	}
	target->json = pg_strdup(quorum_repo_members());
}

static bool
in_target(const MemberTarget *target, const char *node)
{
	for (int i = 0; i < target->n; i++)
	{
		if (strcmp(target->node[i], node) == 0)
			return true;
	}
	return false;
}

/* Is the old list, or the new one, of the configuration the target? */
static bool
list_is_target(const Quorum *q, const MemberTarget *target, bool new_list)
{
	int			n = 0;

	for (int i = 0; i < q->set.n; i++)
	{
		const NeonMember *m = &q->set.member[i];

		if (!(new_list ? m->is_new : m->is_old))
			continue;
		if (!in_target(target, m->node))
			return false;
		n++;
	}
	return n == target->n;
}

static bool
has_member(const Quorum *q, const char *node)
{
	for (int i = 0; i < q->set.n; i++)
	{
		if (strcmp(q->set.member[i].node, node) == 0)
			return true;
	}
	return false;
}

static const char *
generation_text(int64 generation)
{
	return strf(INT64_FORMAT, generation);
}

/* ---- learners ---- */

/* A member with the most committed WAL. */
typedef struct Donor
{
	char	   *history;		/* malloc'd */
	XLogRecPtr	commit_lsn;
	int			floor;
	char		conninfo[NEON_MEMBER_HOST_MAX + 128];
} Donor;

static void
free_donor(Donor *donor)
{
	free(donor->history);
	donor->history = NULL;
}

static void
choose_donor(Quorum *q, Donor *donor)
{
	int			best = -1;

	quorum_ask(q, ASK_TIMEOUT_MS, GRACE_MS, NULL, NULL,
			   "SELECT * FROM neon_safekeeper.configuration($1, $2)", 2, q->tenant, q->timeline);
	quorum_need_majority(q, "a change of the safekeepers");
	for (int i = 0; i < q->set.n; i++)
	{
		if (quorum_answered(q, i) &&
			(best < 0 || quorum_lsn(q, i, "commit_lsn") > quorum_lsn(q, best, "commit_lsn")))
			best = i;
	}
	donor->history = pg_strdup(quorum_value(q, best, "history"));
	donor->commit_lsn = quorum_lsn(q, best, "commit_lsn");
	donor->floor = (int) quorum_number(q, best, "floor");
	snprintf(donor->conninfo, sizeof(donor->conninfo), "host=%s port=%d user=%s dbname=%s",
			 q->set.member[best].host, q->set.member[best].port, STORAGE_ROLE, MAINTENANCE_DB);
}

/* The members keep the WAL that the learner is going to copy. */
static void
hold_wal(Quorum *q, const Instance *learner)
{
	quorum_ask(q, ASK_TIMEOUT_MS, GRACE_MS, NULL, NULL,
			   "SELECT neon_safekeeper.create_physical_replication_slot($1, $2, $3, true)", 3,
			   q->tenant, q->timeline, strf("neon_learner_%d", learner->id));
}

static void
release_wal(Quorum *q, const Instance *learner)
{
	quorum_ask(q, ASK_TIMEOUT_MS, GRACE_MS, NULL, NULL,
			   "SELECT neon_safekeeper.drop_replication_slot($1, $2, $3)", 3,
			   q->tenant, q->timeline, strf("neon_learner_%d", learner->id));
}

/* The end of a record that the pageserver has durably: nobody needs older WAL of the learner. */
static XLogRecPtr
learner_start(PGconn *ps, TimelineInfo *tl, const Donor *donor)
{
	XLogRecPtr	lsn = tl->last_record_lsn;

	ps_refresh(ps, tl);
	lsn = tl->last_record_lsn;
	if (tl->flush_lsn < lsn)
		lsn = ps_round_lsn(ps, tl, tl->flush_lsn);
	if (lsn > donor->commit_lsn)
		die(EXIT_GENERAL, "Try again.",
			"the pageserver has branch \"%s\" up to %s, the safekeepers call %s committed",
			tl->name, lsn_text(lsn), lsn_text(donor->commit_lsn));
	return lsn;
}

static void
create_learner(PGconn *ps, TimelineInfo *tl, const Quorum *q, const Donor *donor, PGconn *conn)
{
	XLogRecPtr	lsn = learner_start(ps, tl, donor);
	char	   *head = election_read_head(ps, tl, lsn);
	char		sysid[32];
	char		at[32];

	strlcpy(sysid, election_system_identifier(ps, tl), sizeof(sysid));
	strlcpy(at, lsn_text(lsn), sizeof(at));
	election_create_role(conn, tl->tenant);
	PQclear(db_exec(conn, 60, "creating the branch on the new safekeeper",
					"WITH cut AS (SELECT pg_catalog.jsonb_agg(e ORDER BY n) AS history,"
					" pg_catalog.max((e->>0)::pg_catalog.int4) AS term"
					" FROM pg_catalog.jsonb_array_elements($6::pg_catalog.jsonb) WITH ORDINALITY AS a(e, n)"
					" WHERE (e->>1)::pg_catalog.pg_lsn OPERATOR(pg_catalog.<=) $5::pg_catalog.text::pg_catalog.pg_lsn)"
					" SELECT neon_safekeeper.timeline_create($1, $2, $3, $4, 1, $5::pg_catalog.text::pg_catalog.pg_lsn,"
					" GREATEST(cut.term, $7::pg_catalog.int4), cut.history, $8, $9) FROM cut", 9,
					tl->tenant, tl->id, sysid, strf("%d", tl->segment_size), at, donor->history,
					strf("%d", donor->floor), q->config, head));
	free(head);
}

/* The generation that the safekeeper has of the timeline; 0: it does not have it. */
static int64
known_generation(PGconn *conn, const TimelineInfo *tl)
{
	PGresult   *res = db_exec(conn, 30, NULL,
							  "SELECT generation FROM neon_safekeeper.positions($1, $2) WHERE state <> 'deleted'", 2,
							  tl->tenant, tl->id);
	int64		generation = PQntuples(res) == 1 ?
		strtoll(db_value(res, 0, "generation"), NULL, 10) : 0;

	PQclear(res);
	return generation;
}

/* One request: copies for a while.  Returns how far the learner is. */
static XLogRecPtr
follow(PGconn *conn, const Quorum *q, const TimelineInfo *tl, const Instance *learner,
	   const Donor *donor)
{
	PGresult   *res = db_exec(conn, FOLLOW_TIMEOUT,
							  strf("%s copies the WAL of branch \"%s\" up to %s", learner->name,
								   tl->name, lsn_text(donor->commit_lsn)),
							  "SELECT * FROM neon_safekeeper.follow($1, $2, $3, $4, $5, $6, '" FOLLOW_WAIT "')",
							  6, tl->tenant, tl->id, generation_text(q->generation),
							  donor->history, lsn_text(donor->commit_lsn), donor->conninfo);
	const char *value = db_value(res, 0, "flush_lsn");
	XLogRecPtr	lsn = InvalidXLogRecPtr;

	if (value == NULL || !neon_lsn_parse(value, &lsn))
		die(EXIT_GENERAL, "Install the same version of the neon command and of its extensions.",
			"%s sent no position", learner->name);
	PQclear(res);
	return lsn;
}

/* Until it lacks little of what is committed. */
static void
catch_up(PGconn *conn, Quorum *q, const TimelineInfo *tl, const Instance *learner)
{
	XLogRecPtr	reached = InvalidXLogRecPtr;
	XLogRecPtr	wanted = InvalidXLogRecPtr;
	int64		advanced_at = now_ms();

	for (;;)
	{
		Donor		donor;
		XLogRecPtr	lsn;

		choose_donor(q, &donor);
		if (wanted != InvalidXLogRecPtr && reached >= wanted &&
			reached + NEAR_ENOUGH >= donor.commit_lsn)
		{
			free_donor(&donor);
			return;
		}
		wanted = donor.commit_lsn;
		lsn = follow(conn, q, tl, learner, &donor);
		free_donor(&donor);
		if (lsn > reached)
			advanced_at = now_ms();
		reached = lsn;
		if (now_ms() - advanced_at > STUCK_MS)
			die(EXIT_TIMEOUT, strf("Look into its log, \"%s\", and repeat this.", instance_logs_command(learner)),
				"%s does not get the WAL of branch \"%s\" behind %s", learner->name, tl->name,
				lsn_text(reached));
	}
}

static void
learn(PGconn *ps, TimelineInfo *tl, Quorum *q, const Instance *learner)
{
	PGconn	   *conn = instance_connect(learner);
	int64		generation = known_generation(conn, tl);
	Donor		donor;

	hold_wal(q, learner);
	if (generation == 0)
	{
		choose_donor(q, &donor);
		create_learner(ps, tl, q, &donor, conn);
		free_donor(&donor);
	}
	else if (generation < q->generation)
		PQclear(db_exec(conn, 30, NULL, "SELECT neon_safekeeper.members($1, $2, $3, $4)", 4,
						tl->tenant, tl->id, generation_text(q->generation), q->config));
	test_point("learner-created");
	catch_up(conn, q, tl, learner);
	test_point("learner-ready");
	PQfinish(conn);
}

static void
learn_all(PGconn *ps, TimelineInfo *tl, Quorum *q, const MemberTarget *target)
{
	for (int i = 0; i < target->n; i++)
	{
		if (has_member(q, target->node[i]))
			continue;
		say("Branch '%s': %s copies the WAL.", tl->name, target->inst[i].name);
		learn(ps, tl, q, &target->inst[i]);
	}
}

/* ---- configurations ---- */

/* Sessions to the members of the configuration that is stored now; they get it. */
static void
reopen(PGconn *ps, const TimelineInfo *tl, Quorum *q)
{
	Position	pos[NEON_MEMBERS_UNION_MAX];

	quorum_close(q);
	quorum_open(ps, tl, q);
	quorum_positions(q, pos);
	quorum_need_majority(q, "a change of the safekeepers");
	election_tell_members(q, pos);
}

static void
store_joint(PGconn *ps, const TimelineInfo *tl, const Quorum *q, const MemberTarget *target)
{
	PQclear(db_exec(ps, 60, NULL,
					"SELECT neon_pageserver.timeline_members($1, $2, $3, $4::pg_catalog.jsonb ||"
					" pg_catalog.jsonb_build_object('generation', $3::pg_catalog.int8 + 1,"
					" 'new_members', $5::pg_catalog.jsonb))", 5, tl->tenant, tl->id,
					generation_text(q->generation), q->config, target->json));
	test_point("joint-stored");
}

static void
store_final(PGconn *ps, const TimelineInfo *tl, const Quorum *q, uint32 floor)
{
	PQclear(db_exec(ps, 60, NULL,
					"SELECT neon_pageserver.timeline_members($1, $2, $3, $4::pg_catalog.jsonb ||"
					" pg_catalog.jsonb_build_object('generation', $3::pg_catalog.int8 + 1,"
					" 'floor', $5::pg_catalog.int8, 'new_members', NULL,"
					" 'members', $4::pg_catalog.jsonb->'new_members'))", 5, tl->tenant, tl->id,
					generation_text(q->generation), q->config, strf("%u", floor)));
	test_point("final-stored");
}

/* ---- the compute ---- */

/* Does the compute of that term count by this generation?  False also if it does not answer. */
static bool
compute_has(const Endpoint *ep, uint32 term, int64 generation)
{
	PGconn	   *conn = db_try_connect(ep->port, SUPERUSER, tenant_secret(ep->tenant, "superuser"),
									  2, NULL);
	const char *values[] = {strf("%u", term), generation_text(generation)};
	PGresult   *res;
	bool		has = false;

	if (conn == NULL)
		return false;
	res = PQexecParams(conn,
					   "SELECT pg_catalog.current_setting('neon.term') = $1"
					   " AND pg_catalog.current_setting('neon.applied_generation')::pg_catalog.int8"
					   " OPERATOR(pg_catalog.>=) $2::pg_catalog.int8", 2, NULL, values, NULL, NULL, 0);
	if (PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1)
		has = PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	PQfinish(conn);
	return has;
}

/* The term of the compute that runs here; false if none does. */
static bool
live_term(const TimelineInfo *tl, Endpoint *live, uint32 *term)
{
	TicketInfo	ticket;

	if (!live_primary(tl, live) || !ticket_read(endpoint_path(live, "pgdata"), &ticket))
		return false;
	*term = ticket.term;
	return true;
}

static void
check_time(int64 deadline, const TimelineInfo *tl, const char *what)
{
	if (now_ms() > deadline)
		die(EXIT_TIMEOUT, "Nothing is lost.  See \"neon status\", then repeat this command.",
			"branch \"%s\" is kept by its old and its new safekeepers together: %s", tl->name, what);
}

/*
 * Step 2: nobody commits by an older configuration any more.  Returns the term
 * of which that was seen: of the compute, or of an election if none runs.
 */
static uint32
settle_compute(PGconn *ps, const TimelineInfo *tl, Quorum *q, int64 deadline)
{
	Endpoint	live;
	LastWriter	writer;
	Election	election;
	uint32		term;

	while (live_term(tl, &live, &term))
	{
		if (compute_has(&live, term, q->generation))
			return term;
		check_time(deadline, tl, strf("endpoint \"%s\" does not adopt that", live.name));
		sleep_ms(POLL_MS);
	}
	(void) election_last_writer(q, &writer);
	claim_end_lease(q, tl, false);
	/* whose boot was the last one stays known */
	election_run(ps, tl, q, writer.text[0] ? writer.text : "members", &election);
	return election.term;
}

/* ---- positions ---- */

static bool
is_at(const Position *pos, uint32 llt, XLogRecPtr lsn)
{
	return pos->last_log_term > llt || (pos->last_log_term == llt && pos->flush_lsn >= lsn);
}

/* A majority of one of the two lists? */
static bool
is_list_majority(const Quorum *q, const bool *is_one, bool new_list)
{
	int			n = 0;
	int			ones = 0;

	for (int i = 0; i < q->set.n; i++)
	{
		if (!(new_list ? q->set.member[i].is_new : q->set.member[i].is_old))
			continue;
		n++;
		ones += is_one[i];
	}
	return ones > n / 2;
}

/*
 * Step 3: the greatest position of a majority of the old members, all of whom
 * know the joint configuration.  False: a member has promised more than the
 * term, or there is no such majority yet.
 */
static bool
read_old(Quorum *q, uint32 term, uint32 *llt, XLogRecPtr *lsn)
{
	Position	pos[NEON_MEMBERS_UNION_MAX];
	bool		knows[NEON_MEMBERS_UNION_MAX];

	*llt = 0;
	*lsn = InvalidXLogRecPtr;
	quorum_positions(q, pos);
	for (int i = 0; i < q->set.n; i++)
	{
		knows[i] = pos[i].known && pos[i].generation == q->generation &&
			strcmp(pos[i].state, "damaged") != 0;
		if (!knows[i] || !q->set.member[i].is_old)
			continue;
		if (pos[i].promised > term)
			return false;
		if (!is_at(&pos[i], *llt, *lsn))
			continue;
		*llt = pos[i].last_log_term;
		*lsn = pos[i].flush_lsn;
	}
	return is_list_majority(q, knows, false);
}

/*
 * Step 4: the new members have that position.  Waits for a majority of them,
 * and a while for the others that answer.
 */
static void
await_new(const TimelineInfo *tl, Quorum *q, uint32 term, uint32 llt, XLogRecPtr lsn,
		  int64 deadline)
{
	int64		all_until = now_ms() + ALL_NEW_MS;

	for (;;)
	{
		Position	pos[NEON_MEMBERS_UNION_MAX];
		bool		there[NEON_MEMBERS_UNION_MAX];
		bool		all = true;

		quorum_positions(q, pos);
		for (int i = 0; i < q->set.n; i++)
		{
			there[i] = pos[i].known && pos[i].generation == q->generation &&
				strcmp(pos[i].state, "damaged") != 0 &&
				pos[i].promised >= term && is_at(&pos[i], llt, lsn);
			if (q->set.member[i].is_new)
				all &= there[i] || !pos[i].answered;
		}
		if (is_list_majority(q, there, true) && (all || now_ms() > all_until))
			return;
		check_time(deadline, tl,
				   strf("the new ones do not reach %s%s%s", lsn_text(lsn),
						quorum_problems(q)[0] ? ": " : "", quorum_problems(q)));
		sleep_ms(POLL_MS);
	}
}

/* ---- one timeline ---- */

/* Those that leave this state directory, and are no members, forget the timeline. */
static void
release_leaving(const Quorum *q, const TimelineInfo *tl)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);

	for (int i = 1; i < n; i++)
	{
		const char *node = kv_get_default(&repo.config, strf("safekeeper.%d.node", all[i].id), "");
		PGconn	   *conn;

		if (!safekeeper_is_leaving(all[i].id) || has_member(q, node) ||
			(conn = instance_try_connect(&all[i])) == NULL)
			continue;
		PQclear(PQexec(conn, strf("SELECT neon_safekeeper.timeline_delete('%s', '%s', " INT64_FORMAT ", true)",
								  tl->tenant, tl->id, q->generation)));
		PQfinish(conn);
	}
}

/* The last configuration is there when a live compute counts by it, too. */
static void
await_compute(const TimelineInfo *tl, const Quorum *q)
{
	int64		deadline = now_ms() + ALL_NEW_MS;
	Endpoint	live;
	uint32		term;

	while (now_ms() < deadline && live_term(tl, &live, &term) &&
		   !compute_has(&live, term, q->generation))
		sleep_ms(POLL_MS);
}

/* From a joint configuration, which is stored, to the new one, which is stored then. */
static void
finish_joint(PGconn *ps, const TimelineInfo *tl, Quorum *q, const MemberTarget *target)
{
	int64		deadline = now_ms() + JOINT_TIMEOUT_MS;
	uint32		term;
	uint32		llt;
	XLogRecPtr	lsn;

	if (!list_is_target(q, target, true))
		die(EXIT_GENERAL, "Finish that change first.",
			"branch \"%s\" is in the middle of another change of its safekeepers", tl->name);
	reopen(ps, tl, q);
	test_point("joint-told");
	for (;;)
	{
		term = settle_compute(ps, tl, q, deadline);
		test_point("joint-settled");
		if (read_old(q, term, &llt, &lsn))
			break;
		check_time(deadline, tl, strf("no majority of the old ones answers%s%s",
									  quorum_problems(q)[0] ? ": " : "", quorum_problems(q)));
		sleep_ms(POLL_MS);
		reopen(ps, tl, q);
	}
	await_new(tl, q, term, llt, lsn, deadline);
	test_point("caught-up");
	store_final(ps, tl, q, term);
}

/* What is left to do, again too, when the new configuration is stored. */
static void
complete(PGconn *ps, const TimelineInfo *tl, Quorum *q, const MemberTarget *target)
{
	reopen(ps, tl, q);
	test_point("final-told");
	await_compute(tl, q);
	release_leaving(q, tl);
	/* the slots that kept WAL for those that are members now */
	for (int i = 0; i < target->n; i++)
		release_wal(q, &target->inst[i]);
	test_point("left");
}

static bool
is_final(const Quorum *q, const MemberTarget *target)
{
	return !q->set.joint && list_is_target(q, target, false);
}

bool
member_change_timeline(PGconn *ps, const MemberTarget *target, const char *tenant,
					   const char *timeline)
{
	TimelineInfo tl;
	Quorum	   *q = pg_malloc0(sizeof(Quorum));
	int			lock;
	bool		changed = false;

	if (!ps_timeline_by_id(ps, tenant, timeline, &tl))
		return false;
	quorum_open(ps, &tl, q);
	if (!q->set.joint && !is_final(q, target))
	{
		election_create(ps, &tl, q);
		learn_all(ps, &tl, q, target);
	}
	lock = timeline_lock(timeline);
	if (ps_timeline_by_id(ps, tenant, timeline, &tl))
	{
		changed = !is_final(q, target);
		if (changed && !q->set.joint)
		{
			store_joint(ps, &tl, q, target);
			quorum_close(q);
			quorum_open(ps, &tl, q);
		}
		if (changed)
			finish_joint(ps, &tl, q, target);
		complete(ps, &tl, q, target);
	}
	lock_release(lock);
	quorum_close(q);
	free(q);
	return changed;
}

/* ---- from laptop mode ---- */

static bool
has_config(PGconn *ps, const TimelineInfo *tl)
{
	PGresult   *res = db_exec(ps, 60, NULL,
							  "SELECT generation FROM neon_pageserver.timeline_members_get($1, $2)",
							  2, tl->tenant, tl->id);
	bool		result = PQntuples(res) > 0;

	PQclear(res);
	return result;
}

/* Does a majority count for a term? */
static bool
is_elected(Quorum *q)
{
	Position	pos[NEON_MEMBERS_UNION_MAX];
	bool		counts[NEON_MEMBERS_UNION_MAX];

	quorum_positions(q, pos);
	for (int i = 0; i < q->set.n; i++)
		counts[i] = pos[i].known && pos[i].counts && pos[i].last_log_term > 0;
	return quorum_is_majority(q, counts);
}

bool
member_begin_timeline(PGconn *ps, const MemberTarget *target, const char *tenant,
					  const char *timeline)
{
	int			lock = timeline_lock(timeline);
	TimelineInfo tl;
	Quorum		q;
	Election	election;
	bool		begun = false;

	if (ps_timeline_by_id(ps, tenant, timeline, &tl))
	{
		begun = !has_config(ps, &tl);
		if (begun)
		{
			drain_dead_writer(ps, &tl, InvalidXLogRecPtr);
			ps_refresh(ps, &tl);
			PQclear(db_exec(ps, 60, NULL,
							"SELECT neon_pageserver.timeline_members($1, $2, 0, pg_catalog.jsonb_build_object("
							"'generation', 1, 'floor', 0, 'new_members', NULL, 'start', $3::pg_catalog.text,"
							" 'members', $4::pg_catalog.jsonb))", 4, tenant, timeline,
							lsn_text(tl.last_record_lsn), target->json));
			test_point("first-stored");
		}
		quorum_open(ps, &tl, &q);
		election_create(ps, &tl, &q);
		test_point("first-created");
		if (!is_elected(&q))
			election_run(ps, &tl, &q, "members", &election);
		quorum_close(&q);
	}
	lock_release(lock);
	return begun;
}
