/*-------------------------------------------------------------------------
 *
 * instance.c
 *	  The storage services as PostgreSQL instances: made, started, stopped.
 *
 * What differs between the pageserver and a safekeeper is in the two tables
 * of settings below and in the role that the others come by.
 *
 *-------------------------------------------------------------------------
 */
#include "instance.h"

#include <unistd.h>

#include "endpoint.h"
#include "fsutil.h"
#include "logs.h"
#include "output.h"
#include "passfile.h"
#include "repo.h"
#include "run.h"

#define INITDB_TIMEOUT	120		/* seconds */
#define STOP_TIMEOUT	60
#define CONNECT_TRIES	60

static const char *const pageserver_settings =
"shared_preload_libraries = 'neon_pageserver'\n"
"password_encryption = scram-sha-256\n"
"fsync = on\n"
"recovery_init_sync_method = syncfs\n"
"wal_level = minimal\n"
"max_wal_senders = 0\n"
"max_connections = 500\n"
"max_worker_processes = 64\n"
"max_prepared_transactions = 0\n"
"autovacuum_naptime = 5min\n"
"log_line_prefix = '%m [%p] '\n"
LOG_SETTINGS;

/* Its own WAL is small; timelines' WAL lies elsewhere and is served by walsenders. */
static const char *const safekeeper_settings =
"shared_preload_libraries = 'neon_safekeeper'\n"
"password_encryption = scram-sha-256\n"
"fsync = on\n"
"recovery_init_sync_method = syncfs\n"
"shared_buffers = 16MB\n"
"wal_level = replica\n"
"max_wal_senders = 200\n"
"max_replication_slots = 0\n"
"max_connections = 300\n"
"max_worker_processes = 256\n"
"max_prepared_transactions = 0\n"
"max_wal_size = 128MB\n"
"autovacuum_naptime = 5min\n"
"log_line_prefix = '%m [%p] '\n"
LOG_SETTINGS;

/* ---- which they are ---- */

int
safekeeper_count(void)
{
	int			n = (int) kv_get_int(&repo.config, "safekeepers", 0);

	if (n < 0 || n > MAX_SAFEKEEPERS)
		die(EXIT_GENERAL, "Restore the config file from a copy.",
			"\"%s\" says that there are %d safekeepers", repo_path("config"), n);
	return n;
}

Instance
instance_pageserver(void)
{
	Instance	inst = {0};

	strlcpy(inst.name, "pageserver", sizeof(inst.name));
	strlcpy(inst.service, "pageserver", sizeof(inst.service));
	strlcpy(inst.dir, "pageserver", sizeof(inst.dir));
	inst.port = (int) kv_get_int(&repo.config, "pageserver_port", DEFAULT_PAGESERVER_PORT);
	return inst;
}

Instance
instance_safekeeper(int id)
{
	Instance	inst = {0};

	inst.id = id;
	snprintf(inst.name, sizeof(inst.name), "safekeeper %d", id);
	strlcpy(inst.service, "safekeeper", sizeof(inst.service));
	snprintf(inst.dir, sizeof(inst.dir), "safekeepers/%d", id);
	inst.port = (int) kv_get_int(&repo.config, strf("safekeeper.%d.port", id), 0);
	return inst;
}

bool
safekeeper_is_member(int id)
{
	const char *change = kv_get_default(&repo.config, strf("safekeeper.%d.change", id), "");

	return strcmp(change, "add") != 0 && strcmp(change, "remove") != 0;
}

bool
safekeeper_is_leaving(int id)
{
	return strcmp(kv_get_default(&repo.config, strf("safekeeper.%d.change", id), ""), "remove") == 0;
}

/* The number in "safekeeper.N.port"; 0 if the key is another one. */
static int
id_of_port_key(const char *key)
{
	char	   *end;
	long		id;

	if (strncmp(key, "safekeeper.", 11) != 0)
		return 0;
	id = strtol(key + 11, &end, 10);
	return strcmp(end, ".port") == 0 && id > 0 && id <= PG_INT16_MAX ? (int) id : 0;
}

static int
compare_ids(const void *a, const void *b)
{
	return ((const Instance *) a)->id - ((const Instance *) b)->id;
}

