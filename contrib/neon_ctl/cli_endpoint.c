/*-------------------------------------------------------------------------
 *
 * cli_endpoint.c
 *	  neon endpoint create, start, run, stop, restart.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include "endpoint.h"
#include "fsutil.h"
#include "instance.h"
#include "output.h"
#include "repo.h"
#include "run.h"
#include "supervise.h"

/*
 * A fast stop waits for the pageserver to take the last WAL; if that does not
 * happen soon, the drain does it.
 */
#define FAST_STOP_TIMEOUT 5

/* ---- what is to be started ---- */

/*
 * Which branch: what is asked for, else what the endpoint has, else main.
 * *moved gets the id of the timeline that the endpoint had before, or "".
 */
static void
choose_branch(const Invocation *inv, PGconn *conn, Endpoint *ep, TimelineInfo *tl, char *moved)
{
	const char *asked = inv->option[OPT_BRANCH_NAME];

	moved[0] = '\0';
	if (!ep->exists)
		strlcpy(ep->tenant, chosen_tenant(inv), sizeof(ep->tenant));
	else if (option_given(inv, OPT_TENANT_ID) && strcmp(chosen_tenant(inv), ep->tenant) != 0)
		die(EXIT_GENERAL, "Create another endpoint for the other tenant.",
			"endpoint \"%s\" belongs to tenant %s", ep->name, ep->tenant);
	if (asked != NULL || !ep->exists)
		ps_find_timeline(conn, ep->tenant, asked ? asked : "main", tl);
	else if (!ps_timeline_by_id(conn, ep->tenant, ep->timeline, tl))
		die(EXIT_GENERAL, "Move it to another branch by --branch-name.",
			"timeline %s of endpoint \"%s\" is no longer there", ep->timeline, ep->name);
	if (ep->exists && strcmp(ep->timeline, tl->id) != 0)
		strlcpy(moved, ep->timeline, NEON_ID_HEXLEN + 1);
	strlcpy(ep->timeline, tl->id, sizeof(ep->timeline));
}

/* Primary, static or ephemeral: what is asked for, else what it was. */
static void
choose_kind(const Invocation *inv, Endpoint *ep)
{
	bool		place = option_given(inv, OPT_LSN) || option_given(inv, OPT_TIME);

	if (option_given(inv, OPT_LSN) && option_given(inv, OPT_TIME))
		die(EXIT_USAGE, "Give one of them.", "--lsn and --time exclude each other");
	if (option_given(inv, OPT_EPHEMERAL))
		ep->kind = ENDPOINT_EPHEMERAL;
	else if (place)
		ep->kind = ENDPOINT_STATIC;
	else if (option_given(inv, OPT_BRANCH_NAME) || !ep->exists)
		ep->kind = ENDPOINT_PRIMARY;
	if (ep->kind != ENDPOINT_PRIMARY && option_given(inv, OPT_TAKE_OVER))
		die(EXIT_USAGE, "Leave it out, or name the branch by --branch-name alone.",
			"--take-over is for primaries, and %s endpoints run beside them",
			endpoint_kind_name(ep->kind));
	if (ep->kind == ENDPOINT_PRIMARY || option_given(inv, OPT_BRANCH_NAME))
		ep->lsn = InvalidXLogRecPtr;
	if (option_given(inv, OPT_LSN))
		ep->lsn = option_lsn(inv, OPT_LSN);
}

/*
 * --time or --lsn as the end of a commit that the branch has.  Holding the
 * timeline's lock.
 */
static void
settle_lsn(const Invocation *inv, PGconn *conn, Endpoint *ep, TimelineInfo *tl)
{
	XLogRecPtr	insert_lsn;
	XLogRecPtr	asked;

	if (option_given(inv, OPT_TIME))
	{
		if (!ps_time_is_settled(conn, tl, inv->option[OPT_TIME]))
			(void) branch_sync(conn, tl, &insert_lsn);
		ep->lsn = ps_lsn_for_time(conn, tl, inv->option[OPT_TIME]);
	}
	if (ep->lsn == InvalidXLogRecPtr)
		return;
	asked = ep->lsn;
	branch_check_lsn(conn, tl, asked);
	ep->lsn = ps_round_lsn(conn, tl, asked);
	if (ep->lsn != asked)
		say("Using %s, the end of the last transaction at or before %s", lsn_text(ep->lsn),
			lsn_text(asked));
}

