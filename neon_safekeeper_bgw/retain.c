/*-------------------------------------------------------------------------
 *
 * retain.c
 *	  Which WAL of a timeline is kept, and the worker that removes the rest.
 *
 * WAL is kept from the oldest of these positions on, in whole segments:
 *	- what the pageserver has in layer files (not known: everything is kept);
 *	  what it has stored only as WAL it fetches again if that is damaged;
 *	- what each member of the timeline has, and a safekeeper that copies from
 *	  here;
 *	- what each replication slot needs;
 *	- commit_lsn.
 * Members and slots hold at most neon_safekeeper.max_retained bytes each below
 * commit_lsn; a slot beyond it is invalidated when its WAL goes.  The
 * pageserver always holds: what it does not have is nowhere else.
 *
 * The decision is made again under the operation lock, which reserving a slot
 * takes too; slots count with the position that is on disk.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "neon_library.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "retain.h"
#include "skwal.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#define COPY_HEARD_MS			10000	/* it pauses between two pieces */
#define SAVE_ALL_ROUNDS		12	/* each so many rounds all slots are saved */

/* The oldest position found so far, and whose it is. */
typedef struct Keep
{
	XLogRecPtr	lsn;
	char		by[SK_HOST_MAX];
	XLogRecPtr	limit;			/* members and slots hold nothing below it */
} Keep;

static int	max_retained_mb = 10 * 1024;
static int	retention_interval_ms = 5000;
static bool save_all;			/* in this round */

/* ---- settings ---- */

