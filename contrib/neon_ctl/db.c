/*-------------------------------------------------------------------------
 *
 * db.c
 *	  Connections and statements with a time limit and progress.
 *
 *-------------------------------------------------------------------------
 */
#include "db.h"

#include <poll.h>

#include "output.h"
#include "run.h"

#define MAX_PARAMS 12

static const char *const default_hint = "Look into the server's log: \"neon pageserver logs\" or \"neon endpoint logs NAME\".";

static void
ignore_notice(void *arg, const PGresult *result)
{
}

const char *
db_connection_problem(PGconn *conn)
{
	const char *message = PQerrorMessage(conn);
	const char *fatal = strstr(message, "FATAL:  ");
	char		line[1024];

	strlcpy(line, fatal ? fatal + strlen("FATAL:  ") : message, sizeof(line));
	line[strcspn(line, "\n")] = '\0';
	return strf("%s", line);
}

/* Drives PQconnectStart to its end, since connect_timeout has whole seconds only. */
static bool
finish_connect(PGconn *conn, int64 deadline)
{
	PostgresPollingStatusType state = PGRES_POLLING_WRITING;

	if (conn == NULL || PQstatus(conn) == CONNECTION_BAD)
		return false;
	while (state != PGRES_POLLING_OK && state != PGRES_POLLING_FAILED)
	{
		struct pollfd pfd;

		pfd.fd = PQsocket(conn);
		pfd.events = (state == PGRES_POLLING_READING) ? POLLIN : POLLOUT;
		if (now_ms() > deadline || pfd.fd < 0)
			return false;
		progress_tick();
		if (poll(&pfd, 1, 100) > 0)
			state = PQconnectPoll(conn);
	}
	return state == PGRES_POLLING_OK;
}

PGconn *
db_start_connect(const char *host, int port, const char *user, const char *password)
{
	char		port_text[16];
	const char *keywords[] = {"host", "port", "user", "password", "dbname", "sslmode",
		"gssencmode", "application_name", "client_encoding", "options", NULL};
	const char *values[] = {host, port_text, user, password[0] ? password : "none", "postgres",
		"disable", "disable", "neon_ctl", "UTF8", "-c statement_timeout=0", NULL};
	PGconn	   *conn;

	/* With any password libpq looks into no passfile; trust asks for none. */
	snprintf(port_text, sizeof(port_text), "%d", port);
	conn = PQconnectStartParams(keywords, values, 0);
	if (conn == NULL)
		die_oom();
	PQsetNoticeReceiver(conn, ignore_notice, NULL);
	return conn;
}

PGconn *
db_try_connect(int port, const char *user, const char *password, int timeout_s,
			   const char **problem)
{
	PGconn	   *conn = db_start_connect("127.0.0.1", port, user, password);

	if (!finish_connect(conn, now_ms() + (int64) timeout_s * 1000))
	{
		if (problem != NULL)
			*problem = PQstatus(conn) == CONNECTION_BAD ?
				db_connection_problem(conn) : strf("no answer within %d s", timeout_s);
		PQfinish(conn);
		return NULL;
	}
	return conn;
}

static void pg_attribute_noreturn()
die_lost(PGconn *conn, const char *what)
{
	die(EXIT_GENERAL, "See \"neon status\", start what does not run by \"neon start\", and repeat this.",
		"lost the connection to %s:%s%s%s%s: %s", PQhost(conn), PQport(conn),
		what ? " (" : "", what ? what : "", what ? ")" : "", db_connection_problem(conn));
}