/* Holding the lock "ports". */
static void
choose_port(const Invocation *inv, Endpoint *ep, bool will_start)
{
	if (ep->port == 0 && !option_given(inv, OPT_PORT))
	{
		ep->port = endpoint_choose_port();
		return;
	}
	if (option_given(inv, OPT_PORT))
		ep->port = option_int(inv, OPT_PORT);
	if (ep->port == 0)
		ep->port = any_free_port();
	if (will_start && !endpoint_reserve_port(ep->port))
		die(EXIT_GENERAL, "Choose another one by --port, or end what listens there.",
			"port %d is already in use", ep->port);
}

/* Its port and its settings.  From here on it exists. */
static void
make_endpoint(const Invocation *inv, Endpoint *ep, bool will_start)
{
	int			lock = lock_acquire("ports", 30, NULL);

	choose_port(inv, ep, will_start);
	conf_create(ep);
	endpoint_save(ep);
	ep->exists = true;
	lock_release(lock);
}

/*
 * The same for one that is made by starting it: it exists when its data
 * directory does, and when that fails nothing of it stays.
 */
static void
prepare_endpoint(const Invocation *inv, Endpoint *ep)
{
	char		dir[MAXPGPATH];
	int			lock = lock_acquire("ports", 30, NULL);

	make_path(dir, "%s", repo_path("endpoints/%s", ep->name));
	choose_port(inv, ep, true);
	if (!path_exists(dir))
		at_exit_remove(dir);
	conf_create(ep);
	lock_release(lock);
}

/* kept: of a primary that was started, else NULL. */
static void
print_endpoint(const Endpoint *ep, const char *status, const KeptPages *kept)
{
	PQExpBufferData buf;

	if (!output_json)
		return;
	json_begin(&buf);
	json_string(&buf, "endpoint", ep->name);
	json_string(&buf, "tenant_id", ep->tenant);
	json_string(&buf, "timeline_id", ep->timeline);
	json_string(&buf, "kind", endpoint_kind_name(ep->kind));
	json_string(&buf, "lsn", ep->lsn == InvalidXLogRecPtr ? NULL : lsn_text(ep->lsn));
	json_string(&buf, "address", strf("%s:%d", LOOPBACK, ep->port));
	json_number(&buf, "port", ep->port);
	json_string(&buf, "connection_string",
				strf("postgresql://%s@%s:%d/%s", SUPERUSER, LOOPBACK, ep->port, MAINTENANCE_DB));
	json_string(&buf, "status", status);
	if (kept != NULL)
		keep_json(&buf, kept);
	json_end_print(&buf);
}

int
cmd_endpoint_create(Invocation *inv)
{
	Endpoint	ep;
	TimelineInfo tl;
	char		moved[NEON_ID_HEXLEN + 1];
	int			lock = endpoint_lock(inv->arg[0], NULL);
	int			tl_lock;
	PGconn	   *conn;

	endpoint_load(&ep, inv->arg[0]);
	if (ep.exists)
		die(EXIT_GENERAL, strf("Start it by \"neon endpoint start %s\".", ep.name),
			"there is an endpoint \"%s\" already", ep.name);
	conn = ps_connect();
	choose_branch(inv, conn, &ep, &tl, moved);
	choose_kind(inv, &ep);
	tl_lock = timeline_lock(tl.id);
	ps_refresh(conn, &tl);
	settle_lsn(inv, conn, &ep, &tl);
	lock_release(tl_lock);
	make_endpoint(inv, &ep, false);
	say("Created endpoint %s on branch '%s', port %d", ep.name, tl.name, ep.port);
	print_endpoint(&ep, "stopped", NULL);
	PQfinish(conn);
	lock_release(lock);
	return EXIT_OK;
}

/* ---- start ---- */

/*
 * A primary needs the branch for itself.  Holding the timeline's lock; when
 * this returns there is no undrained writer.
 */
static void
claim_branch(const Invocation *inv, PGconn *conn, const Endpoint *ep, TimelineInfo *tl,
			 XLogRecPtr accept_loss)
{
	WriterInfo	writer;
	Endpoint	live;

	ps_writer_get(conn, tl, &writer);
	if (writer.term == 0 || writer.drained_lsn != InvalidXLogRecPtr)
		return;
	if (writer_is_live(&writer, &live))
	{
		if (!option_given(inv, OPT_TAKE_OVER))
			die(EXIT_GENERAL,
				strf("Stop it by \"neon endpoint stop %s\", or stop it and start this one by --take-over.", live.name),
				"branch \"%s\" already has a running primary, endpoint \"%s\"", tl->name, live.name);
		say("Taking branch '%s' over from endpoint %s ...", tl->name, live.name);
		live.wanted = false;
		endpoint_save(&live);
	}
	else if (strcmp(writer.endpoint, ep->name) != 0)
		say("Draining endpoint %s, which was not stopped cleanly ...", writer.endpoint);
	drain_writer(conn, tl, &writer, accept_loss);
}

