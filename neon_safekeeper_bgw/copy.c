/*-------------------------------------------------------------------------
 *
 * copy.c
 *	  WAL from peers (R8), and the term that a member missed.
 *
 * Below the commit_lsn of a donor of the same term a long way goes by standard
 * streaming: that WAL is final.  The rest, and short ways, by tail(): a piece
 * comes with the history that the donor had when it was read, and is used only
 * as far as both histories are one.  A donor may be truncated while we copy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <libpq-fe.h>

#include "election.h"
#include "fetch.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_lsn.h"
#include "neon_testpoint.h"
#include "peers.h"
#include "storage/condition_variable.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#define QUERY_MS		10000
#define PIECE_BYTES		(1024 * 1024)
#define STREAM_FROM		(4 * 1024 * 1024)	/* a shorter way goes by tail() */
#define LOOK_MS			200

const char *
copy_ids_as_arguments(Fetch *f)
{
	char		tenant[NEON_ID_HEXLEN + 1];
	char		timeline[NEON_ID_HEXLEN + 1];

	return psprintf("'%s', '%s'", neon_id_format(&f->tl->tenant, tenant),
					neon_id_format(&f->tl->timeline, timeline));
}

/* ---- talking to a donor ---- */

static bool
ask_positions(Fetch *f, Donor *d)
{
	ReceiverRows *rows = receiver_rows(d->receiver,
									   psprintf("SELECT counts, generation, promised, commit_lsn, last_writer"
												" FROM neon_safekeeper.positions(%s)",
												copy_ids_as_arguments(f)),
									   QUERY_MS, &f->problem);
	const char *launcher;
	bool		ok;

	if (rows == NULL)
		return false;
	ok = receiver_nrows(rows) == 1 && receiver_value(rows, 0, 0) && receiver_value(rows, 0, 1) &&
		receiver_value(rows, 0, 2) && neon_lsn_parse(receiver_value(rows, 0, 3), &d->commit_lsn);
	if (ok)
	{
		d->counts = receiver_value(rows, 0, 0)[0] == 't';
		d->generation = strtoull(receiver_value(rows, 0, 1), NULL, 10);
		d->promised = strtoul(receiver_value(rows, 0, 2), NULL, 10);
		launcher = receiver_value(rows, 0, 4);
		d->launcher = pstrdup(launcher ? launcher : "");
	}
	else
		f->problem = psprintf("peer \"%s\" does not have the timeline", d->conninfo);
	receiver_free_rows(rows);
	return ok;
}

bool
copy_open_donor(Fetch *f, const char *conninfo, Donor *d)
{
	ReceiverOptions session = fetch_session(f, false);

	memset(d, 0, sizeof(*d));
	strlcpy(d->conninfo, conninfo, sizeof(d->conninfo));
	session.application_name = "neon_safekeeper";
	d->receiver = receiver_connect(conninfo, &session, FETCH_CONNECT_MS, &f->problem);
	if (d->receiver == NULL)
		return false;
	if (ask_positions(f, d))
		return true;
	receiver_close(d->receiver);
	return false;
}

/* A piece of the donor's log, and the history it had at that moment. */
static bool
ask_tail(Fetch *f, Donor *d, XLogRecPtr from, int max_bytes, SkHistory *history, char **data,
		 size_t *len)
{
	ReceiverRows *rows = receiver_rows(d->receiver,
									   psprintf("SELECT history, data FROM neon_safekeeper.tail(%s, %u, '%X/%X', %d)",
												copy_ids_as_arguments(f), f->order.term,
												LSN_FORMAT_ARGS(from), max_bytes),
									   QUERY_MS, &f->problem);
	bool		ok;

	if (rows == NULL)
		return false;
	ok = receiver_nrows(rows) == 1 && receiver_value(rows, 0, 0) && receiver_value(rows, 0, 1);
	if (ok)
	{
		Datum		jb = DirectFunctionCall1(jsonb_in,
											 CStringGetDatum(receiver_value(rows, 0, 0)));
		unsigned char *bytes = PQunescapeBytea((const unsigned char *) receiver_value(rows, 0, 1),
											   len);

		ok = bytes != NULL && skhistory_from_jsonb(DatumGetJsonbP(jb), history, &f->problem);
		if (ok)
		{
			*data = palloc(*len + 1);
			memcpy(*data, bytes, *len);
		}
		PQfreemem(bytes);
	}
	if (!ok && f->problem == NULL)
		f->problem = psprintf("peer \"%s\" sent an invalid piece of WAL", d->conninfo);
	receiver_free_rows(rows);
	return ok;
}

/* ---- the members to ask ---- */

static void
add_peer(PeerList *list, const char *conninfo)
{
	for (int i = 0; i < list->n; i++)
	{
		if (strcmp(list->conninfo[i], conninfo) == 0)
			return;
	}
	strlcpy(list->conninfo[list->n++], conninfo, RECEIVER_CONNINFO_SIZE);
}

