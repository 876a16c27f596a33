/*-------------------------------------------------------------------------
 *
 * boot.c
 *	  From an LSN to a running endpoint.
 *
 * The data directory is built beside the old one and made durable, ticket
 * included, before the pageserver is told that this boot writes the timeline;
 * only then may the server start.  A crash anywhere in between leaves either
 * the old state or a directory with an unused ticket, which the next start
 * drains.
 *
 *-------------------------------------------------------------------------
 */
#include "endpoint.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "credentials.h"
#include "discard.h"
#include "election.h"
#include "fsutil.h"
#include "instance.h"
#include "keep.h"
#include "neon_lsn.h"
#include "output.h"
#include "passfile.h"
#include "port/pg_crc32c.h"
#include "repo.h"
#include "run.h"
#include "untar.h"

#define BACKUP_TIMEOUT	300		/* seconds */
#define START_TIMEOUT	60
#define ADMIT_TIMEOUT	60
#define SYNC_TIMEOUT	120
#define TICKET_LIMIT	(64 * 1024)
#define TICKET_HEADER	"neon-boot-ticket 1"

/* ---- the ticket ---- */

bool
ticket_read(const char *pgdata, TicketInfo *ticket)
{
	char		path[MAXPGPATH];
	char	   *data;
	char	   *body;
	KvFile		kv;

	memset(ticket, 0, sizeof(*ticket));
	make_path(path, "%s/neon.ticket", pgdata);
	data = read_small_file(path, TICKET_LIMIT, NULL);
	if (data == NULL)
	{
		make_path(path, "%s/neon.ticket.used", pgdata);
		data = read_small_file(path, TICKET_LIMIT, NULL);
	}
	if (data == NULL)
		return false;
	body = strchr(data, '\n');
	if (strncmp(data, TICKET_HEADER "\n", strlen(TICKET_HEADER) + 1) != 0)
		die(EXIT_GENERAL, "Look what happened to this directory.", "\"%s\" is no boot ticket",
			path);
	kv_parse(&kv, body + 1, path);
	strlcpy(ticket->tenant, kv_get_default(&kv, "tenant_id", ""), sizeof(ticket->tenant));
	strlcpy(ticket->timeline, kv_get_default(&kv, "timeline_id", ""), sizeof(ticket->timeline));
	strlcpy(ticket->boot_id, kv_get_default(&kv, "boot_id", ""), sizeof(ticket->boot_id));
	strlcpy(ticket->kind, kv_get_default(&kv, "kind", ""), sizeof(ticket->kind));
	ticket->term = (uint32) kv_get_int(&kv, "term", 0);
	kv_free(&kv);
	free(data);
	return true;
}

static void
ticket_write(const char *pgdata, const Endpoint *ep, const KvFile *boot, const char *boot_id)
{
	static const char *const copied[] = {"tenant_id", "timeline_id", "kind", "term", "boot_lsn"};
	PQExpBufferData buf;
	char		path[MAXPGPATH];
	pg_crc32c	crc;

	initPQExpBuffer(&buf);
	appendPQExpBufferStr(&buf, TICKET_HEADER "\n");
	for (int i = 0; i < lengthof(copied); i++)
		appendPQExpBuffer(&buf, "%s=%s\n", copied[i], kv_get_default(boot, copied[i], ""));
	appendPQExpBuffer(&buf, "endpoint=%s\nboot_id=%s\n", ep->name, boot_id);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, buf.data, buf.len);
	FIN_CRC32C(crc);
	appendPQExpBuffer(&buf, "crc=%08x\n", crc);
	if (PQExpBufferBroken(&buf))
		die_oom();
	make_path(path, "%s/neon.ticket", pgdata);
	write_file_durably(path, buf.data, buf.len);
	termPQExpBuffer(&buf);
}

/* ---- the base backup ---- */

