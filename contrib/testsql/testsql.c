/*-------------------------------------------------------------------------
 *
 * testsql.c
 *	  Runs SQL scripts for the tests, one after another, as psql would.
 *
 * README.md has the protocol.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "fe_utils/psqlscan.h"
#include "libpq-fe.h"
#include "pqexpbuffer.h"

#define EXIT_LOST		2
#define EXIT_SCRIPT		3
#define MAX_LENGTH		(256 * 1024 * 1024)

static PQExpBufferData out;
static PQExpBufferData err;
static int	line;				/* of the script */

static void
report(const char *message)
{
	appendPQExpBuffer(&err, "psql:script:%d: %s", line, message);
}

static void
take_notice(void *arg, const char *message)
{
	(void) arg;
	report(message);
}

static void
add_rows(const PGresult *res)
{
	/* psql shows nothing of rows without columns */
	for (int row = 0; row < PQntuples(res) && PQnfields(res) > 0; row++)
	{
		for (int col = 0; col < PQnfields(res); col++)
			appendPQExpBuffer(&out, "%s%s", col > 0 ? "|" : "", PQgetvalue(res, row, col));
		appendPQExpBufferChar(&out, '\n');
	}
}

/* Adds what psql shows of it; is it no error? */
static bool
add_result(PGconn *conn, const PGresult *res)
{
	switch (PQresultStatus(res))
	{
		case PGRES_TUPLES_OK:
			add_rows(res);
			return true;
		case PGRES_COMMAND_OK:
		case PGRES_EMPTY_QUERY:
			return true;
		case PGRES_COPY_IN:
		case PGRES_COPY_OUT:
		case PGRES_COPY_BOTH:
			report("error: testsql has no COPY\n");
			PQfinish(conn);
			exit(1);
		default:
			report(PQresultErrorMessage(res));
			return false;
	}
}

/* Returns an exit code of psql. */
static int
run_statement(PGconn *conn, const char *sql)
{
	bool		ok = true;
	PGresult   *res;

	for (const char *p = sql; *p; p++)
		line += *p == '\n';
	if (!PQsendQuery(conn, sql))
	{
		report(PQerrorMessage(conn));
		ok = false;
	}
	while ((res = PQgetResult(conn)) != NULL)
	{
		ok = add_result(conn, res) && ok;
		PQclear(res);
	}
	if (PQstatus(conn) == CONNECTION_BAD)
	{
		report("error: connection to server was lost\n");
		return EXIT_LOST;
	}
	return ok ? 0 : EXIT_SCRIPT;
}

static int
run_statements(PGconn *conn, const char *sql, int length)
{
	const char *strings = PQparameterStatus(conn, "standard_conforming_strings");
	PsqlScanState scan = psql_scan_create(&(PsqlScanCallbacks) {NULL});
	PQExpBufferData statement;
	PsqlScanResult found;
	promptStatus_t prompt = PROMPT_READY;
	int			rc = 0;

	initPQExpBuffer(&statement);
	psql_scan_setup(scan, sql, length, PQclientEncoding(conn), strings && strcmp(strings, "on") == 0);
	do
	{
		found = psql_scan(scan, &statement, &prompt);
		if (statement.len > 0)
			rc = run_statement(conn, statement.data);
		resetPQExpBuffer(&statement);
	} while (found == PSCAN_SEMICOLON && rc == 0);
	psql_scan_finish(scan);
	psql_scan_destroy(scan);
	termPQExpBuffer(&statement);
	return rc;
}

static int
run_script(const char *conninfo, const char *sql, int length)
{
	const char *keys[] = {"dbname", "fallback_application_name", NULL};
	const char *values[] = {conninfo, "psql", NULL};
	PGconn	   *conn = PQconnectdbParams(keys, values, true);
	int			rc = EXIT_LOST;

	line = 1;
	if (PQstatus(conn) == CONNECTION_OK)
	{
		(void) PQsetNoticeProcessor(conn, take_notice, NULL);
		rc = run_statements(conn, sql, length);
	}
	else
		appendPQExpBuffer(&err, "psql: error: %s", PQerrorMessage(conn));
	PQfinish(conn);
	return rc;
}

/* NUL-terminated; to be freed. */
static char *
read_piece(int length)
{
	char	   *piece = malloc((size_t) length + 1);

	if (piece == NULL || fread(piece, 1, length, stdin) != (size_t) length)
		exit(1);
	piece[length] = '\0';
	return piece;
}

int
main(void)
{
	char		header[64];
	int			conninfo_length;
	int			length;

	while (fgets(header, sizeof(header), stdin) != NULL)
	{
		char	   *conninfo;
		char	   *sql;
		int			rc;

		if (sscanf(header, "%d %d", &conninfo_length, &length) != 2 || conninfo_length < 0 ||
			length < 0 || conninfo_length > MAX_LENGTH || length > MAX_LENGTH)
			return 1;
		conninfo = read_piece(conninfo_length);
		sql = read_piece(length);
		initPQExpBuffer(&out);
		initPQExpBuffer(&err);
		rc = run_script(conninfo, sql, length);
		printf("%d %zu %zu\n", rc, out.len, err.len);
		fwrite(out.data, 1, out.len, stdout);
		fwrite(err.data, 1, err.len, stdout);
		if (fflush(stdout) != 0 || ferror(stdout))
			return 1;
		termPQExpBuffer(&out);
		termPQExpBuffer(&err);
		free(conninfo);
		free(sql);
	}
	return 0;
}