int
instance_all(Instance *all)
{
	int			n = 0;

	all[n++] = instance_pageserver();
	for (int i = 0; i < repo.config.n; i++)
	{
		int			id = id_of_port_key(repo.config.entries[i].key);

		if (id == 0)
			continue;
		if (n > MAX_SAFEKEEPERS)
			die(EXIT_GENERAL, "Restore the config file from a copy.",
				"\"%s\" has too many safekeepers", repo_path("config"));
		all[n++] = instance_safekeeper(id);
	}
	qsort(all + 1, n - 1, sizeof(Instance), compare_ids);
	return n;
}

const char *
instance_path(const Instance *inst, const char *below)
{
	return repo_path("%s/%s", inst->dir, below);
}

const char *
instance_pgdata(const Instance *inst)
{
	return instance_path(inst, "pgdata");
}

const char *
instance_log(const Instance *inst)
{
	return instance_path(inst, inst->id == 0 ? "pageserver.log" : "safekeeper.log");
}

static const char *
password_key(const Instance *inst)
{
	return inst->id == 0 ? "pageserver_password" : strf("safekeeper.%d.password", inst->id);
}

const char *
instance_password(const Instance *inst)
{
	return kv_get_default(&repo.config, password_key(inst), "");
}

const char *
instance_logs_command(const Instance *inst)
{
	return strf("neon %s logs%s", inst->service, inst->id ? strf(" %d", inst->id) : "");
}

/* ---- making one ---- */

static void
run_initdb(const Instance *inst)
{
	const char *argv[20];
	int			n = 0;
	char		pwfile[MAXPGPATH];
	PQExpBufferData output;

	make_path(pwfile, "%s", instance_path(inst, "initdb.password"));
	argv[n++] = pg_strdup(pg_program("initdb"));
	argv[n++] = "-D";
	argv[n++] = pg_strdup(instance_pgdata(inst));
	argv[n++] = "-U";
	argv[n++] = SUPERUSER;
	argv[n++] = "--encoding=UTF8";
	argv[n++] = "--locale=C";
	argv[n++] = "--data-checksums";
	argv[n++] = "--no-instructions";
	argv[n++] = "--no-sync";	/* "neon init" flushes all of DIR at its end */
	argv[n++] = repo.trust ? "--auth=trust" : "--auth=scram-sha-256";
	if (!repo.trust)
	{
		const char *password = strf("%s\n", instance_password(inst));

		write_file_durably(pwfile, password, strlen(password));
		at_exit_remove(pwfile);
		argv[n++] = "--pwfile";
		argv[n++] = pwfile;
	}
	argv[n] = NULL;
	initPQExpBuffer(&output);
	if (run_program(argv, &output, INITDB_TIMEOUT,
					strf("creating the instance of the %s", inst->name)) != 0)
		die(EXIT_GENERAL, "Check the space and the permissions, then run \"neon init --force\".",
			"initdb failed: %s", output.data);
	termPQExpBuffer(&output);
	(void) unlink(pwfile);
	at_exit_forget(pwfile);
}

/* Appended to initdb's file: later lines win. */
static void
write_conf(const Instance *inst)
{
	char		path[MAXPGPATH];
	const char *dir = socket_directory(inst->port);
	PQExpBufferData buf;
	char	   *old;

	make_path(path, "%s/postgresql.conf", instance_pgdata(inst));
	old = read_small_file(path, 1024 * 1024, NULL);
	initPQExpBuffer(&buf);
	appendPQExpBuffer(&buf, "%s\n# ---- neon ----\nport = %d\n", old ? old : "", inst->port);
	conf_append_setting(&buf, "listen_addresses", LOOPBACK);
	conf_append_setting(&buf, "unix_socket_directories", dir ? strf("\"%s\"", dir) : "");
	conf_append_setting(&buf, strf("neon_%s.passfile", inst->service), instance_path(inst, "passfile"));
	appendPQExpBufferStr(&buf, inst->id == 0 ? pageserver_settings : safekeeper_settings);
	if (PQExpBufferBroken(&buf))
		die_oom();
	write_file_durably(path, buf.data, buf.len);
	termPQExpBuffer(&buf);
	free(old);
}

