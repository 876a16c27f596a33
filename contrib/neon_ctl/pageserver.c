/*-------------------------------------------------------------------------
 *
 * pageserver.c
 *	  What the command asks of the pageserver.
 *
 *-------------------------------------------------------------------------
 */
#include "pageserver.h"

#include "instance.h"
#include "neon_lsn.h"
#include "options.h"
#include "output.h"

#define STATEMENT_TIMEOUT 60
#define FEED_TIMEOUT	300
#define SQLSTATE_DATA_CORRUPTED "XX001"
#define CATCH_UP_TIMEOUT 600

PGconn *
ps_try_connect(void)
{
	Instance	inst = instance_pageserver();

	return instance_try_connect(&inst);
}

PGconn *
ps_connect(void)
{
	Instance	inst = instance_pageserver();

	return instance_connect(&inst);
}

const char *
lsn_text(XLogRecPtr lsn)
{
	return strf("%X/%X", LSN_FORMAT_ARGS(lsn));
}

/* ---- taking values out of results ---- */

static void
copy_text(char *to, size_t size, const PGresult *res, int row, const char *column)
{
	const char *value = db_value(res, row, column);

	strlcpy(to, value ? value : "", size);
}

static XLogRecPtr
get_lsn(const PGresult *res, int row, const char *column)
{
	const char *value = db_value(res, row, column);
	XLogRecPtr	lsn = InvalidXLogRecPtr;

	if (value != NULL && !neon_lsn_parse(value, &lsn))
		die(EXIT_GENERAL, "Install the same version of the neon command and of its extensions.",
			"\"%s\" is no LSN", value);
	return lsn;
}

static uint32
get_uint32(const PGresult *res, int row, const char *column)
{
	const char *value = db_value(res, row, column);

	return value ? (uint32) strtoul(value, NULL, 10) : 0;
}

static void
fill_timeline(TimelineInfo *info, const PGresult *res, int row)
{
	memset(info, 0, sizeof(*info));
	copy_text(info->tenant, sizeof(info->tenant), res, row, "tenant_id");
	copy_text(info->id, sizeof(info->id), res, row, "timeline_id");
	copy_text(info->name, sizeof(info->name), res, row, "name");
	copy_text(info->ancestor, sizeof(info->ancestor), res, row, "ancestor_id");
	info->ancestor_lsn = get_lsn(res, row, "ancestor_lsn");
	info->start_lsn = get_lsn(res, row, "start_lsn");
	info->last_record_lsn = get_lsn(res, row, "last_record_lsn");
	info->flush_lsn = get_lsn(res, row, "flush_lsn");
	info->term = get_uint32(res, row, "term");
	info->segment_size = (int) get_uint32(res, row, "wal_segment_size");
	copy_text(info->state, sizeof(info->state), res, row, "state");
}

/* ---- timelines ---- */

#define TIMELINE_COLUMNS "SELECT * FROM neon_pageserver.timelines "

TimelineInfo *
ps_timelines(PGconn *conn, const char *tenant, int *n)
{
	PGresult   *res = db_exec(conn, STATEMENT_TIMEOUT, "listing timelines", TIMELINE_COLUMNS
							  "WHERE $1::text IS NULL OR tenant_id = $1 ORDER BY tenant_id, start_lsn, name", 1, tenant);
	TimelineInfo *list;

	*n = PQntuples(res);
	list = pg_malloc0((*n + 1) * sizeof(TimelineInfo));
	for (int i = 0; i < *n; i++)
		fill_timeline(&list[i], res, i);
	PQclear(res);
	return list;
}

bool
ps_timeline_by_id(PGconn *conn, const char *tenant, const char *id, TimelineInfo *info)
{
	PGresult   *res = db_exec(conn, STATEMENT_TIMEOUT, NULL, TIMELINE_COLUMNS
							  "WHERE tenant_id = $1 AND timeline_id = $2", 2, tenant, id);
	bool		found = PQntuples(res) == 1;

	if (found)
		fill_timeline(info, res, 0);
	PQclear(res);
	return found;
}

