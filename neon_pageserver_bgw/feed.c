/*-------------------------------------------------------------------------
 *
 * feed.c
 *	  The WAL that a dead writer left in its data directory.
 *
 * Raw bytes of its segments come in, from a position at or below the last
 * record.  Records that are valid and follow are stored and indexed; the first
 * one that is not ends the writer's WAL.  Recycled segments carry the page
 * addresses of their former life and so end it too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "ingest_private.h"
#include "miscadmin.h"
#include "neon_walpage.h"
#include "source.h"
#include "sqlutil.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "walstore.h"
#include "writer.h"

#define BOOT_ID_FILE	"/proc/sys/kernel/random/boot_id"

typedef struct FeedArgs
{
	Timeline   *tl;
	uint32		term;
	NeonId		boot_id;
	XLogRecPtr	start;
	const char *data;
	size_t		len;
	XLogRecPtr	end;			/* result */
} FeedArgs;

/* ---- corruption or the end ---- */

/* True if this machine has not been restarted since the writer was started on it. */
static bool
same_machine_boot(const TimelineWriter *writer)
{
	char		current[64];
	ssize_t		n;
	int			fd = OpenTransientFile(BOOT_ID_FILE, O_RDONLY);

	if (fd < 0)
		return false;
	n = read(fd, current, sizeof(current) - 1);
	CloseTransientFile(fd);
	if (n <= 0)
		return false;
	current[n] = '\0';
	current[strcspn(current, "\n")] = '\0';
	return writer->machine_boot_id[0] != '\0' &&
		strcmp(current, writer->machine_boot_id) == 0;
}

/*
 * Pages are written in order.  So, while the machine has not crashed, a page
 * that belongs behind the break means that the break was not the end.
 */
static bool
break_is_corruption(const FeedArgs *feed, XLogRecPtr end)
{
	XLogRecPtr	page = end - end % XLOG_BLCKSZ + XLOG_BLCKSZ;
	uint32		expected = 0;

	for (; page + XLOG_BLCKSZ <= feed->start + feed->len; page += XLOG_BLCKSZ)
	{
		XLogPageHeaderData header;

		memcpy(&header, feed->data + (page - feed->start), SizeOfXLogShortPHD);
		if (!walpage_is_own(&header, page))
			return false;		/* the next ones are older still */
		if (walpage_shows_more(&header, &expected))
			return true;
	}
	return false;
}

/* ---- feeding ---- */

static void
check_writer(const FeedArgs *feed, const TimelineWriter *writer)
{
	writer_check_term(feed->tl, writer, feed->term);
	if (writer->term != feed->term || !neon_id_equal(&writer->boot_id, &feed->boot_id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this boot is not the last writer of the timeline"),
				 errdetail("The last writer is endpoint \"%s\" with term %u.",
						   writer->endpoint, writer->term)));
	if (!XLogRecPtrIsInvalid(writer->drained_lsn))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the last writer has been drained already"),
				 errdetail("Its WAL ends at %X/%X.", LSN_FORMAT_ARGS(writer->drained_lsn))));
}

/* Indexes what is valid of the bytes in wal/ up to limit; true if a bad record stopped it. */
static bool
index_fed(Ingest *ingest, const FeedArgs *feed, XLogRecPtr limit)
{
	const ControlState *state = ingest_state(ingest);
	WalCursor  *cursor = walstore_cursor(feed->tl, state->lsn, state->prev, limit);
	WalCursorResult result;
	const char *problem;

	while ((result = walcursor_next(cursor)) == WALCURSOR_RECORD)
	{
		CHECK_FOR_INTERRUPTS();
		if (!ingest_check_term(ingest, feed->term, cursor->reader, &problem))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the WAL is not that of the last writer"),
					 errdetail("%s.", problem)));
		ingest_record(ingest, cursor->reader);
	}
	walcursor_close(cursor);
	return result == WALCURSOR_INVALID;
}

static void
make_durable(Ingest *ingest, Timeline *tl, XLogRecPtr written)
{
	XLogRecPtr	end = ingest_state(ingest)->lsn;

	ingest_clean_tail(ingest, written);
	walstore_sync(tl);
	if (timeline_flush_lsn(tl) < end)
		timeline_set_flush_lsn(tl, end);
	ingest_flush(ingest, INGEST_FLUSH_IF_DUE);
}

static void
feed_as_owner(Ingest *ingest, void *arg)
{
	FeedArgs   *feed = arg;
	XLogRecPtr	known = ingest_state(ingest)->lsn;
	TimelineWriter writer;
	bool		broken = false;

	timeline_get_writer(feed->tl, &writer);
	check_writer(feed, &writer);
	if (feed->start > known)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("WAL from %X/%X does not follow what is stored",
						LSN_FORMAT_ARGS(feed->start)),
				 errdetail("The last stored record ends at %X/%X.", LSN_FORMAT_ARGS(known))));

	if (feed->start + feed->len > known)
	{
		/* what a torn stream left must not be taken for what is fed now */
		ingest_clean_tail(ingest, PG_UINT64_MAX);
		walstore_write(feed->tl, known, feed->data + (known - feed->start),
					   feed->start + feed->len - known);
		broken = index_fed(ingest, feed, feed->start + feed->len);
		make_durable(ingest, feed->tl, feed->start + feed->len);
	}
	feed->end = ingest_state(ingest)->lsn;
	if (broken && same_machine_boot(&writer) && break_is_corruption(feed, feed->end))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("WAL of endpoint \"%s\" is corrupted behind %X/%X",
						writer.endpoint, LSN_FORMAT_ARGS(feed->end)),
				 errdetail("Later pages were written, so this is not the end of its WAL."),
				 errhint("Everything up to that position is stored. What is behind it can only be given up explicitly.")));
}

PG_FUNCTION_INFO_V1(neon_timeline_feed);

/* timeline_feed(tenant, timeline, term, boot_id, start_lsn, data) returns pg_lsn */
Datum
neon_timeline_feed(PG_FUNCTION_ARGS)
{
	bytea	   *data = PG_GETARG_BYTEA_PP(5);
	FeedArgs	feed;

	memset(&feed, 0, sizeof(feed));
	sql_refuse_transaction_block("timeline_feed");
	check_superuser("timeline_feed");
	feed.tl = sql_open_timeline(fcinfo, 0, 1);
	feed.term = writer_term_arg(fcinfo, 2);
	feed.boot_id = sql_id_arg(fcinfo, 3, "boot_id");
	feed.start = PG_GETARG_LSN(4);
	feed.data = VARDATA_ANY(data);
	feed.len = VARSIZE_ANY_EXHDR(data);
	source_clear(feed.tl);
	ingest_with_ownership(feed.tl, feed_as_owner, &feed);
	PG_RETURN_LSN(Max(feed.end, feed.start));
}
