/*-------------------------------------------------------------------------
 *
 * servestream.c
 *	  START_REPLICATION: committed WAL of one timeline to one client.
 *
 * The loop never blocks but in one place, where it waits for the client's
 * socket, for commit_lsn to advance, for a signal and for the next timeout at
 * once.  What is sent lies in [wal_start, commit_lsn): that never changes any
 * more, and segment files are never recycled, so no test is needed after a
 * read.  Time limits are measured by a clock that nobody sets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"


#include "access/xlog_internal.h"
#include "libpq/libpq.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "neon_clientmsg.h"
#include "neon_clock.h"
#include "pgstat.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "serve_private.h"
#include "skwal.h"
#include "slot.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/ps_status.h"
#include "utils/timestamp.h"

#define MAX_SEND_SIZE		(XLOG_BLCKSZ * 16)
#define WAL_HEADER_SIZE		(1 + 8 + 8 + 8)
#define IDLE_WAIT_MS		10000

#define MSG_WAL				'w'
#define MSG_KEEPALIVE		'k'
#define MSG_STATUS			'r'
#define MSG_FEEDBACK		'h'

typedef struct Stream
{
	SkTimeline *tl;
	XLogRecPtr	sent;			/* the next byte to be sent */
	XLogRecPtr	start;			/* what is here, as last looked: [start, end) */
	XLogRecPtr	end;
	bool		caught_up;
	bool		done;			/* CopyDone came from the client, and was answered */
	bool		ping_sent;		/* and not answered */
	int64		last_reply_ms;
	StringInfoData out;
	char		progress[64];	/* shown by ps */
} Stream;

static int64
monotonic_ms(void)
{
	return neon_clock() / 1000;
}

/* ---- what is sent ---- */

/*
 * What may be sent now.  A damaged timeline's good part is served; at
 * its end the client is told, so that it can go to another member.
 */
static void
look_at_timeline(Stream *s)
{
	SkPositions p;

	sk_get_positions(s->tl, &p);
	if (p.status == SK_DELETED)
		ereport(ERROR,
				(errcode(ERRCODE_NS_UNKNOWN),
				 errmsg("the timeline has been deleted")));
	s->start = p.wal_start;
	s->end = p.commit_lsn;
	if (p.status == SK_DAMAGED)
	{
		s->end = Min(p.commit_lsn, p.flush_lsn);
		if (s->sent >= s->end)
			sk_check_healthy(s->tl);
	}
}

static void
refuse_removed(Stream *s)
{
	char		name[MAXFNAMELEN];
	XLogSegNo	segno;

	XLByteToSeg(s->sent, segno, s->tl->wal_segment_size);
	XLogFileName(name, SERVE_TLI, segno, s->tl->wal_segment_size);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FILE),
			 errmsg("requested WAL segment %s has already been removed", name)));
}

/* Where the next message ends: a page boundary, unless the end comes first. */
static XLogRecPtr
message_end(Stream *s)
{
	XLogRecPtr	end = s->sent + MAX_SEND_SIZE;
	XLogRecPtr	segment_end = s->sent + s->tl->wal_segment_size -
	XLogSegmentOffset(s->sent, s->tl->wal_segment_size);

	if (end >= s->end)
		end = s->end;
	else
		end -= end % XLOG_BLCKSZ;
	return Min(end, segment_end);
}

static void
show_progress(Stream *s)
{
	if (!update_process_title)
		return;
	snprintf(s->progress, sizeof(s->progress), "streaming %X/%X", LSN_FORMAT_ARGS(s->sent));
	set_ps_display(s->progress);
}

static void
note_sent(Stream *s)
{
	SpinLockAcquire(&MyWalSnd->mutex);
	MyWalSnd->sentPtr = s->sent;
	SpinLockRelease(&MyWalSnd->mutex);
}

static void
send_wal(Stream *s)
{
	XLogRecPtr	end;
	int			len;

	look_at_timeline(s);
	s->caught_up = s->sent >= s->end;
	if (s->caught_up)
		return;
	if (s->sent < s->start)
		refuse_removed(s);
	end = message_end(s);
	len = (int) (end - s->sent);
	resetStringInfo(&s->out);
	pq_sendbyte(&s->out, MSG_WAL);
	pq_sendint64(&s->out, s->sent);
	pq_sendint64(&s->out, s->end);
	enlargeStringInfo(&s->out, 8 + len);
	if (!skwal_read(s->tl, s->sent, s->out.data + WAL_HEADER_SIZE, len))
		refuse_removed(s);
	pq_sendint64(&s->out, GetCurrentTimestamp());
	s->out.len += len;
	pq_putmessage_noblock('d', s->out.data, s->out.len);

	s->sent = end;
	s->caught_up = s->sent >= s->end;
	note_sent(s);
	servelag_sent(s->sent);
	show_progress(s);
}

