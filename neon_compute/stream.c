/*-------------------------------------------------------------------------
 *
 * stream.c
 *	  One process's connection to the page service.
 *
 * The connection is made by libpq when the first page is needed, stays for
 * the life of the process and is closed with it.  After the CALL of
 * neon_pageserver.pagestream it is in CopyBoth mode; frames are those of
 * neon_frame.h.
 *
 * All waits are for the process latch and the socket.  A wait may end by an
 * error that an interrupt throws, in any place where the state machine of
 * libpq is halfway through a message.  So every function that waits marks the
 * stream as busy, and a stream that is found busy is dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "libpq-fe.h"
#include "localstat.h"
#include "miscadmin.h"
#include "neon.h"
#include "neon_clock.h"
#include "pgstat.h"
#include "postmaster/startup.h"
#include "redial.h"
#include "reference.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "stream.h"
#include "utils/guc.h"
#include "utils/memutils.h"

/* Place of the socket in wait_set. */
#define WAIT_SET_SOCKET		1

/* One attempt to connect takes at most this long. */
#define CONNECT_TIMEOUT_MS	5000

/* How often those who wait for another process's attempt look what came of it. */
#define TURN_POLL_MS		20

char	   *neon_pageserver_connstring = NULL;
int			neon_fetch_timeout = 30000;

static PGconn *conn = NULL;
static bool reached = false;	/* something took the connection */
static bool streaming = false;	/* conn is in CopyBoth mode */
static bool answered = false;	/* an answer came through it */
static WaitEventSet *wait_set = NULL;	/* latch and socket, when streaming */
static char *message = NULL;	/* the answer last taken from libpq */
static int	message_length = 0;
static bool message_waits = false;	/* for stream_receive() */

/* Raised when a connection is dropped. */
static uint64 generation = 1;

/* Raised by the assign hook; the connection was made with used_settings. */
static uint64 settings = 0;
static uint64 used_settings = 0;

/* A function of this file is at work, or was when an error was thrown. */
static bool busy = false;

/* The latch was reset while waiting: someone else may need to see it set. */
static bool latch_was_set = false;

static char last_error[1024] = "";

/* ----------
 * Settings
 * ----------
 */

static bool
check_connstring(char **newval, void **extra, GucSource source)
{
	char	   *problem = NULL;
	PQconninfoOption *options;

	if (*newval == NULL || **newval == '\0')
		return true;
	options = PQconninfoParse(*newval, &problem);
	if (options == NULL)
	{
		GUC_check_errdetail("%s", problem ? problem : "out of memory");
		PQfreemem(problem);
		return false;
	}
	PQconninfoFree(options);
	return true;
}

static void
assign_connstring(const char *newval, void *extra)
{
	settings++;
}

