/*-------------------------------------------------------------------------
 *
 * quorum_worker.c
 *	  The coordinator's loop in quorum mode.
 *
 * It keeps the members' slots, asks each member to stream from its slot when
 * nothing does, tells all of them how far a majority is, renews the read
 * lease with the same messages, and tells the pageserver where to read.  One
 * connection to each, none of which is ever waited for.
 *
 * What a member has is read from its WAL sender; what a majority has, from
 * where PostgreSQL's WAL senders keep what they have released commits up to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "coordinator.h"
#include "lease.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_lsn.h"
#include "peer.h"
#include "pgstat.h"
#include "quorum.h"
#include "quorum_config.h"
#include "quorum_link.h"
#include "quorum_source.h"
#include "replication/slot.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/latch.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "walkeep.h"

#define SUPERSEDED_SQLSTATE		"NS001"
#define CONNECT_TIMEOUT_MS		3000
#define REQUEST_TIMEOUT_MS		5000
#define COMMIT_INTERVAL_MS		10
#define COMMIT_DISTANCE			(1024 * 1024)
#define REFUSED_MS				1000	/* not more often to a member that refuses */
#define BUSY_MS					200 /* after the last advance, look often */
#define TICK_BUSY_MS			10
#define TICK_QUIET_MS			200
#define STARTING_MS				30000	/* without a majority, look often so long */
#define MAX_RECEIVE_BACKOFF_MS	5000
#define STRANGER_MS				2000
#define ADOPT_RETRY_MS			1000

#define COMMIT_QUERY \
	"SELECT pageserver_lsn, promised, floor, config_generation, lease_granted, problem FROM neon_safekeeper.commit($1, $2, $3::bigint, $4::int, $5::pg_lsn, $6::int)"
#define RECEIVE_QUERY \
	"SELECT neon_safekeeper.receive($1, $2, $3::bigint, $4::int, $5::text, $6::text)"
#define CONFIGURATION_QUERY \
	"SELECT generation, members FROM neon_safekeeper.configuration($1, $2)"

static struct
{
	MemoryContext context;		/* of one pass */
	NeonMembers members;
	Link	   *link[NEON_MEMBERS_UNION_MAX];	/* in the order of members */
	int			generation;
	uint64		adopting_at;	/* a newer configuration was asked for last */
	XLogRecPtr	flush_lsn;		/* of a majority */
	uint64		started_at;
	uint64		advanced_at;	/* it advanced last */
	pid_t	   *leaving;		/* WAL senders of an older configuration */
	int			n_leaving;
}			own;

/* ----------
 * Members
 * ----------
 */

static bool
same_member(const NeonMember *a, const NeonMember *b)
{
	return a->id == b->id && strcmp(a->node, b->node) == 0 &&
		strcmp(a->host, b->host) == 0 && a->port == b->port;
}

static Link *
make_link(const NeonMember *member)
{
	Link	   *link = MemoryContextAllocZero(TopMemoryContext, sizeof(Link));

	link->status.member = *member;
	members_name(member, &neon_boot.boot_id, link->name);
	return link;
}

static bool
is_named(const char *name)
{
	char		other[NEON_MEMBER_NAME_MAX];

	for (int i = 0; i < own.members.n; i++)
		if (strcmp(members_name(&own.members.member[i], &neon_boot.boot_id, other), name) == 0)
			return true;
	return false;
}

/* Gives up what is no member any more, unless it only has another address. */
static void
drop_link(Link *link)
{
	ReplicationSlot *slot;

	peer_close(&link->peer);
	slot = is_named(link->name) ? NULL : SearchNamedReplicationSlot(link->name, true);
	if (slot != NULL)
	{
		int			pid;

		SpinLockAcquire(&slot->mutex);
		pid = slot->active_pid;
		SpinLockRelease(&slot->mutex);
		if (pid != 0)
			kill(pid, SIGTERM);
		/* waits until it is free */
		ReplicationSlotDrop(link->name, false);
	}
	pfree(link);
}