/* Sends the CALL and returns when the copy has begun. */
static void
start_backup(PGconn *conn, const Endpoint *ep, const TimelineInfo *tl, const BootPlan *plan,
			 uint32 term, int64 deadline)
{
	PQExpBufferData sql;
	PGresult   *res;

	/* The ids are hexadecimal digits, checked; nothing here needs quoting. */
	initPQExpBuffer(&sql);
	appendPQExpBuffer(&sql, "CALL neon_pageserver.basebackup('%s', '%s', '%s', %u, '%s'",
					  tl->tenant, tl->id, lsn_text(plan->lsn), term, endpoint_kind_name(ep->kind));
	/* Safekeepers know a boot by the id in its boot record, and the pageserver its lease. */
	if (plan->quorum != NULL || ep->kind != ENDPOINT_PRIMARY)
		appendPQExpBuffer(&sql, ", '%s'", plan->boot_id);
	appendPQExpBufferChar(&sql, ')');
	if (PQExpBufferBroken(&sql))
		die_oom();
	if (!PQsendQuery(conn, sql.data))
		die(EXIT_GENERAL, "Look into its log: \"neon pageserver logs\".",
			"could not ask the pageserver for a base backup");
	while (PQisBusy(conn))
		db_wait_input(conn, deadline, "the base backup");
	res = PQgetResult(conn);
	if (PQresultStatus(res) != PGRES_COPY_OUT)
	{
		db_check(conn, res, "Look into the pageserver's log: \"neon pageserver logs\".");
		die(EXIT_GENERAL, "Install the same version of the neon command and of its extensions.",
			"the pageserver sent no base backup");
	}
	PQclear(res);
	termPQExpBuffer(&sql);
}

static void
finish_backup(PGconn *conn, int64 deadline)
{
	PGresult   *res;

	for (;;)
	{
		while (PQisBusy(conn))
			db_wait_input(conn, deadline, "the base backup");
		res = PQgetResult(conn);
		if (res == NULL)
			return;
		db_check(conn, res, "Look into the pageserver's log: \"neon pageserver logs\".");
		PQclear(res);
	}
}

static void
fetch_backup(PGconn *conn, const Endpoint *ep, const TimelineInfo *tl, const BootPlan *plan,
			 uint32 term, const char *dir)
{
	int64		deadline = now_ms() + BACKUP_TIMEOUT * 1000;
	Untar	   *untar = untar_begin(dir);
	char	   *data;
	int			len;

	progress_begin(strf("fetching the base backup at %s", lsn_text(plan->lsn)));
	start_backup(conn, ep, tl, plan, term, deadline);
	while ((len = PQgetCopyData(conn, &data, 1)) >= 0)
	{
		if (len == 0)
			db_wait_input(conn, deadline, "the base backup");
		else
		{
			untar_data(untar, data, len);
			PQfreemem(data);
		}
	}
	if (len == -2)
		die(EXIT_GENERAL, "Look into its log: \"neon pageserver logs\".",
			"the base backup broke off: %s", PQerrorMessage(conn));
	finish_backup(conn, deadline);
	untar_finish(untar);
	progress_end();
}

/* Is this what was asked for, and can the server here run it? */
static void
check_backup(const char *dir, const Endpoint *ep, const TimelineInfo *tl, XLogRecPtr lsn,
			 KvFile *boot)
{
	static const char *const needed[] = {"PG_VERSION", "global/pg_control", "neon.relsizes"};
	char		path[MAXPGPATH];
	char	   *version;
	XLogRecPtr	boot_lsn = InvalidXLogRecPtr;

	for (int i = 0; i < lengthof(needed); i++)
	{
		make_path(path, "%s/%s", dir, needed[i]);
		if (!path_exists(path))
			die(EXIT_GENERAL, "Look into the pageserver's log: \"neon pageserver logs\".",
				"the base backup has no file \"%s\"", needed[i]);
	}
	make_path(path, "%s/neon.boot", dir);
	if (!kv_load(boot, path))
		die(EXIT_GENERAL, "Look into the pageserver's log: \"neon pageserver logs\".",
			"the base backup has no file \"neon.boot\"");
	(void) neon_lsn_parse(kv_get_default(boot, "boot_lsn", ""), &boot_lsn);
	if (strcmp(kv_get_default(boot, "tenant_id", ""), tl->tenant) != 0 ||
		strcmp(kv_get_default(boot, "timeline_id", ""), tl->id) != 0 ||
		strcmp(kv_get_default(boot, "kind", ""), endpoint_kind_name(ep->kind)) != 0 ||
		boot_lsn != lsn)
		die(EXIT_GENERAL, "Install the same version of the neon command and of its extensions.",
			"the base backup is not the one that was asked for");
	make_path(path, "%s/PG_VERSION", dir);
	version = read_small_file(path, 64, NULL);
	if (version == NULL || atoi(version) != atoi(PG_MAJORVERSION))
		die(EXIT_GENERAL, "Install the server packages of that version.",
			"the data is of PostgreSQL %.16s and this is the command for " PG_MAJORVERSION, version ? version : "?");
	free(version);
}

