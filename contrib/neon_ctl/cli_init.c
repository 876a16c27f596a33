/*-------------------------------------------------------------------------
 *
 * cli_init.c
 *	  neon init: a state directory with its pageserver instance.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include <sys/stat.h>
#include <unistd.h>

#include "db.h"
#include "endpoint.h"
#include "fsutil.h"
#include "output.h"
#include "pageserver.h"
#include "passfile.h"
#include "repo.h"
#include "run.h"
#include "server.h"

#define INITDB_TIMEOUT	120
#define PASSWORD_BYTES	24

/* A random password of hexadecimal digits, in a buffer of strf(). */
static const char *
new_password(void)
{
	char		hex[2 * NEON_ID_HEXLEN + 1];
	NeonId		a;
	NeonId		b;

	if (!neon_id_generate(&a) || !neon_id_generate(&b))
		die(EXIT_GENERAL, "Check the machine's random number source.",
			"could not generate a password");
	neon_id_format(&a, hex);
	neon_id_format(&b, hex + NEON_ID_HEXLEN);
	hex[2 * PASSWORD_BYTES] = '\0';
	return strf("%s", hex);
}

/* --force: only a directory that is ours, with nothing running in it. */
static void
check_stopped(void)
{
	int			n;
	char	  **names;

	if (server_in_use(pageserver_pgdata()))
		die(EXIT_GENERAL, "Stop it by \"neon stop\".", "the pageserver of \"%s\" is running",
			repo.dir);
	names = endpoint_names(&n);
	for (int i = 0; i < n; i++)
	{
		if (server_in_use(repo_path("endpoints/%s/pgdata", names[i])))
			die(EXIT_GENERAL, "Stop it by \"neon stop\".",
				"endpoint \"%s\" of \"%s\" is running", names[i], repo.dir);
	}
}

static void
wipe_old(void)
{
	static const char *const parts[] = {"endpoints", "pageserver", "safekeepers", "run", "config"};

	for (int i = 0; i < lengthof(parts); i++)
		remove_path_tree(repo_path("%s", parts[i]));
}

static void
check_old(const Invocation *inv, bool has_config)
{
	if (has_config)
	{
		config_reload();		/* dies if it is not ours */
		if (!option_given(inv, OPT_FORCE))
			die(EXIT_GENERAL, "Use it, or wipe it with all its data by \"neon init --force\".",
				strcmp(kv_get_default(&repo.config, "state", ""), "ready") == 0 ?
				"there is a state directory \"%s\" already" :
				"there is a state directory \"%s\" already, of a \"neon init\" that did not come to its end", repo.dir);
		check_stopped();
	}
	else if (!directory_is_empty(repo.dir))
		die(EXIT_GENERAL, "Choose another place by -D DIR.",
			"directory \"%s\" is not empty and no state directory of neon", repo.dir);
}

static int
choose_pageserver_port(const Invocation *inv)
{
	int			port = DEFAULT_PAGESERVER_PORT;

	if (option_given(inv, OPT_PAGESERVER_PORT))
		port = option_int(inv, OPT_PAGESERVER_PORT);
	if (port == 0)
		return any_free_port();
	if (!port_is_free(port))
		die(EXIT_GENERAL, "Choose another one by --pageserver-port (0: any free one).",
			"port %d is already in use", port);
	return port;
}

static void
write_config(const Invocation *inv, int port)
{
	bool		trust = option_given(inv, OPT_AUTH) && strcmp(inv->option[OPT_AUTH], "trust") == 0;

	kv_free(&repo.config);
	kv_set(&repo.config, "format", "1");
	kv_set(&repo.config, "state", "initializing");
	kv_set(&repo.config, "user", server_user());
	kv_set(&repo.config, "auth", trust ? "trust" : "scram");
	kv_set(&repo.config, "safekeepers", "0");
	kv_set_int(&repo.config, "pageserver_port", port);
	if (!trust)
		kv_set(&repo.config, "pageserver_password", new_password());
	repo.trust = trust;
	config_save();
}

/* ---- the instance ---- */

static void
run_initdb(void)
{
	const char *argv[20];
	int			n = 0;
	char		pwfile[MAXPGPATH];
	PQExpBufferData output;

	make_path(pwfile, "%s", repo_path("pageserver/initdb.password"));
	argv[n++] = pg_strdup(pg_program("initdb"));
	argv[n++] = "-D";
	argv[n++] = pg_strdup(pageserver_pgdata());
	argv[n++] = "-U";
	argv[n++] = SUPERUSER;
	argv[n++] = "--encoding=UTF8";
	argv[n++] = "--locale=C";
	argv[n++] = "--data-checksums";
	argv[n++] = "--no-instructions";
	argv[n++] = repo.trust ? "--auth=trust" : "--auth=scram-sha-256";
	if (!repo.trust)
	{
		const char *password = strf("%s\n", kv_get(&repo.config, "pageserver_password"));

		write_file_durably(pwfile, password, strlen(password));
		at_exit_remove(pwfile);
		argv[n++] = "--pwfile";
		argv[n++] = pwfile;
	}
	argv[n] = NULL;
	initPQExpBuffer(&output);
	if (run_program(argv, &output, INITDB_TIMEOUT, "creating the pageserver's instance") != 0)
		die(EXIT_GENERAL, "Check the space and the permissions, then run \"neon init --force\".",
			"initdb failed: %s", output.data);
	termPQExpBuffer(&output);
	(void) unlink(pwfile);
	at_exit_forget(pwfile);
}