static void
adopt_members(void)
{
	Link	   *old[NEON_MEMBERS_UNION_MAX];
	int			n_old = own.members.n;

	memcpy(old, own.link, sizeof(old));
	own.members = *quorum_members();
	for (int i = 0; i < own.members.n; i++)
	{
		own.link[i] = NULL;
		for (int j = 0; j < n_old && own.link[i] == NULL; j++)
			if (old[j] && same_member(&old[j]->status.member, &own.members.member[i]))
			{
				own.link[i] = old[j];
				own.link[i]->status.member = own.members.member[i];
				old[j] = NULL;
			}
		if (own.link[i] == NULL)
			own.link[i] = make_link(&own.members.member[i]);
	}
	for (int j = 0; j < n_old; j++)
		if (old[j])
			drop_link(old[j]);
	source_repeat();
}

/* What process pid's WAL sender knows; false if it has none. */
static bool
find_walsender(pid_t pid, XLogRecPtr *flush, bool *counts)
{
	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *walsnd = &WalSndCtl->walsnds[i];
		bool		found;

		SpinLockAcquire(&walsnd->mutex);
		found = walsnd->pid == pid;
		*flush = walsnd->flush;
		*counts = walsnd->sync_standby_priority > 0;
		SpinLockRelease(&walsnd->mutex);
		if (found)
			return true;
	}
	return false;
}

/* ----------
 * Configurations
 * ----------
 */

/*
 * A WAL sender that has not read the new synchronous_standby_names would
 * release commits by the old one: those that run now have to go.
 */
static void
end_walsenders(void)
{
	if (own.leaving == NULL)
		own.leaving = MemoryContextAlloc(TopMemoryContext, sizeof(pid_t) * max_wal_senders);
	own.n_leaving = 0;
	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *walsnd = &WalSndCtl->walsnds[i];
		pid_t		pid;

		SpinLockAcquire(&walsnd->mutex);
		pid = walsnd->pid;
		SpinLockRelease(&walsnd->mutex);
		if (pid != 0)
			own.leaving[own.n_leaving++] = pid;
	}
	for (int i = 0; i < own.n_leaving; i++)
		kill(own.leaving[i], SIGTERM);
}

/* The lease that a majority has granted. */
static uint64
majority_lease(void)
{
	uint64		leases[NEON_MEMBERS_UNION_MAX];

	for (int i = 0; i < own.members.n; i++)
		leases[i] = own.link[i]->lease_until;
	return members_majority_value(&own.members, leases);
}

/*
 * Once none of them is left, and the majority of this configuration has granted
 * all of the lease that is in use, the configuration is in force.
 */
static void
check_leaving(void)
{
	XLogRecPtr	flush;
	bool		counts;

	if (own.generation == quorum_applied_generation())
		return;
	while (own.n_leaving > 0 && !find_walsender(own.leaving[own.n_leaving - 1], &flush, &counts))
		own.n_leaving--;
	if (own.n_leaving > 0 || majority_lease() < lease_until_ms())
		return;
	quorum_set_applied_generation(own.generation);
	ereport(LOG,
			(errmsg("configuration %d of the safekeepers is in force", own.generation)));
}

static void
check_names(void)
{
	if (quorum_names_agree())
		return;
	ereport(LOG,
			(errmsg("synchronous_standby_names does not name the safekeepers of this compute"),
			 errdetail("It is \"%s\", neon.safekeepers is \"%s\"; endpoint \"%s\" shuts down.",
					   SyncRepStandbyNames, neon_safekeepers, neon_boot.endpoint)));
	coordinator_stop_server();
}

/* The settings were read, at the start or again. */
static void
adopt_settings(void)
{
	check_names();
	adopt_members();
	if (own.generation != neon_config_generation)
	{
		own.generation = neon_config_generation;
		quorum_set_wanted_generation(own.generation);
		end_walsenders();
		for (int i = 0; i < own.members.n; i++)
			own.link[i]->sent_at = 0;
	}
}

/* A member has a newer configuration: its text is asked for, from one at a time. */
static bool
configuration_is_due(const Link *link, uint64 now)
{
	return link->generation > own.generation &&
		(own.adopting_at == 0 || now - own.adopting_at >= ADOPT_RETRY_MS);
}

/* ----------
 * Slots
 * ----------
 */

