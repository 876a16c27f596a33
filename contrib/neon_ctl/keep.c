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
#define ANSWER_TIME		"10s"
#define ASK_TIMEOUT		60		/* seconds; then the pageserver hangs */

/* Of very many files some are still being taken over then. */
#define COMPLETE_TIMEOUT_MS	2000

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
	PQclear(db_exec(conn, ASK_TIMEOUT, NULL, "RESET statement_timeout", 0));
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
			 const char *built, KeptPages *kept)
{
	NeonKeptHeader header;
	char		path[MAXPGPATH];
	const char *problem;

	memset(kept, 0, sizeof(*kept));
	if (!read_header(pgdata, tl, &header) || server_in_use(pgdata))
		return false;
	kept->offered = true;
	make_path(path, "%s/" NEON_CHANGED_FILE, built);
	if (ask_changed(conn, tl, &header, lsn, path, &problem))
		return true;
	strlcpy(kept->reason, problem, sizeof(kept->reason));
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

/* ---- what was kept ---- */

/* False if that is not what a compute of this version says. */
static bool
parse_answer(const char *text, KeptPages *kept)
{
	int			complete;
	int			end = 0;
	char	   *reason = strstr(text, " reason=");

	if (sscanf(text,
			   "complete=%d kept_chunks=" INT64_FORMAT " kept_bytes=" INT64_FORMAT " dropped_chunks=" INT64_FORMAT " dropped_bytes=" INT64_FORMAT "%n",
			   &complete, &kept->kept_chunks, &kept->kept_bytes, &kept->dropped_chunks,
			   &kept->dropped_bytes, &end) != 5 || end == 0)
		return false;
	kept->complete = complete != 0;
	/* what the compute has not been offered it cannot judge */
	if (reason != NULL && kept->reason[0] == '\0')
		strlcpy(kept->reason, reason + strlen(" reason="), sizeof(kept->reason));
	return true;
}

void
keep_ask(PGconn *endpoint, KeptPages *kept, bool offered)
{
	int64		deadline = now_ms() + COMPLETE_TIMEOUT_MS;

	for (;;)
	{
		PGresult   *res = db_send(endpoint, "SHOW neon.warm_start", 0, NULL, NULL, NULL, 10, NULL);
		bool		ok = PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1;

		kept->known = ok && parse_answer(PQgetvalue(res, 0, 0), kept);
		PQclear(res);
		kept->complete = kept->known && (kept->complete || !offered);
		if (!kept->known || kept->complete || now_ms() > deadline)
			return;
		sleep_ms(20);
	}
}

static const char *
size_text(int64 bytes)
{
	return bytes < 10 << 20 ? strf("%d kB", (int) (bytes >> 10)) :
		strf(INT64_FORMAT " MB", bytes >> 20);
}

void
keep_say(const KeptPages *kept)
{
	if (!kept->offered)
		return;
	if (kept->reason[0] != '\0')
		say("Local pages of the last run are not kept: %s", kept->reason);
	else if (kept->known)
		say("Kept %s of local pages of the last run (" INT64_FORMAT " chunks), dropped %s (" INT64_FORMAT " chunks)%s",
			size_text(kept->kept_bytes), kept->kept_chunks, size_text(kept->dropped_bytes),
			kept->dropped_chunks, kept->complete ? "" : " so far");
}

void
keep_json(PQExpBuffer buf, const KeptPages *kept)
{
	json_number(buf, "kept_chunks", kept->kept_chunks);
	json_number(buf, "kept_bytes", kept->kept_bytes);
	json_number(buf, "dropped_chunks", kept->dropped_chunks);
	json_number(buf, "dropped_bytes", kept->dropped_bytes);
	json_bool(buf, "kept_complete", kept->complete);
	json_string(buf, "not_kept", kept->reason[0] ? kept->reason : NULL);
}
