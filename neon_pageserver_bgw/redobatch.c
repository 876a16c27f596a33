/*-------------------------------------------------------------------------
 *
 * redobatch.c
 *	  The client side of a redo child: one connection, one batch.
 *
 * Requests are written while answers are read, so neither side can block the
 * other for good.  Records are fetched as room for them appears.  What comes
 * from the child is untrusted: lengths are bounded, answers must be in order,
 * texts are cleaned.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "../neon_walredo/walredo_protocol.h"
#include "redopool_private.h"

#define OUTPUT_SIZE		(128 * 1024)
#define INPUT_SIZE		(128 * 1024)
/* Largest frame without the base or record that follows it. */
#define MAX_PREFIX		(sizeof(WalRedoFrame) + Max(sizeof(WalRedoPage), sizeof(WalRedoRecord)))
/* A short wait is done with poll(), which is one system call and not five. */
#define SHORT_WAIT_MS	2

typedef struct Batch
{
	/* The connection is kept for the next batch, if that has the same child. */
	pgsocket	sock;
	int			slot;
	uint64		generation;

	RedoRequest *requests;
	const int  *todo;
	int			ntodo;
	bool	   *done;
	uint32		wal_segment_size;
	bool		page_errors;	/* the child had to give up a page */

	/* sending */
	int			sending;		/* index in todo */
	int			record;			/* next record of it; -1: its PAGE frame */
	bool	   *aborted;		/* by index in todo: ABORT was sent, error set */
	const char *tail;			/* rest of the frame at the end of output */
	uint32		tail_len;
	uint32		out_start;
	uint32		out_end;

	/* receiving */
	int			answering;		/* index in todo; < sending */
	uint32		in_start;
	uint32		in_end;

	MemoryContext caller_context;
	MemoryContext fetch_context;
	char		output[OUTPUT_SIZE];
	char		input[INPUT_SIZE];
} Batch;

/* Of this process; kept for the next batch, as it is large. */
static Batch *batch = NULL;

/* ---- errors of pages ---- */

static void
fail_page(int index, int sqlerrcode, const char *text)
{
	RedoRequest *req = &batch->requests[batch->todo[index]];

	req->ok = false;
	req->sqlerrcode = sqlerrcode;
	req->error = MemoryContextStrdup(batch->caller_context, text);
	batch->done[batch->todo[index]] = true;
}

/* A text of the child's, with nothing in it that could do harm. */
static void
fail_page_untrusted(int index, const char *text, uint32 len)
{
	char	   *clean = pnstrdup(text, len);
	char	   *c;

	for (c = clean; *c != '\0'; c++)
	{
		if (*c < ' ' || *c > '~')
			*c = '?';
	}
	fail_page(index, ERRCODE_DATA_CORRUPTED,
			  clean[0] ? clean : "the WAL redo process gave no reason");
	pfree(clean);
}

/* ---- output ---- */

static void
put(const void *data, uint32 len)
{
	memcpy(batch->output + batch->out_end, data, len);
	batch->out_end += len;
}

static void
put_frame(uint8 tag, uint32 len)
{
	WalRedoFrame frame = {0};

	frame.tag = tag;
	frame.version = WALREDO_VERSION;
	frame.len = len;
	put(&frame, sizeof(frame));
}

static void
put_tail(const char *data, uint32 len)
{
	batch->tail = data;
	batch->tail_len = len;
}

/* Where a record that starts at start ends: the LSN that its pages get. */
static XLogRecPtr
record_end(XLogRecPtr start, uint32 len, uint32 segsize)
{
	XLogRecPtr	at = start;

	if (at % XLOG_BLCKSZ == 0)
		at += at % segsize == 0 ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;
	for (;;)
	{
		uint32		room = XLOG_BLCKSZ - at % XLOG_BLCKSZ;

		if (len <= room)
			return MAXALIGN64(at + len);
		len -= room;
		at += room;
		at += at % segsize == 0 ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;
	}
}