/* Where the other members' slots hold WAL from, or the boot record. */
static XLogRecPtr
oldest_held_lsn(void)
{
	XLogRecPtr	oldest = InvalidXLogRecPtr;

	for (int i = 0; i < own.members.n; i++)
	{
		ReplicationSlot *slot = SearchNamedReplicationSlot(own.link[i]->name, true);
		XLogRecPtr	lsn;

		if (slot == NULL)
			continue;
		SpinLockAcquire(&slot->mutex);
		lsn = slot->data.restart_lsn;
		SpinLockRelease(&slot->mutex);
		if (oldest == InvalidXLogRecPtr || lsn < oldest)
			oldest = lsn;
	}
	return oldest != InvalidXLogRecPtr ? oldest : neon_boot.boot_record_lsn;
}

/* Holds the WAL from where the member is, so that no checkpoint removes it. */
static void
create_slot(Link *link)
{
	XLogRecPtr	lsn = link->status.flush_lsn;

	if (lsn == InvalidXLogRecPtr)
		lsn = oldest_held_lsn();
	if (!coordinator_create_slot(link->name, lsn))
		ereport(LOG,
				(errmsg("safekeeper %d has to get WAL from %X/%X on from the other ones",
						link->status.member.id, LSN_FORMAT_ARGS(lsn))));
	if (link->slot_seen)
		ereport(LOG,
				(errmsg("created replication slot \"%s\" again", link->name)));
	link->slot_seen = true;
}

/*
 * A member that is away or slow too long must not fill this disk with what a
 * majority has: it gets that from the others.
 */
static void
skip_wal(Link *link, XLogRecPtr restart_lsn, pid_t pid, uint64 now)
{
	if (!walkeep_is_beyond(restart_lsn, own.flush_lsn, neon_safekeeper_wal_keep) ||
		!walkeep_drop_slot(link->name, pid, true))
		return;
	(void) coordinator_create_slot(link->name, own.flush_lsn);
	/* where little is kept, that comes often */
	if (link->skipped_at != 0 && now - link->skipped_at < REMINDER_MS)
		return;
	link->skipped_at = now;
	ereport(LOG,
			(errmsg("WAL is no longer kept for safekeeper %d", link->status.member.id),
			 errdetail("It is more than neon.safekeeper_wal_keep (%d MB) behind the majority, and gets from the others what they have.",
					   neon_safekeeper_wal_keep)));
}

/*
 * Only a member's own stream counts for the quorum, and it does under the
 * member's name only.  Anything else must not keep the slot from it.
 */
static void
end_stranger(Link *link, pid_t pid, uint64 now)
{
	if (link->stranger_since == 0)
		link->stranger_since = now;
	else if (now - link->stranger_since >= STRANGER_MS)
	{
		ereport(LOG,
				(errmsg("process %d uses the replication slot \"%s\" of a safekeeper, and is terminated",
						(int) pid, link->name)));
		kill(pid, SIGTERM);
		link->stranger_since = 0;
	}
}

/* What the member has reported to its WAL sender. */
static void
read_walsender(Link *link, pid_t pid, uint64 now)
{
	XLogRecPtr	flush;
	bool		counts;

	link->status.streaming = find_walsender(pid, &flush, &counts) && counts;
	if (!link->status.streaming)
	{
		end_stranger(link, pid, now);
		return;
	}
	link->stranger_since = 0;
	if (flush > link->status.flush_lsn)
		link->status.flush_lsn = flush;
}

static void
look_at_slot(Link *link, uint64 now)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(link->name, true);
	XLogRecPtr	restart_lsn;
	pid_t		pid;

	if (slot == NULL)
	{
		link->status.streaming = false;
		create_slot(link);
		return;
	}
	link->slot_seen = true;
	SpinLockAcquire(&slot->mutex);
	pid = slot->active_pid;
	restart_lsn = slot->data.restart_lsn;
	SpinLockRelease(&slot->mutex);
	if (pid != 0)
		read_walsender(link, pid, now);
	else
	{
		link->status.streaming = false;
		link->stranger_since = 0;
	}
	skip_wal(link, restart_lsn, pid, now);
}

/* ----------
 * What is shown
 * ----------
 */

