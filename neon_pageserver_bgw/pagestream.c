/*-------------------------------------------------------------------------
 *
 * pagestream.c
 *	  The page service: requests and answers of common/neon_frame.h on a
 *	  connection in COPY BOTH mode.
 *
 * Answers are collected and sent when no complete request is left or enough
 * has gathered.  An error of a request is its answer; only a client that
 * breaks the protocol loses the connection.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "copyio.h"
#include "fmgr.h"
#include "history.h"
#include "ingest.h"
#include "miscadmin.h"
#include "neon_frame.h"
#include "pgstat.h"
#include "read.h"
#include "service.h"
#include "sqlutil.h"
#include "timeline.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(neon_pagestream);

/* The sqlstate that all parts use for this. */
#define ERRCODE_SUPERSEDED	MAKE_SQLSTATE('N', 'S', '0', '0', '1')

/* Memory that is kept from one request to the next: of the largest one. */
#define REQUEST_MEMORY		(NEON_MAX_BLOCKS_PER_REQUEST * (BLCKSZ + 2048))

/* Send when so much waits to be sent. */
#define FLUSH_BYTES			(256 * 1024)

typedef struct PageStream
{
	Timeline   *tl;
	XLogRecPtr	history_start;	/* nothing is known below it */
	MemoryContext stream_context;
	MemoryContext request_context;	/* reset after each request */
	int			answer_start;	/* of the request in work, in copyio_out() */
} PageStream;

/* Why a request is not answered with pages; thrown by nobody. */
typedef struct Refusal
{
	NeonErrorClass error_class;
	int			sqlstate;
	const char *message;
	const char *detail;
	const char *hint;
} Refusal;

/* ---- answers ---- */

static void
flush_answers(PageStream *stream)
{
	service_count(SERVE_BYTES_SENT, copyio_out()->len);
	copyio_flush();
	stream->answer_start = 0;
}

static void
put_refusal(const NeonRequest *req, XLogRecPtr effective, const Refusal *refusal)
{
	int			place = copyio_start_data();

	neon_frame_put_error(copyio_out(), req->reqid, effective, refusal->error_class,
						 unpack_sql_state(refusal->sqlstate), refusal->message,
						 refusal->detail ? refusal->detail : "",
						 refusal->hint ? refusal->hint : "");
	copyio_finish_data(place);
	service_count(SERVE_ERRORS, 1);
	if (refusal->error_class == NEON_ERROR_SUPERSEDED)
		service_count(SERVE_SUPERSEDED, 1);
}

/* Would the same request succeed later, without anybody repairing something? */
static NeonErrorClass
class_of_sqlstate(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_LOCK_NOT_AVAILABLE):
			return NEON_ERROR_RETRY;
		default:
			return NEON_ERROR_FINAL;
	}
}

/* ---- one request ---- */

/*
 * The LSN that a request is answered at, taken once; waits for WAL up to
 * not_modified_since.  False with *refusal set if there is none.
 */
static bool
effective_lsn(PageStream *stream, const NeonRequest *req, XLogRecPtr *lsn, Refusal *refusal)
{
	Timeline   *tl = stream->tl;
	XLogRecPtr	last = timeline_last_record_lsn(tl);

	*lsn = Min(req->lsn, last);
	if (req->not_modified_since > last)
	{
		/* what is ready must not wait for what is not */
		flush_answers(stream);
		ingest_begin_catch_up(tl);
		if (!timeline_wait_lsn(tl, req->not_modified_since, service_wait_lsn_timeout))
		{
			last = timeline_last_record_lsn(tl);
			*refusal = (Refusal) {
				NEON_ERROR_RETRY, ERRCODE_CANNOT_CONNECT_NOW,
					psprintf("WAL has not arrived up to %X/%X",
							 LSN_FORMAT_ARGS(req->not_modified_since)),
					psprintf("The timeline ends at %X/%X.", LSN_FORMAT_ARGS(last))
			};
			service_count(SERVE_WAIT_TIMEOUTS, 1);
			return false;
		}
		last = timeline_last_record_lsn(tl);
		*lsn = Min(req->lsn, last);
	}
	if (*lsn < stream->history_start)
	{
		*refusal = (Refusal) {
			NEON_ERROR_FINAL, ERRCODE_INVALID_PARAMETER_VALUE,
				psprintf("LSN %X/%X is before the start of the timeline's history",
						 LSN_FORMAT_ARGS(*lsn)),
				psprintf("It starts at %X/%X.", LSN_FORMAT_ARGS(stream->history_start))
		};
		return false;
	}
	return true;
}