/* A value in single quotes. */
static void
append_setting(PQExpBuffer buf, const char *name, const char *value)
{
	appendPQExpBuffer(buf, "%s = '", name);
	for (; *value; value++)
	{
		if (*value == '\'' || *value == '\\')
			appendPQExpBufferChar(buf, *value);
		appendPQExpBufferChar(buf, *value);
	}
	appendPQExpBufferStr(buf, "'\n");
}

/* Appended to initdb's file: later lines win. */
static void
write_instance_conf(int port)
{
	static const char *const fixed =
	"shared_preload_libraries = 'neon_pageserver'\n"
	"password_encryption = scram-sha-256\n"
	"fsync = on\n"
	"wal_level = minimal\n"
	"max_wal_senders = 0\n"
	"max_connections = 500\n"
	"max_worker_processes = 64\n"
	"max_prepared_transactions = 0\n"
	"autovacuum_naptime = 5min\n"
	"log_line_prefix = '%m [%p] '\n"
	LOG_SETTINGS;
	char		path[MAXPGPATH];
	const char *dir = socket_directory(port);
	PQExpBufferData buf;
	char	   *old;

	make_path(path, "%s/postgresql.conf", pageserver_pgdata());
	old = read_small_file(path, 1024 * 1024, NULL);
	initPQExpBuffer(&buf);
	appendPQExpBuffer(&buf, "%s\n# ---- neon ----\nport = %d\n", old ? old : "", port);
	append_setting(&buf, "listen_addresses", LOOPBACK);
	append_setting(&buf, "unix_socket_directories", dir ? strf("\"%s\"", dir) : "");
	append_setting(&buf, "neon_pageserver.passfile", repo_path("pageserver/passfile"));
	appendPQExpBufferStr(&buf, fixed);
	if (PQExpBufferBroken(&buf))
		die_oom();
	write_file_durably(path, buf.data, buf.len);
	termPQExpBuffer(&buf);
	free(old);
}

static void
write_instance_hba(void)
{
	const char *method = repo.trust ? "trust" : "scram-sha-256";
	char		path[MAXPGPATH];
	char		hba[1024];

	make_path(path, "%s/pg_hba.conf", pageserver_pgdata());
	snprintf(hba, sizeof(hba),
			 "# Who may connect to the pageserver: its superuser and the computes' roles,\n"
			 "# from this machine.\n"
			 "local  all  all                %s\n"
			 "host   all  all  127.0.0.1/32  %s\n", method, method);
	write_file_durably(path, hba, strlen(hba));
}

static void
install_extension(void)
{
	PGconn	   *conn = ps_connect();

	PQclear(db_exec(conn, 60, "installing the extension neon_pageserver",
					"CREATE EXTENSION neon_pageserver", 0));
	PQfinish(conn);
}

static void
check_safekeepers(const Invocation *inv)
{
	if (option_given(inv, OPT_SAFEKEEPERS) && option_int(inv, OPT_SAFEKEEPERS) != 0)
		die(EXIT_USAGE,
			"Use \"neon init --safekeepers 0\": laptop mode, which keeps one copy of the data.",
			"safekeepers are not available in this version");
}

int
cmd_init(Invocation *inv)
{
	bool		has_config;
	int			port;
	char		passfile[MAXPGPATH];

	check_safekeepers(inv);
	has_config = repo_prepare(inv);
	check_old(inv, has_config);
	port = choose_pageserver_port(inv);
	if (has_config)
		wipe_old();
	write_config(inv, port);
	say("Initializing pageserver node 1 at '%s:%d' in \"%s\"", LOOPBACK, port, repo.dir);
	make_directory(repo_path("run"));
	make_directory(repo_path("endpoints"));
	make_directory(repo_path("pageserver"));
	run_initdb();
	make_path(passfile, "%s", repo_path("pageserver/passfile"));
	write_file_durably(passfile, "", 0);
	write_instance_conf(port);
	write_instance_hba();
	start_pageserver();
	install_extension();
	stop_pageserver(false);
	sync_tree(repo.dir);
	kv_set(&repo.config, "state", "ready");
	config_save();
	say("Laptop mode: there are no safekeepers, so one copy of the data is kept on this machine.");
	if (output_json)
	{
		PQExpBufferData buf;

		json_begin(&buf);
		json_string(&buf, "repo_dir", repo.dir);
		json_number(&buf, "pageserver_port", port);
		json_number(&buf, "safekeepers", 0);
		json_string(&buf, "auth", repo.trust ? "trust" : "scram");
		json_end_print(&buf);
	}
	return EXIT_OK;
}
