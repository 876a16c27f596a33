/*-------------------------------------------------------------------------
 *
 * endpoint.h
 *	  An endpoint's directory and state, its settings, its boot and its drain.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_ENDPOINT_H
#define NEON_CTL_ENDPOINT_H

#include "keep.h"
#include "kvfile.h"
#include "pageserver.h"
#include "pqexpbuffer.h"
#include "server.h"

#define ENDPOINT_LOCK_TIMEOUT 300	/* seconds; more than any boot or drain */

typedef enum EndpointKind
{
	ENDPOINT_PRIMARY,
	ENDPOINT_STATIC,
	ENDPOINT_EPHEMERAL,
} EndpointKind;

/*
 * What is kept of an endpoint in conf/endpoint.  lsn is that of a static
 * endpoint, or of an ephemeral one that was told one, else invalid.
 */
typedef struct Endpoint
{
	char		name[64];
	bool		exists;
	char		tenant[NEON_ID_HEXLEN + 1];
	char		timeline[NEON_ID_HEXLEN + 1];
	EndpointKind kind;
	XLogRecPtr	lsn;
	int			port;
	bool		wanted;			/* ran when it was last heard of: start --endpoints */
} Endpoint;

/* ---- endpoint.c ---- */

extern const char *endpoint_kind_name(EndpointKind kind);
extern const char *endpoint_path(const Endpoint *ep, const char *below);

/* exists tells whether there is one of that name; the rest is zero if not. */
extern void endpoint_load(Endpoint *ep, const char *name);
extern void endpoint_load_existing(Endpoint *ep, const char *name);
extern void endpoint_save(const Endpoint *ep);

/* Names of all endpoints, sorted, malloc'd. */
extern char **endpoint_names(int *n);

/*
 * Keeps a port that nobody listens on for this process, until an endpoint has
 * it; false if it is in use.
 */
extern bool endpoint_reserve_port(int port);

/* When the endpoint has it: whoever starts that endpoint next, a child of ours too, reserves it anew. */
extern void endpoint_release_port(void);

/* The first port from 55432 on that no endpoint here has, reserved.  Holding the lock "ports". */
extern int	endpoint_choose_port(void);

extern int	endpoint_lock(const char *name, bool *waited);
extern int	timeline_lock(const char *timeline);

/* The endpoint whose data directory the writer uses and that runs; false if none runs. */
extern bool writer_is_live(const WriterInfo *writer, Endpoint *ep);
extern const char *writer_pgdata(const WriterInfo *writer);

/* Of this boot of the machine. */
extern const char *machine_boot_id(void);

/* ---- conf.c ---- */

/* Makes conf/ with its files; what is there stays. */
extern void conf_create(const Endpoint *ep);

typedef struct Setting
{
	const char *name;
	const char *value;			/* NULL: take it away */
} Setting;

/* Lines of settings.conf: all of them, or, if the server would refuse one, dies and has changed nothing. */
extern void conf_set(const Endpoint *ep, const Setting *settings, int n);
extern void conf_print(const Endpoint *ep);

/* For who cannot start it: where the settings are that may be the cause. */
extern const char *conf_advice(const Endpoint *ep);

/*
 * Dies if a library that the files name is not there, and with all_files also
 * if the server would refuse the files: before what runs is stopped.
 */
extern void conf_check(const Endpoint *ep, bool all_files);

/* A line of a configuration file, the value in single quotes. */
extern void conf_append_setting(PQExpBuffer buf, const char *name, const char *value);

/* ALTER SYSTEM's file, from and to conf/; a newer one there stays. */
extern void conf_save_auto(const char *endpoint_name, const char *pgdata);
extern void conf_restore_auto(const Endpoint *ep, const char *pgdata);

/*
 * The command line of the server, NULL-terminated, malloc'd.  boot is what
 * neon.boot in pgdata says.  Without subscriptions, none of the database's
 * subscriptions fetches anything.
 */
extern const char **conf_command_line(const Endpoint *ep, const char *pgdata, const KvFile *boot,
									  bool subscriptions, bool in_quorum);

/*
 * conf/neon.conf: the safekeepers of this boot and who of them must
 * acknowledge; quorum NULL: none.
 */
struct Quorum;
extern void conf_write_quorum(const Endpoint *ep, const struct Quorum *quorum, const char *boot_id);

/* The value by the files and pgdata's postgresql.auto.conf, or otherwise if they leave the default. */
extern const char *conf_user_setting(const Endpoint *ep, const char *pgdata, const char *name,
									 const char *otherwise);

/*
 * Asks the server for the value that a setting has by the files and by extra,
 * a name=value or NULL; false if it finds errors in them, then value has its
 * message.
 */
extern bool conf_ask_server(const Endpoint *ep, const char *extra, const char *name, PQExpBuffer value);

/* ---- confcheck.c ---- */

/* Die if the user cannot set it, or not to that. */
extern void conf_check_name(const char *name);
extern void conf_check_value(const Endpoint *ep, const char *name, const char *value);

/* Takes the next name out of a list of libraries, in place; NULL at its end. */
extern char *conf_next_library(char **rest);