/* Does a compute of a later term write the timeline, before lsn? */
static bool
is_superseded(PageStream *stream, const NeonRequest *req, XLogRecPtr lsn, Refusal *refusal)
{
	XLogRecPtr	boot_record_end;
	uint32		term;

	if (req->term == 0)
		return false;
	term = timeline_term(stream->tl, &boot_record_end);
	if (term <= req->term || lsn < boot_record_end)
		return false;
	*refusal = (Refusal) {
		NEON_ERROR_SUPERSEDED, ERRCODE_SUPERSEDED,
			psprintf("superseded by term %u", term),
			psprintf("The request is of term %u.", req->term)
	};
	return true;
}

/* Pages into the answer; false with the first page's error. */
static bool
put_pages(PageStream *stream, const NeonRequest *req, XLogRecPtr lsn, Refusal *refusal)
{
	StringInfo	out = copyio_out();
	int			n = req->nblocks;
	NeonKey    *keys = palloc(n * sizeof(NeonKey));
	PageResult *results = palloc(n * sizeof(PageResult));
	int			place;

	for (int i = 0; i < n; i++)
		keys[i] = neon_page_key(req->rnode, req->fork, req->blkno + i);

	place = copyio_start_data();
	neon_frame_put_pages_header(out, req->reqid, lsn, req->nblocks);
	enlargeStringInfo(out, n * BLCKSZ);
	read_pages(stream->tl, keys, n, lsn, out->data + out->len, results);
	for (int i = 0; i < n; i++)
	{
		int			sqlstate;

		if (results[i].ok)
			continue;
		sqlstate = MAKE_SQLSTATE(results[i].sqlstate[0], results[i].sqlstate[1],
								 results[i].sqlstate[2], results[i].sqlstate[3],
								 results[i].sqlstate[4]);
		*refusal = (Refusal) {
			class_of_sqlstate(sqlstate), sqlstate,
				psprintf("could not make block %u of relation %u/%u/%u at %X/%X",
						 req->blkno + i, req->rnode.spcNode, req->rnode.dbNode,
						 req->rnode.relNode, LSN_FORMAT_ARGS(lsn)),
				results[i].message
		};
		out->len = place;
		return false;
	}
	out->len += n * BLCKSZ;
	copyio_finish_data(place);
	return true;
}

/*
 * The horizon may have passed the LSN that was last while WAL was waited for:
 * it is taken again with the horizon in sight.
 */
static void
begin_read(PageStream *stream, const NeonRequest *req, XLogRecPtr *lsn)
{
	XLogRecPtr	cutoff = history_read_begin(stream->tl);

	if (*lsn < cutoff && *lsn < req->lsn)
		*lsn = Min(req->lsn, timeline_last_record_lsn(stream->tl));
	history_check(stream->tl, *lsn, cutoff, ERRCODE_SNAPSHOT_TOO_OLD);
}

static void
answer(PageStream *stream, const NeonRequest *req, XLogRecPtr *lsn)
{
	Refusal		refusal;
	bool		answered = false;

	timeline_check_readable(stream->tl);
	if (effective_lsn(stream, req, lsn, &refusal))
	{
		begin_read(stream, req, lsn);
		answered = !is_superseded(stream, req, *lsn, &refusal) &&
			put_pages(stream, req, *lsn, &refusal);
		history_read_end();
	}
	if (!answered)
		put_refusal(req, *lsn, &refusal);
}

/*
 * An error thrown by a request becomes its answer, unless it is a cancel,
 * which ends the stream.
 */