void
stream_define_gucs(void)
{
	DefineCustomStringVariable("neon.pageserver_connstring",
							   "How this compute connects to the pageserver.",
							   NULL, &neon_pageserver_connstring, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_connstring, assign_connstring, NULL);
	DefineCustomIntVariable("neon.fetch_timeout",
							"How long to try to reach the pageserver before a query fails.",
							NULL, &neon_fetch_timeout, 30000, 1, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
}

/* ----------
 * Ending
 * ----------
 */

/* libpq's messages end with a line break. */
static void
set_error(const char *text)
{
	int			len;

	strlcpy(last_error, text, sizeof(last_error));
	len = strlen(last_error);
	while (len > 0 && (last_error[len - 1] == '\n' || last_error[len - 1] == ' '))
		last_error[--len] = '\0';
	if (len == 0)
		strlcpy(last_error, "connection closed", sizeof(last_error));
}

static void
forget_message(void)
{
	PQfreemem(message);
	message = NULL;
}

static void
disconnect(void)
{
	generation++;
	reached = streaming = answered = message_waits = false;
	forget_message();
	if (wait_set)
	{
		WaitEventSet *set = wait_set;

		wait_set = NULL;
		FreeWaitEventSet(set);
	}
	if (conn)
	{
		PGconn	   *old = conn;

		conn = NULL;
		PQfinish(old);
		ReleaseExternalFD();
	}
}

static void
disconnect_at_exit(int code, Datum arg)
{
	redial_give_up();
	disconnect();
}

/* Tells the other processes, which may be about to connect, too. */
static bool
fail(const char *text)
{
	set_error(text);
	if (answered)
		redial_lost(last_error);
	else
		redial_failed(last_error, reached);
	disconnect();
	return false;
}

/* A caller's patience says little about a connection that has worked. */
static bool
fail_at_deadline(void)
{
	if (!answered)
		return fail("no answer in time");
	set_error("no answer in time");
	disconnect();
	return false;
}

void
stream_fail(const char *problem)
{
	char		text[256];

	snprintf(text, sizeof(text), "invalid answer of the page service: %s", problem);
	(void) fail(text);
}

/* ----------
 * Waiting
 * ----------
 */

static void
enter(void)
{
	Assert(!busy);
	busy = true;
	latch_was_set = false;
}

static bool
leave(bool result)
{
	busy = false;
	if (latch_was_set)
		SetLatch(MyLatch);
	return result;
}

static long
remaining_ms(TimestampTz deadline)
{
	return TimestampDifferenceMilliseconds(neon_clock(), deadline);
}

/* With interrupts held off by the caller this does nothing, and waiting goes on. */
static void
handle_interrupts(void)
{
	if (!AmStartupProcess())
		CHECK_FOR_INTERRUPTS();
	else if (InterruptHoldoffCount == 0 && CritSectionCount == 0)
		HandleStartupProcInterrupts();
}

/*
 * After a wait that was ended by events, or by the deadline if there are none.
 * False if there is no use in going on: nothing came, or an interrupt's
 * handler used the stream itself, found it busy and dropped our connection.
 */
static bool
after_wait(int events, uint64 my_generation)
{
	local_wait_for(LOCAL_WAIT_NONE);
	if (events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		latch_was_set = true;
	}
	handle_interrupts();
	if (generation != my_generation)
		return false;
	return events != 0 || fail_at_deadline();
}

/* While the connection is being made, its socket may change. */
static bool
wait_connecting(int io_events, TimestampTz deadline)
{
	uint64		my_generation = generation;
	long		timeout = remaining_ms(deadline);
	int			events;

	if (timeout <= 0)
		return fail_at_deadline();
	local_wait_for(LOCAL_WAIT_CONNECT);
	events = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | io_events,
							   PQsocket(conn), timeout, PG_WAIT_EXTENSION);
	return after_wait(events & ~WL_TIMEOUT, my_generation);
}

static bool
wait_streaming(int io_events, TimestampTz deadline)
{
	uint64		my_generation = generation;
	long		timeout = remaining_ms(deadline);
	WaitEvent	event;

	if (timeout <= 0)
		return fail_at_deadline();
	ModifyWaitEvent(wait_set, WAIT_SET_SOCKET, io_events, NULL);
	event.events = 0;
	local_wait_for(LOCAL_WAIT_FETCH);
	(void) WaitEventSetWait(wait_set, timeout, &event, 1, PG_WAIT_EXTENSION);
	return after_wait(event.events, my_generation);
}

/* False if an interrupt's handler used the stream. */
static bool
wait_idle(long milliseconds)
{
	uint64		my_generation = generation;
	int			events;

	local_wait_for(LOCAL_WAIT_RETRY);
	events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					   milliseconds, PG_WAIT_EXTENSION);
	return after_wait(events, my_generation);
}

void
stream_sleep(long milliseconds)
{
	enter();
	(void) wait_idle(milliseconds);
	(void) leave(true);
}

void
stream_give_up(void)
{
	redial_give_up();
}

/* ----------
 * Connecting
 * ----------
 */

static void
ignore_notice(void *arg, const PGresult *result)
{
}

