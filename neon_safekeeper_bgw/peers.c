/*-------------------------------------------------------------------------
 *
 * peers.c
 *	  The worker that asks the other safekeepers for their positions: once a
 *	  second while a timeline is active, and at once when a stream ends.
 *
 * One connection per peer; all are waited for at once, so that a peer that
 * hangs holds up nobody.  What a peer tells raises commit_lsn (R12), is kept
 * for retention, and shows whether this member missed an election.  The worker
 * also refreshes the state files of active timelines and, at the stop of the
 * instance, closes all timelines cleanly.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <libpq-fe.h>

#include "election.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "neon_lsn.h"
#include "neon_receive.h"
#include "peers.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "receivers.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define ANSWER_MS		5000	/* a peer that takes longer is connected to anew */
#define RETRY_MS		1000
#define UNUSED_MS		60000	/* then a connection that nobody needs is closed */
#define CLOSE_WAIT_MS	5000	/* for writers to end, at the stop of the instance */

typedef enum LinkState
{
	LINK_NONE,
	LINK_CONNECTING,
	LINK_IDLE,
	LINK_ASKED,
} LinkState;

typedef struct PeerLink
{
	SkMember	member;
	LinkState	state;
	PGconn	   *conn;
	PostgresPollingStatusType polling;
	uint64		since;			/* of the state */
	uint64		needed_at;		/* last time an active timeline had this peer */
	StringInfoData tenants;		/* of the next question: active timelines, as array texts */
	StringInfoData timelines;
	StringInfoData generations; /* of their configurations here */
	struct PeerLink *next;
} PeerLink;

typedef struct PeersShared
{
	slock_t		mutex;
	Latch	   *latch;			/* of the worker */
	bool		ask_now;
} PeersShared;

static PeersShared *shared = NULL;
static PeerLink *links = NULL;
static int	peer_interval = 1000;

PGDLLEXPORT void wal_peers_main(Datum arg);

/* ---- start of the library ---- */

void
peers_define_gucs(void)
{
	DefineCustomIntVariable("neon_safekeeper.peer_interval",
							"Time between two exchanges of positions with the other safekeepers.",
							NULL, &peer_interval, 1000, 10, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

Size
peers_shmem_size(void)
{
	return MAXALIGN(sizeof(PeersShared));
}

void
peers_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("neon_safekeeper peers", sizeof(PeersShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(PeersShared));
		SpinLockInit(&shared->mutex);
	}
}

void
peers_register_worker(void)
{
	BackgroundWorker worker;

	library_worker(&worker, "neon_safekeeper", "wal_peers_main", "neon wal peers");
	RegisterBackgroundWorker(&worker);
}

void
peers_ask_now(void)
{
	SpinLockAcquire(&shared->mutex);
	shared->ask_now = true;
	if (shared->latch)
		SetLatch(shared->latch);
	SpinLockRelease(&shared->mutex);
}

static bool
take_ask_now(void)
{
	bool		now;

	SpinLockAcquire(&shared->mutex);
	now = shared->ask_now;
	shared->ask_now = false;
	SpinLockRelease(&shared->mutex);
	return now;
}

char *
peers_conninfo(const SkMember *member, char *buf)
{
	snprintf(buf, RECEIVER_CONNINFO_SIZE, "host=%s port=%u user=neon_storage dbname=postgres",
			 member->host, member->port);
	return buf;
}

/* By a clock that no administrator sets. */
static long
ms_since(uint64 then)
{
	return (long) (neon_boottime_ms() - then);
}

/* ---- links ---- */

static PeerLink *
find_link(const SkMember *member)
{
	PeerLink   *link;

	for (link = links; link; link = link->next)
	{
		if (neon_id_equal(&link->member.node, &member->node) &&
			link->member.port == member->port && strcmp(link->member.host, member->host) == 0)
			return link;
	}
	link = MemoryContextAllocZero(TopMemoryContext, sizeof(PeerLink));
	link->member = *member;
	link->next = links;
	links = link;
	return link;
}

static void
set_state(PeerLink *link, LinkState state)
{
	link->state = state;
	link->since = neon_boottime_ms();
}

static void
drop_connection(PeerLink *link)
{
	if (link->conn)
		PQfinish(link->conn);
	link->conn = NULL;
	set_state(link, LINK_NONE);
}

static void
remove_unused_links(void)
{
	PeerLink  **p = &links;

	while (*p)
	{
		PeerLink   *link = *p;

		if (ms_since(link->needed_at) < UNUSED_MS)
		{
			p = &link->next;
			continue;
		}
		drop_connection(link);
		*p = link->next;
		pfree(link);
	}
}

static void
begin_connecting(PeerLink *link)
{
	ReceiverOptions session = {.application_name = "neon_safekeeper"};
	char		conninfo[RECEIVER_CONNINFO_SIZE];
	char	   *problem = NULL;

	session.passfile = receivers_passfile;
	link->conn = receiver_begin_connecting(peers_conninfo(&link->member, conninfo), &session,
										   &problem);
	if (link->conn == NULL || PQstatus(link->conn) == CONNECTION_BAD)
	{
		drop_connection(link);
		return;
	}
	link->polling = PGRES_POLLING_WRITING;
	set_state(link, LINK_CONNECTING);
}

/* ---- whom to ask about what ---- */

static void
need_members(const SkMemberSet *set, SkTimeline *tl, uint64 generation)
{
	char		hex[NEON_ID_HEXLEN + 1];

	for (int i = 0; i < set->n; i++)
	{
		PeerLink   *link;

		if (neon_id_equal(&set->member[i].node, sk_node()))
			continue;
		link = find_link(&set->member[i]);
		link->needed_at = neon_boottime_ms();
		if (tl == NULL || link->tenants.data == NULL)
			continue;
		appendStringInfo(&link->tenants, "%s%s", link->tenants.len ? "," : "",
						 neon_id_format(&tl->tenant, hex));
		appendStringInfo(&link->timelines, "%s%s", link->timelines.len ? "," : "",
						 neon_id_format(&tl->timeline, hex));
		appendStringInfo(&link->generations, "%s" UINT64_FORMAT, link->generations.len ? "," : "",
						 generation);
	}
}

static void
need_config(const SkConfig *config, SkTimeline *tl)
{
	need_members(&config->members, tl, config->generation);
	if (config->joint)
		need_members(&config->new_members, tl, config->generation);
}

/* One timeline's trouble is not another's. */
static void
guarded(SkTimeline *tl, void (*action) (SkTimeline *tl))
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		action(tl);
	}
	PG_CATCH();
	{
		sk_recover_from_error(tl, context);
	}
	PG_END_TRY();
}

