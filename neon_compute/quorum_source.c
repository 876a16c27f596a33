/*-------------------------------------------------------------------------
 *
 * quorum_source.c
 *	  The coordinator names the safekeepers to the pageserver.
 *
 * Again and again, since the pageserver forgets them when it restarts and
 * when they have long been silent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "coordinator.h"
#include "lib/stringinfo.h"
#include "pageserver.h"
#include "quorum_source.h"
#include "utils/memutils.h"

#define SUPERSEDED_SQLSTATE		"NS001"
#define CONNECT_TIMEOUT_MS		3000
#define REQUEST_TIMEOUT_MS		5000
#define SOURCE_INTERVAL_MS		5000

#define SOURCE_QUERY \
	"SELECT neon_pageserver.timeline_source($1, $2, $3::int4, $4::text[], 'safekeeper')"

static struct
{
	Peer		peer;
	bool		prepared;		/* the statement is, on this connection */
	char	   *conninfo;		/* that the connection was made with */
	uint64		next;			/* when to name the members again */
}			own;

void
source_repeat(void)
{
	own.next = 0;
}

const Peer *
source_peer(void)
{
	return &own.peer;
}

uint64
source_wakeup(void)
{
	return own.peer.state == PEER_IDLE ? own.next : Max(own.next, peer_wakeup(&own.peer));
}

/* An array of connection strings: one to each member. */
static char *
source_array(const NeonMembers *members)
{
	StringInfoData array;

	initStringInfo(&array);
	for (int i = 0; i < members->n; i++)
		appendStringInfo(&array, "%c\"host=%s port=%d user=%s\"", i > 0 ? ',' : '{',
						 members->member[i].host, members->member[i].port, NEON_STORAGE_ROLE);
	appendStringInfoChar(&array, '}');
	return array.data;
}

static void
connect_pageserver(void)
{
	const char *keywords[] = {"dbname", "application_name", NULL};
	const char *values[] = {neon_pageserver_connstring, "neon_coordinator", NULL};

	if (own.conninfo)
		pfree(own.conninfo);
	own.conninfo = MemoryContextStrdup(TopMemoryContext, neon_pageserver_connstring);
	own.prepared = false;
	peer_connect(&own.peer, keywords, values, CONNECT_TIMEOUT_MS);
}

static void
start_request(const NeonMembers *members, uint64 now)
{
	const char *params[] = {neon_tenant_id_setting, neon_timeline_id_setting,
	psprintf("%u", neon_boot.term), source_array(members)};

	if (own.conninfo && strcmp(own.conninfo, neon_pageserver_connstring) != 0)
		peer_close(&own.peer);
	if (own.peer.state == PEER_CLOSED)
		connect_pageserver();
	if (own.peer.state != PEER_IDLE)
		return;
	if (!own.prepared)
	{
		peer_prepare(&own.peer, "source", SOURCE_QUERY, REQUEST_TIMEOUT_MS);
		return;
	}
	own.next = now + SOURCE_INTERVAL_MS;
	peer_execute(&own.peer, "source", lengthof(params), params, REQUEST_TIMEOUT_MS);
}

static void
handle_result(const PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	ExecStatusType status = PQresultStatus(result);

	if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK)
	{
		own.prepared = true;
		peer_succeeded(&own.peer);
		return;
	}
	if (message == NULL)
		message = PQresultErrorMessage(result);
	if (sqlstate && strcmp(sqlstate, SUPERSEDED_SQLSTATE) == 0)
		coordinator_stop_superseded(message);
	peer_fail(&own.peer, psprintf("pageserver %s: %s", pageserver_address(), message));
}

void
source_drive(const NeonMembers *members, uint64 now)
{
	char		before[sizeof(own.peer.problem)];
	PGresult   *result;

	strlcpy(before, own.peer.problem, sizeof(before));
	if (peer_drive(&own.peer, &result) == PEER_RESULT)
	{
		handle_result(result);
		PQclear(result);
	}
	if (own.peer.problem[0] != '\0' && strcmp(before, own.peer.problem) != 0)
		ereport(LOG,
				(errmsg("could not tell the pageserver where to read the WAL: %s", own.peer.problem)));
	if (now >= own.next)
		start_request(members, now);
}
