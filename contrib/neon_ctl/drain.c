/*-------------------------------------------------------------------------
 *
 * drain.c
 *	  Taking from a dead compute's directory what the pageserver lacks.
 *
 * With safekeepers there is nothing of that kind: a dead compute's directory is
 * a cache.  In laptop mode a commit is acknowledged when it is in the compute's own
 * pg_wal, so before anything else may write the timeline, or the directory may
 * go away, that WAL is given to the pageserver: the ticket is taken away so
 * that nobody starts there, whatever runs is stopped, and the segments are
 * sent raw from where the pageserver is.  The pageserver decodes them and
 * says where the last valid record ends.
 *
 * Where the WAL ends is a question of trust.  As long as the machine has not
 * been booted since, all that was written is in the files, page after page;
 * so a page with its own address behind the end means that something between
 * is damaged, and nothing is given up silently.
 *
 *-------------------------------------------------------------------------
 */
#include "endpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "fsutil.h"
#include "instance.h"
#include "output.h"
#include "repo.h"

#define FIRST_CHUNK		(4 * 1024 * 1024)
#define LARGEST_CHUNK	(1000 * 1024 * 1024)
#define TIMELINE_ID		1		/* PostgreSQL's; branches share it */

/* The pg_wal of one data directory. */
typedef struct WalFiles
{
	char		dir[MAXPGPATH];
	int			segsize;
} WalFiles;

/* A segment opened for reading; -1 if there is none. */
static int
open_segment(const WalFiles *wal, XLogSegNo segno)
{
	char		name[MAXFNAMELEN];
	char		path[MAXPGPATH];
	int			fd;

	XLogFileName(name, TIMELINE_ID, segno, wal->segsize);
	make_path(path, "%s/%s", wal->dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno != ENOENT && errno != ENOTDIR)
		die(EXIT_GENERAL, "Check the disk and the permissions.", "could not open \"%s\": %m", path);
	return fd;
}

/* Does this page of the segment say that it is where it is?  Then *header is its. */
static bool
own_header(int fd, uint32 offset, XLogRecPtr address, XLogPageHeaderData *header)
{
	if (pread(fd, header, sizeof(*header), offset) != sizeof(*header))
		return false;
	return header->xlp_magic == XLOG_PAGE_MAGIC && header->xlp_pageaddr == address;
}

static bool
page_is_own(int fd, uint32 offset, XLogRecPtr address)
{
	XLogPageHeaderData header;

	return own_header(fd, offset, address, &header);
}

/*
 * End of the last page, at or after the one that holds "from", that carries
 * its own address: no valid WAL lies beyond.  The rest of a segment may be
 * zeros (a switch of segments), so each segment is looked through.
 */
static XLogRecPtr
end_of_own_pages(const WalFiles *wal, XLogRecPtr from)
{
	XLogRecPtr	page = from - from % XLOG_BLCKSZ;
	XLogRecPtr	end = page;
	XLogSegNo	segno;
	uint32		offset = XLogSegmentOffset(page, wal->segsize);

	XLByteToSeg(page, segno, wal->segsize);
	for (;; segno++, offset = 0)
	{
		int			fd = open_segment(wal, segno);

		if (fd < 0)
			return end;
		for (; offset < wal->segsize; offset += XLOG_BLCKSZ)
		{
			XLogRecPtr	address;

			XLogSegNoOffsetToRecPtr(segno, offset, wal->segsize, address);
			if (page_is_own(fd, offset, address))
				end = address + XLOG_BLCKSZ;
		}
		close(fd);
	}
}

/*
 * Is it right that the page which begins at "end" was never written?  It is if
 * the page before it was.  The segment before a segment's start may be gone.
 */
static bool
is_end_of_page(const WalFiles *wal, XLogRecPtr end)
{
	if (XLogSegmentOffset(end, wal->segsize) == 0)
		return true;
	return end % XLOG_BLCKSZ == 0 && end_of_own_pages(wal, end - XLOG_BLCKSZ) == end;
}

/*
 * The record that begins at "end" may be incomplete: of one that fills several
 * pages, whole pages are written before it is all there.  Returns the end of
 * the pages that can be such a beginning; own pages behind them cannot.
 */
static XLogRecPtr
end_of_begun_record(const WalFiles *wal, XLogRecPtr end)
{
	XLogRecPtr	page = end - end % XLOG_BLCKSZ + XLOG_BLCKSZ;
	uint32		expected = 0;	/* bytes of the record from there on, once known */

	for (;; page += XLOG_BLCKSZ)
	{
		XLogPageHeaderData header;
		XLogSegNo	segno;
		uint32		room;
		bool		own;
		int			fd;

		XLByteToSeg(page, segno, wal->segsize);
		fd = open_segment(wal, segno);
		if (fd < 0)
			return page;
		own = own_header(fd, XLogSegmentOffset(page, wal->segsize), page, &header);
		close(fd);
		if (!own || (header.xlp_info & XLP_FIRST_IS_CONTRECORD) == 0 ||
			(expected != 0 && header.xlp_rem_len != expected))
			return page;
		room = XLOG_BLCKSZ - XLogPageHeaderSize(&header);
		if (header.xlp_rem_len <= room)
			return page;		/* it is complete, so it should have been valid */
		expected = header.xlp_rem_len - room;
	}
}