void
ps_refresh(PGconn *conn, TimelineInfo *tl)
{
	TimelineInfo fresh;

	/* one that was just started indexes what it has: till then its positions are old */
	ps_wait_lsn(conn, tl, InvalidXLogRecPtr, CATCH_UP_TIMEOUT);
	for (;;)
	{
		if (!ps_timeline_by_id(conn, tl->tenant, tl->id, &fresh))
			die(EXIT_GENERAL, "See \"neon timeline list\".", "branch \"%s\" is no longer there",
				tl->name);
		if (fresh.last_record_lsn >= fresh.flush_lsn)
			break;
		ps_wait_lsn(conn, &fresh, fresh.flush_lsn, CATCH_UP_TIMEOUT);
	}
	*tl = fresh;
}

static void
check_tenant(PGconn *conn, const char *tenant)
{
	PGresult   *res = db_exec(conn, STATEMENT_TIMEOUT, NULL,
							  "SELECT 1 FROM neon_pageserver.tenants WHERE tenant_id = $1", 1, tenant);

	if (PQntuples(res) == 0)
		die(EXIT_GENERAL, "See \"neon tenant list\".", "there is no tenant %s", tenant);
	PQclear(res);
}

void
ps_find_timeline(PGconn *conn, const char *tenant, const char *name_or_id, TimelineInfo *info)
{
	PGresult   *res = db_exec(conn, STATEMENT_TIMEOUT, NULL, TIMELINE_COLUMNS
							  "WHERE tenant_id = $1 AND (name = $2 OR timeline_id = lower($2)) "
							  "ORDER BY name = $2 DESC", 2, tenant, name_or_id);

	if (PQntuples(res) > 1 && strcmp(db_value(res, 1, "name"), name_or_id) == 0)
		die(EXIT_GENERAL, "Name it by its ID; see \"neon timeline list\".",
			"%d branches are named \"%s\"", PQntuples(res), name_or_id);
	if (PQntuples(res) == 0)
	{
		check_tenant(conn, tenant);
		die(EXIT_GENERAL, "See \"neon timeline list\", or create it by \"neon timeline branch\".",
			"there is no branch \"%s\" of tenant %s", name_or_id, tenant);
	}
	fill_timeline(info, res, 0);
	PQclear(res);
}

uint32
ps_highest_term(PGconn *conn, const TimelineInfo *tl)
{
	int			n;
	TimelineInfo *all = ps_timelines(conn, tl->tenant, &n);
	const char *at = tl->id;
	uint32		term = 0;

	/* Each step goes to an ancestor; n steps are enough for any chain. */
	for (int step = 0; step <= n && at[0] != '\0'; step++)
	{
		const char *next = "";

		for (int i = 0; i < n; i++)
		{
			if (strcmp(all[i].id, at) == 0)
			{
				WriterInfo	writer;

				ps_writer_get(conn, &all[i], &writer);
				term = Max(term, Max(all[i].term, writer.term));
				next = all[i].ancestor;
			}
		}
		at = next;
	}
	free(all);
	return term;
}

/* ---- the last writer ---- */

void
ps_writer_get(PGconn *conn, const TimelineInfo *tl, WriterInfo *writer)
{
	PGresult   *res = db_exec(conn, STATEMENT_TIMEOUT, NULL,
							  "SELECT * FROM neon_pageserver.writer_get($1, $2)", 2, tl->tenant, tl->id);

	memset(writer, 0, sizeof(*writer));
	if (PQntuples(res) > 0)
	{
		copy_text(writer->endpoint, sizeof(writer->endpoint), res, 0, "endpoint");
		copy_text(writer->boot_id, sizeof(writer->boot_id), res, 0, "boot_id");
		writer->term = get_uint32(res, 0, "term");
		writer->boot_lsn = get_lsn(res, 0, "boot_lsn");
		copy_text(writer->pgdata, sizeof(writer->pgdata), res, 0, "pgdata");
		copy_text(writer->machine_boot_id, sizeof(writer->machine_boot_id), res, 0,
				  "machine_boot_id");
		writer->drained_lsn = get_lsn(res, 0, "drained_lsn");
	}
	PQclear(res);
}

