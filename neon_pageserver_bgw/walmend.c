/*-------------------------------------------------------------------------
 *
 * walmend.c
 *	  Stored WAL that is damaged is fetched again from the timeline's source.
 *
 * What the pageserver has stored of WAL it has from a compute or from
 * safekeepers, and these often still have it.  Records are walked over from a
 * good one on.  Where no valid one is stored, bytes are received, from the page
 * on in which it begins, into memory; they are believed as far as records in
 * them are valid and linked, by their CRCs and xl_prev, with those before.  As
 * soon as a record that begins in them is followed by stored ones again, they
 * are written in place.  So one damaged page costs one message of the source.
 * Of several safekeepers each is tried: one may be away, have less, or be
 * damaged there itself.
 *
 * Nothing that is good is taken away: bytes that are written are equal to those
 * that were there, but for the damage.  So it needs no ownership and no lock
 * against readers; one process at a time does it for a timeline, since it
 * may make a segment.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xlog_internal.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_testpoint.h"
#include "neon_walpage.h"
#include "pgstat.h"
#include "source.h"
#include "sourceselect.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "timeline_shared.h"
#include "utils/timestamp.h"
#include "walmend.h"
#include "walstore_private.h"

#define START_TIMEOUT_MS	10000
#define SILENCE_MS			10000	/* of the source, while it should send */
#define PIECE				(1024 * 1024)	/* received between two looks at it */
#define MOST_HELD			(512 * 1024 * 1024) /* a record is not larger */

typedef struct Mend
{
	Timeline   *tl;
	XLogRecPtr	upto;
	XLogRecPtr	at;				/* records are valid up to here */
	XLogRecPtr	prev;			/* start of the last one */
	const char *problem;		/* of what is stored behind at, or of the source */
	Receiver   *receiver;		/* NULL: nothing is being fetched */
	XLogRecPtr	position;		/* of the source */
	XLogRecPtr	base;			/* of what was received and is not written */
	StringInfoData bytes;
	XLogRecPtr	first;			/* of what was replaced; 0: nothing */
	XLogRecPtr	last;
} Mend;

/* The slot of the timeline that this process is at, or NULL. */
static TimelineShared *mending = NULL;

char *
walmend_place(Timeline *tl, XLogRecPtr lsn)
{
	char		path[MAXPGPATH];

	walstore_segment_path(tl, lsn / tl->id.wal_segment_size, path);
	return psprintf("file \"%s\", offset %u", path,
					(unsigned) XLogSegmentOffset(lsn, tl->id.wal_segment_size));
}

/* ---- does it go on behind a break? ---- */

static XLogRecPtr
end_of_stored(Timeline *tl)
{
	List	   *segments = walstore_segments(tl);
	XLogRecPtr	end = segments ? (*(XLogSegNo *) linitial(segments) + 1) * tl->id.wal_segment_size : 0;

	list_free_deep(segments);
	return end;
}

XLogRecPtr
walmend_goes_on(Timeline *tl, XLogRecPtr lsn, XLogRecPtr limit)
{
	XLogRecPtr	end = Min(end_of_stored(tl), limit);
	XLogRecPtr	last = 0;
	uint32		expected = 0;
	bool		goes_on = false;

	for (XLogRecPtr page = lsn - lsn % XLOG_BLCKSZ + XLOG_BLCKSZ; page < end; page += XLOG_BLCKSZ)
	{
		XLogPageHeaderData header;

		if (!walstore_read(tl, page, (char *) &header, SizeOfXLogShortPHD) ||
			!walpage_is_own(&header, page))
		{
			expected = 0;
			continue;
		}
		last = page;
		goes_on = goes_on || walpage_shows_more(&header, &expected);
	}
	return goes_on ? last : 0;
}

/* ---- walking ---- */

/* Bytes of one page: those that were received, where there are some, else those that are stored. */
static bool
read_mixed(void *source, XLogRecPtr lsn, char *buf, size_t len)
{
	const Mend *m = source;
	XLogRecPtr	end = m->base + m->bytes.len;
	XLogRecPtr	from = Max(lsn, m->base);
	XLogRecPtr	to = Min(lsn + len, end);

	if (from >= to)
		return walstore_read(m->tl, lsn, buf, len);
	memcpy(buf + (from - lsn), m->bytes.data + (from - m->base), to - from);
	return walstore_read(m->tl, lsn, buf, from - lsn) &&
		walstore_read(m->tl, to, buf + (to - lsn), lsn + len - to);
}