/* Why does no majority stream, if so? */
static void
describe_problem(void)
{
	for (int i = 0; i < own.members.n; i++)
	{
		const MemberStatus *status = &own.link[i]->status;

		if (!status->streaming)
		{
			coordinator_set_problem(psprintf("safekeeper %d at %s:%d: %s", status->member.id,
											 status->member.host, status->member.port,
											 status->problem[0] ? status->problem : "does not stream yet"));
			return;
		}
	}
}

static void
publish(void)
{
	MemberStatus status[NEON_MEMBERS_UNION_MAX];
	uint64		streaming[NEON_MEMBERS_UNION_MAX];
	bool		majority;

	for (int i = 0; i < own.members.n; i++)
	{
		status[i] = shown_status(own.link[i], own.flush_lsn);
		streaming[i] = status[i].streaming;
	}
	quorum_publish(status, own.members.n);
	lease_set_until(majority_lease());
	majority = members_majority_value(&own.members, streaming) != 0;
	coordinator_set_streaming(majority);
	if (majority)
		coordinator_set_problem(source_peer()->problem);
	else
		describe_problem();
	if (lease_held())
		coordinator_admit("a majority of the safekeepers");
}

/* ----------
 * Messages to a member
 * ----------
 */

static void
connect_member(Link *link)
{
	const char *keywords[] = {"dbname", "host", "port", "application_name", NULL};
	const char *values[] = {neon_safekeeper_connstring, link->status.member.host,
	psprintf("%d", link->status.member.port), "neon_coordinator", NULL};

	link->prepared = false;
	link->request = REQUEST_NONE;
	peer_connect(&link->peer, keywords, values, CONNECT_TIMEOUT_MS);
}

static bool
commit_is_due(const Link *link, XLogRecPtr lsn, uint64 now)
{
	uint64		since = now > link->sent_at ? now - link->sent_at : 0;

	if (link->refused)
		return since >= REFUSED_MS;
	if (link->sent_at == 0 || since >= (uint64) neon_read_lease / 5)
		return true;
	return lsn > link->sent_lsn &&
		(since >= COMMIT_INTERVAL_MS || lsn - link->sent_lsn >= COMMIT_DISTANCE);
}

/* X is committed by the election, so there is always something to say. */
static XLogRecPtr
known_commit_lsn(void)
{
	return Max(own.flush_lsn, neon_boot.boot_lsn);
}

static void
send_commit(Link *link, uint64 now)
{
	XLogRecPtr	lsn = known_commit_lsn();
	const char *params[] = {neon_tenant_id_setting, neon_timeline_id_setting,
		psprintf("%d", own.generation), psprintf("%u", neon_boot.term),
	psprintf("%X/%X", LSN_FORMAT_ARGS(lsn)), psprintf("%d", neon_read_lease)};

	/* the lease counts from before the member can have granted it */
	link->sent_at = neon_boottime_ms();
	link->sent_lsn = lsn;
	link->sent_lease_ms = neon_read_lease;
	link->request = REQUEST_COMMIT;
	peer_execute(&link->peer, "commit", lengthof(params), params, REQUEST_TIMEOUT_MS);
}

static void
send_receive(Link *link, uint64 now)
{
	char		boot_id[NEON_ID_HEXLEN + 1];
	const char *params[] = {neon_tenant_id_setting, neon_timeline_id_setting,
		psprintf("%d", own.generation), psprintf("%u", neon_boot.term),
	neon_id_format(&neon_boot.boot_id, boot_id), neon_storage_conninfo};

	link->receive_backoff_ms = Min(Max(link->receive_backoff_ms * 2, STREAM_GONE_MS), MAX_RECEIVE_BACKOFF_MS);
	link->next_receive = now + link->receive_backoff_ms;
	link->request = REQUEST_RECEIVE;
	peer_execute(&link->peer, "receive", lengthof(params), params, REQUEST_TIMEOUT_MS);
}

static void
ask_configuration(Link *link, uint64 now)
{
	const char *params[] = {neon_tenant_id_setting, neon_timeline_id_setting};

	own.adopting_at = now;
	link->request = REQUEST_CONFIGURATION;
	peer_execute(&link->peer, "configuration", lengthof(params), params, REQUEST_TIMEOUT_MS);
}

