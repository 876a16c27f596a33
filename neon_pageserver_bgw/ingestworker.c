/*-------------------------------------------------------------------------
 *
 * ingestworker.c
 *	  The worker that receives and indexes the WAL of one timeline.
 *
 * It owns its timeline while it runs.  First it indexes what is stored, then it
 * streams from the source that the table names, again and again with growing
 * pauses, until the source is cleared or somebody wants the ownership.  An
 * ERROR ends the process; the postmaster starts it again after a second.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest_private.h"
#include "ingestworker.h"
#include "miscadmin.h"
#include "neon_bootrec.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "neon_receive.h"
#include "neon_testpoint.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "source.h"
#include "sourceselect.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "walmend.h"
#include "walstore.h"

#define SLOT_NAME			"neon_pageserver"
#define CONNECT_TIMEOUT_MS	10000
#define SYNC_INTERVAL_MS	200		/* received WAL is durable and reported by then */
#define SYNC_BYTES			(16 * 1024 * 1024)
#define BATCH_BYTES			(1024 * 1024)	/* received between two publications */
#define HOUSEKEEPING_MS		1000
#define ALIVE_INTERVAL_MS	1000	/* between answers while the store is busy */
#define MEMBER_SILENCE_MS	5000	/* of one safekeeper among others */
#define FIRST_LOOK_MS		5000
#define LONGEST_LOOK_MS		60000
#define LEAST_IDLE_END_MS	10000	/* see idle_end_ms() */
#define LAST_FLUSH_MS		600000	/* at most, for a layer before the end */
#define FIRST_PAUSE_MS		100
#define LONGEST_PAUSE_MS	5000
#define OWNERSHIP_WAIT_MS	60000
#define SAME_PROBLEM_MS		60000	/* between two messages of the same problem */
#define RESTART_SECONDS		1

/* Why a stream ended, and so what comes next. */
typedef enum StreamEnd
{
	STREAM_RETRY,				/* the connection failed */
	STREAM_RETARGET,			/* the source changed */
	STREAM_STOP,				/* no source, or the ownership is wanted */
} StreamEnd;

typedef struct Worker
{
	int			row;
	Timeline   *tl;
	Ingest	   *ingest;
	SourceTarget target;
	/* the connection, NULL while there is none */
	Receiver   *receiver;
	WalCursor  *cursor;
	XLogRecPtr	received;		/* end of the bytes that are in wal/ */
	XLogRecPtr	synced;			/* end of those that are durable */
	XLogRecPtr	reported;		/* flush position told last */
	XLogRecPtr	applied;		/* position of what the source need not keep, told last */
	bool		reply_requested;
	bool		pinged;			/* asked for an answer after a long silence */
	TimestampTz last_message;	/* by the wall clock; the others in neon_clock() */
	TimestampTz last_heard;		/* the same */
	TimestampTz last_sync;
	TimestampTz last_reply;
	TimestampTz last_wal;
	TimestampTz last_look;		/* at the other members, or WAL came since */
	long		look_after;		/* ms from then until they are asked */
	TimestampTz last_housekeeping;
	char	   *problem;		/* why the stream failed */
	char	   *last_problem;	/* and the time before */
	TimestampTz last_problem_logged;
	bool		progress;		/* something was indexed in this connection */
	bool		stored_indexed; /* all that is stored, and nothing is behind it */
	TimestampTz damage_logged;
} Worker;

PGDLLEXPORT void neon_ingest_main(Datum arg);
PGDLLEXPORT void neon_recovery_main(Datum arg);

/* ---- ordering workers ---- */