static void
add_members(PeerList *list, const SkMemberSet *set)
{
	for (int i = 0; i < set->n; i++)
	{
		char		conninfo[RECEIVER_CONNINFO_SIZE];

		if (!neon_id_equal(&set->member[i].node, sk_node()))
			add_peer(list, peers_conninfo(&set->member[i], conninfo));
	}
}

PeerList *
copy_peers(Fetch *f)
{
	PeerList   *list = palloc0(sizeof(PeerList));
	SkState    *st = palloc(sizeof(SkState));

	sk_get_state(f->tl, st);
	if (f->order.donor[0])
		add_peer(list, f->order.donor);
	add_members(list, &st->config.members);
	if (st->config.joint)
		add_members(list, &st->config.new_members);
	pfree(st);
	return list;
}

/* ---- learning a term ---- */

/*
 * A peer that counts for the term has its persisted history, so the launcher
 * did send elected(T, X, history): it is delivered here, late (R5: a member
 * that was not asked promises first).
 */
static bool
learn_from(Fetch *f, Donor *d)
{
	SkHistory  *history = palloc(sizeof(SkHistory));
	SkPromise  *promise = palloc(sizeof(SkPromise));
	SkPositions p;
	const SkTerm *entry;
	char	   *data;
	size_t		len;

	if (!d->counts || d->promised != f->order.term)
	{
		f->problem = psprintf("peer \"%s\" does not count for term %u", d->conninfo, f->order.term);
		return false;
	}
	if (!ask_tail(f, d, sk_flush_lsn(f->tl), 0, history, &data, &len))
		return false;
	entry = skhistory_find(history, f->order.term);
	sk_get_positions(f->tl, &p);
	if (entry == NULL || d->generation != p.generation)
	{
		f->problem = psprintf("peer \"%s\" has another configuration or no term %u",
							  d->conninfo, f->order.term);
		return false;
	}
	if (p.promised < f->order.term)
		sk_promise(f->tl, p.generation, f->order.term, d->launcher, promise);
	sk_elected(f->tl, p.generation, f->order.term, entry->start, history);
	ereport(LOG,
			(errmsg("learnt of term %u, which begins at %X/%X, from a peer",
					f->order.term, LSN_FORMAT_ARGS(entry->start))));
	return true;
}

FetchResult
copy_learn_term(Fetch *f)
{
	PeerList   *list = copy_peers(f);

	for (int i = 0; i < list->n; i++)
	{
		Donor		d;
		bool		learnt;

		if (fetch_interrupted(f))
			return FETCH_STOP;
		if (!copy_open_donor(f, list->conninfo[i], &d))
			continue;
		learnt = learn_from(f, &d);
		receiver_close(d.receiver);
		if (learnt)
			return FETCH_DONE;
	}
	if (f->problem == NULL)
		f->problem = psprintf("no peer counts for term %u", f->order.term);
	return FETCH_FAILED;
}

/* ---- copying ---- */

XLogRecPtr
copy_usable_end(SkTimeline *tl, const SkHistory *donors, XLogRecPtr end)
{
	SkState    *st = palloc(sizeof(SkState));
	XLogRecPtr	common;

	sk_get_state(tl, st);
	common = skhistory_common(donors, end, &st->history, InvalidXLogRecPtr);
	pfree(st);
	return Min(common, end);
}

static bool
no_space(Fetch *f)
{
	if (skwal_disk_has_space())
		return false;
	f->problem = pstrdup("the disk is nearly full");
	return true;
}

/* One piece; false if the donor has nothing that helps. */
static bool
copy_piece(Fetch *f, Donor *d, WalWriter *writer, XLogRecPtr upto)
{
	SkHistory  *history = palloc(sizeof(SkHistory));
	XLogRecPtr	from = writer->received;
	XLogRecPtr	end;
	char	   *data;
	size_t		len;

	if (no_space(f) ||
		!ask_tail(f, d, from, Min(PIECE_BYTES, upto - from), history, &data, &len))
		return false;
	end = Min(copy_usable_end(f->tl, history, from + len), upto);
	if (end <= from)
	{
		f->problem = psprintf("peer \"%s\" has no WAL of this history behind %X/%X",
							  d->conninfo, LSN_FORMAT_ARGS(from));
		return false;
	}
	NEON_TEST_POINT("before-copy-piece");
	if (!walwriter_take(writer, from, data, end - from, &f->problem) ||
		!walwriter_settle(writer, &f->problem))
		return false;
	walwriter_refresh(writer);
	f->progress = true;
	return true;
}

/* Below the donor's commit_lsn: the replication protocol of its timeline. */
static void
copy_committed(Fetch *f, Donor *d, WalWriter *writer, XLogRecPtr upto)
{
	ReceiverOptions session = fetch_session(f, true);
	char		tenant[NEON_ID_HEXLEN + 1];
	char		timeline[NEON_ID_HEXLEN + 1];
	Receiver   *receiver;

	session.application_name = "neon_safekeeper";
	session.options = psprintf("-c neon.tenant_id=%s -c neon.timeline_id=%s",
							   neon_id_format(&f->tl->tenant, tenant),
							   neon_id_format(&f->tl->timeline, timeline));
	receiver = receiver_connect(d->conninfo, &session, FETCH_CONNECT_MS, &f->problem);
	if (receiver == NULL)
		return;
	if (receiver_identify(receiver, f->tl->system_identifier, FETCH_CONNECT_MS, &f->problem) &&
		receiver_start(receiver, NULL, writer->received, FETCH_CONNECT_MS, &f->problem))
		(void) fetch_stream(f, receiver, writer, Min(upto, d->commit_lsn));
	receiver_close(receiver);
}