static void
start_request(Link *link, uint64 now)
{
	if (link->peer.state == PEER_CLOSED)
		connect_member(link);
	if (link->peer.state != PEER_IDLE)
		return;
	if (!link->prepared)
	{
		link->request = REQUEST_PREPARE_COMMIT;
		peer_prepare(&link->peer, "commit", COMMIT_QUERY, REQUEST_TIMEOUT_MS);
	}
	else if (configuration_is_due(link, now))
		ask_configuration(link, now);
	else if (commit_is_due(link, known_commit_lsn(), now))
		send_commit(link, now);
	else if (!link->status.streaming && now >= link->next_receive)
		send_receive(link, now);
}

/* Has the member promised a later term, or must there be one? */
static void
check_term(const char *text)
{
	unsigned long term = strtoul(text, NULL, 10);

	if (term > neon_boot.term && term <= PG_UINT32_MAX)
		coordinator_stop_superseded(psprintf("superseded by term %lu", term));
}

static void
handle_commit(Link *link, const PGresult *result)
{
	XLogRecPtr	pageserver_lsn;

	if (PQntuples(result) != 1 || PQnfields(result) != 6)
	{
		set_problem(link, "unexpected answer of neon_safekeeper.commit()", NULL);
		return;
	}
	check_term(PQgetvalue(result, 0, 1));
	check_term(PQgetvalue(result, 0, 2));
	link->generation = atoi(PQgetvalue(result, 0, 3));
	if (neon_lsn_parse(PQgetvalue(result, 0, 0), &pageserver_lsn))
		quorum_set_pageserver_lsn(pageserver_lsn);
	/* a member that still catches up grants nothing, and the next launcher would not wait for it */
	if (strcmp(PQgetvalue(result, 0, 4), "t") == 0)
		link->lease_until = link->sent_at +
			(uint64) link->sent_lease_ms * NEON_LEASE_USED_PERCENT / 100;
	if (link->status.streaming)
		link->status.problem[0] = '\0';
	strlcpy(link->member_says, PQgetvalue(result, 0, 5), sizeof(link->member_says));
}

static void
handle_configuration(Link *link, const PGresult *result)
{
	char	   *problem = NULL;
	int			generation;

	if (PQntuples(result) != 1 || PQnfields(result) != 2)
	{
		set_problem(link, "unexpected answer of neon_safekeeper.configuration()", NULL);
		return;
	}
	generation = atoi(PQgetvalue(result, 0, 0));
	if (generation > own.generation &&
		!quorum_config_write(generation, PQgetvalue(result, 0, 1), &problem))
		ereport(LOG, (errmsg("%s", problem)));
}

/* The error as text; ends the server if another compute has taken over. */
static void
handle_error(Link *link, const PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	if (message == NULL)
		message = PQresultErrorMessage(result);
	if (sqlstate && strcmp(sqlstate, SUPERSEDED_SQLSTATE) == 0)
		coordinator_stop_superseded(message);
	set_problem(link, message, PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL));
}

static void
handle_result(Link *link, const PGresult *result)
{
	Request		request = link->request;
	ExecStatusType status = PQresultStatus(result);

	link->request = REQUEST_NONE;
	if (request == REQUEST_COMMIT)
		link->refused = status != PGRES_TUPLES_OK;
	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
	{
		handle_error(link, result);
		/* an instance without the extension: it may come */
		if (!link->prepared)
			peer_fail(&link->peer, link->status.problem);
		return;
	}
	switch (request)
	{
		case REQUEST_PREPARE_COMMIT:
			link->request = REQUEST_PREPARE_RECEIVE;
			peer_prepare(&link->peer, "receive", RECEIVE_QUERY, REQUEST_TIMEOUT_MS);
			break;
		case REQUEST_PREPARE_RECEIVE:
			link->request = REQUEST_PREPARE_CONFIGURATION;
			peer_prepare(&link->peer, "configuration", CONFIGURATION_QUERY, REQUEST_TIMEOUT_MS);
			break;
		case REQUEST_PREPARE_CONFIGURATION:
			link->prepared = true;
			link->sent_at = 0;
			link->refused = false;
			peer_succeeded(&link->peer);
			break;
		case REQUEST_COMMIT:
			handle_commit(link, result);
			break;
		case REQUEST_CONFIGURATION:
			handle_configuration(link, result);
			break;
		case REQUEST_RECEIVE:
		case REQUEST_NONE:
			break;
	}
}