void
ps_writer_acquire(PGconn *conn, const TimelineInfo *tl, uint32 expected_term,
				  const WriterInfo *writer)
{
	PQclear(db_exec(conn, STATEMENT_TIMEOUT, "taking the branch over",
					"SELECT neon_pageserver.writer_acquire($1, $2, $3, $4, $5, $6, $7, $8, $9)", 9,
					tl->tenant, tl->id, strf("%u", expected_term), strf("%u", writer->term),
					writer->endpoint, writer->boot_id, lsn_text(writer->boot_lsn),
					writer->pgdata, writer->machine_boot_id));
}

void
ps_writer_drained(PGconn *conn, const TimelineInfo *tl, const char *boot_id, XLogRecPtr lsn)
{
	PQclear(db_exec(conn, STATEMENT_TIMEOUT, NULL,
					"SELECT neon_pageserver.writer_drained($1, $2, $3, $4)", 4,
					tl->tenant, tl->id, boot_id, lsn_text(lsn)));
}

void
ps_writer_abandon(PGconn *conn, const TimelineInfo *tl, const char *boot_id, XLogRecPtr lsn)
{
	PQclear(db_exec(conn, STATEMENT_TIMEOUT, NULL,
					"SELECT neon_pageserver.writer_abandon($1, $2, $3, $4)", 4,
					tl->tenant, tl->id, boot_id, lsn_text(lsn)));
}

XLogRecPtr
ps_feed(PGconn *conn, const TimelineInfo *tl, const WriterInfo *writer,
		XLogRecPtr start, const char *data, int len, const char **problem)
{
	const char *values[6] = {tl->tenant, tl->id, strf("%u", writer->term), writer->boot_id,
	lsn_text(start), data};
	int			lengths[6] = {0, 0, 0, 0, 0, len};
	int			formats[6] = {0, 0, 0, 0, 0, 1};
	PGresult   *res = db_send(conn,
							  "SELECT neon_pageserver.timeline_feed($1, $2, $3, $4, $5, $6) AS lsn",
							  6, values, lengths, formats, FEED_TIMEOUT, "sending WAL to the pageserver");
	XLogRecPtr	end;

	if (strcmp(db_sqlstate(res), SQLSTATE_DATA_CORRUPTED) == 0)
	{
		*problem = strf("%s", db_primary(res));
		PQclear(res);
		return start;
	}
	db_check(conn, res, "Look into the pageserver's log: \"neon pageserver logs\".");
	end = get_lsn(res, 0, "lsn");
	PQclear(res);
	if (end < start || end > start + len)
		die(EXIT_GENERAL, "Install the same version of the neon command and of its extensions.",
			"the pageserver says %s after WAL from %s", lsn_text(end), lsn_text(start));
	return end;
}

/* Why the pageserver could not take the timeline's WAL, within the last seconds, or NULL. */
static const char *
source_error(PGconn *conn, const TimelineInfo *tl, int seconds)
{
	PGresult   *res = db_exec(conn, STATEMENT_TIMEOUT, NULL,
							  "SELECT last_error FROM neon_pageserver.sources "
							  "WHERE tenant_id = $1 AND timeline_id = $2 "
							  "AND last_error_time > now() - $3::interval", 3,
							  tl->tenant, tl->id, strf("%d seconds", seconds));
	const char *error = PQntuples(res) > 0 ? db_value(res, 0, "last_error") : NULL;

	if (error != NULL)
		error = strf("%s", error);
	PQclear(res);
	return error;
}