/*
 * What was committed when the donor had promised this very term is in the log
 * of the term.  What a donor of a later term commits need not be.  A learner
 * has no term, and all up to where it copies is committed.
 */
static bool
worth_streaming(Fetch *f, Donor *d, WalWriter *writer)
{
	SkPositions p;

	sk_get_positions(f->tl, &p);
	return !p.member ||
		(d->promised == f->order.term && d->commit_lsn > writer->flushed + STREAM_FROM);
}

/* Who cannot get on tries again each second, at the same place. */
static void
log_copying(Fetch *f, const Donor *d, XLogRecPtr from)
{
	SkShared   *s = f->tl->shared;
	bool		news;

	SpinLockAcquire(&s->mutex);
	news = s->copy_told_lsn != from;
	s->copy_told_lsn = from;
	SpinLockRelease(&s->mutex);
	if (news)
		ereport(LOG,
				(errmsg("copying WAL from %X/%X on from a peer", LSN_FORMAT_ARGS(from)),
				 errdetail_internal("%s", d->conninfo)));
}

/* As much as this donor can give. */
static void
copy_from(Fetch *f, Donor *d, XLogRecPtr upto)
{
	MemoryContext piece_context = AllocSetContextCreate(CurrentMemoryContext, "WAL piece",
														ALLOCSET_DEFAULT_SIZES);
	MemoryContext outer;
	WalWriter	writer;
	bool		more = true;

	walwriter_begin(&writer, f->tl, f->order.term, d->conninfo);
	log_copying(f, d, writer.flushed);
	if (worth_streaming(f, d, &writer))
	{
		copy_committed(f, d, &writer, upto);
		/* what a broken stream left behind the last record is fetched again */
		walwriter_end(&writer);
		walwriter_begin(&writer, f->tl, f->order.term, d->conninfo);
	}
	outer = MemoryContextSwitchTo(piece_context);
	while (more && writer.flushed < upto && !fetch_interrupted(f))
	{
		MemoryContextReset(piece_context);
		f->problem = NULL;
		more = copy_piece(f, d, &writer, upto);
	}
	MemoryContextSwitchTo(outer);
	if (f->problem)
		f->problem = pstrdup(f->problem);
	walwriter_end(&writer);
	MemoryContextDelete(piece_context);
}

FetchResult
copy_from_peers(Fetch *f, XLogRecPtr upto)
{
	PeerList   *list = copy_peers(f);

	if (no_space(f))
		return FETCH_FAILED;
	for (int i = 0; i < list->n && sk_flush_lsn(f->tl) < upto; i++)
	{
		Donor		d;

		if (fetch_interrupted(f))
			return FETCH_STOP;
		if (!copy_open_donor(f, list->conninfo[i], &d))
			continue;
		copy_from(f, &d, upto);
		receiver_close(d.receiver);
	}
	if (sk_flush_lsn(f->tl) >= upto)
		return FETCH_DONE;
	if (f->problem == NULL)
		f->problem = psprintf("no peer has the WAL up to %X/%X", LSN_FORMAT_ARGS(upto));
	return FETCH_FAILED;
}

XLogRecPtr
copy_committed_at_peers(Fetch *f)
{
	SkPeer		peers[SK_MAX_PEERS];
	int			n = sk_get_peers(f->tl, peers);
	XLogRecPtr	best = InvalidXLogRecPtr;

	for (int i = 0; i < n; i++)
	{
		if (peers[i].counts && peers[i].promised == f->order.term)
			best = Max(best, peers[i].commit_lsn);
	}
	return best;
}

/* ---- for elected() ---- */

static bool
copy_is_over(SkTimeline *tl, uint32 term, XLogRecPtr x)
{
	SkPositions p;

	sk_get_positions(tl, &p);
	return p.flush_lsn >= x || p.promised > term || p.status != SK_ACTIVE;
}

void
sk_copy_to_x(SkTimeline *tl, uint32 term, XLogRecPtr x, const char *donor, int timeout_ms)
{
	uint64		deadline = neon_boottime_ms() + timeout_ms;

	if (copy_is_over(tl, term, x))
		return;
	if (donor && donor[0])
		receiver_check_conninfo(donor, RECEIVER_CONNINFO_SIZE);
	receivers_order_copy(tl, term, x, donor);
	ConditionVariablePrepareToSleep(&tl->shared->flush_cv);
	while (!copy_is_over(tl, term, x) && neon_boottime_ms() < deadline)
		(void) ConditionVariableTimedSleep(&tl->shared->flush_cv, LOOK_MS, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}