static void
write_hba(const Instance *inst)
{
	const char *method = repo.trust ? "trust" : "scram-sha-256";
	char		path[MAXPGPATH];
	char		hba[1024];

	make_path(path, "%s/pg_hba.conf", instance_pgdata(inst));
	if (inst->id == 0)
		snprintf(hba, sizeof(hba),
				 "# Who may connect to the pageserver: its superuser and the computes' roles,\n"
				 "# from this machine.\n"
				 "local  all  all                %s\n"
				 "host   all  all  127.0.0.1/32  %s\n", method, method);
	else
		snprintf(hba, sizeof(hba),
				 "# Who may connect to this safekeeper: its superuser, the storage's role, the\n"
				 "# computes' roles and standbys, from this machine.\n"
				 "local  all          all                %s\n"
				 "host   all          all  127.0.0.1/32  %s\n"
				 "local  replication  all                %s\n"
				 "host   replication  all  127.0.0.1/32  %s\n", method, method, method, method);
	write_file_durably(path, hba, strlen(hba));
}

/* The role by which safekeepers and the pageserver come to a safekeeper. */
static void
set_storage_password(PGconn *conn)
{
	char	   *verifier;

	if (repo.trust)
		return;
	verifier = PQencryptPasswordConn(conn, kv_get_default(&repo.config, "storage_service_password", ""),
									 STORAGE_ROLE, "scram-sha-256");
	if (verifier == NULL)
		die(EXIT_GENERAL, "Try again.", "could not hash a password: %s", PQerrorMessage(conn));
	PQclear(db_exec(conn, 30, NULL, strf("ALTER ROLE " STORAGE_ROLE " PASSWORD '%s'", verifier), 0));
	PQfreemem(verifier);
}

static void
note_node(const Instance *inst, PGconn *conn)
{
	PGresult   *res = db_exec(conn, 30, NULL, "SELECT neon_safekeeper.node_uuid() AS node", 0);
	const char *node = db_value(res, 0, "node");
	NeonId		id;

	if (node == NULL || !neon_id_parse(node, &id))
		die(EXIT_GENERAL, "Install the same version of the neon command and of its extensions.",
			"%s has no node id", inst->name);
	kv_set(&repo.config, strf("safekeeper.%d.node", inst->id), node);
	PQclear(res);
}

static void
install_extension(const Instance *inst)
{
	PGconn	   *conn = instance_connect(inst);

	PQclear(db_exec(conn, 60, strf("installing the extension neon_%s", inst->service),
					strf("CREATE EXTENSION neon_%s", inst->service), 0));
	if (inst->id > 0)
	{
		set_storage_password(conn);
		note_node(inst, conn);
	}
	PQfinish(conn);
}

void
instance_create(const Instance *inst)
{
	char		passfile[MAXPGPATH];

	make_directory(repo_path("%s", inst->dir));
	run_initdb(inst);
	make_path(passfile, "%s", instance_path(inst, "passfile"));
	write_file_durably(passfile, "", 0);
	write_conf(inst);
	write_hba(inst);
	(void) instance_start(inst);
	install_extension(inst);
	(void) instance_stop(inst, false);
}

/* ---- start and stop ---- */

