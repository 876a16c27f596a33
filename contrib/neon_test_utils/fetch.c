/*-------------------------------------------------------------------------
 *
 * fetch.c
 *	  One page at one LSN from the page service, past all caches of the
 *	  compute.  Uses the settings neon.pageserver_connstring, neon.tenant_id
 *	  and neon.timeline_id.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xlog.h"
#include "common/relpath.h"
#include "fmgr.h"
#include "libpq-fe.h"
#include "miscadmin.h"
#include "neon_frame.h"
#include "neon_id.h"
#include "neon_walend.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#define FETCH_TIMEOUT_MS	60000

PG_FUNCTION_INFO_V1(get_raw_page_at_lsn);
PG_FUNCTION_INFO_V1(get_raw_page_at_lsn_by_file);

/* Waits for the socket; the request as a whole ends at deadline. */
static void
wait_readable(PGconn *conn, TimestampTz deadline)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

	if (left <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("no answer from the page service within %d ms", FETCH_TIMEOUT_MS)));
	(void) WaitLatchOrSocket(MyLatch,
							 WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 PQsocket(conn), Min(left, 1000), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (!PQconsumeInput(conn))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("connection to the page service is lost: %s", PQerrorMessage(conn))));
}

static const char *
required_setting(const char *name)
{
	const char *value = GetConfigOption(name, true, false);

	if (value == NULL || value[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" is not set", name),
				 errhint("This works on an endpoint only.")));
	return value;
}

/* An id goes into a SQL text, so it has to be one. */
static const char *
required_id(const char *name)
{
	const char *value = required_setting(name);
	NeonId		id;

	if (!neon_id_parse(value, &id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is no identifier: \"%s\"", name, value)));
	return value;
}

/* Brings a new connection into CopyBoth mode. */
static void
open_stream(PGconn *conn, TimestampTz deadline)
{
	char	   *sql = psprintf("CALL neon_pageserver.pagestream('%s', '%s')",
							   required_id("neon.tenant_id"), required_id("neon.timeline_id"));
	PGresult   *res;
	ExecStatusType status;

	if (PQstatus(conn) != CONNECTION_OK)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not connect to the page service: %s", PQerrorMessage(conn))));
	if (!PQsendQuery(conn, sql))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not send a query: %s", PQerrorMessage(conn))));
	while (PQisBusy(conn))
		wait_readable(conn, deadline);
	res = PQgetResult(conn);
	status = PQresultStatus(res);
	PQclear(res);
	if (status != PGRES_COPY_BOTH)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("page service refused the stream: %s", PQerrorMessage(conn))));
}

/* Sends the request and returns the answer, in PQfreemem()able memory. */
static int
exchange(PGconn *conn, const NeonRequest *req, TimestampTz deadline, char **answer)
{
	StringInfoData buf;
	int			len;

	initStringInfo(&buf);
	neon_frame_put_request(&buf, req);
	if (PQputCopyData(conn, buf.data, buf.len) != 1 || PQflush(conn) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not send a request: %s", PQerrorMessage(conn))));
	while ((len = PQgetCopyData(conn, answer, true)) == 0)
		wait_readable(conn, deadline);
	if (len < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("page service ended the stream: %s", PQerrorMessage(conn))));
	return len;
}

/* The page of a pages answer; an error answer is raised as such. */
static bytea *
page_of_answer(const char *answer, int len)
{
	NeonResponse resp;
	const char *problem;
	bytea	   *page;

	if (!neon_frame_get_response(answer, len, &resp, &problem))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("invalid answer from the page service: %s", problem)));
	if (resp.tag == NEON_TAG_ERROR)
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(resp.sqlstate[0], resp.sqlstate[1], resp.sqlstate[2],
									   resp.sqlstate[3], resp.sqlstate[4])),
				 errmsg("%s", resp.message),
				 resp.detail[0] ? errdetail("%s", resp.detail) : 0,
				 resp.hint[0] ? errhint("%s", resp.hint) : 0));
	if (resp.nblocks != 1)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("page service sent %u pages instead of 1", resp.nblocks)));
	page = (bytea *) palloc(VARHDRSZ + BLCKSZ);
	SET_VARSIZE(page, VARHDRSZ + BLCKSZ);
	memcpy(VARDATA(page), resp.pages, BLCKSZ);
	return page;
}

static bytea *
fetch_page(RelFileNode rnode, text *fork, int64 blk, XLogRecPtr lsn)
{
	NeonRequest req;
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FETCH_TIMEOUT_MS);
	PGconn	   *volatile conn = NULL;
	char	   *volatile answer = NULL;
	bytea	   *page = NULL;

	if (blk < 0 || blk > MaxBlockNumber)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid block number")));
	memset(&req, 0, sizeof(req));
	req.reqid = 1;
	req.lsn = lsn;
	req.not_modified_since = lsn;
	req.rnode = rnode;
	req.fork = forkname_to_number(text_to_cstring(fork));
	req.blkno = (BlockNumber) blk;
	req.nblocks = 1;

	PG_TRY();
	{
		char	   *received;
		int			len;

		conn = PQconnectdb(required_setting("neon.pageserver_connstring"));
		if (conn == NULL)
			elog(ERROR, "out of memory");
		open_stream(conn, deadline);
		len = exchange(conn, &req, deadline, &received);
		answer = received;
		page = page_of_answer(received, len);
	}
	PG_FINALLY();
	{
		if (answer)
			PQfreemem(answer);
		if (conn)
			PQfinish(conn);
	}
	PG_END_TRY();
	return page;
}

/* Without an LSN: everything that is in WAL by now, flushed first. */
static XLogRecPtr
lsn_or_now(FunctionCallInfo fcinfo, int arg)
{
	XLogRecPtr	lsn;

	if (!PG_ARGISNULL(arg))
		return PG_GETARG_LSN(arg);
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("an LSN must be given on a read-only endpoint")));
	lsn = neon_end_of_wal();
	XLogFlush(lsn);
	return lsn;
}

static void
refuse_nulls(FunctionCallInfo fcinfo, int n)
{
	int			i;

	for (i = 0; i < n; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("only the LSN may be null")));
}

Datum
get_raw_page_at_lsn(PG_FUNCTION_ARGS)
{
	Relation	rel;
	RelFileNode rnode;

	refuse_nulls(fcinfo, 3);
	rel = relation_open(PG_GETARG_OID(0), AccessShareLock);
	rnode = rel->rd_node;
	relation_close(rel, AccessShareLock);
	PG_RETURN_BYTEA_P(fetch_page(rnode, PG_GETARG_TEXT_PP(1), PG_GETARG_INT64(2),
								 lsn_or_now(fcinfo, 3)));
}

Datum
get_raw_page_at_lsn_by_file(PG_FUNCTION_ARGS)
{
	RelFileNode rnode;

	refuse_nulls(fcinfo, 5);
	rnode.spcNode = PG_GETARG_OID(0);
	rnode.dbNode = PG_GETARG_OID(1);
	rnode.relNode = PG_GETARG_OID(2);
	PG_RETURN_BYTEA_P(fetch_page(rnode, PG_GETARG_TEXT_PP(3), PG_GETARG_INT64(4),
								 lsn_or_now(fcinfo, 5)));
}