static void
answer_error(PageStream *stream, const NeonRequest *req, XLogRecPtr lsn)
{
	ErrorData  *edata;
	Refusal		refusal;

	MemoryContextSwitchTo(stream->request_context);
	edata = CopyErrorData();
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
		PG_RE_THROW();
	FlushErrorState();
	copyio_recover();
	history_read_end();
	MemoryContextSwitchTo(stream->request_context);
	edata->elevel = LOG_SERVER_ONLY;
	ThrowErrorData(edata);

	copyio_out()->len = stream->answer_start;
	refusal = (Refusal) {
		class_of_sqlstate(edata->sqlerrcode), edata->sqlerrcode,
			edata->message ? edata->message : "unknown error",
			edata->detail, edata->hint
	};
	put_refusal(req, lsn, &refusal);
}

static void
serve_request(PageStream *stream, const NeonRequest *req)
{
	volatile XLogRecPtr effective = InvalidXLogRecPtr;

	service_count(SERVE_REQUESTS, 1);
	stream->answer_start = copyio_out()->len;
	MemoryContextSwitchTo(stream->request_context);
	PG_TRY();
	{
		XLogRecPtr	lsn = InvalidXLogRecPtr;

		answer(stream, req, &lsn);
		effective = lsn;
	}
	PG_CATCH();
	{
		answer_error(stream, req, effective);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(stream->stream_context);
	MemoryContextReset(stream->request_context);
}

/* ---- the stream ---- */

/* What compaction removes meanwhile would keep its space. */
static void
close_files(void)
{
	timeline_close_files(true);
}

static void
serve_stream(PageStream *stream)
{
	bool		done = false;

	while (!done)
	{
		const char *body;
		int			len;

		while (copyio_next(&body, &len, &done))
		{
			NeonRequest req;
			const char *problem;

			if (!neon_frame_get_request(body, len, &req, &problem))
				ereport(FATAL,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("invalid page request: %s", problem)));
			serve_request(stream, &req);
			if (copyio_out()->len >= FLUSH_BYTES)
				flush_answers(stream);
		}
		if (copyio_out()->len > 0)
			flush_answers(stream);
		if (!done)
			copyio_wait(close_files);
	}
}

static void
open_stream(FunctionCallInfo fcinfo, PageStream *stream)
{
	stream->tl = sql_open_timeline(fcinfo, 0, 1);
	timeline_check_readable(stream->tl);
	stream->history_start = sql_history_start(stream->tl);
	/* of the last stream of this connection, if an error ended it */
	stream->stream_context = AllocSetContextCreate(TopMemoryContext, "neon pagestream",
												   ALLOCSET_DEFAULT_SIZES);
	stream->request_context = AllocSetContextCreate(stream->stream_context,
													"neon page request",
													REQUEST_MEMORY,
													ALLOCSET_DEFAULT_INITSIZE,
													ALLOCSET_DEFAULT_MAXSIZE);
}

static void
report_stream(const Timeline *tl)
{
	char		tenant[NEON_ID_HEXLEN + 1];
	char		timeline[NEON_ID_HEXLEN + 1];
	char		activity[128];

	snprintf(activity, sizeof(activity), "pagestream %s %s",
			 neon_id_format(&tl->id.tenant, tenant), neon_id_format(&tl->id.timeline, timeline));
	pgstat_report_activity(STATE_RUNNING, activity);
}

Datum
neon_pagestream(PG_FUNCTION_ARGS)
{
	PageStream	stream;

	open_stream(fcinfo, &stream);
	PG_TRY();
	{
		copyio_begin(fcinfo, "pagestream", COPYIO_BOTH);
		MemoryContextSwitchTo(stream.stream_context);
		report_stream(stream.tl);
		service_count(SERVE_STREAMS, 1);
		serve_stream(&stream);
		copyio_end();
	}
	PG_CATCH();
	{
		copyio_abandon();
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextDelete(stream.stream_context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(stream.stream_context);
	PG_RETURN_VOID();
}