/* On to the last record that is valid and lies below limit. */
static WalCursorResult
walk(Mend *m, XLogRecPtr limit)
{
	WalCursor  *cursor = walcursor_open(read_mixed, m, m->tl->id.system_identifier,
										m->tl->id.wal_segment_size, m->at, m->prev, limit);
	WalCursorResult result = WALCURSOR_RECORD;

	while (m->at < m->upto && (result = walcursor_next(cursor)) == WALCURSOR_RECORD)
	{
		CHECK_FOR_INTERRUPTS();
		m->at = cursor->next;
		m->prev = cursor->prev;
	}
	m->problem = result == WALCURSOR_INVALID ? pstrdup(cursor->problem) : "it is not stored";
	walcursor_close(cursor);
	return result;
}

/* ---- receiving ---- */

static void
stop_fetching(Mend *m)
{
	if (m->receiver)
		receiver_close(m->receiver);
	m->receiver = NULL;
	resetStringInfo(&m->bytes);
}

static bool
refuse(Mend *m, char *problem)
{
	m->problem = problem;
	return false;
}

/* False with the problem if that source is not there, or has nothing behind the break. */
static bool
begin_fetching(Mend *m, const SourceTarget *target, int which)
{
	XLogRecPtr	from = m->at - m->at % XLOG_BLCKSZ;
	char	   *problem;

	m->receiver = source_connect_to(m->tl, target, which, &problem);
	if (m->receiver == NULL)
		return refuse(m, problem);
	m->position = receiver_position(m->receiver);
	if (m->position <= m->at)
		return refuse(m, psprintf("the source's WAL ends at %X/%X", LSN_FORMAT_ARGS(m->position)));
	if (!walstore_has_segment(m->tl, m->at))
		from = m->at - XLogSegmentOffset(m->at, m->tl->id.wal_segment_size);
	m->base = Max(from, m->tl->id.start_lsn);
	if (!receiver_start(m->receiver, NULL, m->base, START_TIMEOUT_MS, &problem))
		return refuse(m, problem);
	return true;
}

static bool
take_message(Mend *m, const ReceiverMessage *message)
{
	char	   *problem;

	if (message->reply_requested &&
		!receiver_reply(m->receiver, m->base + m->bytes.len, InvalidXLogRecPtr,
						InvalidXLogRecPtr, false, &problem))
		return refuse(m, problem);
	if (message->data == NULL)
		return true;
	if (message->start != m->base + m->bytes.len || message->len > MOST_HELD - m->bytes.len)
		return refuse(m, "the source sent WAL that was not asked for");
	appendBinaryStringInfo(&m->bytes, message->data, message->len);
	return true;
}

