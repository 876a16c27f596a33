/*-------------------------------------------------------------------------
 *
 * skreceive.c
 *	  The worker that fetches the WAL of one active timeline.
 *
 * It learns the term if this member missed the election, copies what is missing
 * from peers, and streams from the term's compute.  It ends when that is done,
 * when the compute has been gone for 10 seconds, or when a higher term was
 * promised.  An ERROR ends the process, too, which takes back the right to
 * write; who ordered it does so again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "jump.h"
#include "miscadmin.h"
#include "neon_bootrec.h"
#include "neon_clock.h"
#include "neon_members.h"
#include "neon_testpoint.h"
#include "neon_walcursor.h"
#include "peers.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define BATCH_BYTES			(8 * 1024 * 1024)	/* received between two syncs */
#define REPLY_INTERVAL_MS	1000
#define SILENCE_MS			10000	/* the compute's walsender speaks every 2.5 s */
#define GONE_MS				10000	/* attempts without anything coming */
#define FIRST_PAUSE_MS		100
#define LONGEST_PAUSE_MS	1000
#define SUSPECT_AFTER		3		/* times that invalid WAL came at one position */
#define FAR_BEHIND			(16 * 1024 * 1024)
#define BOOT_RECORD_MAX		65536	/* bytes that are held until it is whole */

/* wal_sender_timeout also tells how soon the compute gives a stuck member up. */
#define COMPUTE_OPTIONS		"-c wal_sender_timeout=5s"

PGDLLEXPORT void wal_receiver_main(Datum arg);

/* ---- what ends everything ---- */

bool
fetch_interrupted(void *arg)
{
	Fetch	   *f = arg;
	SkPositions p;

	CHECK_FOR_INTERRUPTS();
	if (receivers_serial(f->row) != f->order.serial)
		return true;
	sk_get_positions(f->tl, &p);
	return p.promised > f->order.term || p.stop_term > f->order.term ||
		p.status == SK_DELETED || p.status == SK_DAMAGED;
}

ReceiverOptions
fetch_session(Fetch *f, bool replication)
{
	ReceiverOptions session;

	memset(&session, 0, sizeof(session));
	session.replication = replication;
	session.passfile = receivers_passfile;
	session.interrupted = fetch_interrupted;
	session.interrupted_arg = f;
	return session;
}

static FetchResult
failed(Fetch *f, char *problem)
{
	f->problem = problem;
	return FETCH_FAILED;
}

/* ---- the stream ---- */

typedef struct Stream
{
	Fetch	   *fetch;
	Receiver   *receiver;
	WalWriter  *writer;
	XLogRecPtr	stop_at;		/* nothing from here on is taken; 0: no end */
	bool		reply_requested;
	bool		pinged;
	bool		disk_full;
	WaitEventSet *events;		/* what a new message, order or promise sets */
	uint64		last_reply;		/* neon_boottime_ms(), as the next */
	uint64		last_message;
} Stream;

/* By a clock that no administrator sets. */
static long
ms_since(uint64 then)
{
	return (long) (neon_boottime_ms() - then);
}

/* R2, R11: no position is told that a promise might not know of. */
static bool
reply(Stream *s, bool request_reply, char **problem)
{
	NEON_TEST_POINT("before-wal-reply");
	if (!sk_note_acked(s->writer->tl, s->writer->flushed))
		sk_check_write(s->writer->tl);
	if (!receiver_reply(s->receiver, s->writer->flushed, s->writer->flushed,
						s->writer->flushed, request_reply, problem))
		return false;
	s->reply_requested = false;
	s->last_reply = neon_boottime_ms();
	return true;
}

static bool
reached_stop(const Stream *s, XLogRecPtr lsn)
{
	return s->stop_at != InvalidXLogRecPtr && lsn >= s->stop_at;
}

/* The bytes of a message, but those from stop_at on. */
static bool
take_wal(Stream *s, const ReceiverMessage *message, char **problem)
{
	size_t		len = message->len;

	if (reached_stop(s, message->start + len) && !reached_stop(s, message->start))
		len = s->stop_at - message->start;
	if (!walwriter_take(s->writer, message->start, message->data, len, problem))
		return false;
	s->fetch->progress = true;
	return true;
}