void
retain_define_gucs(void)
{
	DefineCustomIntVariable("neon_safekeeper.max_retained",
							"WAL below commit_lsn that a member or a replication slot may hold.",
							"-1 is no limit.  The pageserver holds without limit.",
							&max_retained_mb, 10 * 1024, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_safekeeper.retention_interval",
							"Time between two rounds of removing WAL that nobody needs.",
							NULL, &retention_interval_ms, 5000, 10, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

static XLogRecPtr
limit_below(XLogRecPtr commit_lsn)
{
	uint64		max = (uint64) max_retained_mb * 1024 * 1024;

	return max_retained_mb < 0 || commit_lsn <= max ? InvalidXLogRecPtr : commit_lsn - max;
}

bool
retain_slot_allowance(const SkSlotInfo *slot, int64 *bytes)
{
	SkTimeline *tl = sk_lookup(&slot->tenant, &slot->timeline);
	XLogRecPtr	commit_lsn = tl ? sk_commit_lsn(tl) : InvalidXLogRecPtr;

	if (max_retained_mb < 0 || XLogRecPtrIsInvalid(commit_lsn))
		return false;
	*bytes = (int64) skslot_needs(slot) + (int64) max_retained_mb * 1024 * 1024 -
		(int64) commit_lsn;
	return true;
}

/* ---- who holds what ---- */

static void hold(Keep *keep, XLogRecPtr lsn, const char *fmt,...) pg_attribute_printf(3, 4);

static void
hold(Keep *keep, XLogRecPtr lsn, const char *fmt,...)
{
	va_list		args;

	if (lsn >= keep->lsn)
		return;
	keep->lsn = lsn;
	va_start(args, fmt);
	vsnprintf(keep->by, sizeof(keep->by), fmt, args);
	va_end(args);
}

static void
hold_for_pageserver(Keep *keep, const SkPositions *p)
{
	hold(keep, skpageserver_durable(&p->pageserver), "pageserver");
}

/*
 * What a peer surely shares with us.  Logs of one last term are equal as far
 * as both go; of other terms the tail may have to be cut, but not below what
 * the peer calls committed.
 */
static XLogRecPtr
peer_position(const SkPeer *peer, const SkPositions *p)
{
	if (peer->last_log_term == p->last_log_term)
		return peer->flush_lsn;
	return Min(peer->flush_lsn, peer->commit_lsn);
}

static const SkPeer *
find_peer(const SkPeer *peers, int n, const NeonId *node)
{
	for (int i = 0; i < n; i++)
	{
		if (neon_id_equal(&peers[i].node, node))
			return &peers[i];
	}
	return NULL;
}

/* One that was never heard of holds everything that it may. */
static void
hold_for_members(Keep *keep, const SkPositions *p, const SkMemberSet *set,
				 const SkPeer *peers, int npeers)
{
	for (int i = 0; i < set->n; i++)
	{
		const SkMember *m = &set->member[i];
		const SkPeer *peer = find_peer(peers, npeers, &m->node);

		if (neon_id_equal(&m->node, sk_node()))
			continue;
		hold(keep, Max(peer ? peer_position(peer, p) : InvalidXLogRecPtr, keep->limit),
			 "safekeeper %u", m->id);
	}
}

/* One that is to become a member is in no configuration, and known by what it reads only. */
static void
hold_for_copy(Keep *keep, SkTimeline *tl)
{
	XLogRecPtr	lsn = sk_copied_lsn(tl, COPY_HEARD_MS);

	if (!XLogRecPtrIsInvalid(lsn))
		hold(keep, Max(lsn, keep->limit), "a copying safekeeper");
}

static void
hold_for_slot(const SkSlotInfo *slot, void *arg)
{
	Keep	   *keep = arg;
	XLogRecPtr	needs = skslot_needs(slot);

	if (!XLogRecPtrIsInvalid(needs))
		hold(keep, Max(needs, keep->limit), "slot %s", NameStr(slot->name));
}

/* What is to be kept of a timeline whose positions are in memory, and what is here. */
static void
decide(SkTimeline *tl, Keep *keep, XLogRecPtr *wal_start)
{
	SkPositions p;
	SkState    *st = palloc(sizeof(SkState));
	SkPeer		peers[SK_MAX_PEERS];
	int			npeers;

	sk_get_positions(tl, &p);
	sk_get_state(tl, st);
	npeers = sk_get_peers(tl, peers);
	*wal_start = p.wal_start;

	keep->lsn = p.commit_lsn;
	keep->by[0] = '\0';
	keep->limit = limit_below(p.commit_lsn);
	hold_for_pageserver(keep, &p);
	hold_for_members(keep, &p, &st->config.members, peers, npeers);
	if (st->config.joint)
		hold_for_members(keep, &p, &st->config.new_members, peers, npeers);
	hold_for_copy(keep, tl);
	skslot_foreach(tl, hold_for_slot, keep);
	pfree(st);
}

/* ---- removing ---- */

static XLogRecPtr
segment_start(const SkTimeline *tl, XLogRecPtr lsn)
{
	return lsn - XLogSegmentOffset(lsn, tl->wal_segment_size);
}

/* Whoever holds the operation lock is not waited for: there is a next round. */
static void
remove_wal(SkTimeline *tl)
{
	Keep		keep;
	XLogRecPtr	wal_start;

	if (!sk_trylock(tl))
		return;
	if (sk_status(tl) == SK_UNOPENED)
		sk_open_from_disk(tl);
	decide(tl, &keep, &wal_start);
	if (segment_start(tl, keep.lsn) > wal_start)
	{
		skslot_invalidate(tl, segment_start(tl, keep.lsn));
		wal_start = skwal_remove_below(tl, keep.lsn);
		ereport(DEBUG1,
				(errmsg_internal("WAL of the timeline begins at %X/%X now",
								 LSN_FORMAT_ARGS(wal_start))));
	}
	sk_unlock(tl);
}

void
retain_look_after(SkTimeline *tl)
{
	Keep		keep;
	XLogRecPtr	wal_start;

	skslot_save(tl, save_all);
	decide(tl, &keep, &wal_start);
	sk_note_retention(tl, keep.lsn, keep.by);
	if (segment_start(tl, keep.lsn) > wal_start)
		remove_wal(tl);
}

/* ---- the worker ---- */

/*
 * One that was opened once and then failed in a change is unopened, but what is
 * known of it in memory holds; of one that nobody needed yet nothing is known.
 */
static bool
is_known(SkTimeline *tl)
{
	SkStatus	status = sk_status(tl);

	return status == SK_ACTIVE || (status == SK_UNOPENED && tl->wal_segment_size != 0);
}

/* An error concerns one timeline; the others go on. */
static void
visit(SkTimeline *tl, void *arg)
{
	MemoryContext context = CurrentMemoryContext;

	CHECK_FOR_INTERRUPTS();
	PG_TRY();
	{
		if (is_known(tl))
			retain_look_after(tl);
	}
	PG_CATCH();
	{
		sk_recover_from_error(tl, context);
	}
	PG_END_TRY();
}

static void
one_round(MemoryContext context)
{
	static int	rounds = 0;

	save_all = ++rounds % SAVE_ALL_ROUNDS == 0 || ShutdownRequestPending;
	MemoryContextSwitchTo(context);
	MemoryContextReset(context);
	sk_foreach(false, visit, NULL);
}

void
neon_safekeeper_retain_main(Datum arg)
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	context = AllocSetContextCreate(TopMemoryContext, "retention", ALLOCSET_DEFAULT_SIZES);
	while (!ShutdownRequestPending)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 retention_interval_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		one_round(context);
	}
	proc_exit(0);
}

void
retain_register_worker(void)
{
	BackgroundWorker worker;

	library_worker(&worker, "neon_safekeeper", "neon_safekeeper_retain_main", "neon wal retention");
	worker.bgw_restart_time = 5;
	RegisterBackgroundWorker(&worker);
}