static void
send_keepalive(Stream *s, bool request_reply)
{
	resetStringInfo(&s->out);
	pq_sendbyte(&s->out, MSG_KEEPALIVE);
	pq_sendint64(&s->out, s->sent);
	pq_sendint64(&s->out, GetCurrentTimestamp());
	pq_sendbyte(&s->out, request_reply ? 1 : 0);
	pq_putmessage_noblock('d', s->out.data, s->out.len);
	if (request_reply)
		s->ping_sent = true;
}

/* ---- what is received ---- */

static void
show_status(Stream *s, XLogRecPtr written, XLogRecPtr flushed, XLogRecPtr applied,
			TimestampTz at)
{
	SpinLockAcquire(&MyWalSnd->mutex);
	MyWalSnd->write = written;
	MyWalSnd->flush = flushed;
	MyWalSnd->apply = applied;
	MyWalSnd->replyTime = at;
	SpinLockRelease(&MyWalSnd->mutex);
}

/* Nobody has what was not sent. */
static XLogRecPtr
believable(Stream *s, XLogRecPtr lsn)
{
	return Min(lsn, s->sent);
}

/*
 * The pageserver: written is what it has received, flushed the WAL that its
 * disk has, applied what is in layer files there.
 */
static void
note_pageserver(Stream *s, XLogRecPtr written, XLogRecPtr flushed, XLogRecPtr applied)
{
	SkPageserver ps;
	SkPositions p;

	sk_get_positions(s->tl, &p);
	ps.received_lsn = believable(s, written);
	ps.flush_lsn = believable(s, flushed);
	ps.layers_lsn = believable(s, applied);
	ps.at = neon_clock();
	sk_note_pageserver(s->tl, &ps);
	/* peers are told of active timelines only, and have WAL to remove */
	if (skpageserver_durable(&ps) > skpageserver_durable(&p.pageserver))
		sk_note_active(s->tl);
}

static void
status_reply(Stream *s, StringInfo message)
{
	XLogRecPtr	written = pq_getmsgint64(message);
	XLogRecPtr	flushed = pq_getmsgint64(message);
	XLogRecPtr	applied = pq_getmsgint64(message);
	TimestampTz at = pq_getmsgint64(message);
	bool		reply_requested = pq_getmsgbyte(message) != 0;

	if (reply_requested)
		send_keepalive(s, false);
	show_status(s, written, flushed, applied, at);
	servelag_reply(written, flushed, applied);
	if (serve_session.pageserver)
		note_pageserver(s, written, flushed, applied);
	if (serve_session.peer)
		sk_note_copy(s->tl, believable(s, flushed));
	if (!XLogRecPtrIsInvalid(flushed))
		skslot_confirm(believable(s, flushed));
}

/*
 * A hot standby's xmin: the rows that it wants kept are a compute's, which
 * does not hear it; only the time is shown.
 */
static void
hot_standby_feedback(StringInfo message)
{
	TimestampTz at = pq_getmsgint64(message);

	(void) pq_getmsgint(message, 4);
	(void) pq_getmsgint(message, 4);
	(void) pq_getmsgint(message, 4);
	(void) pq_getmsgint(message, 4);
	SpinLockAcquire(&MyWalSnd->mutex);
	MyWalSnd->replyTime = at;
	SpinLockRelease(&MyWalSnd->mutex);
}

static void
client_data(Stream *s, const char *body, int len)
{
	StringInfoData message;
	int			kind;

	message.data = unconstify(char *, body);
	message.len = message.maxlen = len;
	message.cursor = 0;
	kind = pq_getmsgbyte(&message);
	if (kind == MSG_STATUS)
		status_reply(s, &message);
	else if (kind == MSG_FEEDBACK)
		hot_standby_feedback(&message);
	else
		ereport(FATAL,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected message type \"%c\"", isprint(kind) ? kind : '?')));
	s->last_reply_ms = monotonic_ms();
	s->ping_sent = false;
}

static void
client_copy_done(Stream *s)
{
	pq_putmessage_noblock('c', NULL, 0);
	s->done = true;
}

/* All that is here; what follows CopyDone belongs to the command loop. */
static void
process_replies(Stream *s)
{
	const char *body;
	int			len;
	char		type;

	while (!s->done)
	{
		if (!clientmsg_take(&type, &body, &len))
		{
			if (!clientmsg_read())
				break;
			continue;
		}
		switch (type)
		{
			case 'd':
				client_data(s, body, len);
				break;
			case 'c':
				client_copy_done(s);
				break;
			case 'f':
				ereport(ERROR,
						(errcode(ERRCODE_QUERY_CANCELED),
						 errmsg("the client gave up the stream")));
				break;
			case 'X':
				whereToSendOutput = DestNone;
				proc_exit(0);
				break;
			default:
				ereport(FATAL,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("invalid standby message type %d", type)));
		}
	}
}

