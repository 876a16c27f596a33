/*-------------------------------------------------------------------------
 *
 * keep.c
 *	  Warm restarts: the old data directory's relation files for the new one.
 *
 * Whether they are right is decided by the library (neon_compute/kept.c): here
 * they are moved, together with what it has to know.  Nothing that goes wrong
 * here hinders a start, which then fetches again what it needs.
 *
 *-------------------------------------------------------------------------
 */
#include "keep.h"

#include <fcntl.h>
#include <unistd.h>

#include "fsutil.h"
#include "neon_kept.h"
#include "output.h"
#include "run.h"
#include "server.h"

/* Longer than this a start does not wait for it. */
#define ANSWER_TIME		"20s"
#define ASK_TIMEOUT		60		/* seconds; then the pageserver hangs */

/* The old directory's list, if it is one of this branch. */
static bool
read_header(const char *pgdata, const TimelineInfo *tl, NeonKeptHeader *header)
{
	char		path[MAXPGPATH];
	char		tenant[NEON_ID_HEXLEN + 1];
	char		timeline[NEON_ID_HEXLEN + 1];
	ssize_t		n;
	int			fd;

	make_path(path, "%s/" NEON_KEPT_FILE, pgdata);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, header, sizeof(*header));
	close(fd);
	return n == sizeof(*header) && neon_kept_header_is_valid(header) &&
		strcmp(neon_id_format(&header->tenant_id, tenant), tl->tenant) == 0 &&
		strcmp(neon_id_format(&header->timeline_id, timeline), tl->id) == 0;
}

/* The pageserver's answer as a file; false with *problem, if it has none. */
static bool
ask_changed(PGconn *conn, const TimelineInfo *tl, const NeonKeptHeader *header, XLogRecPtr lsn,
			const char *path, const char **problem)
{
	const char *values[] = {tl->tenant, tl->id, strf("%d", (int32) header->term),
	lsn_text(header->lsn), lsn_text(lsn)};
	PGresult   *res;
	const char *text;
	unsigned char *bytes;
	size_t		len;

	PQclear(db_exec(conn, ASK_TIMEOUT, NULL, "SET statement_timeout = '" ANSWER_TIME "'", 0));
	res = db_send(conn, "SELECT neon_pageserver.changed_blocks($1, $2, $3::int4, $4::pg_lsn, $5::pg_lsn) AS blocks",
				  lengthof(values), values, NULL, NULL, ASK_TIMEOUT,
				  "asking what has changed since the last stop");
	PQclear(db_exec(conn, ASK_TIMEOUT, NULL, "SET statement_timeout = 0", 0));
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
	{
		*problem = strf("%s", db_primary(res));
		PQclear(res);
		return false;
	}
	text = db_value(res, 0, "blocks");
	if (text == NULL)
	{
		*problem = "too much has changed since then";
		PQclear(res);
		return false;
	}
	bytes = PQunescapeBytea((const unsigned char *) text, &len);
	if (bytes == NULL)
		die_oom();
	write_file_durably(path, (const char *) bytes, len);
	PQfreemem(bytes);
	PQclear(res);
	return true;
}

bool
keep_prepare(PGconn *conn, const TimelineInfo *tl, XLogRecPtr lsn, const char *pgdata,
			 const char *built)
{
	NeonKeptHeader header;
	char		path[MAXPGPATH];
	const char *problem;

	if (!read_header(pgdata, tl, &header) || server_in_use(pgdata))
		return false;
	make_path(path, "%s/" NEON_CHANGED_FILE, built);
	if (ask_changed(conn, tl, &header, lsn, path, &problem))
		return true;
	say("Local pages of the last run, which ended at %s, are not kept: %s", lsn_text(header.lsn),
		problem);
	return false;
}

/*
 * The list goes first: what is left in the old directory, whenever this ends,
 * is of no use to anybody.
 */
void
keep_move(const char *pgdata, const char *built)
{
	static const char *const directories[] = {"global", "base", "pg_tblspc"};
	char		from[MAXPGPATH];
	char		to[MAXPGPATH];

	make_path(from, "%s/" NEON_KEPT_FILE, pgdata);
	make_path(to, "%s/" NEON_KEPT_LAST_FILE, built);
	if (rename(from, to) != 0)
	{
		warn("could not keep \"%s\": %m", from);
		return;
	}
	test_point("kept-list");
	make_path(to, "%s/" NEON_KEPT_DIR, built);
	make_directory(to);
	for (int i = 0; i < lengthof(directories); i++)
	{
		make_path(from, "%s/%s", pgdata, directories[i]);
		make_path(to, "%s/" NEON_KEPT_DIR "/%s", built, directories[i]);
		if (rename(from, to) != 0)
			warn("could not keep \"%s\": %m", from);
	}
	test_point("kept-files");
}
