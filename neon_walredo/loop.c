/*-------------------------------------------------------------------------
 *
 * loop.c
 *	  A redo process at work: connections, frames, answers.
 *
 * Waits for a connection or for the supervisor's end.  Answers are kept back
 * until there is nothing left to read, so that a batch costs few wake-ups.
 * All input is untrusted; what is no frame ends the process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access/xlogrecord.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "utils/memutils.h"

#include "walredo.h"

#define INPUT_SIZE		(128 * 1024)
#define OUTPUT_SIZE		(128 * 1024)

typedef struct Connection
{
	int			fd;				/* -1: none */
	bool		lost;			/* the client went away */
	bool		in_page;		/* between PAGE and END or ABORT */
	bool		failed;			/* the page in work has an error */
	char		text[WALREDO_MAX_TEXT];
} Connection;

static Connection conn = {.fd = -1};

static char input[INPUT_SIZE];
static int	input_start;
static int	input_end;
static char output[OUTPUT_SIZE];
static int	output_len;

/* The payload of a frame: what precedes a record, and the record or the base. */
static WalRedoRecord record_place;
static char *payload;
static uint32 payload_size;

static MemoryContext page_context;

/* ---- bytes ---- */

static void
flush_output(void)
{
	int			done = 0;

	while (done < output_len && !conn.lost)
	{
		ssize_t		n = write(conn.fd, output + done, output_len - done);

		if (n >= 0)
			done += n;
		else if (errno != EINTR)
			conn.lost = true;
	}
	output_len = 0;
}

static void
put(const void *data, uint32 len)
{
	if (output_len + len > OUTPUT_SIZE)
		flush_output();
	memcpy(output + output_len, data, len);
	output_len += len;
}

static void
answer(uint8 tag, const void *data, uint32 len)
{
	WalRedoFrame frame = {0};

	frame.tag = tag;
	frame.version = WALREDO_VERSION;
	frame.len = len;
	put(&frame, sizeof(frame));
	if (len > 0)
		put(data, len);
}

/* Tells the client why, and ends. */
static void
die(const char *text)
{
	if (conn.fd >= 0 && !conn.lost)
	{
		answer(WALREDO_TAG_DYING, text, Min(strlen(text), WALREDO_MAX_TEXT));
		flush_output();
	}
	_exit(3);
}

static bool
fill_input(void)
{
	flush_output();
	while (!conn.lost)
	{
		ssize_t		n = read(conn.fd, input, INPUT_SIZE);

		if (n > 0)
		{
			input_start = 0;
			input_end = n;
			return true;
		}
		if (n == 0 || errno != EINTR)
			conn.lost = true;
	}
	return false;
}

/* False if the connection ended before len bytes came. */
static bool
get(void *to, uint32 len)
{
	char	   *p = to;

	while (len > 0)
	{
		uint32		n;

		if (input_start == input_end && !fill_input())
			return false;
		n = Min(len, (uint32) (input_end - input_start));
		memcpy(p, input + input_start, n);
		input_start += n;
		p += n;
		len -= n;
	}
	return true;
}

/* Reads len bytes into the payload buffer, which is aligned. */
static bool
get_payload(uint32 len)
{
	if (len > payload_size)
	{
		if (payload != NULL)
			pfree(payload);
		payload_size = 0;
		payload = MemoryContextAllocExtended(TopMemoryContext, len, MCXT_ALLOC_NO_OOM);
		if (payload == NULL)
			die("out of memory for a record");
		payload_size = len;
	}
	return get(payload, len);
}

/* ---- frames ---- */

/* Takes the text of the error being handled; the page has failed. */
static void
note_error(void)
{
	ErrorData  *edata;

	MemoryContextSwitchTo(page_context);
	edata = CopyErrorData();
	FlushErrorState();
	snprintf(conn.text, sizeof(conn.text), "%s%s%s%s%s",
			 edata->message ? edata->message : "unknown error",
			 edata->detail ? "; " : "", edata->detail ? edata->detail : "",
			 edata->context ? "; " : "", edata->context ? edata->context : "");
	error_context_stack = NULL;
	InterruptHoldoffCount = 0;
	apply_recover();
	conn.failed = true;
}

static bool
on_page(uint32 len)
{
	WalRedoPage page;
	uint32		base_len;

	if (conn.in_page || len < sizeof(page))
		die("unexpected frame");
	if (!get(&page, sizeof(page)))
		return false;
	base_len = page.has_base ? BLCKSZ : 0;
	if (len != sizeof(page) + base_len)
		die("frame of wrong length");
	if (!get_payload(base_len))
		return false;

	conn.in_page = true;
	conn.failed = false;
	PG_TRY();
	{
		apply_begin(&page, page.has_base ? payload : NULL);
	}
	PG_CATCH();
	{
		note_error();
	}
	PG_END_TRY();
	return true;
}

