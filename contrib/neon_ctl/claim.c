/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  Whose turn it is to write a branch, in quorum mode.
 *
 * The safekeepers' terms decide who can commit, whatever runs where.  What is
 * done here besides is courtesy: a running primary of this directory is not
 * superseded unless that is asked for, and its processes are ended first, so
 * that its read lease can be ended too and nobody waits for it.
 *
 *-------------------------------------------------------------------------
 */
#include "endpoint.h"

#include "election.h"
#include "fsutil.h"
#include "instance.h"
#include "output.h"
#include "repo.h"
#include "run.h"

#define WAIT_LSN_TIMEOUT 300	/* seconds */
#define LEASE_GRACE_MS	1000

/* Is what lies, or runs, in the endpoint's directory a primary of the branch? */
static bool
is_primary_of(const Endpoint *ep, const TimelineInfo *tl)
{
	TicketInfo	ticket;

	return ticket_read(endpoint_path(ep, "pgdata"), &ticket) &&
		strcmp(ticket.kind, "primary") == 0 && strcmp(ticket.timeline, tl->id) == 0;
}

bool
live_primary(const TimelineInfo *tl, Endpoint *live)
{
	int			n;
	char	  **names = endpoint_names(&n);

	for (int i = 0; i < n; i++)
	{
		ServerInfo	info;

		endpoint_load(live, names[i]);
		if (!live->exists)
			continue;
		server_info(endpoint_path(live, "pgdata"), &info);
		if (info.state != SERVER_RUNNING || !is_primary_of(live, tl))
			continue;
		live->port = info.port;
		return true;
	}
	return false;
}

/* Ends all processes of primaries of the branch; refuses if one is live and may not be. */
static void
stop_primaries(const Endpoint *ep, const TimelineInfo *tl, bool take_over)
{
	int			n;
	char	  **names = endpoint_names(&n);

	for (int i = 0; i < n; i++)
	{
		Endpoint	other;
		ServerInfo	info;
		char		pgdata[MAXPGPATH];

		endpoint_load(&other, names[i]);
		make_path(pgdata, "%s", endpoint_path(&other, "pgdata"));
		server_info(pgdata, &info);
		if (info.state == SERVER_STOPPED || !is_primary_of(&other, tl))
			continue;
		if (info.state == SERVER_RUNNING && strcmp(other.name, ep->name) != 0)
		{
			if (!take_over)
				die(EXIT_GENERAL,
					strf("Stop it by \"neon endpoint stop %s\", or stop it and start this one by --take-over.", other.name),
					"branch \"%s\" already has a running primary, endpoint \"%s\"", tl->name, other.name);
			say("Taking branch '%s' over from endpoint %s ...", tl->name, other.name);
			other.wanted = false;
			endpoint_save(&other);
		}
		server_stop(pgdata, STOP_IMMEDIATE, 0, strf("endpoint \"%s\"", other.name));
		conf_save_auto(other.name, pgdata);
	}
}

/* False if somebody goes on renewing it. */
static bool
lease_runs_out(Quorum *q, LastWriter *writer)
{
	int64		deadline = now_ms() + writer->lease_left_ms + LEASE_GRACE_MS;

	progress_begin("waiting for the last writer's read lease to end");
	while (writer->lease_left_ms > 0 && now_ms() < deadline)
	{
		sleep_ms(100);
		if (!election_last_writer(q, writer))
			break;
	}
	progress_end();
	return writer->lease_left_ms <= 0;
}

/* Is it an endpoint of this state directory?  Another one may have one of that name. */
static bool
is_ours(const LastWriter *writer)
{
	TicketInfo	ticket;
	Endpoint	ep;

	check_endpoint_name(writer->endpoint);
	endpoint_load(&ep, writer->endpoint);
	if (!ep.exists)
		return false;
	if (ticket_read(endpoint_path(&ep, "pgdata"), &ticket))
		return strcmp(ticket.boot_id, writer->boot_id) == 0;
	return ep.wanted;			/* its directory is gone */
}

void
claim_end_lease(Quorum *q, const TimelineInfo *tl, bool take_over)
{
	LastWriter	writer;

	if (!election_last_writer(q, &writer) || writer.lease_left_ms <= 0)
		return;
	if (is_ours(&writer))
	{
		if (!server_in_use(repo_path("endpoints/%s/pgdata", writer.endpoint)))
			election_release(q, writer.term);
	}
	else if (!take_over && !lease_runs_out(q, &writer))
		die(EXIT_GENERAL, "Stop it, or take the branch over from it by --take-over.",
			"endpoint \"%s\", which is not of this state directory, writes branch \"%s\"",
			writer.endpoint, tl->name);
}

void
claim_quorum(PGconn *conn, const Endpoint *ep, const TimelineInfo *tl, bool take_over,
			 BootPlan *plan)
{
	Quorum	   *q = pg_malloc0(sizeof(Quorum));
	Election	election;
	char		writer[512];

	quorum_open(conn, tl, q);
	election_create(conn, tl, q);
	stop_primaries(ep, tl, take_over);
	claim_end_lease(q, tl, take_over);
	snprintf(writer, sizeof(writer), "endpoint=%s boot_id=%s pgdata=endpoints/%s/pgdata", ep->name,
			 plan->boot_id, ep->name);
	election_run(conn, tl, q, writer, &election);
	plan->lease_end_ms = now_ms() + election.lease_left_ms;
	election_set_source(conn, tl, q, election.term);
	ps_wait_lsn(conn, tl, election.lsn, WAIT_LSN_TIMEOUT);
	test_point("ingested");
	plan->quorum = q;
	plan->term = election.term;
	plan->lsn = election.lsn;
}

bool
claim_is_last(PGconn *conn, const TimelineInfo *tl, const char *boot_id, uint32 *term)
{
	Quorum		q;
	LastWriter	writer;
	bool		is_last;

	quorum_open(conn, tl, &q);
	is_last = election_last_writer(&q, &writer) && strcmp(writer.boot_id, boot_id) == 0;
	quorum_need_majority(&q, "a start");
	quorum_close(&q);
	*term = writer.term;
	return is_last;
}

void
release_lease(PGconn *conn, const Endpoint *ep)
{
	TicketInfo	ticket;
	TimelineInfo tl;
	Quorum		q;

	if (conn == NULL || safekeeper_count() == 0 ||
		!ticket_read(endpoint_path(ep, "pgdata"), &ticket) || strcmp(ticket.kind, "primary") != 0 ||
		!ps_timeline_by_id(conn, ticket.tenant, ticket.timeline, &tl))
		return;
	quorum_open(conn, &tl, &q);
	election_release(&q, ticket.term);
	quorum_close(&q);
}