static void
start_server(const Instance *inst)
{
	const char *argv[10];
	char		pgdata[MAXPGPATH];
	char		log[MAXPGPATH];
	char		program[MAXPGPATH];
	char		port[64];
	char		passfile[MAXPGPATH];
	char		sockets[MAXPGPATH];
	char		logs_command[64];
	const char *socket_dir;

	make_path(pgdata, "%s", instance_pgdata(inst));
	make_path(log, "%s", instance_log(inst));
	make_path(program, "%s", pg_program("postgres"));
	if (!port_is_free(inst->port))
		die(EXIT_GENERAL,
			strf("End what listens there, or change %s in the state directory's config.",
				 inst->id ? strf("safekeeper.%d.port", inst->id) : "pageserver_port"),
			"port %d of the %s is already in use", inst->port, inst->name);
	server_clear_leftovers(pgdata, inst->port);
	snprintf(port, sizeof(port), "port=%d", inst->port);
	make_path(passfile, "neon_%s.passfile=%s", inst->service, instance_path(inst, "passfile"));
	socket_dir = socket_directory(inst->port);
	make_path(sockets, "unix_socket_directories=%s", socket_dir ? strf("\"%s\"", socket_dir) : "");
	strlcpy(logs_command, instance_logs_command(inst), sizeof(logs_command));

	/*
	 * What depends on DIR's place and config is in postgresql.conf too, for
	 * pg_ctl; but a copy of DIR works at another place by these.
	 */
	argv[0] = program;
	argv[1] = "-D";
	argv[2] = pgdata;
	argv[3] = "-c";
	argv[4] = port;
	argv[5] = "-c";
	argv[6] = passfile;
	argv[7] = "-c";
	argv[8] = sockets;
	argv[9] = NULL;
	server_start(argv, pgdata, log, strf("the %s", inst->name), logs_command,
				 NULL, INSTANCE_START_TIMEOUT);
	if (!repo.trust)
		user_passfile_put(socket_directory(inst->port), inst->port, SUPERUSER,
						  instance_password(inst));
}

static int
instance_lock(const Instance *inst)
{
	return lock_acquire(inst->id ? strf("safekeeper.%d", inst->id) : "pageserver",
						INSTANCE_START_TIMEOUT + 10, NULL);
}

bool
instance_start(const Instance *inst)
{
	int			lock = instance_lock(inst);
	ServerInfo	info;
	char		pgdata[MAXPGPATH];
	bool		started = false;

	make_path(pgdata, "%s", instance_pgdata(inst));
	server_info(pgdata, &info);
	if (info.state == SERVER_ORPHANED)
		server_stop(pgdata, STOP_IMMEDIATE, 0, strf("the %s", inst->name));
	if (info.state != SERVER_RUNNING)
	{
		start_server(inst);
		started = true;
	}
	lock_release(lock);
	return started;
}

bool
instance_stop(const Instance *inst, bool immediate)
{
	int			lock = instance_lock(inst);
	ServerInfo	info;
	char		pgdata[MAXPGPATH];
	bool		runs;

	make_path(pgdata, "%s", instance_pgdata(inst));
	server_info(pgdata, &info);
	runs = info.state == SERVER_RUNNING || info.state == SERVER_ORPHANED;
	if (runs)
		server_stop(pgdata, immediate ? STOP_IMMEDIATE : STOP_FAST, STOP_TIMEOUT,
					strf("the %s", inst->name));
	lock_release(lock);
	return runs;
}

/* ---- sessions ---- */

PGconn *
instance_try_connect(const Instance *inst)
{
	ServerInfo	info;

	server_info(instance_pgdata(inst), &info);
	if (info.state != SERVER_RUNNING)
		return NULL;
	return db_try_connect(inst->port, SUPERUSER, instance_password(inst), 5, NULL);
}

PGconn *
instance_connect(const Instance *inst)
{
	ServerInfo	info;
	const char *problem = "";
	PGconn	   *conn;

	server_info(instance_pgdata(inst), &info);
	if (info.state != SERVER_RUNNING)
		die(EXIT_NOT_RUNNING, "Start it by \"neon start\".", "the %s is not running", inst->name);
	progress_begin(strf("connecting to the %s", inst->name));
	/* It may be recovering from a crash of one of its processes. */
	for (int i = 0;; i++)
	{
		conn = db_try_connect(inst->port, SUPERUSER, instance_password(inst), 5, &problem);
		if (conn != NULL || i == CONNECT_TRIES)
			break;
		if (strstr(problem, "starting up") == NULL && strstr(problem, "recovery") == NULL &&
			strstr(problem, "not yet accepting") == NULL)
			break;
		progress_tick();
		sleep_ms(250);
	}
	progress_end();
	if (conn == NULL)
		die(EXIT_NOT_RUNNING, strf("Look into its log: \"%s\".", instance_logs_command(inst)),
			"could not connect to %s %s:%d: %s", inst->name, LOOPBACK, inst->port, problem);
	return conn;
}