static void pg_attribute_noreturn()
die_behind(PGconn *conn, const TimelineInfo *tl, XLogRecPtr lsn, int timeout_s)
{
	const char *error = source_error(conn, tl, timeout_s);

	if (error != NULL)
		die(EXIT_TIMEOUT, "The pageserver's log, \"neon pageserver logs\", says more of it.",
			"the pageserver has not reached %s of branch \"%s\" within %d s; its last error: %s",
			lsn_text(lsn), tl->name, timeout_s, error);
	die(EXIT_TIMEOUT,
		"Look into the logs of the pageserver and of the endpoint that writes the branch.",
		"the pageserver has not reached %s of branch \"%s\" within %d s", lsn_text(lsn), tl->name, timeout_s);
}

void
ps_wait_lsn(PGconn *conn, const TimelineInfo *tl, XLogRecPtr lsn, int timeout_s)
{
	PGresult   *res = db_exec(conn, timeout_s + 10,
							  strf("waiting for the pageserver to reach %s", lsn_text(lsn)),
							  "SELECT neon_pageserver.wait_lsn($1, $2, $3, $4) AS reached", 4,
							  tl->tenant, tl->id, lsn_text(lsn), strf("%d seconds", timeout_s));
	const char *reached = db_value(res, 0, "reached");

	if (reached != NULL && strcmp(reached, "t") != 0)
		die_behind(conn, tl, lsn, timeout_s);
	PQclear(res);
}

/* ---- branches ---- */

XLogRecPtr
ps_lsn_for_time(PGconn *conn, const TimelineInfo *tl, const char *time)
{
	PGresult   *res = db_exec(conn, STATEMENT_TIMEOUT, "looking for that time",
							  "SELECT neon_pageserver.lsn_for_timestamp($1, $2, $3) AS lsn,"
							  " $3::pg_catalog.timestamptz OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() AS future",
							  3, tl->tenant, tl->id, time);
	XLogRecPtr	lsn = get_lsn(res, 0, "lsn");
	const char *future = db_value(res, 0, "future");

	if (future != NULL && strcmp(future, "t") == 0)
		die(EXIT_GENERAL, "Give a time that has passed; the present is what you get without it.",
			"time \"%s\" is in the future", time);
	PQclear(res);
	if (lsn == InvalidXLogRecPtr)
		die(EXIT_GENERAL, "Give a later time.",
			"time \"%s\" is before the history of branch \"%s\"", time, tl->name);
	return lsn;
}

bool
ps_time_is_settled(PGconn *conn, const TimelineInfo *tl, const char *time)
{
	PGresult   *res = db_exec(conn, STATEMENT_TIMEOUT, "looking for that time",
							  "SELECT neon_pageserver.lsn_for_timestamp($1, $2, $3)"
							  " OPERATOR(pg_catalog.<) neon_pageserver.lsn_for_timestamp($1, $2, 'infinity') AS later",
							  3, tl->tenant, tl->id, time);
	const char *later = db_value(res, 0, "later");
	bool		settled = later != NULL && strcmp(later, "t") == 0;

	PQclear(res);
	return settled;
}

XLogRecPtr
ps_round_lsn(PGconn *conn, const TimelineInfo *tl, XLogRecPtr lsn)
{
	PGresult   *res = db_exec(conn, STATEMENT_TIMEOUT, NULL,
							  "SELECT neon_pageserver.round_lsn($1, $2, $3) AS lsn", 3,
							  tl->tenant, tl->id, lsn_text(lsn));
	XLogRecPtr	rounded = get_lsn(res, 0, "lsn");

	PQclear(res);
	return rounded;
}

void
ps_branch_create(PGconn *conn, const TimelineInfo *from, const char *name,
				 XLogRecPtr at_lsn, const char *at_time, char *id, XLogRecPtr *lsn)
{
	PGresult   *res = db_exec(conn, STATEMENT_TIMEOUT, "creating the branch",
							  "SELECT * FROM neon_pageserver.branch_create($1, $2, $3, $4, $5)", 5,
							  from->tenant, name, from->id,
							  at_lsn == InvalidXLogRecPtr ? NULL : lsn_text(at_lsn), at_time);

	copy_text(id, NEON_ID_HEXLEN + 1, res, 0, "timeline_id");
	*lsn = get_lsn(res, 0, "lsn");
	PQclear(res);
}