static void
need_peers_of(SkTimeline *tl, void *arg)
{
	SkState	   *st;

	if (!sk_recently_active(tl))
		return;
	guarded(tl, sk_refresh);
	st = palloc(sizeof(SkState));
	sk_get_state(tl, st);
	need_config(&st->config, tl);
	pfree(st);
}

/* After a start: the peers know of what is active and was missed here. */
static void
need_peers_of_files(SkTimeline *tl, void *arg)
{
	SkState	   *st = palloc(sizeof(SkState));
	char		dir[MAXPGPATH];
	char	   *problem = NULL;

	guarded(tl, sk_make_known);
	if (skstate_read(sk_path(tl, NULL, dir), st, &problem) == SK_STATE_OK && !st->deleted)
		need_config(&st->config, NULL);
	pfree(st);
}

static void
collect(void)
{
	for (PeerLink *link = links; link; link = link->next)
	{
		initStringInfo(&link->tenants);
		initStringInfo(&link->timelines);
		initStringInfo(&link->generations);
	}
	/* who is met for the first time is asked in the next round */
	sk_foreach(false, need_peers_of, NULL);
}

static void
ask(PeerLink *link)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "WITH asked AS (SELECT * FROM unnest('{%s}'::text[], '{%s}'::text[], '{%s}'::bigint[]) a(t, l, g)),"
					 " active AS (SELECT * FROM neon_safekeeper.positions()),"
					 " wanted AS (SELECT p.* FROM asked a, LATERAL neon_safekeeper.positions(a.t, a.l) p"
					 " WHERE NOT EXISTS (SELECT FROM active x WHERE x.tenant_id = a.t AND x.timeline_id = a.l))"
					 " SELECT neon_safekeeper.node_uuid(), tenant_id, timeline_id, generation, promised,"
					 " last_log_term, flush_lsn, commit_lsn, wal_start, counts, pageserver_lsn,"
					 " CASE WHEN a.g IS NULL OR a.g < generation THEN"
					 "  (SELECT c.config FROM neon_safekeeper.configuration(tenant_id, timeline_id) c) END,"
					 " pageserver_durable_lsn, state"
					 " FROM (SELECT * FROM active UNION ALL SELECT * FROM wanted) p"
					 " LEFT JOIN asked a ON a.t = tenant_id AND a.l = timeline_id",
					 link->tenants.data ? link->tenants.data : "",
					 link->timelines.data ? link->timelines.data : "",
					 link->generations.data ? link->generations.data : "");
	if (PQsendQuery(link->conn, sql.data))
		set_state(link, LINK_ASKED);
	else
		drop_connection(link);
	pfree(sql.data);
}

/* ---- what they say ---- */