bool
ingestworker_start(int row, const NeonId *timeline)
{
	BackgroundWorker worker;
	char		hex[NEON_ID_HEXLEN + 1];

	library_worker(&worker, "neon_pageserver", "neon_ingest_main", "neon ingest");
	worker.bgw_restart_time = RESTART_SECONDS;
	snprintf(worker.bgw_name, BGW_MAXLEN, "neon ingest %s", neon_id_format(timeline, hex));
	worker.bgw_main_arg = Int32GetDatum(row);
	memcpy(worker.bgw_extra, timeline, sizeof(NeonId));
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

void
ingest_register_worker(void)
{
	BackgroundWorker worker;

	library_worker(&worker, "neon_pageserver", "neon_recovery_main", "neon pageserver recovery");
	worker.bgw_restart_time = RESTART_SECONDS;
	/* while the instance recovers its own files, which takes a sync of all of them */
	worker.bgw_start_time = BgWorkerStart_PostmasterStart;
	RegisterBackgroundWorker(&worker);
}

/* ---- durability and answers ---- */

static bool
fail(Worker *w, const char *problem)
{
	w->problem = MemoryContextStrdup(TopMemoryContext, problem);
	return false;
}

/*
 * What is in no layer file is here only once, as stored WAL, and is fetched again
 * from the safekeepers if that is damaged: they keep it until then.  Not so a
 * compute: its slot goes by the flush position, and its sessions may wait for
 * "applied"; wal_keep_size says what is there longer.
 */
static XLogRecPtr
applied_position(const Worker *w)
{
	if (w->target.kind == SOURCE_COMPUTE)
		return w->reported;
	return Min(w->reported, timeline_disk_consistent_lsn(w->tl));
}

static bool
tell_positions(Worker *w, bool request_reply, char **problem)
{
	w->last_reply = neon_clock();
	w->applied = applied_position(w);
	return receiver_reply(w->receiver, w->received, w->reported, w->applied, request_reply,
						  problem);
}

static bool
send_reply(Worker *w, bool request_reply)
{
	char	   *problem;

	if (!tell_positions(w, request_reply, &problem))
		return fail(w, problem);
	w->reply_requested = false;
	return true;
}

static long
ms_since(TimestampTz then)
{
	return TimestampDifferenceMilliseconds(then, neon_clock());
}

static void
note_message(Worker *w)
{
	w->last_message = GetCurrentTimestamp();
	w->last_heard = neon_clock();
}

/* Called while the store is busy for long: the source must not think that we are gone. */
static void
keep_alive(void *arg)
{
	Worker	   *w = arg;
	char	   *problem;

	if (w->receiver == NULL || ms_since(w->last_reply) < ALIVE_INTERVAL_MS)
		return;
	/* a failure is seen by who uses the connection next */
	if (!tell_positions(w, false, &problem))
		pfree(problem);
}

/* What was received becomes durable; whole records of it are reported. */
static void
sync_wal(Worker *w)
{
	XLogRecPtr	end = ingest_state(w->ingest)->lsn;

	if (w->synced < w->received)
	{
		walstore_sync(w->tl);
		w->synced = w->received;
	}
	if (timeline_flush_lsn(w->tl) < end)
		timeline_set_flush_lsn(w->tl, end);
	w->reported = end;
	w->last_sync = neon_clock();
	source_report(w->row, true, w->received, w->reported, w->last_message);
}

static bool
sync_and_reply_if_due(Worker *w)
{
	bool		unsynced = w->synced < w->received ||
	w->reported < ingest_state(w->ingest)->lsn;

	if (!unsynced)
		return w->reply_requested ? send_reply(w, false) : true;
	if (!w->reply_requested && w->received - w->synced < SYNC_BYTES &&
		ms_since(w->last_sync) < SYNC_INTERVAL_MS)
		return true;
	sync_wal(w);
	return send_reply(w, false);
}

/* ---- receiving ---- */

static bool
store_bytes(Worker *w, const ReceiverMessage *message)
{
	if (message->start != w->received)
		return fail(w, psprintf("the source sent WAL from %X/%X, expected %X/%X",
								LSN_FORMAT_ARGS(message->start),
								LSN_FORMAT_ARGS(w->received)));
	walstore_write(w->tl, message->start, message->data, message->len);
	w->received += message->len;
	return true;
}

/* Takes what is there, up to a batch.  False if the stream is over. */
static bool
receive_batch(Worker *w, bool *idle)
{
	XLogRecPtr	before = w->received;

	*idle = false;
	while (w->received - before < BATCH_BYTES)
	{
		ReceiverMessage message;
		ReceiverResult result = receiver_next(w->receiver, &message);

		if (result == RECEIVER_NOTHING)
		{
			*idle = true;
			break;
		}
		if (result == RECEIVER_ENDED)
			return fail(w, pchomp(message.problem));
		note_message(w);
		w->pinged = false;
		if (result == RECEIVER_KEEPALIVE)
			w->reply_requested = w->reply_requested || message.reply_requested;
		else if (!store_bytes(w, &message))
			return false;
		else
		{
			w->last_wal = w->last_heard;
			w->last_look = w->last_heard;
			w->look_after = FIRST_LOOK_MS;
		}
	}
	return true;
}

/*
 * A compute's WAL is that of its term.  Safekeepers have one history, in which
 * terms only rise.
 */
static bool
may_be_indexed(Worker *w, XLogReaderState *record, const char **problem)
{
	uint32		booted;
	uint32		last = ingest_state(w->ingest)->term;

	if (w->target.kind == SOURCE_COMPUTE)
		return ingest_check_term(w->ingest, w->target.term, record, problem);
	booted = bootrec_term(record);
	if (booted == 0 || booted > last)
		return true;
	*problem = psprintf("boot record of term %u at %X/%X follows term %u",
						booted, LSN_FORMAT_ARGS(record->ReadRecPtr), last);
	return false;
}

/*
 * Indexes whole records.  A record that is not valid, or not this writer's, is
 * refused: nothing behind the last good one is kept.
 */
static bool
index_received(Worker *w)
{
	WalCursorResult result;
	const char *problem;

	w->cursor->limit = w->received;
	while ((result = walcursor_next(w->cursor)) == WALCURSOR_RECORD)
	{
		if (!may_be_indexed(w, w->cursor->reader, &problem))
		{
			ingest_publish(w->ingest);
			return fail(w, problem);
		}
		ingest_record(w->ingest, w->cursor->reader);
		w->progress = true;
	}
	ingest_publish(w->ingest);
	if (result == WALCURSOR_INVALID)
		return fail(w, psprintf("invalid WAL behind %X/%X: %s",
								LSN_FORMAT_ARGS(ingest_state(w->ingest)->lsn),
								w->cursor->problem));
	return true;
}

/* ---- between batches ---- */

/* False if the worker has to leave this stream, with *end set. */
static bool
may_go_on(Worker *w, StreamEnd *end)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (timeline_ownership_wanted(w->tl) || source_generation(w->row) == 0)
	{
		*end = STREAM_STOP;
		return false;
	}
	if (source_generation(w->row) != w->target.generation)
	{
		*end = STREAM_RETARGET;
		return false;
	}
	return true;
}

