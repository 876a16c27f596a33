/*-------------------------------------------------------------------------
 *
 * pageserver.c
 *	  SQL calls to the pageserver, each on a connection of its own.
 *
 * For the rare calls of the coordinator and of SQL functions; pages come by
 * stream.c.  Nothing here blocks outside the latch, so a dead pageserver
 * never keeps a process from being cancelled or shut down.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq-fe.h"
#include "miscadmin.h"
#include "neon.h"
#include "neon_clock.h"
#include "pageserver.h"
#include "pgstat.h"
#include "redial.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define IDLE_INTERVAL_MS	100
#define CONNECTION_FAILURE	"08006"

/* One call in progress. */
typedef struct Call
{
	PGconn	   *conn;
	TimestampTz deadline;
	void		(*idle) (void);
} Call;

char *
pageserver_address(void)
{
	PQconninfoOption *options = PQconninfoParse(neon_pageserver_connstring, NULL);
	const char *host = NULL;
	const char *hostaddr = NULL;
	const char *port = NULL;
	char	   *address;

	for (PQconninfoOption *o = options; o != NULL && o->keyword != NULL; o++)
	{
		if (o->val == NULL || o->val[0] == '\0')
			continue;
		if (strcmp(o->keyword, "host") == 0)
			host = o->val;
		else if (strcmp(o->keyword, "hostaddr") == 0)
			hostaddr = o->val;
		else if (strcmp(o->keyword, "port") == 0)
			port = o->val;
	}
	if (host == NULL)
		host = hostaddr ? hostaddr : "localhost";
	address = psprintf("%s:%s", host, port ? port : DEF_PGPORT_STR);
	if (options)
		PQconninfoFree(options);
	return address;
}

/* A copy on one line: libpq breaks lines, and ends with a break. */
static char *
copy_line(const char *text)
{
	char	   *copy;
	char	   *to;

	if (text == NULL)
		return NULL;
	copy = to = palloc(strlen(text) + 1);
	for (; *text; text++)
	{
		bool		blank = *text == '\n' || *text == '\t' || *text == ' ';

		if (!blank)
			*to++ = *text;
		else if (to > copy && to[-1] != ' ')
			*to++ = ' ';
	}
	if (to > copy && to[-1] == ' ')
		to--;
	*to = '\0';
	return copy;
}

static void
connection_error(PageserverError *error, const char *what)
{
	strlcpy(error->sqlstate, CONNECTION_FAILURE, sizeof(error->sqlstate));
	error->message = psprintf("pageserver %s: %s", pageserver_address(), what);
	error->detail = NULL;
	error->hint = NULL;
}

static void
result_error(PageserverError *error, const PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	if (sqlstate == NULL || strlen(sqlstate) != 5 || message == NULL)
	{
		connection_error(error, copy_line(PQresultErrorMessage(result)));
		return;
	}
	strlcpy(error->sqlstate, sqlstate, sizeof(error->sqlstate));
	error->message = copy_line(message);
	error->detail = copy_line(PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL));
	error->hint = copy_line(PQresultErrorField(result, PG_DIAG_MESSAGE_HINT));
}

/* Waits for the socket; false when the call's time is over. */
static bool
wait_socket(Call *call, int events)
{
	long		left = TimestampDifferenceMilliseconds(neon_clock(), call->deadline);

	if (left <= 0)
		return false;
	(void) WaitLatchOrSocket(MyLatch,
							 events | WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 PQsocket(call->conn), Min(left, IDLE_INTERVAL_MS),
							 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (call->idle)
		call->idle();
	return true;
}

static bool
connect_pageserver(Call *call, const char *application_name, PageserverError *error)
{
	const char *keywords[] = {"dbname", "application_name", NULL};
	const char *values[] = {neon_pageserver_connstring, application_name, NULL};
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	call->conn = PQconnectStartParams(keywords, values, true);
	if (call->conn == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	while (PQstatus(call->conn) != CONNECTION_BAD && status != PGRES_POLLING_OK)
	{
		if (!wait_socket(call, status == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE))
		{
			connection_error(error, "connection timed out");
			return false;
		}
		status = PQconnectPoll(call->conn);
		if (status == PGRES_POLLING_FAILED)
			break;
	}
	if (PQstatus(call->conn) == CONNECTION_OK)
	{
		redial_now();
		return true;
	}
	connection_error(error, copy_line(PQerrorMessage(call->conn)));
	return false;
}

/* The next result of the query, or NULL after the last; false on timeout. */
static bool
get_result(Call *call, PGresult **result, PageserverError *error)
{
	while (PQisBusy(call->conn))
	{
		if (!wait_socket(call, WL_SOCKET_READABLE))
		{
			connection_error(error, "no answer in time");
			return false;
		}
		if (PQconsumeInput(call->conn) == 0)
		{
			connection_error(error, copy_line(PQerrorMessage(call->conn)));
			return false;
		}
	}
	*result = PQgetResult(call->conn);
	return true;
}

static List *
copy_rows(const PGresult *result)
{
	List	   *rows = NIL;
	int			ncols = PQnfields(result);

	for (int i = 0; i < PQntuples(result); i++)
	{
		char	  **row = palloc(sizeof(char *) * Max(ncols, 1));

		for (int j = 0; j < ncols; j++)
			row[j] = PQgetisnull(result, i, j) ? NULL : pstrdup(PQgetvalue(result, i, j));
		rows = lappend(rows, row);
	}
	return rows;
}

/* Not inlined: it must not share a frame with PG_TRY. */
static pg_noinline bool
run_query(Call *call, const char *query, int nparams, const char *const *params,
		  List **rows, PageserverError *error)
{
	PGresult   *result;
	bool		ok = true;

	if (!PQsendQueryParams(call->conn, query, nparams, NULL, params, NULL, NULL, 0))
	{
		connection_error(error, copy_line(PQerrorMessage(call->conn)));
		return false;
	}
	for (;;)
	{
		if (!get_result(call, &result, error))
			return false;
		if (result == NULL)
			return ok;
		if (PQresultStatus(result) == PGRES_TUPLES_OK)
			*rows = copy_rows(result);
		else if (ok)
		{
			result_error(error, result);
			ok = false;
		}
		PQclear(result);
	}
}

bool
pageserver_query(const char *application_name, const char *query,
				 int nparams, const char *const *params, int timeout_ms,
				 void (*idle) (void), List **rows, PageserverError *error)
{
	Call		call = {NULL, 0, idle};
	volatile bool ok = false;

	call.deadline = TimestampTzPlusMilliseconds(neon_clock(), timeout_ms);
	*rows = NIL;
	PG_TRY();
	{
		ok = connect_pageserver(&call, application_name, error) &&
			run_query(&call, query, nparams, params, rows, error);
	}
	PG_FINALLY();
	{
		PQfinish(call.conn);
	}
	PG_END_TRY();
	return ok;
}

List *
pageserver_call(const char *query, int nparams, const char *const *params, int timeout_ms)
{
	PageserverError error;
	List	   *rows;
	const char *s = error.sqlstate;

	if (!pageserver_query("neon_compute", query, nparams, params, timeout_ms, NULL, &rows, &error))
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(s[0], s[1], s[2], s[3], s[4])),
				 errmsg("%s", error.message),
				 error.detail ? errdetail("%s", error.detail) : 0,
				 error.hint ? errhint("%s", error.hint) : 0));
	return rows;
}