/* Takes what has arrived, up to a batch. */
static bool
take_batch(Stream *s, bool *idle, char **problem)
{
	XLogRecPtr	before = s->writer->received;

	*idle = false;
	while (s->writer->received - before < BATCH_BYTES && !reached_stop(s, s->writer->received))
	{
		ReceiverMessage message;
		ReceiverResult result = receiver_next(s->receiver, &message);

		if (result == RECEIVER_NOTHING)
		{
			*idle = true;
			break;
		}
		if (result == RECEIVER_ENDED)
		{
			*problem = pchomp(message.problem);
			return false;
		}
		s->last_message = neon_boottime_ms();
		s->pinged = false;
		if (result == RECEIVER_KEEPALIVE)
			s->reply_requested = s->reply_requested || message.reply_requested;
		else if (!take_wal(s, &message, problem))
			return false;
	}
	return true;
}

/*
 * With too little space on the disk nothing is read from the socket: the source
 * sees an old position and a living member.
 */
static void
check_disk(Stream *s)
{
	bool		full = !skwal_disk_has_space();

	if (full == s->disk_full)
		return;
	s->disk_full = full;
	if (full)
	{
		(void) sk_set_problem(s->writer->tl, "the disk is nearly full");
		ereport(LOG,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("no more WAL is taken, because the disk is nearly full"),
				 errdetail("Less than neon_safekeeper.min_free_disk is free below \"%s/neon\".", DataDir),
				 errhint("Make space there: receiving goes on by itself.")));
	}
	else
	{
		(void) sk_set_problem(s->writer->tl, "");
		s->last_message = neon_boottime_ms();
		ereport(LOG, (errmsg("WAL is taken again, because there is space on the disk")));
	}
}

/* A source that says nothing is asked, and given up if it still does not. */
static bool
check_silence(Stream *s, char **problem)
{
	long		silent = ms_since(s->last_message);

	if (s->disk_full)
		return true;			/* we do not listen */
	if (silent >= SILENCE_MS)
	{
		*problem = psprintf("the source has been silent for %ld ms", silent);
		return false;
	}
	if (silent >= SILENCE_MS / 2 && !s->pinged)
	{
		s->pinged = true;
		return reply(s, true, problem);
	}
	return true;
}

/* One round: what arrived becomes durable, then the source is told. */
static bool
stream_round(Stream *s, bool *idle, char **problem)
{
	XLogRecPtr	before = s->writer->flushed;
	bool		over = false;
	char	   *invalid = NULL;

	*idle = true;
	check_disk(s);
	if (!s->disk_full)
		over = !take_batch(s, idle, problem);
	/* what has come is kept, whatever ended the stream */
	if (!walwriter_settle(s->writer, &invalid))
	{
		*problem = invalid;
		return false;
	}
	if (over)
		return false;
	if ((s->writer->flushed > before || s->reply_requested ||
		 ms_since(s->last_reply) >= REPLY_INTERVAL_MS) &&
		!reply(s, false, problem))
		return false;
	walwriter_refresh(s->writer);
	return true;
}