/* Reads [start, start + len) as far as there are files; returns the bytes read. */
static int
read_wal(const WalFiles *wal, XLogRecPtr start, char *buf, int len)
{
	int			done = 0;

	while (done < len)
	{
		XLogSegNo	segno;
		uint32		offset = XLogSegmentOffset(start + done, wal->segsize);
		int			want = Min(len - done, wal->segsize - offset);
		int			fd;
		ssize_t		n;

		XLByteToSeg(start + done, segno, wal->segsize);
		fd = open_segment(wal, segno);
		if (fd < 0)
			break;
		n = pread(fd, buf + done, want, offset);
		close(fd);
		if (n < 0)
			die(EXIT_GENERAL, "Check the disk.", "could not read WAL in \"%s\": %m", wal->dir);
		done += n;
		if (n < want)
			break;
	}
	return done;
}

/*
 * Sends [start, end) to the pageserver and returns where its last valid
 * record ends.  A record that the end of a chunk cuts is sent again; one that
 * is longer than a chunk makes the chunk grow.  *problem gets what the
 * pageserver finds wrong with the WAL there, or NULL.
 */
static XLogRecPtr
feed(PGconn *conn, const TimelineInfo *tl, const WriterInfo *writer, const WalFiles *wal,
	 XLogRecPtr start, XLogRecPtr end, const char **problem)
{
	int			chunk = FIRST_CHUNK;
	char	   *buf = NULL;
	int			buf_size = 0;

	*problem = NULL;
	while (start < end && *problem == NULL)
	{
		int			len = (int) Min(end - start, (uint64) chunk);
		XLogRecPtr	reached;

		if (chunk > buf_size)
		{
			buf = pg_realloc(buf, chunk);
			buf_size = chunk;
		}
		len = read_wal(wal, start, buf, len);
		if (len == 0)
			break;
		reached = ps_feed(conn, tl, writer, start, buf, len, problem);
		if (reached == start)
		{
			if (start + len >= end || len < chunk || chunk >= LARGEST_CHUNK)
				break;
			chunk = Min(chunk * 2, LARGEST_CHUNK);
		}
		start = reached;
	}
	free(buf);
	return start;
}

/*
 * The writer's directory cannot be read: refuse, saying what would be lost, or
 * do as the user says.
 */
static void
give_up_writer(PGconn *conn, TimelineInfo *tl, const WriterInfo *writer, XLogRecPtr accept_loss,
			   const char *why)
{
	if (accept_loss == InvalidXLogRecPtr)
		die(EXIT_GENERAL,
			strf("Bring the directory back. If that is impossible, give up what is missing by \"neon endpoint start %s --accept-data-loss %s\".",
				 writer->endpoint, lsn_text(tl->last_record_lsn)),
			"%s: commits of endpoint \"%s\" (branch \"%s\", term %u) after %s would be lost",
			why, writer->endpoint, tl->name, writer->term, lsn_text(tl->last_record_lsn));
	if (accept_loss != tl->last_record_lsn)
		die(EXIT_GENERAL, strf("Give \"--accept-data-loss %s\".", lsn_text(tl->last_record_lsn)),
			"the pageserver has branch \"%s\" up to %s, not %s", tl->name,
			lsn_text(tl->last_record_lsn), lsn_text(accept_loss));
	ps_writer_abandon(conn, tl, writer->boot_id, accept_loss);
	warn("commits of endpoint \"%s\" (branch \"%s\", term %u) after %s are given up",
		 writer->endpoint, tl->name, writer->term, lsn_text(accept_loss));
}

/*
 * Why the writer's directory cannot be drained, or NULL.  Otherwise *end is
 * where the WAL ends that the pageserver now has.
 */
static const char *
feed_directory(PGconn *conn, const TimelineInfo *tl, const WriterInfo *writer, const char *pgdata,
			   XLogRecPtr *end)
{
	WalFiles	wal;
	TicketInfo	ticket;
	XLogRecPtr	own_end;
	const char *problem;
	struct stat st;

	if (!is_directory(pgdata))
		return strf("the last writer's data directory \"%s\" is missing", pgdata);
	if (!ticket_read(pgdata, &ticket) || strcmp(ticket.boot_id, writer->boot_id) != 0)
		return strf("data directory \"%s\" is not of the last writer's boot", pgdata);
	make_path(wal.dir, "%s/pg_wal", pgdata);
	wal.segsize = tl->segment_size;
	if (!IsValidWalSegSize(wal.segsize))
		die(EXIT_GENERAL, "Look into the pageserver's view neon_pageserver.timelines.",
			"branch \"%s\" has an invalid WAL segment size %d", tl->name, wal.segsize);
	if (stat(wal.dir, &st) < 0)
		return strf("the last writer's WAL directory \"%s\" is missing", wal.dir);
	own_end = end_of_own_pages(&wal, tl->last_record_lsn);
	if (own_end <= tl->last_record_lsn && !is_end_of_page(&wal, tl->last_record_lsn))
		return strf("WAL at %s is missing in \"%s\"", lsn_text(tl->last_record_lsn), wal.dir);
	*end = feed(conn, tl, writer, &wal, tl->last_record_lsn, own_end, &problem);
	if (problem != NULL)
		return problem;
	if (own_end > end_of_begun_record(&wal, *end) &&
		strcmp(writer->machine_boot_id, machine_boot_id()) == 0)
		return strf("WAL in \"%s\" is damaged at %s and goes on to %s", wal.dir, lsn_text(*end),
					lsn_text(own_end));
	return NULL;
}