/* Where to boot, and by what right.  Holding the timeline's lock. */
static void
make_plan(const Invocation *inv, PGconn *conn, Endpoint *ep, TimelineInfo *tl,
		  XLogRecPtr accept_loss, BootPlan *plan)
{
	XLogRecPtr	insert_lsn;

	boot_plan_init(plan);
	if (ep->kind == ENDPOINT_PRIMARY && safekeeper_count() > 0)
	{
		claim_quorum(conn, ep, tl, option_given(inv, OPT_TAKE_OVER), plan);
		return;
	}
	if (ep->kind == ENDPOINT_PRIMARY)
	{
		claim_branch(inv, conn, ep, tl, accept_loss);
		plan->lsn = tl->last_record_lsn;
		return;
	}
	settle_lsn(inv, conn, ep, tl);
	plan->lsn = ep->lsn;
	if (plan->lsn == InvalidXLogRecPtr)
		plan->lsn = ps_round_lsn(conn, tl, branch_sync(conn, tl, &insert_lsn));
}

/* before: what an existing endpoint was until now. */
static void
say_starting(const Endpoint *ep, const TimelineInfo *tl, bool is_new, EndpointKind before,
			 const char *moved)
{
	if (moved[0] != '\0')
		say("Moving endpoint %s from timeline %s to branch '%s'", ep->name, moved, tl->name);
	if (!is_new && ep->kind != before && ep->kind != ENDPOINT_PRIMARY)
		say("Endpoint %s was %s and is %s from now on, until it is started with --branch-name alone",
			ep->name, endpoint_kind_name(before), endpoint_kind_name(ep->kind));
	if (ep->kind == ENDPOINT_STATIC)
		say("Starting %s static endpoint %s (PostgreSQL v%s) on timeline %s at %s ...",
			is_new ? "new" : "existing", ep->name, PG_MAJORVERSION, tl->id, lsn_text(ep->lsn));
	else
		say("Starting %s %sendpoint %s (PostgreSQL v%s) on timeline %s ...",
			is_new ? "new" : "existing", ep->kind == ENDPOINT_EPHEMERAL ? "ephemeral " : "",
			ep->name, PG_MAJORVERSION, tl->id);
	if (ep->kind == ENDPOINT_EPHEMERAL)
		say("What is written to it is not stored, and gone when it stops");
}

static void
say_started(const Endpoint *ep, const KeptPages *kept)
{
	keep_say(kept);
	say("Starting postgres at 'postgresql://%s@%s:%d/%s'", SUPERUSER, LOOPBACK, ep->port,
		MAINTENANCE_DB);
	print_endpoint(ep, "running", ep->kind == ENDPOINT_PRIMARY ? kept : NULL);
}

/*
 * Somebody else's start of the same endpoint may just have ended while we
 * waited for the lock, or was killed before the server was ready: then its
 * result is ours.  Otherwise it is a mistake.
 */
static void
join_or_refuse(const Invocation *inv, const Endpoint *ep, bool starting)
{
	KeptPages	kept = {0};
	PGconn	   *session;
	bool		changes = false;

	for (int i = 0; i < OPT_COUNT; i++)
		changes |= inv->option[i] != NULL && i != OPT_NO_SUPERVISE &&
			(OPTS_START & OPT_BIT(i)) != 0;
	if (!starting || changes)
		die(EXIT_GENERAL, strf("Use it, or start it anew by \"neon endpoint restart %s\".",
							   ep->name),
			"endpoint \"%s\" is already running", ep->name);
	session = endpoint_connect(ep, 60);
	if (ep->kind == ENDPOINT_PRIMARY)
		keep_ask(session, &kept, true);
	PQfinish(session);
	say("Endpoint %s has been started by another command", ep->name);
	say_started(ep, &kept);
}