static XLogRecPtr
lsn_field(PGresult *result, int row, int column)
{
	XLogRecPtr	lsn = InvalidXLogRecPtr;

	(void) neon_lsn_parse(PQgetvalue(result, row, column), &lsn);
	return lsn;
}

static void
fill_peer(PGresult *result, int row, const PeerLink *link, SkPeer *peer)
{
	memset(peer, 0, sizeof(*peer));
	peer->node = link->member.node;
	peer->generation = strtoull(PQgetvalue(result, row, 3), NULL, 10);
	peer->promised = strtoul(PQgetvalue(result, row, 4), NULL, 10);
	peer->last_log_term = strtoul(PQgetvalue(result, row, 5), NULL, 10);
	peer->flush_lsn = lsn_field(result, row, 6);
	peer->commit_lsn = lsn_field(result, row, 7);
	peer->wal_start = lsn_field(result, row, 8);
	peer->counts = PQgetvalue(result, row, 9)[0] == 't';
	peer->at = neon_clock();
}

/*
 * A member that missed an election, or WAL that is committed, fetches it from
 * a peer that has it.
 */
static void
fetch_if_behind(SkTimeline *tl, const PeerLink *link, const SkPeer *peer)
{
	char		conninfo[RECEIVER_CONNINFO_SIZE];
	XLogRecPtr	upto = InvalidXLogRecPtr;
	SkPositions p;

	sk_get_positions(tl, &p);
	if (p.status != SK_ACTIVE || !p.member || !peer->counts ||
		peer->generation != p.generation || peer->promised < p.promised ||
		(peer->promised == p.promised && receivers_busy(tl)))
		return;
	if (peer->promised == p.promised && p.counts)
	{
		if (peer->commit_lsn <= p.flush_lsn)
			return;
		upto = peer->commit_lsn;
	}
	receivers_order_copy(tl, peer->promised, upto, peers_conninfo(&link->member, conninfo));
}

/*
 * A member that missed a change of the configuration gets it from a peer that
 * persisted it: whoever delivers it, it was decided by the pageserver.
 */
static void
adopt_newer_config(SkTimeline *tl, const SkState *st, const char *json)
{
	SkConfig   *config = palloc(sizeof(SkConfig));
	Datum		jb = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
	char	   *problem = NULL;

	if (!skconfig_from_jsonb(DatumGetJsonbP(jb), config, &problem))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a peer sent an invalid configuration of members"),
				 errdetail_internal("%s", problem)));
	if (config->generation > st->config.generation)
	{
		sk_members(tl, config);
		ereport(LOG,
				(errmsg("generation " UINT64_FORMAT " of the members of a timeline was learnt from a peer",
						config->generation)));
	}
	pfree(config);
}

static void
note_row(PGresult *result, int row, const PeerLink *link)
{
	NeonId		node;
	NeonId		tenant;
	NeonId		timeline;
	SkTimeline *tl;
	SkState	   *st;
	SkPeer		peer;
	SkPageserver ps;
	bool		deleted;

	/* another safekeeper may be at that address now */
	if (!neon_id_parse(PQgetvalue(result, row, 0), &node) ||
		!neon_id_equal(&node, &link->member.node) ||
		!neon_id_parse(PQgetvalue(result, row, 1), &tenant) ||
		!neon_id_parse(PQgetvalue(result, row, 2), &timeline))
		return;
	/* who has deleted it has nothing to tell; the launcher tells who missed that */
	if (strcmp(PQgetvalue(result, row, 13), "deleted") == 0)
		return;
	tl = sk_open_unless_deleted(&tenant, &timeline, &deleted);
	if (tl == NULL)
		return;
	st = palloc(sizeof(SkState));
	sk_get_state(tl, st);
	if (skconfig_member(&st->config, &node) != NULL)
	{
		if (!PQgetisnull(result, row, 11) && sk_status(tl) == SK_ACTIVE)
			adopt_newer_config(tl, st, PQgetvalue(result, row, 11));
		fill_peer(result, row, link, &peer);
		sk_note_peer(tl, &peer);
		memset(&ps, 0, sizeof(ps));
		ps.received_lsn = lsn_field(result, row, 10);
		ps.flush_lsn = ps.layers_lsn = lsn_field(result, row, 12);
		if (ps.received_lsn != InvalidXLogRecPtr)
			sk_note_pageserver(tl, &ps);
		(void) sk_raise_commit_by_peers(tl);
		fetch_if_behind(tl, link, &peer);
	}
	pfree(st);
}

/* One timeline's trouble is not another's. */
static void
note_row_guarded(PGresult *result, int row, const PeerLink *link)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		note_row(result, row, link);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		LWLockReleaseAll();
		sk_release_all();
		EmitErrorReport();
		FlushErrorState();
	}
	PG_END_TRY();
}