static void
flush_if_due(Worker *w)
{
	bool		wanted = source_take_flush_request(w->row);

	if (!wanted && !store_flush_wanted(w->tl) && !store_flush_due(w->tl) &&
		ms_since(w->last_housekeeping) < HOUSEKEEPING_MS)
		return;
	if (ms_since(w->last_housekeeping) >= HOUSEKEEPING_MS)
		timeline_close_files(false);
	w->last_housekeeping = neon_clock();
	ingest_flush(w->ingest, wanted ? INGEST_FLUSH_BEGIN : INGEST_FLUSH_IF_DUE);
}

/* A layer was written, perhaps long after the last WAL: what is kept for us may go. */
static bool
tell_of_layers(Worker *w)
{
	return applied_position(w) == w->applied || send_reply(w, false);
}

/* A source that says nothing is asked, and given up if it still does not. */
static bool
check_silence(Worker *w)
{
	long		silent = ms_since(w->last_heard);
	long		limit = ingest_source_timeout;

	/* there are others */
	if (w->target.kind == SOURCE_SAFEKEEPERS)
		limit = Min(limit, MEMBER_SILENCE_MS);
	if (silent >= limit)
		return fail(w, psprintf("the source has been silent for %ld ms", silent));
	if (silent >= limit / 2 && !w->pinged)
	{
		w->pinged = true;
		return send_reply(w, true);
	}
	return true;
}