/* Everything that the server needs, durable, under a name that nobody starts. */
static void
build_directory(PGconn *conn, const Endpoint *ep, const TimelineInfo *tl, const BootPlan *plan,
				uint32 term, const char *dir, KvFile *boot)
{
	remove_path_tree(dir);
	make_directory(dir);
	at_exit_remove(dir);
	fetch_backup(conn, ep, tl, plan, term, dir);
	check_backup(dir, ep, tl, plan->lsn, boot);
	conf_restore_auto(ep, dir);
	if (ep->kind == ENDPOINT_STATIC)
	{
		char		path[MAXPGPATH];

		make_path(path, "%s/standby.signal", dir);
		write_file_durably(path, "", 0);
	}
	ticket_write(dir, ep, boot, plan->boot_id);
	/* What a majority of safekeepers has need not be here after a crash of the machine. */
	if (plan->quorum != NULL)
		return;
	progress_begin("flushing the data directory to disk");
	sync_tree(dir);
	progress_end();
}

static void
swap_directories(const Endpoint *ep, const char *built, const char *pgdata, bool keep)
{
	if (server_in_use(pgdata))
		die(EXIT_GENERAL, "Look for processes of this server that hang, and end them.",
			"processes still use \"%s\"", pgdata);
	if (keep)
		keep_move(pgdata, built);
	discard_pgdata(ep, pgdata);
	rename_durably(built, pgdata);
	at_exit_forget(built);
}

/* With its data directory an endpoint that was new has come to be. */
static void
keep_endpoint(Endpoint *ep)
{
	if (ep->exists)
		return;
	ep->exists = true;
	endpoint_save(ep);
	at_exit_forget(repo_path("endpoints/%s", ep->name));
}

/* ---- admission ---- */

static const char *
superuser_password(const Endpoint *ep)
{
	return tenant_secret(ep->tenant, "superuser");
}

PGconn *
endpoint_connect(const Endpoint *ep, int timeout_s)
{
	const char *problem = "";
	PGconn	   *conn = db_try_connect(ep->port, SUPERUSER, superuser_password(ep), timeout_s,
										&problem);

	if (conn == NULL)
		die(EXIT_NOT_RUNNING, strf("Look into its log: \"neon endpoint logs %s\".", ep->name),
			"could not connect to endpoint \"%s\" at %s:%d: %s", ep->name, LOOPBACK, ep->port, problem);
	return conn;
}

/*
 * Clients are let in when the storage streams from the compute.  Returns a
 * session; stops the endpoint and dies if that does not happen.
 */
static PGconn *
wait_admission(const Endpoint *ep, const BootPlan *plan, const char *pgdata,
			   const LogMark *mark)
{
	int64		deadline = now_ms() + ADMIT_TIMEOUT * 1000;
	const char *problem = "";
	char		last[1024] = "";
	PGconn	   *conn;

	progress_begin(plan->quorum ? "waiting for a majority of the safekeepers to stream from the endpoint"
				   : "waiting for the pageserver to stream from the endpoint");
	while ((conn = db_try_connect(ep->port, SUPERUSER, superuser_password(ep), 10,
								  &problem)) == NULL)
	{
		ServerInfo	info;
		char		message[2048];
		char		hint[2048];

		strlcpy(last, problem, sizeof(last));
		server_info(pgdata, &info);
		if (info.state != SERVER_RUNNING)
		{
			server_await_last_log(pgdata);
			if (!log_failure(mark, message, hint, sizeof(message)))
				strlcpy(message, "it ended", sizeof(message));
			die(EXIT_GENERAL,
				hint[0] ? hint : strf("Look into its log: \"neon endpoint logs %s\".", ep->name),
				"endpoint \"%s\" did not start: %s", ep->name, message);
		}
		if (now_ms() > deadline || strstr(last, "authentication failed") != NULL)
		{
			server_stop(pgdata, STOP_IMMEDIATE, 0, strf("endpoint \"%s\"", ep->name));
			die(EXIT_TIMEOUT, strf("Look into its log: \"neon endpoint logs %s\".", ep->name),
				"endpoint \"%s\" does not admit clients and has been stopped: %s", ep->name, last);
		}
		sleep_ms(50);
	}
	progress_end();
	return conn;
}

/* ---- boot ---- */

