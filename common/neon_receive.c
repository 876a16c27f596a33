/*-------------------------------------------------------------------------
 *
 * neon_receive.c
 *	  A client of PostgreSQL's streaming replication, on libpq's asynchronous
 *	  functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <libpq-fe.h>

#include "access/xlog_internal.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_lsn.h"
#include "neon_receive.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MSG_WAL			'w'
#define MSG_KEEPALIVE	'k'
#define MSG_REPLY		'r'
#define WAL_HEADER_SIZE	(1 + 8 + 8 + 8)
#define KEEPALIVE_SIZE	(1 + 8 + 8 + 1)

struct Receiver
{
	PGconn	   *conn;
	char	   *message;		/* libpq's buffer of the last message */
	XLogRecPtr	position;		/* of the source, when it was identified */
	bool		(*interrupted) (void *arg);
	void	   *interrupted_arg;
	char		problem[512];
	Receiver   *next;			/* of all that are open in this process */
};

static Receiver *open_receivers = NULL;
static bool exit_registered = false;

/* ---- what may be connected to ---- */

void
receiver_check_conninfo(const char *conninfo, size_t size)
{
	static const char *const allowed[] = {"host", "hostaddr", "port", "user", "dbname", "sslmode"};
	char	   *problem = NULL;
	PQconninfoOption *options = PQconninfoParse(conninfo, &problem);
	PQconninfoOption *o;
	const char *refused = NULL;
	bool		has_host = false;
	int			i;

	if (options == NULL)
	{
		char	   *copy = pstrdup(problem ? problem : "out of memory");

		PQfreemem(problem);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid connection string of a WAL source: %s", copy)));
	}
	for (o = options; o->keyword && !refused; o++)
	{
		if (o->val == NULL)
			continue;
		for (i = 0; i < lengthof(allowed); i++)
		{
			if (strcmp(o->keyword, allowed[i]) == 0)
				break;
		}
		if (i == lengthof(allowed))
			refused = pstrdup(o->keyword);
		if (strncmp(o->keyword, "host", 4) == 0 && o->val[0])
			has_host = true;
	}
	PQconninfoFree(options);
	if (refused)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" is not allowed in the connection string of a WAL source", refused),
				 errhint("Only host, hostaddr, port, user, dbname and sslmode are.")));
	if (!has_host)				/* libpq would take it from the environment */
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("connection string of a WAL source must name a host")));
	if (strlen(conninfo) >= size)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("connection string of a WAL source is too long")));
}

/* ---- life of a connection ---- */

static void
close_all(int code, Datum arg)
{
	while (open_receivers)
		receiver_close(open_receivers);
}

static Receiver *
new_receiver(PGconn *conn, const ReceiverOptions *options)
{
	Receiver   *r = MemoryContextAllocZero(TopMemoryContext, sizeof(Receiver));

	if (!exit_registered)
	{
		before_shmem_exit(close_all, (Datum) 0);
		exit_registered = true;
	}
	r->conn = conn;
	r->interrupted = options->interrupted;
	r->interrupted_arg = options->interrupted_arg;
	r->next = open_receivers;
	open_receivers = r;
	return r;
}

void
receiver_close(Receiver *r)
{
	Receiver  **p = &open_receivers;

	while (*p != r)
		p = &(*p)->next;
	*p = r->next;
	if (r->message)
		PQfreemem(r->message);
	PQfinish(r->conn);
	pfree(r);
}

XLogRecPtr
receiver_position(const Receiver *r)
{
	return r->position;
}

int
receiver_socket(const Receiver *r)
{
	return PQsocket(r->conn);
}

/* libpq's message without its newline, in CurrentMemoryContext. */
static char *
connection_problem(PGconn *conn)
{
	return pchomp(PQerrorMessage(conn));
}

/* Waits for the socket; false when the time is over. */
static bool
wait_socket(Receiver *r, int events, TimestampTz deadline, char **problem)
{
	long		left = TimestampDifferenceMilliseconds(neon_clock(), deadline);
	int			rc;

	if (left <= 0)
	{
		*problem = pstrdup("timeout expired");
		return false;
	}
	rc = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
						   PQsocket(r->conn), left, PG_WAIT_EXTENSION);
	if (rc & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (r->interrupted && r->interrupted(r->interrupted_arg))
	{
		*problem = pstrdup("interrupted");
		return false;
	}
	return true;
}

static bool
finish_connecting(Receiver *r, TimestampTz deadline, char **problem)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	for (;;)
	{
		switch (status)
		{
			case PGRES_POLLING_OK:
				return true;
			case PGRES_POLLING_FAILED:
				*problem = connection_problem(r->conn);
				return false;
			case PGRES_POLLING_READING:
				if (!wait_socket(r, WL_SOCKET_READABLE, deadline, problem))
					return false;
				break;
			default:
				if (!wait_socket(r, WL_SOCKET_WRITEABLE, deadline, problem))
					return false;
				break;
		}
		status = PQconnectPoll(r->conn);
	}
}

static void
add_parameter(const char **keys, const char **values, int *n, const char *key, const char *value)
{
	if (value == NULL || value[0] == '\0')
		return;
	keys[*n] = key;
	values[(*n)++] = value;
}