/* Is there anything for a supervisor to do?  Holding the endpoint's lock. */
static bool
reboot_is_due(const Endpoint *ep, const ServerInfo *info, const char *boot_id)
{
	TicketInfo	ticket;
	char		pgdata[MAXPGPATH];

	make_path(pgdata, "%s", endpoint_path(ep, "pgdata"));
	if (!ep->exists || !ep->wanted || info->state == SERVER_RUNNING)
		return false;
	if (!ticket_read(pgdata, &ticket))
		return true;			/* its directory is gone */
	return strcmp(ticket.boot_id, boot_id) == 0 && !was_stopped_cleanly(pgdata);
}

/* Nobody else may have got the branch since that boot.  Holding the timeline's lock. */
static bool
boot_is_last(PGconn *conn, const Endpoint *ep, const TimelineInfo *tl, const char *boot_id)
{
	uint32		term;
	bool		is_last = true;

	if (ep->kind != ENDPOINT_PRIMARY)
		return true;
	if (safekeeper_count() > 0)
		is_last = claim_is_last(conn, tl, boot_id, &term);
	else
	{
		WriterInfo	writer;

		ps_writer_get(conn, tl, &writer);
		term = writer.term;
		is_last = strcmp(writer.boot_id, boot_id) == 0;
	}
	if (!is_last)
		say("superseded by term %u", term);
	return is_last;
}

/*
 * reboot_of: NULL, or the boot that a supervisor has watched.  Returns an exit
 * code; *booted tells whether there is a new boot.
 */
static int
start_endpoint(const Invocation *inv, const char *name, const char *reboot_of, bool *booted)
{
	XLogRecPtr	accept_loss = InvalidXLogRecPtr;
	BootPlan	plan;
	KeptPages	kept;
	char		moved[NEON_ID_HEXLEN + 1];
	Endpoint	ep;
	TimelineInfo tl;
	ServerInfo	info;
	EndpointKind before;
	bool		waited;
	bool		is_new;
	PGconn	   *conn;
	int			lock = endpoint_lock(name, &waited);
	int			tl_lock;

	*booted = false;
	if (option_given(inv, OPT_ACCEPT_DATA_LOSS))
		accept_loss = option_lsn(inv, OPT_ACCEPT_DATA_LOSS);
	endpoint_load(&ep, name);
	is_new = !ep.exists;
	before = ep.kind;
	server_info(endpoint_path(&ep, "pgdata"), &info);
	if (reboot_of != NULL && !reboot_is_due(&ep, &info, reboot_of))
		return EXIT_SUPERSEDED;
	if (info.state == SERVER_RUNNING)
	{
		join_or_refuse(inv, &ep, waited || !info.ready);
		lock_release(lock);
		return EXIT_OK;
	}
	if (ep.exists)
		conf_check(&ep, false);
	conn = ps_connect();
	choose_branch(inv, conn, &ep, &tl, moved);
	choose_kind(inv, &ep);
	drain_directory(conn, &ep, accept_loss);
	tl_lock = timeline_lock(tl.id);
	ps_refresh(conn, &tl);
	if (reboot_of != NULL && !boot_is_last(conn, &ep, &tl, reboot_of))
		return EXIT_SUPERSEDED;
	make_plan(inv, conn, &ep, &tl, accept_loss, &plan);
	plan.for_user = reboot_of == NULL;
	if (is_new)
		prepare_endpoint(inv, &ep);
	else
		make_endpoint(inv, &ep, true);
	say_starting(&ep, &tl, is_new, before, moved);
	boot_endpoint(conn, &ep, &tl, &plan, &kept);
	endpoint_release_port();
	lock_release(tl_lock);
	PQfinish(conn);
	say_started(&ep, &kept);
	lock_release(lock);
	*booted = true;
	return EXIT_OK;
}

int
endpoint_reboot(const char *name, const char *boot_id)
{
	Invocation	inv = {0};
	bool		booted;

	return start_endpoint(&inv, name, boot_id, &booted);
}

int
cmd_endpoint_start(Invocation *inv)
{
	bool		booted;
	int			result = start_endpoint(inv, inv->arg[0], NULL, &booted);

	if (booted && option_given(inv, OPT_NO_SUPERVISE))
		supervise_end(inv->arg[0]);
	else if (booted)
	{
		Endpoint	ep;

		endpoint_load_existing(&ep, inv->arg[0]);
		supervise_leave(&ep);
	}
	return result;
}

/* ---- stop ---- */