void
drain_writer(PGconn *conn, TimelineInfo *tl, const WriterInfo *writer, XLogRecPtr accept_loss)
{
	char		pgdata[MAXPGPATH];
	char		ticket[MAXPGPATH];
	const char *problem;
	XLogRecPtr	end = InvalidXLogRecPtr;

	make_path(pgdata, "%s", writer_pgdata(writer));
	make_path(ticket, "%s/neon.ticket", pgdata);
	/* Keep what it says, so that the directory still tells whose it is. */
	if (path_exists(ticket))
		rename_durably(ticket, strf("%s.used", ticket));
	server_stop(pgdata, STOP_IMMEDIATE, 0, strf("endpoint \"%s\"", writer->endpoint));
	ps_refresh(conn, tl);
	problem = feed_directory(conn, tl, writer, pgdata, &end);
	ps_refresh(conn, tl);
	if (problem != NULL)
		give_up_writer(conn, tl, writer, accept_loss, problem);
	else
		ps_writer_drained(conn, tl, writer->boot_id, end);
	ps_refresh(conn, tl);
	conf_save_auto(writer->endpoint, pgdata);
}

void
drain_dead_writer(PGconn *conn, TimelineInfo *tl, XLogRecPtr accept_loss)
{
	WriterInfo	writer;
	Endpoint	live;

	ps_writer_get(conn, tl, &writer);
	if (writer.term == 0 || writer.drained_lsn != InvalidXLogRecPtr)
		return;
	if (writer_is_live(&writer, &live))
		die(EXIT_GENERAL, strf("Stop it by \"neon endpoint stop %s\".", writer.endpoint),
			"endpoint \"%s\" writes branch \"%s\"", writer.endpoint, tl->name);
	say("Draining endpoint %s, which was not stopped cleanly ...", writer.endpoint);
	drain_writer(conn, tl, &writer, accept_loss);
}

void
drain_directory(PGconn *conn, const Endpoint *ep, XLogRecPtr accept_loss)
{
	char		pgdata[MAXPGPATH];
	TicketInfo	ticket;
	TimelineInfo tl;
	WriterInfo	writer;
	int			lock;

	make_path(pgdata, "%s", endpoint_path(ep, "pgdata"));
	if (safekeeper_count() == 0 && ticket_read(pgdata, &ticket) &&
		strcmp(ticket.kind, "primary") == 0)
	{
		if (conn == NULL)
			die(EXIT_NOT_RUNNING, "Start it by \"neon start\".", "the pageserver is not running");
		lock = timeline_lock(ticket.timeline);
		if (ps_timeline_by_id(conn, ticket.tenant, ticket.timeline, &tl))
		{
			ps_writer_get(conn, &tl, &writer);
			if (writer.term > 0 && writer.drained_lsn == InvalidXLogRecPtr &&
				strcmp(writer.boot_id, ticket.boot_id) == 0)
				drain_writer(conn, &tl, &writer, accept_loss);
		}
		lock_release(lock);
	}
	server_stop(pgdata, STOP_IMMEDIATE, 0, strf("endpoint \"%s\"", ep->name));
	if (is_directory(pgdata))
		conf_save_auto(ep->name, pgdata);
}

/* The writer of the endpoint's branch if that is this endpoint, undrained. */
static bool
undrained_writer(PGconn *conn, const Endpoint *ep, TimelineInfo *tl, WriterInfo *writer)
{
	if (ep->kind != ENDPOINT_PRIMARY || safekeeper_count() > 0 ||
		!ps_timeline_by_id(conn, ep->tenant, ep->timeline, tl))
		return false;
	ps_writer_get(conn, tl, writer);
	return writer->term > 0 && writer->drained_lsn == InvalidXLogRecPtr &&
		strcmp(writer->endpoint, ep->name) == 0;
}

bool
endpoint_needs_drain(PGconn *conn, const Endpoint *ep)
{
	TimelineInfo tl;
	WriterInfo	writer;

	return undrained_writer(conn, ep, &tl, &writer);
}

void
drain_endpoint(PGconn *conn, const Endpoint *ep, XLogRecPtr accept_loss)
{
	TimelineInfo tl;
	WriterInfo	writer;
	int			lock;

	drain_directory(conn, ep, accept_loss);
	/* Its directory may be missing. */
	lock = timeline_lock(ep->timeline);
	if (undrained_writer(conn, ep, &tl, &writer))
		drain_writer(conn, &tl, &writer, accept_loss);
	lock_release(lock);
}