static void
drive_member(Link *link, uint64 now)
{
	PGresult   *result;

	switch (peer_drive(&link->peer, &result))
	{
		case PEER_RESULT:
			handle_result(link, result);
			PQclear(result);
			break;
		case PEER_FAILED:
			link->prepared = false;
			if (!link->status.streaming)
				set_problem(link, link->peer.problem, NULL);
			break;
		case PEER_NOTHING:
		case PEER_CONNECTED:
			break;
	}
	start_request(link, now);
}

/* ----------
 * The loop
 * ----------
 */

static void
look_at_everything(uint64 now)
{
	XLogRecPtr	flush = quorum_flush_lsn();

	if (flush > own.flush_lsn)
	{
		own.flush_lsn = flush;
		own.advanced_at = now;
		coordinator_raise_flush_lsn(flush);
	}
	check_leaving();
	for (int i = 0; i < own.members.n; i++)
	{
		look_at_slot(own.link[i], now);
		report_streaming(own.link[i], now);
	}
}

static uint64
member_wakeup(const Link *link)
{
	uint64		due;

	if (link->peer.state != PEER_IDLE || !link->prepared)
		return peer_wakeup(&link->peer);
	due = link->sent_at + (link->refused ? REFUSED_MS : neon_read_lease / 5);
	if (known_commit_lsn() > link->sent_lsn && !link->refused)
		due = Min(due, link->sent_at + COMMIT_INTERVAL_MS);
	if (!link->status.streaming)
		due = Min(due, link->next_receive);
	return due;
}

/* How long may the loop sleep?  *quiet: until a commit wakes it, if one comes. */
static long
sleep_time(uint64 now, bool *quiet)
{
	uint64		due;

	*quiet = own.flush_lsn != InvalidXLogRecPtr ? now - own.advanced_at >= BUSY_MS :
		now - own.started_at >= STARTING_MS;
	due = now + (*quiet ? TICK_QUIET_MS : TICK_BUSY_MS);
	for (int i = 0; i < own.members.n; i++)
		due = Min(due, member_wakeup(own.link[i]));
	due = Min(due, source_wakeup());
	return due > now ? (long) (due - now) : 0;
}

static void
add_peer(WaitEventSet *set, const Peer *peer)
{
	int			events = peer_wait_events(peer);

	if (events != 0)
		AddWaitEventToSet(set, events, PQsocket(peer->conn), NULL, NULL);
}

static void
wait_for_anything(void)
{
	bool		quiet;
	long		timeout = sleep_time(neon_boottime_ms(), &quiet);
	WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, own.members.n + 3);
	WaitEvent	event;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < own.members.n; i++)
		add_peer(set, &own.link[i]->peer);
	add_peer(set, source_peer());
	coordinator_set_dozing(quiet);
	/* a commit that came before that wakes nobody */
	if (quorum_flush_lsn() > own.flush_lsn)
		timeout = Min(timeout, TICK_BUSY_MS);
	(void) WaitEventSetWait(set, timeout, &event, 1, PG_WAIT_EXTENSION);
	if (quiet)
		coordinator_set_dozing(false);
	ResetLatch(MyLatch);
	FreeWaitEventSet(set);
	CHECK_FOR_INTERRUPTS();
}

void
quorum_worker_main(void)
{
	memset(&own, 0, sizeof(own));
	own.context = AllocSetContextCreate(TopMemoryContext, "neon quorum", ALLOCSET_DEFAULT_SIZES);
	own.generation = quorum_applied_generation();
	own.started_at = neon_boottime_ms();
	MemoryContextSwitchTo(own.context);
	adopt_settings();
	for (;;)
	{
		uint64		now = neon_boottime_ms();

		MemoryContextReset(own.context);
		if (coordinator_check_signals())
			adopt_settings();
		look_at_everything(now);
		for (int i = 0; i < own.members.n; i++)
		{
			drive_member(own.link[i], now);
			report_problem(own.link[i], own.flush_lsn, now);
		}
		source_drive(&own.members, now);
		publish();
		throttle_report(now);
		walkeep_check_consumers(own.flush_lsn, now);
		wait_for_anything();
	}
}