/*
 * After a stop: what only this directory has goes to the pageserver.  In quorum
 * mode there is no such thing; the next writer need not wait for the lease.
 */
static void
drain_after_stop(const Endpoint *ep)
{
	PGconn	   *conn = ps_try_connect();

	if (safekeeper_count() > 0)
		release_lease(conn, ep);
	else if (conn == NULL)
	{
		warn("endpoint \"%s\" is not drained, since the pageserver is not running; its next start does it", ep->name);
		return;
	}
	else
		drain_endpoint(conn, ep, InvalidXLogRecPtr);
	PQfinish(conn);
}

static void
stop_endpoint(Endpoint *ep, bool immediate)
{
	char		pgdata[MAXPGPATH];
	int			tl_lock = timeline_lock(ep->timeline);

	make_path(pgdata, "%s", endpoint_path(ep, "pgdata"));
	server_stop(pgdata, immediate ? STOP_IMMEDIATE : STOP_FAST, FAST_STOP_TIMEOUT,
				strf("endpoint \"%s\"", ep->name));
	if (is_directory(pgdata))
		conf_save_auto(ep->name, pgdata);
	lock_release(tl_lock);
	ep->wanted = false;
	endpoint_save(ep);
	if (ep->kind == ENDPOINT_EPHEMERAL)
		remove_path_tree(pgdata);
	else if (ep->kind == ENDPOINT_PRIMARY && (!immediate || safekeeper_count() > 0))
		drain_after_stop(ep);
}

/* A dead primary whose directory may still hold something. */
static bool
needs_drain(const Endpoint *ep)
{
	PGconn	   *conn = ps_try_connect();
	bool		result = conn != NULL && endpoint_needs_drain(conn, ep);

	PQfinish(conn);
	return result;
}

/* Before the endpoint's lock is taken, which a boot of the supervisor's would hold. */
static bool
end_supervisor(const char *name)
{
	bool		runs;

	check_endpoint_name(name);
	runs = supervise_runs(name);
	if (runs)
		supervise_end(name);
	return runs;
}

/* may_be_down: one that is not running is no mistake. */
static int
stop_named(const char *name, bool immediate, bool may_be_down)
{
	bool		supervised = end_supervisor(name);
	int			lock = endpoint_lock(name, NULL);
	Endpoint	ep;
	ServerInfo	info;

	endpoint_load_existing(&ep, name);
	server_info(endpoint_path(&ep, "pgdata"), &info);
	if (info.state != SERVER_RUNNING && info.state != SERVER_ORPHANED && !supervised &&
		!may_be_down && (immediate || !needs_drain(&ep)) &&
		!(safekeeper_count() > 0 && info.state == SERVER_CRASHED))
		die(EXIT_NOT_RUNNING, strf("Start it by \"neon endpoint start %s\".", ep.name),
			"endpoint \"%s\" is not running", ep.name);
	stop_endpoint(&ep, immediate);
	say("Endpoint %s stopped", ep.name);
	print_endpoint(&ep, "stopped", NULL);
	lock_release(lock);
	return EXIT_OK;
}

int
cmd_endpoint_stop(Invocation *inv)
{
	return stop_named(inv->arg[0], option_immediate(inv), false);
}

int
cmd_endpoint_run(Invocation *inv)
{
	Endpoint	ep;
	bool		booted;

	(void) start_endpoint(inv, inv->arg[0], NULL, &booted);
	endpoint_load_existing(&ep, inv->arg[0]);
	if (!supervise_here(&ep))
	{
		say("Endpoint %s has been stopped or started elsewhere", ep.name);
		return EXIT_OK;
	}
	/* it may be down between a crash and its next start */
	return stop_named(ep.name, false, true);
}

int
cmd_endpoint_restart(Invocation *inv)
{
	bool		immediate = option_immediate(inv);
	Endpoint	ep;
	ServerInfo	info;
	int			lock;

	endpoint_load_existing(&ep, inv->arg[0]);
	conf_check(&ep, true);
	(void) end_supervisor(inv->arg[0]);
	lock = endpoint_lock(inv->arg[0], NULL);
	endpoint_load_existing(&ep, inv->arg[0]);
	server_info(endpoint_path(&ep, "pgdata"), &info);
	if (info.state == SERVER_RUNNING || info.state == SERVER_ORPHANED)
		stop_endpoint(&ep, immediate);
	lock_release(lock);
	inv->option[OPT_MODE] = NULL;
	return cmd_endpoint_start(inv);
}