/* What the conninfo says, and what it may not say. */
PGconn *
receiver_begin_connecting(const char *conninfo, const ReceiverOptions *session, char **problem)
{
	const char *keys[16];
	const char *values[16];
	char	   *parse_problem = NULL;
	PQconninfoOption *options = PQconninfoParse(conninfo, &parse_problem);
	PQconninfoOption *o;
	PGconn	   *conn;
	int			n = 0;

	if (options == NULL)
	{
		*problem = pstrdup(parse_problem ? parse_problem : "out of memory");
		PQfreemem(parse_problem);
		return NULL;
	}
	for (o = options; o->keyword && n < 8; o++)
	{
		if (o->val)
		{
			keys[n] = o->keyword;
			values[n++] = o->val;
		}
	}
	add_parameter(keys, values, &n, "passfile", session->passfile);
	add_parameter(keys, values, &n, "replication", session->replication ? "true" : NULL);
	add_parameter(keys, values, &n, "application_name", session->application_name);
	add_parameter(keys, values, &n, "options", session->options);
	add_parameter(keys, values, &n, "client_encoding", "UTF8");
	keys[n] = NULL;
	values[n] = NULL;
	conn = PQconnectStartParams(keys, values, 0);
	PQconninfoFree(options);
	if (conn == NULL)
		*problem = pstrdup("out of memory");
	return conn;
}

Receiver *
receiver_connect(const char *conninfo, const ReceiverOptions *options, int timeout_ms,
				 char **problem)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), timeout_ms);
	PGconn	   *conn = receiver_begin_connecting(conninfo, options, problem);
	Receiver   *r;

	if (conn == NULL)
		return NULL;
	r = new_receiver(conn, options);
	if (PQstatus(conn) == CONNECTION_BAD)
	{
		*problem = connection_problem(conn);
		receiver_close(r);
		return NULL;
	}
	if (!finish_connecting(r, deadline, problem))
	{
		receiver_close(r);
		return NULL;
	}
	return r;
}

/* ---- commands ---- */

/* The last result of a command; the caller clears it. */
static PGresult *
execute(Receiver *r, const char *command, int timeout_ms, char **problem)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), timeout_ms);
	PGresult   *last = NULL;

	if (!PQsendQuery(r->conn, command))
	{
		*problem = connection_problem(r->conn);
		return NULL;
	}
	for (;;)
	{
		PGresult   *result;

		while (PQisBusy(r->conn))
		{
			if (!wait_socket(r, WL_SOCKET_READABLE, deadline, problem))
			{
				PQclear(last);
				return NULL;
			}
			if (!PQconsumeInput(r->conn))
			{
				PQclear(last);
				*problem = connection_problem(r->conn);
				return NULL;
			}
		}
		result = PQgetResult(r->conn);
		if (result == NULL)
			break;
		PQclear(last);
		last = result;
		if (PQresultStatus(last) == PGRES_COPY_BOTH)
			break;
	}
	if (last == NULL)
		*problem = pstrdup("no result");
	return last;
}

static char *
result_problem(const PGresult *result)
{
	const char *text = PQresultErrorMessage(result);

	return text && text[0] ? pchomp(text) : psprintf("unexpected result: %s",
													  PQresStatus(PQresultStatus(result)));
}

char *
receiver_query(Receiver *r, const char *sql, int timeout_ms, char **problem)
{
	PGresult   *result = execute(r, sql, timeout_ms, problem);
	char	   *value = NULL;

	if (result == NULL)
		return NULL;
	if (PQresultStatus(result) == PGRES_TUPLES_OK && PQntuples(result) == 1 &&
		PQnfields(result) >= 1)
		value = pstrdup(PQgetvalue(result, 0, 0));
	else
		*problem = result_problem(result);
	PQclear(result);
	return value;
}

/* The rows of a query are libpq's result. */
ReceiverRows *
receiver_rows(Receiver *r, const char *sql, int timeout_ms, char **problem)
{
	PGresult   *result = execute(r, sql, timeout_ms, problem);

	if (result && PQresultStatus(result) != PGRES_TUPLES_OK)
	{
		*problem = result_problem(result);
		PQclear(result);
		result = NULL;
	}
	return (ReceiverRows *) result;
}

int
receiver_nrows(const ReceiverRows *rows)
{
	return PQntuples((const PGresult *) rows);
}

const char *
receiver_value(const ReceiverRows *rows, int row, int column)
{
	const PGresult *result = (const PGresult *) rows;

	return PQgetisnull(result, row, column) ? NULL : PQgetvalue(result, row, column);
}

void
receiver_free_rows(ReceiverRows *rows)
{
	PQclear((PGresult *) rows);
}