static void
take_answer(PeerLink *link)
{
	PGresult   *result;

	if (!PQconsumeInput(link->conn))
	{
		drop_connection(link);
		return;
	}
	while (!PQisBusy(link->conn))
	{
		result = PQgetResult(link->conn);
		if (result == NULL)
		{
			set_state(link, LINK_IDLE);
			return;
		}
		if (PQresultStatus(result) == PGRES_TUPLES_OK && PQnfields(result) == 14)
		{
			for (int i = 0; i < PQntuples(result); i++)
				note_row_guarded(result, i, link);
		}
		PQclear(result);
	}
}

/* ---- waiting for all of them ---- */

static void
link_event(PeerLink *link)
{
	if (link->state == LINK_CONNECTING)
	{
		link->polling = PQconnectPoll(link->conn);
		if (link->polling == PGRES_POLLING_FAILED)
			drop_connection(link);
		else if (link->polling == PGRES_POLLING_OK)
		{
			set_state(link, LINK_IDLE);
			ask(link);
		}
	}
	else if (link->conn)
		take_answer(link);
}

static int
wanted_event(const PeerLink *link)
{
	return link->state == LINK_CONNECTING && link->polling != PGRES_POLLING_READING ?
		WL_SOCKET_WRITEABLE : WL_SOCKET_READABLE;
}

static int
count_links(void)
{
	int			n = 0;

	for (PeerLink *link = links; link; link = link->next)
		n++;
	return n;
}

static void
wait_for_links(long timeout_ms)
{
	int			n = count_links() + 2;
	WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, n);
	WaitEvent  *events = palloc(n * sizeof(WaitEvent));
	int			got;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (PeerLink *link = links; link; link = link->next)
	{
		if (link->conn && PQsocket(link->conn) >= 0)
			AddWaitEventToSet(set, wanted_event(link), PQsocket(link->conn), NULL, link);
	}
	got = WaitEventSetWait(set, timeout_ms, events, n, PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	for (int i = 0; i < got; i++)
	{
		if (events[i].user_data)
			link_event(events[i].user_data);
		else
			ResetLatch(MyLatch);
	}
}

/* Asks those who can be asked, connects to those who cannot. */
static void
begin_round(void)
{
	collect();
	for (PeerLink *link = links; link; link = link->next)
	{
		if (link->state != LINK_IDLE && link->state != LINK_NONE &&
			ms_since(link->since) >= ANSWER_MS)
			drop_connection(link);
		if (link->state == LINK_IDLE)
			ask(link);
		else if (link->state == LINK_NONE && (link->since == 0 || ms_since(link->since) >= RETRY_MS))
			begin_connecting(link);
	}
	remove_unused_links();
}

/* ---- the end of the instance ---- */

static void
count_writer(SkTimeline *tl, void *arg)
{
	SkPositions p;

	sk_get_positions(tl, &p);
	if (p.writer_pid != 0)
		(*(int *) arg)++;
}

static void
close_cleanly(SkTimeline *tl)
{
	(void) sk_close_cleanly(tl);
}

static void
close_timeline(SkTimeline *tl, void *arg)
{
	guarded(tl, close_cleanly);
}

static void
close_all_timelines(void)
{
	uint64		start = neon_boottime_ms();
	int			writers;

	do
	{
		writers = 0;
		sk_foreach(true, count_writer, &writers);
		if (writers > 0)
			pg_usleep(10000L);
	} while (writers > 0 && ms_since(start) < CLOSE_WAIT_MS);
	sk_foreach(true, close_timeline, NULL);
}

/* ---- the process ---- */

static void
forget_latch(int code, Datum arg)
{
	SpinLockAcquire(&shared->mutex);
	shared->latch = NULL;
	SpinLockRelease(&shared->mutex);
}

static void
start_process(void)
{
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "neon wal peers");
	MemoryContextSwitchTo(TopMemoryContext);
	before_shmem_exit(forget_latch, (Datum) 0);
	SpinLockAcquire(&shared->mutex);
	shared->latch = MyLatch;
	SpinLockRelease(&shared->mutex);
}

void
wal_peers_main(Datum arg)
{
	MemoryContext context;
	uint64		last_round = 0;

	start_process();
	context = AllocSetContextCreate(TopMemoryContext, "peers", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	sk_foreach(false, need_peers_of_files, NULL);
	while (!ShutdownRequestPending)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (last_round == 0 || take_ask_now() || ms_since(last_round) >= peer_interval)
		{
			MemoryContextReset(context);
			last_round = neon_boottime_ms();
			begin_round();
		}
		wait_for_links(Max(1, peer_interval - ms_since(last_round)));
	}
	close_all_timelines();
	proc_exit(1);				/* if only this process is to end, it comes again */
}