/* Begins to connect; false if libpq did not even try. */
static bool
start_connecting(void)
{
	static bool exit_registered = false;
	const char *keywords[] = {"gssencmode", "fallback_application_name", "dbname", NULL};
	const char *values[] = {"disable", "neon_compute", neon_pageserver_connstring, NULL};

	if (!exit_registered)
	{
		on_proc_exit(disconnect_at_exit, 0);
		exit_registered = true;
	}
	if (neon_pageserver_connstring[0] == '\0')
		return fail("neon.pageserver_connstring is not set");
	used_settings = settings;
	conn = PQconnectStartParams(keywords, values, true);
	if (conn == NULL)
		return fail("out of memory");
	ReserveExternalFD();
	if (PQstatus(conn) == CONNECTION_BAD)
		return fail(PQerrorMessage(conn));
	(void) PQsetNoticeReceiver(conn, ignore_notice, NULL);
	return true;
}

static bool
finish_connecting(TimestampTz deadline)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	while (status != PGRES_POLLING_OK)
	{
		int			io_events = status == PGRES_POLLING_READING ?
		WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;

		if (!wait_connecting(io_events, deadline))
			return false;
		status = PQconnectPoll(conn);
		reached = reached || (PQstatus(conn) != CONNECTION_STARTED && PQstatus(conn) != CONNECTION_BAD);
		if (status == PGRES_POLLING_FAILED)
			return fail(PQerrorMessage(conn));
	}
	return true;
}

static bool
fail_with_result(const PGresult *result)
{
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	char		text[sizeof(last_error)];

	if (primary == NULL)
		primary = "unexpected answer to the call of pagestream";
	if (detail)
		snprintf(text, sizeof(text), "%s (%s)", primary, detail);
	else
		strlcpy(text, primary, sizeof(text));
	return fail(text);
}

/* Calls the page service, which switches the connection to CopyBoth mode. */
static bool
call_pagestream(TimestampTz deadline)
{
	char		tenant[NEON_ID_HEXLEN + 1];
	char		timeline[NEON_ID_HEXLEN + 1];
	char		query[256];
	PGresult   *result;
	bool		ok;

	snprintf(query, sizeof(query), "CALL neon_pageserver.pagestream('%s', '%s')",
			 neon_id_format(&neon_boot.tenant_id, tenant),
			 neon_id_format(&neon_boot.timeline_id, timeline));
	if (!PQsendQuery(conn, query))
		return fail(PQerrorMessage(conn));
	while (PQisBusy(conn))
	{
		if (!wait_connecting(WL_SOCKET_READABLE, deadline))
			return false;
		if (!PQconsumeInput(conn))
			return fail(PQerrorMessage(conn));
	}
	result = PQgetResult(conn);
	ok = PQresultStatus(result) == PGRES_COPY_BOTH;
	if (!ok)
		(void) fail_with_result(result);
	PQclear(result);
	return ok;
}

static bool
start_streaming(void)
{
	if (PQsetnonblocking(conn, 1) != 0)
		return fail(PQerrorMessage(conn));
	wait_set = CreateWaitEventSet(TopMemoryContext, 3);
	(void) AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	(void) AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, PQsocket(conn), NULL, NULL);
	(void) AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	streaming = true;
	return true;
}

/* Waits until this process may connect; false at the deadline. */
static bool
await_turn(TimestampTz deadline)
{
	long		wait;

	while ((wait = redial_ask()) > 0)
	{
		long		left = remaining_ms(deadline);

		if (left <= 0)
		{
			redial_problem(last_error, sizeof(last_error));
			return false;
		}
		wait = Min(wait, TURN_POLL_MS);
		if (!wait_idle(Min(wait, left)))
			return false;
	}
	return true;
}

/* One attempt. */
static bool
try_connecting(TimestampTz deadline)
{
	TimestampTz attempt = TimestampTzPlusMilliseconds(neon_clock(), CONNECT_TIMEOUT_MS);

	deadline = Min(deadline, attempt);
	return start_connecting() &&
		finish_connecting(deadline) &&
		call_pagestream(deadline) &&
		start_streaming();
}

static bool
connect_stream(TimestampTz deadline)
{
	disconnect();
	return await_turn(deadline) && try_connecting(deadline);
}

/* ----------
 * Using it
 * ----------
 */