void
boot_plan_init(BootPlan *plan)
{
	NeonId		boot_id;

	memset(plan, 0, sizeof(*plan));
	plan->for_user = true;
	if (!neon_id_generate(&boot_id))
		die(EXIT_GENERAL, "Check the machine's random number source.",
			"could not generate a random id");
	neon_id_format(&boot_id, plan->boot_id);
}

/* Laptop mode: who writes next.  The right to write is asked for only when all is durable. */
static void
prepare_writer(PGconn *conn, const Endpoint *ep, const TimelineInfo *tl, const BootPlan *plan,
			   WriterInfo *next, uint32 *expected_term)
{
	WriterInfo	last;

	memset(next, 0, sizeof(*next));
	strlcpy(next->boot_id, plan->boot_id, sizeof(next->boot_id));
	next->term = plan->term;
	if (ep->kind != ENDPOINT_PRIMARY || plan->quorum != NULL)
		return;
	ps_writer_get(conn, tl, &last);
	*expected_term = last.term;
	next->term = ps_highest_term(conn, tl) + 1;
	next->boot_lsn = plan->lsn;
	strlcpy(next->endpoint, ep->name, sizeof(next->endpoint));
	snprintf(next->pgdata, sizeof(next->pgdata), "endpoints/%s/pgdata", ep->name);
	strlcpy(next->machine_boot_id, machine_boot_id(), sizeof(next->machine_boot_id));
}

/*
 * A new branch has copies of its ancestor's subscriptions, with the same slots
 * at the publisher; they must not fetch what the ancestor's wait for.  So they
 * rest during the first boot, in which they can be dropped or disabled, and
 * always where nothing is stored.
 */
static bool
may_subscribe(const Endpoint *ep, const TimelineInfo *tl, const BootPlan *plan, uint32 last_term)
{
	bool		booted_before = plan->quorum ? plan->lsn > tl->start_lsn : last_term > 0;

	return ep->kind == ENDPOINT_PRIMARY && (tl->ancestor[0] == '\0' || booted_before);
}

/* Until then the last writer, wherever it is, may answer reads. */
static void
wait_lease(const BootPlan *plan)
{
	if (now_ms() >= plan->lease_end_ms)
		return;
	progress_begin("waiting for the last writer's read lease to end");
	while (now_ms() < plan->lease_end_ms)
	{
		progress_tick();
		sleep_ms(20);
	}
	progress_end();
}

void
boot_endpoint(PGconn *conn, Endpoint *ep, const TimelineInfo *tl, const BootPlan *plan, KeptPages *kept)
{
	char		built[MAXPGPATH];
	char		pgdata[MAXPGPATH];
	char		log[MAXPGPATH];
	KvFile		boot;
	WriterInfo	writer;
	uint32		expected_term = 0;
	const char **argv;
	LogMark    *mark;
	PGconn	   *session;
	bool		keep;

	make_path(built, "%s", endpoint_path(ep, "pgdata.new"));
	make_path(pgdata, "%s", endpoint_path(ep, "pgdata"));
	make_path(log, "%s", endpoint_path(ep, "postgres.log"));
	prepare_writer(conn, ep, tl, plan, &writer, &expected_term);
	build_directory(conn, ep, tl, plan, writer.term, built, &boot);
	memset(kept, 0, sizeof(*kept));
	keep = ep->kind == ENDPOINT_PRIMARY &&
		keep_prepare(conn, tl, plan->lsn, pgdata, built, kept);
	conf_write_quorum(ep, plan->quorum, plan->boot_id);
	argv = conf_command_line(ep, built, &boot, may_subscribe(ep, tl, plan, expected_term),
							 plan->quorum != NULL);
	kv_free(&boot);
	swap_directories(ep, built, pgdata, keep);
	keep_endpoint(ep);
	credentials_of_endpoint(ep);
	if (plan->for_user && !repo.trust)
		user_passfile_put(socket_directory(ep->port), ep->port, SUPERUSER, superuser_password(ep));
	test_point("built");
	if (ep->kind == ENDPOINT_PRIMARY && plan->quorum == NULL)
		ps_writer_acquire(conn, tl, expected_term, &writer);
	ep->wanted = true;
	endpoint_save(ep);
	mark = log_mark(log);
	server_clear_leftovers(pgdata, ep->port);
	test_point("before-start");
	wait_lease(plan);
	server_start(argv, pgdata, log, strf("endpoint \"%s\"", ep->name),
				 strf("neon endpoint logs %s", ep->name), conf_advice(ep), START_TIMEOUT);
	test_point("started");
	session = wait_admission(ep, plan, pgdata, mark);
	if (ep->kind == ENDPOINT_PRIMARY)
		keep_ask(session, kept, keep);
	PQfinish(session);
	discard_remove(ep);
}