static void
wait_for_source(Stream *s)
{
	long		timeout = Max(1, REPLY_INTERVAL_MS - ms_since(s->last_reply));
	WaitEvent	event;

	if (s->disk_full)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
						 PG_WAIT_EXTENSION);
	else
		(void) WaitEventSetWait(s->events, timeout, &event, 1, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

static WaitEventSet *
stream_events(Receiver *receiver)
{
	WaitEventSet *events = CreateWaitEventSet(CurrentMemoryContext, 3);

	AddWaitEventToSet(events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(events, WL_SOCKET_READABLE, receiver_socket(receiver), NULL, NULL);
	AddWaitEventToSet(events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	return events;
}

static void
reload_if_asked(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

FetchResult
fetch_stream(Fetch *f, Receiver *receiver, WalWriter *writer, XLogRecPtr stop_at)
{
	MemoryContext loop_context = AllocSetContextCreate(CurrentMemoryContext, "WAL stream",
													   ALLOCSET_DEFAULT_SIZES);
	MemoryContext outer = CurrentMemoryContext;
	Stream		s = {f, receiver, writer, .stop_at = stop_at, .reply_requested = true};
	FetchResult result = FETCH_STOP;
	char	   *problem = NULL;

	s.events = stream_events(receiver);
	s.last_message = neon_boottime_ms();
	MemoryContextSwitchTo(loop_context);
	while (!fetch_interrupted(f))
	{
		bool		idle;

		reload_if_asked();
		if (!stream_round(&s, &idle, &problem) || !check_silence(&s, &problem))
		{
			result = FETCH_FAILED;
			break;
		}
		if (reached_stop(&s, writer->flushed))
		{
			result = FETCH_DONE;
			break;
		}
		if (idle)
			wait_for_source(&s);
		MemoryContextReset(loop_context);
	}
	MemoryContextSwitchTo(outer);
	FreeWaitEventSet(s.events);
	if (result == FETCH_FAILED)
		f->problem = pstrdup(problem);
	MemoryContextDelete(loop_context);
	return result;
}

/* ---- R10: the boot record ---- */

/* The log below x, and behind it what came from the compute and is not yet written. */
typedef struct HeldBytes
{
	SkTimeline *tl;
	XLogRecPtr	x;
	StringInfoData bytes;
} HeldBytes;

static bool
read_held(void *arg, XLogRecPtr lsn, char *buf, size_t len)
{
	HeldBytes  *held = arg;

	if (lsn < held->x)
	{
		size_t		below = Min(len, held->x - lsn);

		if (!skwal_read(held->tl, lsn, buf, below))
			return false;
		lsn += below;
		buf += below;
		len -= below;
	}
	if (len == 0)
		return true;
	if (lsn + len > held->x + held->bytes.len)
		return false;
	memcpy(buf, held->bytes.data + (lsn - held->x), len);
	return true;
}

/* 1: it is the boot record of the order; 0: not there as a whole; -1: something else. */
static int
look_at_boot_record(Fetch *f, HeldBytes *held)
{
	WalCursor  *cursor = walcursor_open(read_held, held, f->tl->system_identifier,
										f->tl->wal_segment_size, held->x, InvalidXLogRecPtr,
										held->x + held->bytes.len);
	WalCursorResult result = walcursor_next(cursor);
	int			verdict = result == WALCURSOR_MORE ? 0 : -1;

	if (result == WALCURSOR_RECORD && bootrec_term(cursor->reader) == f->order.term &&
		bootrec_is_of_boot(cursor->reader, &f->order.boot_id))
		verdict = 1;
	walcursor_close(cursor);
	return verdict;
}

/* Adds one message; false if the stream cannot go on. */
static bool
hold_message(Receiver *receiver, HeldBytes *held, char **problem)
{
	ReceiverMessage message;
	ReceiverResult result = receiver_next(receiver, &message);

	if (result == RECEIVER_ENDED)
		*problem = pchomp(message.problem);
	else if (result == RECEIVER_NOTHING)
	{
		(void) WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT |
								 WL_EXIT_ON_PM_DEATH,
								 receiver_socket(receiver), REPLY_INTERVAL_MS,
								 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		/* the walsender must not think that we are gone */
		return receiver_reply(receiver, held->x, held->x, held->x, false, problem);
	}
	else if (result == RECEIVER_WAL && message.start != held->x + held->bytes.len)
		*problem = pstrdup("the compute sent WAL from an unexpected position");
	else if (result == RECEIVER_WAL)
		appendBinaryStringInfo(&held->bytes, message.data, message.len);
	return *problem == NULL;
}

/*
 * The log ends where the term begins: nothing is written before the first
 * record has proved to be the boot record of this term and boot.
 */
static FetchResult
take_boot_record(Fetch *f, Receiver *receiver, WalWriter *writer)
{
	HeldBytes	held = {f->tl, writer->received};
	char	   *problem = NULL;
	int			verdict = 0;

	initStringInfo(&held.bytes);
	while (verdict == 0)
	{
		if (fetch_interrupted(f))
			return FETCH_STOP;
		if (!hold_message(receiver, &held, &problem))
			return failed(f, problem);
		if (held.bytes.len > 0)
			verdict = look_at_boot_record(f, &held);
		if (verdict == 0 && held.bytes.len > BOOT_RECORD_MAX)
			verdict = -1;
	}
	if (verdict < 0)
		return failed(f, psprintf("what the compute sent at %X/%X is not the boot record of term %u",
								  LSN_FORMAT_ARGS(held.x), f->order.term));
	if (!walwriter_take(writer, held.x, held.bytes.data, held.bytes.len, &problem))
		return failed(f, problem);
	pfree(held.bytes.data);
	return FETCH_DONE;
}

/*
 * The log goes beyond the term's start: its boot record must be this compute's.
 * One that retention has removed is remembered; a member that was made later
 * never had it, nor had one that took its beginning from such a member, and
 * both trust the compute's word and the peers' log.
 */
static bool
stored_boot_record_matches(Fetch *f, const SkPositions *p)
{
	SkState    *st = palloc(sizeof(SkState));
	uint32		term;
	NeonId		boot_id;
	bool		same;

	sk_get_state(f->tl, st);
	if (p->term_start >= st->wal_start)
		same = skreader_boot_record(f->tl, p->term_start, p->flush_lsn, &term, &boot_id) &&
			term == f->order.term && bootrec_same_boot(&boot_id, &f->order.boot_id);
	else if (p->term_start < st->start_lsn)
		same = true;
	else
		same = st->boot_term == f->order.term &&
			(neon_id_is_zero(&st->boot_id) ||
			 bootrec_same_boot(&st->boot_id, &f->order.boot_id));
	pfree(st);
	return same;
}

/* ---- the compute ---- */

/* This member's slot and application name at the compute; false if it is none. */
static bool
member_name(Fetch *f, char *name)
{
	SkState	   *st = palloc(sizeof(SkState));
	const SkMember *self;
	NeonMember	member;

	sk_get_state(f->tl, st);
	self = skconfig_member(&st->config, sk_node());
	if (self)
	{
		memset(&member, 0, sizeof(member));
		member.id = self->id;
		neon_id_format(&self->node, member.node);
		members_name(&member, &f->order.boot_id, name);
	}
	pfree(st);
	return self != NULL;
}

/* SHOW of a setting of the compute must give this text. */
static bool
setting_is(Fetch *f, Receiver *receiver, const char *setting, const char *expected)
{
	char	   *problem = NULL;
	char	   *value = receiver_query(receiver, psprintf("SHOW %s", setting), FETCH_CONNECT_MS,
									   &problem);

	if (value && strcmp(value, expected) == 0)
		return true;
	f->problem = value ? psprintf("the compute's %s is %s, expected %s", setting, value, expected)
		: problem;
	return false;
}

static bool
is_expected_compute(Fetch *f, Receiver *receiver)
{
	char		boot_id[NEON_ID_HEXLEN + 1];

	return receiver_identify(receiver, f->tl->system_identifier, FETCH_CONNECT_MS, &f->problem) &&
		setting_is(f, receiver, "neon.term", psprintf("%u", f->order.term)) &&
		setting_is(f, receiver, "neon.boot_id", neon_id_format(&f->order.boot_id, boot_id));
}

static FetchResult
stream_with(Fetch *f, Receiver *receiver, WalWriter *writer, const char *slot)
{
	SkPositions p;
	FetchResult result;

	sk_get_positions(f->tl, &p);
	if (!p.counts || p.term != f->order.term)
		return failed(f, pstrdup("this member does not count for the term"));
	if (p.flush_lsn > p.term_start && !stored_boot_record_matches(f, &p))
		return failed(f, psprintf("the record at %X/%X is not the boot record of this compute",
								  LSN_FORMAT_ARGS(p.term_start)));
	if (!receiver_start(receiver, slot, writer->received, FETCH_CONNECT_MS, &f->problem))
		return FETCH_FAILED;
	ereport(LOG,
			(errmsg("receiving WAL of term %u from %X/%X on from the compute",
					f->order.term, LSN_FORMAT_ARGS(writer->received))));
	if (p.flush_lsn == p.term_start)
	{
		result = take_boot_record(f, receiver, writer);
		if (result != FETCH_DONE)
			return result;
	}
	(void) sk_set_problem(f->tl, "");
	return fetch_stream(f, receiver, writer, InvalidXLogRecPtr);
}

static FetchResult
stream_from_compute(Fetch *f)
{
	ReceiverOptions session = fetch_session(f, true);
	char		name[NEON_MEMBER_NAME_MAX];
	Receiver   *receiver;
	WalWriter	writer;
	FetchResult result = FETCH_FAILED;

	if (!member_name(f, name))
		return failed(f, pstrdup("this safekeeper is not a member of the timeline"));
	session.application_name = name;
	session.options = COMPUTE_OPTIONS;
	receiver = receiver_connect(f->order.conninfo, &session, FETCH_CONNECT_MS, &f->problem);
	if (receiver == NULL)
		return FETCH_FAILED;
	if (is_expected_compute(f, receiver))
	{
		walwriter_begin(&writer, f->tl, f->order.term, name);
		result = stream_with(f, receiver, &writer, name);
		walwriter_end(&writer);
		peers_ask_now();
	}
	receiver_close(receiver);
	return result;
}

/* ---- one order ---- */

/* From the peers, beginning anew where none of them has what comes next. */
static FetchResult
copy_or_jump(Fetch *f, XLogRecPtr upto)
{
	FetchResult result = copy_from_peers(f, upto);

	if (result == FETCH_FAILED && jump_to_peer(f))
		result = copy_from_peers(f, upto);
	return result;
}

/* What is missing up to the order's end or the term's start. */
static FetchResult
copy_missing(Fetch *f, const SkPositions *p)
{
	XLogRecPtr	upto = Max(f->order.upto, p->term_start);
	FetchResult result;

	if (p->flush_lsn >= upto)
		return FETCH_DONE;
	if (f->order.conninfo[0] == '\0' || p->flush_lsn < p->term_start)
		return copy_or_jump(f, upto);
	/* peers may have removed what the compute still has */
	result = copy_from_peers(f, upto);
	return result == FETCH_FAILED ? FETCH_DONE : result;
}

/*
 * A long way goes by the peers: the compute need not keep what a majority has.
 * Whatever comes of it, the compute may have the rest.
 */
static FetchResult
copy_long_way(Fetch *f)
{
	XLogRecPtr	committed = copy_committed_at_peers(f);

	if (committed > sk_flush_lsn(f->tl) + FAR_BEHIND &&
		copy_from_peers(f, committed) == FETCH_STOP)
		return FETCH_STOP;
	return FETCH_DONE;
}

/* Everything that the order asks for, once. */
static FetchResult
one_round(Fetch *f)
{
	SkPositions p;
	XLogRecPtr	upto;
	FetchResult result;

	sk_get_positions(f->tl, &p);
	/* a learner was given the history that it copies */
	if (p.member && (p.promised < f->order.term || p.term < f->order.term))
	{
		result = copy_learn_term(f);
		if (result != FETCH_DONE)
			return result;
		sk_get_positions(f->tl, &p);
	}
	result = copy_missing(f, &p);
	if (result != FETCH_DONE || f->order.conninfo[0] == '\0')
		return result;
	if (copy_long_way(f) == FETCH_STOP)
		return FETCH_STOP;
	result = stream_from_compute(f);
	/* the compute may not have the WAL any more, or be gone: what is committed is at the peers */
	if (result == FETCH_FAILED && !f->progress &&
		(upto = copy_committed_at_peers(f)) > sk_flush_lsn(f->tl))
	{
		char	   *problem = f->problem;

		(void) copy_or_jump(f, upto);
		f->problem = problem;
	}
	return result;
}

typedef struct Attempts
{
	uint64		failing_since;	/* 0: it works */
	int			pause_ms;
	XLogRecPtr	invalid_at;		/* where invalid WAL came, and how often */
	int			invalid_times;
} Attempts;

/* The same problem is not news each time. */
static void
report_problem(Fetch *f, Attempts *a)
{
	const char *problem = f->problem ? f->problem : "unknown";
	XLogRecPtr	at = sk_flush_lsn(f->tl);

	if (strncmp(problem, "invalid WAL", 11) == 0)
	{
		a->invalid_times = a->invalid_at == at ? a->invalid_times + 1 : 1;
		a->invalid_at = at;
	}
	if (sk_set_problem(f->tl, problem))
		ereport(LOG,
				(errmsg("receiving WAL stopped at %X/%X: %s", LSN_FORMAT_ARGS(at), problem)));
	if (a->invalid_times == SUSPECT_AFTER)
		ereport(LOG,
				(errmsg("invalid WAL came %d times at %X/%X", SUSPECT_AFTER, LSN_FORMAT_ARGS(at)),
				 errhint("Suspect the memory or the disk of the compute.")));
}

/* False if it has failed for too long. */
static bool
worth_another_attempt(Fetch *f, Attempts *a)
{
	report_problem(f, a);
	if (f->progress || a->failing_since == 0)
	{
		a->failing_since = neon_boottime_ms();
		a->pause_ms = FIRST_PAUSE_MS;
	}
	f->progress = false;
	if (ms_since(a->failing_since) >= GONE_MS)
		return false;
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, a->pause_ms,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	a->pause_ms = Min(a->pause_ms * 2, LONGEST_PAUSE_MS);
	return true;
}

/* A compute that has gone is no problem of the timeline's, as long as nothing is missing here. */
static void
forget_problem(Fetch *f)
{
	SkPositions p;

	sk_get_positions(f->tl, &p);
	if (p.promised == f->order.term && p.flush_lsn >= Max(f->order.upto, p.term_start))
		(void) sk_set_problem(f->tl, "");
}

static void
log_if_superseded(Fetch *f)
{
	SkPositions p;

	sk_get_positions(f->tl, &p);
	if (p.promised > f->order.term)
		ereport(LOG,
				(errmsg("WAL of term %u is not received any more: superseded by term %u",
						f->order.term, p.promised)));
}

/* Until the order is done, given up, or replaced by a newer one. */
static void
carry_out(Fetch *f)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "WAL receiver round",
												  ALLOCSET_DEFAULT_SIZES);
	Attempts	attempts = {0};
	FetchResult result;

	receivers_get_order(f->row, &f->order);
	f->progress = false;
	do
	{
		reload_if_asked();
		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
		f->problem = NULL;
		result = fetch_interrupted(f) ? FETCH_STOP : one_round(f);
	} while (result == FETCH_FAILED && worth_another_attempt(f, &attempts));
	if (result == FETCH_STOP)
		log_if_superseded(f);
	else
		forget_problem(f);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
}

/* ---- the process ---- */

static void
start_process(void)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "neon wal receiver");
	MemoryContextSwitchTo(TopMemoryContext);
}