/* what may be NULL. */
void
db_wait_input(PGconn *conn, int64 deadline_ms, const char *what)
{
	struct pollfd pfd;

	pfd.fd = PQsocket(conn);
	pfd.events = POLLIN;
	pfd.revents = 0;
	progress_tick();
	if (pfd.fd >= 0 && poll(&pfd, 1, 100) == 0)
	{
		if (now_ms() <= deadline_ms)
			return;
		{
			char		errbuf[256];
			PGcancel   *cancel = PQgetCancel(conn);

			if (cancel != NULL)
				(void) PQcancel(cancel, errbuf, sizeof(errbuf));
			PQfreeCancel(cancel);
		}
		die(EXIT_TIMEOUT, "Look into the server's log, and try again.",
			"%s has not ended in time", what ? what : "a statement");
	}
	if (PQconsumeInput(conn) == 0)
		die_lost(conn, what);
}

PGresult *
db_send(PGconn *conn, const char *sql, int nparams, const char *const *values,
		const int *lengths, const int *formats, int timeout_s, const char *progress)
{
	int64		deadline = now_ms() + (int64) timeout_s * 1000;
	PGresult   *result = NULL;
	PGresult   *next;

	if (!PQsendQueryParams(conn, sql, nparams, NULL, values, lengths, formats, 0))
		die_lost(conn, progress);
	if (progress != NULL)
		progress_begin(progress);
	for (;;)
	{
		while (PQisBusy(conn))
			db_wait_input(conn, deadline, progress);
		next = PQgetResult(conn);
		if (next == NULL)
			break;
		PQclear(result);
		result = next;
	}
	if (progress != NULL)
		progress_end();
	if (result == NULL)
		die_lost(conn, progress);
	return result;
}

PGresult *
db_exec(PGconn *conn, int timeout_s, const char *progress, const char *sql, int nparams,...)
{
	const char *values[MAX_PARAMS];
	va_list		args;
	PGresult   *result;

	Assert(nparams <= MAX_PARAMS);
	va_start(args, nparams);
	for (int i = 0; i < nparams; i++)
		values[i] = va_arg(args, const char *);
	va_end(args);
	result = db_send(conn, sql, nparams, values, NULL, NULL, timeout_s, progress);
	db_check(conn, result, default_hint);
	return result;
}

/* What to do about errors that come without a hint. */
static const char *
hint_for(const char *sqlstate, const char *fallback_hint)
{
	static const struct
	{
		const char *sqlstate;	/* or the class, its first two characters */
		const char *hint;
	}			hints[] = {
		{"42710", "Choose another name."},
		{"42704", "See \"neon timeline list\" and \"neon tenant list\"."},
		{"55006", "Stop the endpoint first, or try again in a moment."},
		{"57014", "Try again when the machine is less busy."},
		{"22", "Correct that value."},
		{"53", "Free space or memory on this machine."},
		{"58", "Check the disk and the permissions below the state directory."},
	};

	for (int i = 0; i < lengthof(hints); i++)
	{
		if (strncmp(sqlstate, hints[i].sqlstate, strlen(hints[i].sqlstate)) == 0)
			return hints[i].hint;
	}
	return fallback_hint;
}

void
db_check(PGconn *conn, PGresult *result, const char *fallback_hint)
{
	ExecStatusType status = PQresultStatus(result);
	const char *primary;
	const char *detail;
	const char *hint;

	if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_COPY_OUT)
		return;
	primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
	if (primary == NULL)
		die_lost(conn, NULL);
	die(EXIT_GENERAL, hint ? hint : hint_for(db_sqlstate(result), fallback_hint), "%s%s%s%s",
		primary,
		detail ? " (" : "", detail ? detail : "", detail ? ")" : "");
}

const char *
db_sqlstate(const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return state ? state : "";
}

const char *
db_primary(const PGresult *result)
{
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	return primary ? primary : "no result";
}

const char *
db_value(const PGresult *result, int row, const char *column)
{
	int			number = PQfnumber(result, column);

	if (number < 0)
		die(EXIT_GENERAL, "Install the same version of the neon command and of its extensions.",
			"an answer of the server lacks column \"%s\"", column);
	if (row >= PQntuples(result) || PQgetisnull(result, row, number))
		return NULL;
	return PQgetvalue(result, row, number);
}