/* Does the setting decide which libraries are loaded? */
extern bool conf_names_libraries(const char *name);

/* A library that the files make a server load and that is not there, as a message; NULL if there is none. */
extern const char *conf_missing_library(const Endpoint *ep);

/* ---- drain.c ---- */

/*
 * Makes the pageserver have everything that the writer acknowledged and marks
 * it drained.  Stops the writer if it runs.  The caller holds the timeline's
 * lock and has seen that the writer is not drained.  accept_loss is the LSN
 * of --accept-data-loss, or invalid.  Refreshes *tl.
 */
extern void drain_writer(PGconn *conn, TimelineInfo *tl, const WriterInfo *writer, XLogRecPtr accept_loss);

/* Drains if there is an undrained writer; refuses if it is live. */
extern void drain_dead_writer(PGconn *conn, TimelineInfo *tl, XLogRecPtr accept_loss);

/*
 * Before pgdata of the endpoint is replaced or removed: stops what runs on it
 * and drains it if it holds what the storage may lack.  conn may be NULL: then
 * it dies if that would be needed.
 */
extern void drain_directory(PGconn *conn, const Endpoint *ep, XLogRecPtr accept_loss);

/* Is the endpoint the last writer of its branch, and not drained? */
extern bool endpoint_needs_drain(PGconn *conn, const Endpoint *ep);

/* Both: its directory, if there is one, and what the pageserver knows of it. */
extern void drain_endpoint(PGconn *conn, const Endpoint *ep, XLogRecPtr accept_loss);

/* ---- boot.c ---- */

/* What a ticket in a data directory says; false if there is none, used or not. */
typedef struct TicketInfo
{
	char		tenant[NEON_ID_HEXLEN + 1];
	char		timeline[NEON_ID_HEXLEN + 1];
	char		boot_id[NEON_ID_HEXLEN + 1];
	char		kind[16];
	uint32		term;
} TicketInfo;

extern bool ticket_read(const char *pgdata, TicketInfo *ticket);

/* One boot: where, and by what right. */
typedef struct BootPlan
{
	XLogRecPtr	lsn;			/* a primary of laptop mode: last_record_lsn */
	char		boot_id[NEON_ID_HEXLEN + 1];
	struct Quorum *quorum;		/* a primary in quorum mode, else NULL */
	uint32		term;			/* that it won there */
	int64		lease_end_ms;	/* when the last writer there ends to answer (now_ms) */
	bool		for_user;		/* put the password into the user's passfile */
} BootPlan;

/* Begins a plan with a new boot id. */
extern void boot_plan_init(BootPlan *plan);

/*
 * Boots a stopped, drained endpoint: base backup, directory, ticket, right to
 * write, server, admission.  *kept: what the new directory has of the old one's
 * pages.  Holding the endpoint's lock and, for a primary, the timeline's.
 */
extern void boot_endpoint(PGconn *conn, Endpoint *ep, const TimelineInfo *tl, const BootPlan *plan,
						  KeptPages *kept);

/* ---- claim.c ---- */

/*
 * Quorum mode: makes this boot the only one that can commit on the branch, and
 * fills the plan.  Refuses if a primary of the branch runs and take_over is
 * not set, else stops it.  Holding the timeline's lock.
 */
extern void claim_quorum(PGconn *conn, const Endpoint *ep, const TimelineInfo *tl, bool take_over,
						 BootPlan *plan);

/*
 * A lease that is alive although no process of ours holds it: of a compute that
 * was killed, then it is ended; of one elsewhere or no longer known, then it is
 * respected as long as it is renewed.
 */
extern void claim_end_lease(struct Quorum *q, const TimelineInfo *tl, bool take_over);

/* The endpoint of this directory that runs as the branch's primary; false if none does. */
extern bool live_primary(const TimelineInfo *tl, Endpoint *live);

/* Was nobody promised a term after that boot?  *term is the last one. */
extern bool claim_is_last(PGconn *conn, const TimelineInfo *tl, const char *boot_id, uint32 *term);

/* Ends the read lease of a boot of which no process is left; conn may be NULL. */
extern void release_lease(PGconn *conn, const Endpoint *ep);

/* A session of the endpoint's superuser; dies if it does not come. */
extern PGconn *endpoint_connect(const Endpoint *ep, int timeout_s);

/*
 * Makes the pageserver have all that is acknowledged on the branch: a live
 * primary is asked to flush a commit and waited for, a dead one is drained.
 * Returns the LSN up to which everything is there, a commit boundary or the
 * branch's end; *insert_lsn gets the live insert LSN or the same.
 */
extern XLogRecPtr branch_sync(PGconn *conn, TimelineInfo *tl, XLogRecPtr *insert_lsn);

/*
 * Where a user's LSN lies in the branch: dies if it is in the future or
 * before the history; waits until the pageserver has it.
 */
extern void branch_check_lsn(PGconn *conn, TimelineInfo *tl, XLogRecPtr lsn);

#endif							/* NEON_CTL_ENDPOINT_H */