uint64
stream_check(void)
{
	if (busy || (conn != NULL && !streaming) ||
		(conn != NULL && settings != used_settings))
	{
		set_error("connection was given up");
		disconnect();
	}
	busy = false;
	return generation;
}

bool
stream_is_open(void)
{
	return reference_is_used() || streaming;
}

bool
stream_open_if_easy(TimestampTz deadline)
{
	if (stream_is_open())
		return true;
	if (redial_is_needed() || InterruptHoldoffCount > 0 || CritSectionCount > 0)
		return false;
	enter();
	disconnect();
	return leave(try_connecting(deadline));
}

static bool
send_frame(const NeonRequest *req, TimestampTz deadline)
{
	StringInfoData frame;
	char		space[NEON_REQUEST_SIZE + 1];
	int			rc;

	/* a StringInfo on the stack: there may be no memory context to spare */
	frame.data = space;
	frame.maxlen = sizeof(space);
	resetStringInfo(&frame);
	neon_frame_put_request(&frame, req);

	while ((rc = PQputCopyData(conn, frame.data, frame.len)) == 0)
	{
		if (!wait_streaming(WL_SOCKET_WRITEABLE, deadline))
			return false;
	}
	return rc > 0 || fail(PQerrorMessage(conn));
}

static bool
flush_frames(TimestampTz deadline)
{
	int			rc;

	while ((rc = PQflush(conn)) > 0)
	{
		if (!wait_streaming(WL_SOCKET_WRITEABLE | WL_SOCKET_READABLE, deadline))
			return false;
		if (!PQconsumeInput(conn))
			return fail(PQerrorMessage(conn));
	}
	return rc == 0 || fail(PQerrorMessage(conn));
}

bool
stream_put(const NeonRequest *req, TimestampTz deadline)
{
	if (reference_is_used())
		return reference_send(req);
	enter();
	return leave((streaming || connect_stream(deadline)) && send_frame(req, deadline));
}

bool
stream_flush(TimestampTz deadline)
{
	if (reference_is_used() || !streaming)
		return true;
	enter();
	return leave(flush_frames(deadline));
}

/* The server has left CopyBoth mode; its error says why. */
static bool
fail_after_copy(void)
{
	PGresult   *result = PQgetResult(conn);

	if (PQresultStatus(result) == PGRES_FATAL_ERROR)
		(void) fail_with_result(result);
	else
		(void) fail(PQstatus(conn) == CONNECTION_BAD ? PQerrorMessage(conn) :
					"the page service ended the stream");
	PQclear(result);
	return false;
}

/* Takes the next answer, or the end of the stream, if it is here. */
static bool
take_message(void)
{
	if (!message_waits)
	{
		forget_message();
		message_length = PQgetCopyData(conn, &message, true);
		message_waits = message_length != 0;
	}
	return message_waits;
}

static bool
receive_message(TimestampTz deadline)
{
	while (!take_message())
	{
		if (!wait_streaming(WL_SOCKET_READABLE, deadline))
			return false;
		if (!PQconsumeInput(conn))
			return fail(PQerrorMessage(conn));
	}
	message_waits = false;
	return message_length > 0 || fail_after_copy();
}

bool
stream_has_answer(void)
{
	if (reference_is_used() || !streaming)
		return true;
	if (take_message())
		return true;
	/* who receives hears of it; libpq may have closed the socket, so nobody may wait for it */
	if (!PQconsumeInput(conn))
		return !fail(PQerrorMessage(conn));
	return take_message();
}

bool
stream_receive(NeonResponse *resp, TimestampTz deadline)
{
	const char *problem = NULL;

	if (reference_is_used())
		return reference_receive(resp);
	enter();
	if (!streaming)
		return leave(false);
	if (!receive_message(deadline))
		return leave(false);
	if (!neon_frame_get_response(message, message_length, resp, &problem))
	{
		stream_fail(problem);
		return leave(false);
	}
	if (!answered)
		redial_succeeded();
	answered = true;
	return leave(true);
}

const char *
stream_last_error(void)
{
	return last_error;
}

int
stream_last_length(void)
{
	return message_length;
}