/*
 * A safekeeper that has nothing new may be cut off: look whether another one
 * has more, ever less often.  False if so, for then that one is to be read.
 */
static bool
look_around(Worker *w)
{
	if (w->target.kind != SOURCE_SAFEKEEPERS || ms_since(w->last_look) < w->look_after)
		return true;
	if (source_has_more(w->tl, &w->target, w->received))
		return fail(w, "another safekeeper has more WAL");
	w->last_look = neon_clock();
	w->look_after = Min(w->look_after * 2, LONGEST_LOOK_MS);
	return true;
}

/* Without WAL and without being named for so long, the worker ends. */
static int
idle_end_ms(void)
{
	return Max(LEAST_IDLE_END_MS, 2 * Min(ingest_source_timeout, INT_MAX / 2));
}

/*
 * When there is nothing for long and nobody names the source again, it ends.
 * Before, what it has received gets into a layer, and the safekeepers hear of
 * that: else they would keep it until the timeline is used again.
 */
static void
end_if_forgotten(Worker *w)
{
	int			idle_ms = idle_end_ms();

	if (w->target.kind != SOURCE_SAFEKEEPERS || ms_since(w->last_wal) < idle_ms ||
		source_is_named(w->row, idle_ms))
		return;
	if (w->applied >= ingest_state(w->ingest)->lsn ||
		timeline_state(w->tl) != TIMELINE_ACTIVE ||
		ms_since(w->last_wal) >= idle_ms + LAST_FLUSH_MS)
		source_forget_if_unnamed(w->row, idle_ms);
	else
		ingest_flush(w->ingest, INGEST_FLUSH_BEGIN);
}