/* Another piece, less if the source has no more. */
static bool
fetch_piece(Mend *m)
{
	int			enough = m->bytes.len + PIECE;
	TimestampTz end = TimestampTzPlusMilliseconds(neon_clock(), SILENCE_MS);

	if (m->base + m->bytes.len >= m->position)
		return refuse(m, psprintf("the source's WAL ends at %X/%X", LSN_FORMAT_ARGS(m->position)));
	while (m->bytes.len < enough && m->base + m->bytes.len < m->position)
	{
		ReceiverMessage message;
		ReceiverResult result = receiver_next(m->receiver, &message);

		CHECK_FOR_INTERRUPTS();
		if (result == RECEIVER_ENDED)
			return refuse(m, pchomp(message.problem));
		if (result == RECEIVER_WAL)
			end = TimestampTzPlusMilliseconds(neon_clock(), SILENCE_MS);
		else if (neon_clock() > end)
			return refuse(m, "the source sends nothing");
		if (result != RECEIVER_NOTHING)
		{
			if (!take_message(m, &message))
				return false;
			continue;
		}
		(void) WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 receiver_socket(m->receiver), 1000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	return true;
}

/* What was received below lsn, in which all records are valid, becomes what is stored. */
static void
put_in_place(Mend *m, XLogRecPtr lsn)
{
	size_t		n = Min(lsn - m->base, (XLogRecPtr) m->bytes.len);

	if (lsn <= m->base)
		return;
	walstore_replace(m->tl, m->base, m->bytes.data, n);
	NEON_TEST_POINT("wal-replaced");
	if (m->first == 0)
		m->first = m->base;
	m->base += n;
	m->last = m->base;
	memmove(m->bytes.data, m->bytes.data + n, m->bytes.len - n);
	m->bytes.len -= n;
}

/* Looks at what has been received so far; false if it is no WAL of this timeline. */
static bool
use_received(Mend *m)
{
	XLogRecPtr	end = m->base + m->bytes.len;

	if (walk(m, end) == WALCURSOR_INVALID)
	{
		/* what is good of it is: another source may go on from there */
		put_in_place(m, m->at);
		return refuse(m, psprintf("what the source sent behind %X/%X is not valid: %s",
								  LSN_FORMAT_ARGS(m->at), m->problem));
	}
	/* a record that only begins in it: with what is stored behind? */
	if (m->at < m->upto)
		(void) walk(m, PG_UINT64_MAX);
	put_in_place(m, m->at);
	if (m->at >= m->upto || m->at > end)
		stop_fetching(m);
	return true;
}

/* ---- from the first break to the last ---- */

/* From one source, until what is stored goes on. */
static bool
fetch_from(Mend *m, const SourceTarget *target, int which)
{
	bool		ok = begin_fetching(m, target, which);

	while (ok && m->receiver != NULL)
		ok = fetch_piece(m) && use_received(m);
	stop_fetching(m);
	return ok;
}

static bool
fetch_from_any(Mend *m)
{
	SourceTarget *target = palloc0(sizeof(SourceTarget));
	StringInfoData problems;
	bool		ok = false;

	if (!source_get_target(m->tl, target))
		return refuse(m, "no source of the timeline's WAL is known: no endpoint of it runs");
	initStringInfo(&problems);
	for (int i = 0; i < target->nconninfo && !ok; i++)
	{
		ok = fetch_from(m, target, i);
		if (!ok)
			appendStringInfo(&problems, "%s%s%s", problems.len > 0 ? "; " : "",
							 target->nconninfo > 1 ? psprintf("%s: ", target->conninfo[i]) : "",
							 m->problem);
	}
	pfree(target);
	return ok || refuse(m, problems.data);
}

static bool
mend(Mend *m)
{
	for (;;)
	{
		(void) walk(m, PG_UINT64_MAX);
		if (m->at >= m->upto)
			return true;
		ereport(LOG,
				(errmsg("stored WAL is damaged behind %X/%X: %s", LSN_FORMAT_ARGS(m->at),
						walmend_place(m->tl, m->at)),
				 errdetail("%s", m->problem)));
		if (!fetch_from_any(m))
			return false;
	}
}

static char *
describe(Mend *m, bool done)
{
	StringInfoData text;

	initStringInfo(&text);
	if (m->first != 0)
		appendStringInfo(&text, "It was fetched again, from %X/%X to %X/%X.",
						 LSN_FORMAT_ARGS(m->first), LSN_FORMAT_ARGS(m->last));
	else if (done)
		appendStringInfoString(&text, "All of it is valid.");
	if (!done)
		appendStringInfo(&text, "%sBehind %X/%X it cannot be fetched again: %s.",
						 text.len > 0 ? " " : "", LSN_FORMAT_ARGS(m->at), m->problem);
	return text.data;
}

/* A process that is terminated leaves it to others. */
static void
let_go(int code, Datum arg)
{
	if (mending)
		pg_atomic_write_u32(&mending->wal_mending, 0);
	mending = NULL;
}

static bool
claim(Timeline *tl)
{
	static bool registered = false;
	uint32		nobody = 0;

	if (!registered)
		before_shmem_exit(let_go, 0);
	registered = true;
	if (!pg_atomic_compare_exchange_u32(&tl->shared->wal_mending, &nobody, 1))
		return false;
	mending = tl->shared;
	return true;
}

bool
walmend(Timeline *tl, XLogRecPtr start, XLogRecPtr prev, XLogRecPtr upto, char **text)
{
	Mend	   *m = palloc0(sizeof(Mend));
	volatile bool done = false;

	m->tl = tl;
	m->at = start;
	m->prev = prev;
	m->upto = upto;
	initStringInfo(&m->bytes);
	if (!claim(tl))
	{
		*text = pstrdup("Another process is fetching it again.");
		return false;
	}
	PG_TRY();
	{
		done = mend(m);
	}
	PG_FINALLY();
	{
		stop_fetching(m);
		let_go(0, 0);
	}
	PG_END_TRY();
	*text = describe(m, done);
	return done;
}

bool
walmend_unflushed(Timeline *tl, char **text)
{
	Manifest   *manifest = timeline_read_manifest(tl);
	XLogRecPtr	start = manifest->disk_consistent_lsn;
	XLogRecPtr	prev = manifest->prev_record_lsn;

	return walmend(tl, start, prev, timeline_last_record_lsn(tl), text);
}