bool
receiver_identify(Receiver *r, uint64 system_identifier, int timeout_ms, char **problem)
{
	PGresult   *result = execute(r, "IDENTIFY_SYSTEM", timeout_ms, problem);
	char		expected[32];
	bool		ok = false;

	if (result == NULL)
		return false;
	snprintf(expected, sizeof(expected), UINT64_FORMAT, system_identifier);
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1 ||
		PQnfields(result) < 3)
		*problem = result_problem(result);
	else if (strcmp(PQgetvalue(result, 0, 0), expected) != 0)
		*problem = psprintf("the source is another database system: its identifier is %s, the timeline's is %s",
							PQgetvalue(result, 0, 0), expected);
	else if (strcmp(PQgetvalue(result, 0, 1), "1") != 0)
		*problem = psprintf("the source is on WAL timeline %s, not 1", PQgetvalue(result, 0, 1));
	else if (!neon_lsn_parse(PQgetvalue(result, 0, 2), &r->position))
		*problem = psprintf("the source has an invalid position: \"%s\"", PQgetvalue(result, 0, 2));
	else
		ok = true;
	PQclear(result);
	return ok;
}

bool
receiver_start(Receiver *r, const char *slot, XLogRecPtr start, int timeout_ms, char **problem)
{
	char	   *command = psprintf("START_REPLICATION%s%s PHYSICAL %X/%X TIMELINE 1",
								   slot ? " SLOT " : "", slot ? slot : "",
								   LSN_FORMAT_ARGS(start));
	PGresult   *result = execute(r, command, timeout_ms, problem);
	bool		ok;

	pfree(command);
	if (result == NULL)
		return false;
	ok = PQresultStatus(result) == PGRES_COPY_BOTH;
	if (!ok)
		*problem = result_problem(result);
	PQclear(result);
	if (ok && PQsetnonblocking(r->conn, 1) != 0)
	{
		*problem = connection_problem(r->conn);
		ok = false;
	}
	return ok;
}

/* ---- the stream ---- */

/* The stream is over: why. */
static ReceiverResult
ended(Receiver *r, ReceiverMessage *message)
{
	PGresult   *result = PQstatus(r->conn) == CONNECTION_OK ? PQgetResult(r->conn) : NULL;

	if (result && PQresultStatus(result) == PGRES_FATAL_ERROR)
		strlcpy(r->problem, PQresultErrorMessage(result), sizeof(r->problem));
	else if (PQerrorMessage(r->conn)[0])
		strlcpy(r->problem, PQerrorMessage(r->conn), sizeof(r->problem));
	else
		strlcpy(r->problem, "the source ended the stream", sizeof(r->problem));
	PQclear(result);
	message->problem = r->problem;
	return RECEIVER_ENDED;
}

static ReceiverResult
protocol_violation(Receiver *r, ReceiverMessage *message)
{
	strlcpy(r->problem, "the source sent an invalid replication message", sizeof(r->problem));
	message->problem = r->problem;
	return RECEIVER_ENDED;
}

/* Message bytes to *message; they stay in libpq's buffer. */
static ReceiverResult
parse_message(Receiver *r, int len, ReceiverMessage *message)
{
	StringInfoData s;

	s.data = r->message;
	s.len = len;
	s.maxlen = len;
	s.cursor = 1;
	if (r->message[0] == MSG_WAL && len >= WAL_HEADER_SIZE)
	{
		message->start = pq_getmsgint64(&s);
		message->wal_end = pq_getmsgint64(&s);
		message->data = r->message + WAL_HEADER_SIZE;
		message->len = len - WAL_HEADER_SIZE;
		return RECEIVER_WAL;
	}
	if (r->message[0] == MSG_KEEPALIVE && len == KEEPALIVE_SIZE)
	{
		message->wal_end = pq_getmsgint64(&s);
		(void) pq_getmsgint64(&s);
		message->reply_requested = pq_getmsgbyte(&s) != 0;
		return RECEIVER_KEEPALIVE;
	}
	return protocol_violation(r, message);
}

ReceiverResult
receiver_next(Receiver *r, ReceiverMessage *message)
{
	int			len;

	memset(message, 0, sizeof(*message));
	if (r->message)
		PQfreemem(r->message);
	r->message = NULL;

	len = PQgetCopyData(r->conn, &r->message, 1);
	if (len == 0)
	{
		if (!PQconsumeInput(r->conn))
			return ended(r, message);
		len = PQgetCopyData(r->conn, &r->message, 1);
	}
	if (len == 0)
		return RECEIVER_NOTHING;
	if (len < 0)
		return ended(r, message);
	return parse_message(r, len, message);
}

bool
receiver_reply(Receiver *r, XLogRecPtr written, XLogRecPtr flushed, XLogRecPtr applied,
			   bool request_reply, char **problem)
{
	StringInfoData buf;
	bool		ok;

	initStringInfo(&buf);
	pq_sendbyte(&buf, MSG_REPLY);
	pq_sendint64(&buf, written);
	pq_sendint64(&buf, flushed);
	pq_sendint64(&buf, applied);
	pq_sendint64(&buf, GetCurrentTimestamp());
	pq_sendbyte(&buf, request_reply ? 1 : 0);
	ok = PQputCopyData(r->conn, buf.data, buf.len) > 0 && PQflush(r->conn) >= 0;
	pfree(buf.data);
	if (!ok)
		*problem = connection_problem(r->conn);
	return ok;
}