/* ---- time ---- */

static void
give_up_silent_client(Stream *s)
{
	ereport(COMMERROR,
			(errmsg("terminating walsender process due to replication timeout")));
	whereToSendOutput = DestNone;
	proc_exit(0);
}

/* As the stock sender: a ping after half of the time, the end after all of it. */
static void
check_time(Stream *s)
{
	int64		silent;

	if (wal_sender_timeout <= 0)
		return;
	silent = monotonic_ms() - s->last_reply_ms;
	if (silent >= wal_sender_timeout)
		give_up_silent_client(s);
	if (silent >= wal_sender_timeout / 2 && !s->ping_sent && !s->done)
	{
		send_keepalive(s, true);
		if (pq_flush_if_writable() != 0)
			clientmsg_client_gone();
	}
}

static long
time_to_sleep(Stream *s)
{
	int64		until;

	if (wal_sender_timeout <= 0)
		return IDLE_WAIT_MS;
	until = s->last_reply_ms + (s->ping_sent ? wal_sender_timeout : wal_sender_timeout / 2);
	return (long) Max(1, Min(IDLE_WAIT_MS, until - monotonic_ms()));
}

/* ---- the loop ---- */

static void
wait_for_something(Stream *s)
{
	bool		pending = pq_is_send_pending();
	int			events = 0;
	ConditionVariable *cv = &s->tl->shared->commit_cv;

	if (!s->done)
		events |= WL_SOCKET_READABLE;
	if (pending)
		events |= WL_SOCKET_WRITEABLE;
	ConditionVariablePrepareToSleep(cv);
	look_at_timeline(s);		/* it may have advanced just before */
	if (pending || s->sent >= s->end)
		clientmsg_wait(events, time_to_sleep(s),
					   pending ? WAIT_EVENT_WAL_SENDER_WRITE_DATA : WAIT_EVENT_WAL_SENDER_MAIN);
	ConditionVariableCancelSleep();
}

static void
stream_loop(Stream *s)
{
	s->last_reply_ms = monotonic_ms();
	for (;;)
	{
		serve_housekeeping();
		process_replies(s);
		if (s->done && !pq_is_send_pending())
			return;
		if (!s->done && !pq_is_send_pending())
			send_wal(s);
		if (pq_flush_if_writable() != 0)
			clientmsg_client_gone();
		if (s->caught_up && !pq_is_send_pending() && MyWalSnd->state == WALSNDSTATE_CATCHUP)
			WalSndSetState(WALSNDSTATE_STREAMING);
		check_time(s);
		if (pq_is_send_pending() || (s->caught_up && !s->done))
			wait_for_something(s);
	}
}

/* ---- the command ---- */

static void
check_command(const StartReplicationCmd *cmd)
{
	if (cmd->kind != REPLICATION_KIND_PHYSICAL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a safekeeper has physical replication only"),
				 errhint("Logical replication starts at an endpoint of this timeline.")));
	if (cmd->timeline != 0 && cmd->timeline != SERVE_TLI)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("requested timeline %u is not in this server's history", cmd->timeline)));
}

static void
begin_copy(Stream *s)
{
	StringInfoData buf;

	WalSndSetState(WALSNDSTATE_CATCHUP);
	servelag_begin();
	pq_beginmessage(&buf, 'W');
	pq_sendbyte(&buf, 0);
	pq_sendint16(&buf, 0);
	pq_endmessage(&buf);
	pq_flush();

	look_at_timeline(s);
	if (s->sent > s->end)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("requested starting point %X/%X is ahead of the WAL flush position of this server %X/%X",
						LSN_FORMAT_ARGS(s->sent), LSN_FORMAT_ARGS(s->end))));
	note_sent(s);
}

void
serve_start_replication(Node *node)
{
	StartReplicationCmd *cmd = castNode(StartReplicationCmd, node);
	Stream		s;

	check_command(cmd);
	memset(&s, 0, sizeof(s));
	s.tl = serve_session.tl;
	s.sent = cmd->startpoint;
	initStringInfo(&s.out);
	if (cmd->slotname)
		skslot_acquire(s.tl, cmd->slotname);
	begin_copy(&s);
	if (serve_session.peer)
		sk_note_copy(s.tl, s.sent);
	stream_loop(&s);
	WalSndSetState(WALSNDSTATE_STARTUP);
	skslot_release();
	skwal_forget(s.tl);
	EndReplicationCommand("START_STREAMING");
}