/* Whoever ordered it orders it again; an order that came meanwhile finds the process restarted. */
static void pg_attribute_noreturn()
end_process(Fetch *f)
{
	proc_exit(receivers_finish(f->row, f->order.serial) ? 0 : 1);
}

/*
 * A higher promise may stop a write anywhere: that is an end and no error.
 * After an error a new process reads the disk before it goes on.
 */
static void
carry_out_guarded(Fetch *f)
{
	PG_TRY();
	{
		carry_out(f);
	}
	PG_CATCH();
	{
		MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
		ErrorData  *error = CopyErrorData();

		MemoryContextSwitchTo(context);
		if (error->sqlerrcode == ERRCODE_NS_SUPERSEDED || error->sqlerrcode == ERRCODE_NS_UNKNOWN)
		{
			FlushErrorState();
			ereport(LOG, (errmsg("receiving WAL ends: %s", error->message)));
		}
		else
		{
			(void) sk_set_problem(f->tl, error->message);
			sk_recover_from_error(f->tl, TopMemoryContext);
		}
		end_process(f);
	}
	PG_END_TRY();
}

void
wal_receiver_main(Datum arg)
{
	static Fetch fetch;
	Fetch	   *f = &fetch;
	NeonId		tenant;
	NeonId		timeline;

	start_process();
	f->row = DatumGetInt32(arg);
	memcpy(&timeline, MyBgworkerEntry->bgw_extra, sizeof(timeline));
	if (!receivers_attach(f->row, &tenant, &timeline))
		proc_exit(0);
	receivers_get_order(f->row, &f->order);
	f->tl = sk_open_if_known(&tenant, &timeline);
	if (f->tl == NULL)
	{
		receivers_finish(f->row, f->order.serial);
		proc_exit(0);
	}
	do
	{
		carry_out_guarded(f);
	} while (!receivers_finish(f->row, f->order.serial));
	(void) sk_close_cleanly(f->tl);
	proc_exit(0);
}