static bool
on_record(const uint32 frame_len)
{
	const uint32 len = frame_len - sizeof(record_place);

	if (!conn.in_page || frame_len < sizeof(record_place) + SizeOfXLogRecord ||
		frame_len > sizeof(record_place) + WALREDO_MAX_RECORD)
		die("unexpected frame");
	if (!get(&record_place, sizeof(record_place)) || !get_payload(len))
		return false;
	if (conn.failed)
		return true;

	PG_TRY();
	{
		apply_record(&record_place, payload, len);
	}
	PG_CATCH();
	{
		note_error();
	}
	PG_END_TRY();
	return true;
}

static void
on_end(uint32 len)
{
	static PGAlignedBlock page;

	if (!conn.in_page || len != 0)
		die("unexpected frame");
	if (!conn.failed)
	{
		PG_TRY();
		{
			apply_finish(page.data);
		}
		PG_CATCH();
		{
			note_error();
		}
		PG_END_TRY();
	}
	if (conn.failed)
		answer(WALREDO_TAG_ERROR, conn.text, strlen(conn.text));
	else
		answer(WALREDO_TAG_OK, page.data, BLCKSZ);
	conn.in_page = false;
	MemoryContextReset(page_context);
}

static void
give_up_page(void)
{
	apply_recover();
	conn.in_page = false;
	MemoryContextReset(page_context);
}

/* False at the end of the connection. */
static bool
serve_frame(void)
{
	WalRedoFrame frame;

	if (!get(&frame, sizeof(frame)))
		return false;
	if (frame.version != WALREDO_VERSION)
		die("frame of an unknown version");
	switch (frame.tag)
	{
		case WALREDO_TAG_PAGE:
			return on_page(frame.len);
		case WALREDO_TAG_RECORD:
			return on_record(frame.len);
		case WALREDO_TAG_END:
			on_end(frame.len);
			return true;
		case WALREDO_TAG_ABORT:
			if (!conn.in_page || frame.len != 0)
				die("unexpected frame");
			give_up_page();
			answer(WALREDO_TAG_ABORTED, NULL, 0);
			return true;
		default:
			die("unknown frame");
	}
	return false;				/* not reached */
}

/* ---- connections ---- */

/*
 * Sleeps until there is something to read on the connection (if there is one)
 * or another client has connected; the first goes before.  Ends with the
 * supervisor.
 */
static bool
wait_for_connection(void)
{
	struct pollfd fds[3];

	fds[0].fd = WALREDO_CONTROL_FD;
	fds[1].fd = WALREDO_LISTEN_FD;
	fds[2].fd = conn.fd;		/* ignored if negative */
	fds[0].events = fds[1].events = fds[2].events = POLLIN;
	fds[2].revents = 0;
	for (;;)
	{
		if (poll(fds, 3, -1) < 0)
		{
			if (errno == EINTR)
				continue;
			_exit(2);
		}
		if (fds[0].revents != 0)
			_exit(0);
		if (fds[2].revents != 0)
			return true;
		if (fds[1].revents != 0)
			return false;
	}
}

/*
 * Between two pages a client may keep its connection for its next batch, but
 * another client's takes its place: only who leases this process connects.
 */
static bool
next_frame_comes(void)
{
	if (conn.in_page || input_start < input_end)
		return true;
	flush_output();
	return !conn.lost && wait_for_connection();
}

/*
 * Nothing is written to the server's log.  FATAL and PANIC would go on to end
 * the process in ways that it may not use any more.
 */
static void
end_on_fatal(ErrorData *edata)
{
	edata->output_to_server = false;
	if (edata->elevel >= FATAL)
	{
		snprintf(conn.text, sizeof(conn.text), "%s%s%s",
				 edata->message ? edata->message : "unknown error",
				 edata->context ? "; " : "", edata->context ? edata->context : "");
		die(conn.text);
	}
}

static void
accept_client(void)
{
	for (;;)
	{
		(void) wait_for_connection();
		conn.fd = accept4(WALREDO_LISTEN_FD, NULL, NULL, 0);
		if (conn.fd >= 0)
			break;
		if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN)
			_exit(2);
	}
	conn.lost = false;
	conn.in_page = false;
	input_start = input_end = output_len = 0;
}

static void
say_ready(void)
{
	WalRedoReady ready = {{'N', 'W', 'R'}, WALREDO_VERSION, PG_VERSION_NUM};
	ssize_t		n;

	do
		n = write(WALREDO_CONTROL_FD, &ready, sizeof(ready));
	while (n < 0 && errno == EINTR);
	if (n != sizeof(ready))
		_exit(2);
}

void
walredo_loop(void)
{
	page_context = AllocSetContextCreate(TopMemoryContext, "page", ALLOCSET_DEFAULT_SIZES);
	emit_log_hook = end_on_fatal;
	say_ready();
	for (;;)
	{
		accept_client();
		MemoryContextSwitchTo(page_context);
		while (next_frame_comes() && serve_frame())
			;
		if (conn.in_page)
			give_up_page();
		if (close(conn.fd) != 0)
			_exit(2);
		conn.fd = -1;
	}
}