/* ---- what is acknowledged ---- */

/*
 * A commit of our own, flushed: everything that was acknowledged before lies
 * below the flush LSN.
 */
static XLogRecPtr
flush_live(const Endpoint *live, XLogRecPtr *insert_lsn)
{
	PGconn	   *conn = endpoint_connect(live, 15);
	PGresult   *res;
	XLogRecPtr	flushed = InvalidXLogRecPtr;

	PQclear(db_exec(conn, 30, NULL, "SET synchronous_commit = on", 0));
	res = db_exec(conn, 10, NULL, "SELECT pg_catalog.pg_current_wal_insert_lsn() AS lsn", 0);
	(void) neon_lsn_parse(db_value(res, 0, "lsn"), insert_lsn);
	PQclear(res);
	PQclear(db_exec(conn, 30, "flushing the endpoint's WAL",
					"SELECT pg_catalog.pg_logical_emit_message(true, 'neon', 'branch')", 0));
	res = db_exec(conn, 10, NULL, "SELECT pg_catalog.pg_current_wal_flush_lsn() AS lsn", 0);
	(void) neon_lsn_parse(db_value(res, 0, "lsn"), &flushed);
	PQclear(res);
	PQfinish(conn);
	return flushed;
}

/*
 * Quorum mode: what a majority may have acknowledged.  With a live compute of
 * this directory, what it has not sent yet is flushed first if with_insert.
 */
static XLogRecPtr
quorum_sync(PGconn *conn, TimelineInfo *tl, bool with_insert, XLogRecPtr *insert_lsn)
{
	Quorum		q;
	Endpoint	live;
	XLogRecPtr	lsn;
	uint32		term;

	*insert_lsn = InvalidXLogRecPtr;
	if (with_insert && live_primary(tl, &live))
		(void) flush_live(&live, insert_lsn);
	quorum_open(conn, tl, &q);
	election_create(conn, tl, &q);
	lsn = election_sync(conn, tl, &q, &term);
	/* term 0: no compute was ever elected on it, there is nothing to receive */
	if (term > 0)
		election_set_source(conn, tl, &q, term);
	quorum_close(&q);
	ps_wait_lsn(conn, tl, lsn, SYNC_TIMEOUT);
	ps_refresh(conn, tl);
	*insert_lsn = Max(*insert_lsn, lsn);
	return lsn;
}

XLogRecPtr
branch_sync(PGconn *conn, TimelineInfo *tl, XLogRecPtr *insert_lsn)
{
	WriterInfo	writer;
	Endpoint	live;
	XLogRecPtr	lsn;

	if (safekeeper_count() > 0)
		return quorum_sync(conn, tl, false, insert_lsn);
	ps_writer_get(conn, tl, &writer);
	if (writer_is_live(&writer, &live))
	{
		lsn = flush_live(&live, insert_lsn);
		ps_wait_lsn(conn, tl, lsn, SYNC_TIMEOUT);
	}
	else
	{
		drain_dead_writer(conn, tl, InvalidXLogRecPtr);
		ps_refresh(conn, tl);
		*insert_lsn = lsn = tl->last_record_lsn;
	}
	return lsn;
}

void
branch_check_lsn(PGconn *conn, TimelineInfo *tl, XLogRecPtr lsn)
{
	XLogRecPtr	insert_lsn;

	if (lsn < tl->start_lsn)
		die(EXIT_GENERAL,
			tl->ancestor[0] ? "Use the branch that it comes from." : "Give a later LSN.",
			"%s is before branch \"%s\", which begins at %s", lsn_text(lsn), tl->name, lsn_text(tl->start_lsn));
	if (lsn <= tl->last_record_lsn)
		return;
	if (safekeeper_count() > 0)
		(void) quorum_sync(conn, tl, true, &insert_lsn);
	else
		(void) branch_sync(conn, tl, &insert_lsn);
	if (lsn > insert_lsn)
		die(EXIT_GENERAL, strf("Branch \"%s\" ends at %s now.", tl->name, lsn_text(insert_lsn)),
			"%s is in the future of branch \"%s\"", lsn_text(lsn), tl->name);
}