/* NULL if the record may be sent, else what is wrong with it. */
static const char *
check_record(const XLogRecord *record, XLogRecPtr start, XLogRecPtr end)
{
	if (record == NULL)
		return psprintf("WAL record at %X/%X is missing", LSN_FORMAT_ARGS(start));
	if (record->xl_tot_len < SizeOfXLogRecord || record->xl_tot_len > WALREDO_MAX_RECORD)
		return psprintf("WAL record at %X/%X has invalid length %u",
						LSN_FORMAT_ARGS(start), record->xl_tot_len);
	if (record_end(start, record->xl_tot_len, batch->wal_segment_size) != end)
		return psprintf("WAL record at %X/%X of length %u does not end at %X/%X",
						LSN_FORMAT_ARGS(start), record->xl_tot_len, LSN_FORMAT_ARGS(end));
	return NULL;
}

/*
 * The next record of the page being sent, or NULL with *problem and
 * *sqlerrcode set, in the fetch context.  An error of the caller's function is the page's problem.
 */
static XLogRecord *
fetch_record(RedoRequest *req, WalRedoRecord *place, int *sqlerrcode, const char **problem)
{
	XLogRecord *volatile record = NULL;
	MemoryContext oldcontext = MemoryContextSwitchTo(batch->fetch_context);

	*problem = NULL;
	*sqlerrcode = ERRCODE_DATA_CORRUPTED;
	PG_TRY();
	{
		XLogRecPtr	start = InvalidXLogRecPtr;
		XLogRecPtr	end = InvalidXLogRecPtr;

		record = req->fetch(req->arg, batch->record, &start, &end);
		place->start = start;
		place->end = end;
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(batch->fetch_context);
		edata = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(edata->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
		LWLockReleaseAll();
		*problem = edata->message ? edata->message : "unknown error";
		*sqlerrcode = edata->sqlerrcode;
		record = NULL;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(batch->fetch_context);
	if (*problem == NULL)
		*problem = check_record(record, place->start, place->end);
	MemoryContextSwitchTo(oldcontext);
	return *problem == NULL ? record : NULL;
}

static void
begin_page(RedoRequest *req)
{
	WalRedoPage page = {0};

	page.rnode.spcNode = req->key.spc;
	page.rnode.dbNode = req->key.db;
	page.rnode.relNode = req->key.rel;
	page.fork = req->key.fork;
	page.blk = req->key.blk;
	page.has_base = req->base != NULL;
	put_frame(WALREDO_TAG_PAGE, sizeof(page) + (req->base ? BLCKSZ : 0));
	put(&page, sizeof(page));
	if (req->base != NULL)
		put_tail(req->base, BLCKSZ);
	batch->record = 0;
}

static void
end_page(uint8 tag)
{
	put_frame(tag, 0);
	batch->sending++;
	batch->record = -1;
}

/* Appends one frame; there is room for its prefix, and no tail. */
static void
produce_frame(void)
{
	RedoRequest *req = &batch->requests[batch->todo[batch->sending]];
	XLogRecord *record;
	WalRedoRecord place = {0};
	const char *problem;
	int			sqlerrcode;

	if (batch->record < 0)
	{
		begin_page(req);
		return;
	}
	if (batch->record >= req->nrecords)
	{
		end_page(WALREDO_TAG_END);
		return;
	}
	/* The record before has been copied. */
	MemoryContextReset(batch->fetch_context);
	record = fetch_record(req, &place, &sqlerrcode, &problem);
	if (record == NULL)
	{
		fail_page(batch->sending, sqlerrcode, problem);
		batch->aborted[batch->sending] = true;
		end_page(WALREDO_TAG_ABORT);
		return;
	}
	put_frame(WALREDO_TAG_RECORD, sizeof(place) + record->xl_tot_len);
	put(&place, sizeof(place));
	put_tail((char *) record, record->xl_tot_len);
	batch->record++;
}

/* Fills the output buffer as far as there is something to send. */
static void
produce(void)
{
	if (batch->out_start == batch->out_end)
		batch->out_start = batch->out_end = 0;
	for (;;)
	{
		uint32		room = OUTPUT_SIZE - batch->out_end;

		if (batch->tail_len > 0)
		{
			uint32		n = Min(room, batch->tail_len);

			put(batch->tail, n);
			batch->tail += n;
			batch->tail_len -= n;
			if (batch->tail_len > 0)
				return;
		}
		else if (batch->sending < batch->ntodo && room >= MAX_PREFIX)
			produce_frame();
		else
			return;
	}
}

/* False if the child is gone. *progress is set if bytes were written. */
static bool
write_some(bool *progress)
{
	ssize_t		n;

	if (batch->out_start == batch->out_end)
		return true;
	n = send(batch->sock, batch->output + batch->out_start,
			 batch->out_end - batch->out_start, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
	batch->out_start += n;
	*progress |= n > 0;
	return true;
}

/* ---- input ---- */

/* Takes the answer in work; false if the child said that it ends or nonsense. */
static bool
take_answer(const WalRedoFrame *frame, const char *data)
{
	int			index = batch->answering;
	RedoRequest *req;

	if (frame->tag == WALREDO_TAG_DYING)
	{
		/* It may have died of a page whose end was not sent yet. */
		if (index < batch->ntodo && !batch->done[batch->todo[index]])
			fail_page_untrusted(index, data, frame->len);
		return false;
	}
	if (index >= batch->sending)
		return false;
	batch->answering++;
	req = &batch->requests[batch->todo[index]];
	if (batch->aborted[index])
		return frame->tag == WALREDO_TAG_ABORTED && frame->len == 0;
	if (frame->tag == WALREDO_TAG_ERROR)
	{
		fail_page_untrusted(index, data, frame->len);
		batch->page_errors = true;
		return true;
	}
	if (frame->tag != WALREDO_TAG_OK || frame->len != BLCKSZ)
	{
		batch->answering--;
		return false;
	}
	memcpy(req->page, data, BLCKSZ);
	req->ok = true;
	batch->done[batch->todo[index]] = true;
	return true;
}

/* Takes all complete answers. */
static bool
consume(void)
{
	for (;;)
	{
		uint32		avail = batch->in_end - batch->in_start;
		WalRedoFrame frame;

		if (avail < sizeof(frame))
			break;
		memcpy(&frame, batch->input + batch->in_start, sizeof(frame));
		if (frame.version != WALREDO_VERSION || frame.len > Max(BLCKSZ, WALREDO_MAX_TEXT))
			return false;
		if (avail < sizeof(frame) + frame.len)
			break;
		if (!take_answer(&frame, batch->input + batch->in_start + sizeof(frame)))
			return false;
		batch->in_start += sizeof(frame) + frame.len;
	}
	memmove(batch->input, batch->input + batch->in_start, batch->in_end - batch->in_start);
	batch->in_end -= batch->in_start;
	batch->in_start = 0;
	return true;
}

/* False if the child is gone or said nonsense. */
static bool
read_some(bool *progress)
{
	ssize_t		n;

	n = recv(batch->sock, batch->input + batch->in_end, INPUT_SIZE - batch->in_end,
			 MSG_DONTWAIT);
	if (n == 0)
		return false;
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
	batch->in_end += n;
	*progress = true;
	return consume();
}

/* ---- the batch ---- */

static void
close_socket(void)
{
	if (batch->sock == PGINVALID_SOCKET)
		return;
	closesocket(batch->sock);
	ReleaseExternalFD();
	batch->sock = PGINVALID_SOCKET;
}

static void
open_socket(void)
{
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not get a file descriptor for a WAL redo process: %m")));
	batch->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (batch->sock == PGINVALID_SOCKET)
	{
		int			save_errno = errno;

		ReleaseExternalFD();
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create a socket for a WAL redo process: %m")));
	}
}

/* The other end of the kept connection is there, and has said nothing unasked. */
static bool
connection_is_alive(void)
{
	char		c;

	return recv(batch->sock, &c, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
		(errno == EAGAIN || errno == EWOULDBLOCK);
}

/* False if the child is gone; then it is no page's fault. */
static bool
connect_to(const RedoLease *lease)
{
	struct sockaddr_un addr = {0};
	char		path[MAXPGPATH];

	if (batch->sock != PGINVALID_SOCKET && lease->again &&
		batch->slot == lease->slot && batch->generation == lease->generation)
		return connection_is_alive();
	close_socket();
	open_socket();
	batch->slot = lease->slot;
	batch->generation = lease->generation;
	redopool_socket_path(lease->slot, path);
	addr.sun_family = AF_UNIX;
	strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
	return connect(batch->sock, (struct sockaddr *) &addr, sizeof(addr)) == 0;
}

void
redobatch_cleanup(void)
{
	if (batch == NULL)
		return;
	close_socket();
	MemoryContextReset(batch->fetch_context);
}

/* Waits until the socket is ready, something happened, or the time is over. */
static void
wait_for_child(long timeout_ms)
{
	bool		want_write = batch->out_start < batch->out_end;
	struct pollfd pfd;
	int			events;

	pfd.fd = batch->sock;
	pfd.events = POLLIN | (want_write ? POLLOUT : 0);
	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	if (poll(&pfd, 1, Min(timeout_ms, SHORT_WAIT_MS)) == 0)
	{
		pgstat_report_wait_end();
		events = WaitLatchOrSocket(MyLatch,
								   WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT |
								   WL_SOCKET_READABLE |
								   (want_write ? WL_SOCKET_WRITEABLE : 0),
								   batch->sock, timeout_ms, PG_WAIT_EXTENSION);
		if (events & WL_LATCH_SET)
			ResetLatch(MyLatch);
	}
	else
		pgstat_report_wait_end();
	CHECK_FOR_INTERRUPTS();
}

/* All that got no answer in time; the child hangs, or there was too much to do. */
static void
fail_for_timeout(void)
{
	int			i;

	for (i = batch->answering; i < batch->ntodo; i++)
	{
		if (!batch->done[batch->todo[i]])
			fail_page(i, ERRCODE_INSUFFICIENT_RESOURCES,
					  psprintf("WAL redo took longer than neon_pageserver.redo_timeout (%d ms)",
							   redo_timeout));
	}
}

/* False if the child is of no use any more; *culprit as in redobatch_run. */
static bool
exchange(int *culprit)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), redo_timeout);

	while (batch->answering < batch->ntodo)
	{
		bool		progress = false;

		CHECK_FOR_INTERRUPTS();
		produce();
		if (!write_some(&progress) || (!progress && !read_some(&progress)))
		{
			/* What it said before it went may tell why. */
			progress = true;
			while (progress && batch->answering < batch->ntodo)
			{
				progress = false;
				if (!read_some(&progress))
					break;
			}
			if (batch->answering < batch->ntodo &&
				!batch->done[batch->todo[batch->answering]])
				*culprit = batch->todo[batch->answering];
			return false;
		}
		if (!progress)
		{
			long		left = TimestampDifferenceMilliseconds(neon_clock(), deadline);

			if (left <= 0)
			{
				fail_for_timeout();
				return false;
			}
			wait_for_child(left);
		}
	}
	return !batch->page_errors;
}

static void
prepare(void)
{
	if (batch == NULL)
	{
		MemoryContext context = AllocSetContextCreate(TopMemoryContext, "redo batch",
													  ALLOCSET_DEFAULT_SIZES);
		Batch	   *b = MemoryContextAlloc(context, sizeof(Batch));

		b->sock = PGINVALID_SOCKET;
		b->fetch_context = AllocSetContextCreate(context, "redo records",
												 ALLOCSET_DEFAULT_SIZES);
		batch = b;
	}
	batch->page_errors = false;
	batch->sending = batch->answering = 0;
	batch->record = -1;
	batch->tail = NULL;
	batch->tail_len = 0;
	batch->out_start = batch->out_end = 0;
	batch->in_start = batch->in_end = 0;
	batch->caller_context = CurrentMemoryContext;
}

bool
redobatch_run(const RedoLease *lease, uint32 wal_segment_size, RedoRequest *requests,
			  const int *todo, int ntodo, bool *done, int *culprit)
{
	bool		usable;

	*culprit = -1;
	prepare();
	batch->requests = requests;
	batch->todo = todo;
	batch->ntodo = ntodo;
	batch->done = done;
	batch->wal_segment_size = wal_segment_size;
	batch->aborted = palloc0(ntodo * sizeof(bool));

	usable = connect_to(lease) && exchange(culprit);
	if (!usable)
		close_socket();
	MemoryContextReset(batch->fetch_context);
	pfree(batch->aborted);
	return usable;
}