static void
wait_for_source(Worker *w)
{
	bool		unsynced = w->synced < w->received ||
	w->reported < ingest_state(w->ingest)->lsn;
	long		timeout = HOUSEKEEPING_MS;

	if (unsynced)
		timeout = Max(1, SYNC_INTERVAL_MS - ms_since(w->last_sync));
	(void) WaitLatchOrSocket(MyLatch,
							 WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 receiver_socket(w->receiver), timeout, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/* ---- one connection ---- */

static bool
open_stream(Worker *w, int turn)
{
	const ControlState *state = ingest_state(w->ingest);
	const char *slot = w->target.kind == SOURCE_COMPUTE ? SLOT_NAME : NULL;
	MemoryContext old;
	char	   *problem;

	w->receiver = source_connect(w->tl, &w->target, turn, &problem);
	if (w->receiver == NULL ||
		!receiver_start(w->receiver, slot, state->lsn, CONNECT_TIMEOUT_MS, &problem))
		return fail(w, problem);

	w->received = state->lsn;
	w->synced = state->lsn;
	w->reported = state->lsn;
	w->applied = InvalidXLogRecPtr;
	w->reply_requested = true;	/* tell the positions at once */
	w->pinged = false;
	w->progress = false;
	w->last_sync = 0;
	note_message(w);
	w->last_wal = w->last_heard;
	w->last_look = w->last_heard;
	w->look_after = FIRST_LOOK_MS;
	/* it outlives the reset of the loop's memory */
	old = MemoryContextSwitchTo(TopMemoryContext);
	w->cursor = walstore_cursor(w->tl, state->lsn, state->prev, state->lsn);
	MemoryContextSwitchTo(old);
	source_report(w->row, true, w->received, w->reported, w->last_message);
	return true;
}

static void
close_stream(Worker *w)
{
	if (w->cursor)
		walcursor_close(w->cursor);
	w->cursor = NULL;
	if (w->receiver)
		receiver_close(w->receiver);
	w->receiver = NULL;
}

/*
 * The bytes behind the last record are of no use: the next connection sends
 * them again, or another writer other ones.
 */
static void
drop_partial_record(Worker *w)
{
	XLogRecPtr	end = ingest_state(w->ingest)->lsn;

	if (w->received > end)
	{
		ingest_clean_tail(w->ingest, w->received);
		walstore_sync(w->tl);
		w->received = end;
	}
	source_report(w->row, false, end, w->reported, w->last_message);
}

static StreamEnd
stream(Worker *w, int turn)
{
	MemoryContext loop_context = AllocSetContextCreate(TopMemoryContext, "ingest loop",
													   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(loop_context);
	StreamEnd	end = STREAM_RETRY;

	if (open_stream(w, turn))
	{
		while (may_go_on(w, &end))
		{
			bool		idle;
			bool		over = !receive_batch(w, &idle);

			/* what has arrived is indexed, whatever ended the stream */
			if (!index_received(w) || over || !sync_and_reply_if_due(w))
				break;
			flush_if_due(w);
			if (idle)
			{
				if (!check_silence(w) || !look_around(w) || !tell_of_layers(w))
					break;
				end_if_forgotten(w);
				wait_for_source(w);
			}
			MemoryContextReset(loop_context);
		}
		sync_wal(w);
		drop_partial_record(w);
	}
	MemoryContextSwitchTo(old);
	close_stream(w);
	MemoryContextDelete(loop_context);
	return end;
}

/* ---- the worker's life ---- */

/* A source that stays away is not news each time. */
static void
report_problem(Worker *w)
{
	if (w->problem == NULL)
		return;
	if (w->last_problem == NULL || strcmp(w->last_problem, w->problem) != 0 ||
		ms_since(w->last_problem_logged) >= SAME_PROBLEM_MS)
	{
		ereport(LOG,
				(errmsg("receiving WAL stopped at %X/%X: %s",
						LSN_FORMAT_ARGS(ingest_state(w->ingest)->lsn), w->problem)));
		w->last_problem_logged = neon_clock();
	}
	source_report_error(w->row, w->problem);
	if (w->last_problem)
		pfree(w->last_problem);
	w->last_problem = w->problem;
	w->problem = NULL;
}

/* A source of an older term than what is stored already has nothing to say. */
static bool
is_superseded(Worker *w)
{
	uint32		term = ingest_state(w->ingest)->term;
	char		problem[64];

	if (w->target.kind != SOURCE_COMPUTE || w->target.term == 0 || term <= w->target.term)
		return false;
	snprintf(problem, sizeof(problem), "superseded by term %u", term);
	fail(w, problem);
	return true;
}

static void
pause_worker(int ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/* Once a minute, for the source may come that has it. */
static void
log_damage(Worker *w, const char *text)
{
	char		hex[NEON_ID_HEXLEN + 1];

	if (w->damage_logged != 0 && ms_since(w->damage_logged) < SAME_PROBLEM_MS)
		return;
	w->damage_logged = neon_clock();
	ereport(LOG,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("timeline \"%s\" receives no WAL: what is stored behind %X/%X is damaged",
					neon_id_format(&w->tl->id.timeline, hex),
					LSN_FORMAT_ARGS(ingest_state(w->ingest)->lsn)),
			 errdetail("In %s. %s", walmend_place(w->tl, ingest_state(w->ingest)->lsn), text),
			 errhint("It is tried again. If the WAL is nowhere else, restore the pageserver from a backup, or branch at that LSN.")));
}

/*
 * Indexes what is stored.  Damage in the midst of it is fetched again from the
 * source; as long as that cannot be done, what is stored behind it stays there.
 */
static bool
index_stored(Worker *w)
{
	XLogRecPtr	end;
	char	   *text;

	if (w->stored_indexed)
		return true;
	ingest_stored_wal(w->ingest);
	while ((end = ingest_goes_on(w->ingest)) != 0)
	{
		const ControlState *state = ingest_state(w->ingest);

		if (!walmend(w->tl, state->lsn, state->prev, end, &text))
		{
			log_damage(w, text);
			return fail(w, psprintf("stored WAL is damaged. %s", text));
		}
		ereport(LOG,
				(errmsg("damaged stored WAL behind %X/%X: %s", LSN_FORMAT_ARGS(state->lsn), text)));
		ingest_stored_wal(w->ingest);
	}
	/* nothing of an aborted writer may stay behind the last record */
	ingest_clean_tail(w->ingest, PG_UINT64_MAX);
	walstore_sync(w->tl);
	w->stored_indexed = true;
	return true;
}

static void
follow_source(Worker *w)
{
	int			pause_ms = FIRST_PAUSE_MS;
	int			next = 0;
	StreamEnd	end;

	for (;;)
	{
		source_worker_target(w->row, &w->target);
		if (!may_go_on(w, &end))
		{
			if (end == STREAM_STOP)
				break;
			continue;
		}
		if (!index_stored(w))
			end = STREAM_RETRY;
		else if (is_superseded(w))
			end = STREAM_STOP;
		else
			end = stream(w, next++);
		report_problem(w);
		if (end == STREAM_STOP)
			break;
		if (end == STREAM_RETARGET || w->progress)
			pause_ms = FIRST_PAUSE_MS;
		w->progress = false;
		if (end == STREAM_RETRY)
		{
			pause_worker(pause_ms);
			pause_ms = Min(pause_ms * 2, LONGEST_PAUSE_MS);
			flush_if_due(w);
		}
	}
}

static void
run_worker(Worker *w)
{
	if (!timeline_acquire_ownership(w->tl, false, OWNERSHIP_WAIT_MS))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not get hold of the timeline")));
	w->ingest = ingest_begin(w->tl);
	w->stored_indexed = false;
	follow_source(w);
	/* nobody may ingest for long: leave no index in memory */
	ingest_flush(w->ingest, source_generation(w->row) == 0 ?
				 INGEST_FLUSH_BEGIN : INGEST_FLUSH_IF_DUE);
	if (w->stored_indexed)
		ingest_rest(w->ingest);
	ingest_end(w->ingest);
	timeline_release_ownership(w->tl);
}

/*
 * A worker whose predecessors failed without progress, on a full disk for
 * instance, comes more and more seldom: the log shall be readable.
 */
static void
pause_after_failures(int row)
{
	TimestampTz end = TimestampTzPlusMilliseconds(neon_clock(), source_failure_pause(row));
	long		left;

	while ((left = TimestampDifferenceMilliseconds(neon_clock(), end)) > 0 &&
		   source_generation(row) != 0)
	{
		pause_worker(left);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
start_process(const char *name)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	CurrentResourceOwner = ResourceOwnerCreate(NULL, name);
	MemoryContextSwitchTo(TopMemoryContext);
}

void
neon_ingest_main(Datum arg)
{
	static Worker worker;
	Worker	   *w = &worker;
	NeonId		tenant;
	NeonId		timeline;

	start_process("neon ingest");
	w->row = DatumGetInt32(arg);
	memcpy(&timeline, MyBgworkerEntry->bgw_extra, sizeof(timeline));
	if (!source_attach(w->row, &tenant, &timeline))
		proc_exit(0);
	pause_after_failures(w->row);
	w->tl = timeline_open(&tenant, &timeline, true);
	if (w->tl == NULL)
		proc_exit(0);

	store_set_tick(keep_alive, w);
	PG_TRY();
	{
		run_worker(w);
	}
	PG_CATCH();
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		ErrorData  *error = CopyErrorData();

		source_report_error(w->row, error->message ? error->message : "unknown error");
		FreeErrorData(error);
		MemoryContextSwitchTo(old);
		PG_RE_THROW();
	}
	PG_END_TRY();
	proc_exit(0);
}

/* ---- after a start of the server ---- */

static void
recover_one(Timeline *tl, void *arg)
{
	MemoryContext context = CurrentMemoryContext;

	if (timeline_state(tl) != TIMELINE_ACTIVE)
		return;
	PG_TRY();
	{
		NEON_TEST_POINT("recovery-next");
		ingest_catch_up(tl);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		FlushErrorState();
	}
	PG_END_TRY();
}

/*
 * Indexes the stored WAL of all timelines once, then stays so that it is
 * started again after a crash of a backend.  The processors are its own so
 * long: compaction waits for it.
 */
void
neon_recovery_main(Datum arg)
{
	start_process("neon pageserver recovery");
	timeline_foreach(recover_one, NULL);
	store_allow_compaction();
	timeline_close_files(true);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}
