/*-------------------------------------------------------------------------
 *
 * conf.c
 *	  An endpoint's settings: the files in conf/, which survive its data
 *	  directories, and the command line that they and the boot make.
 *
 * postgresql.conf is the user's; it includes settings.conf, which "neon
 * endpoint config" writes.  ALTER SYSTEM's postgresql.auto.conf must lie in
 * the data directory, so it is copied there and back.  What protects the data
 * goes on the command line, where no file can change it.
 *
 *-------------------------------------------------------------------------
 */
#include "endpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include "fsutil.h"
#include "instance.h"
#include "output.h"
#include "quorum.h"
#include "repo.h"
#include "run.h"

#define CONF_LIMIT		(1024 * 1024)
#define MAX_ARGS		96
#define DEFAULT_SEGMENT_SIZE	(16 * 1024 * 1024)
#define MIN_WAL_SEGMENTS	5

/*
 * Without safekeepers: the pageserver has so much in no layer file at most (twice
 * the default of checkpoint_distance), and fetches it again if it is damaged.
 */
#define WAL_KEPT				"512MB"
#define INCLUDE_NEON_CONF	"include_if_exists = 'neon.conf'\n"
#define NEON_CONF_HEAD		"# Written by neon at each start; do not change it.\n"

/* ---- the files ---- */

static void
create_file(const Endpoint *ep, const char *name, const char *content)
{
	const char *path = endpoint_path(ep, strf("conf/%s", name));
	char		copy[MAXPGPATH];

	strlcpy(copy, path, sizeof(copy));
	if (!path_exists(copy))
		write_file_durably(copy, content, strlen(content));
}

void
conf_create(const Endpoint *ep)
{
	const char *method = repo.trust ? "trust" : "scram-sha-256";
	const char *everywhere = repo.trust ? "127.0.0.1/32" : "all         ";
	char		hba[2048];

	make_directory(repo_path("endpoints"));
	make_directory(repo_path("endpoints/%s", ep->name));
	make_directory(endpoint_path(ep, "conf"));
	create_file(ep, "postgresql.conf",
				"# Settings of this endpoint, applied at its next start or reload.  They are kept\n"
				"# over starts and do not go to branches.  Later lines win: settings.conf is\n"
				"# written by \"neon endpoint config\", and ALTER SYSTEM wins over both.\n"
				"\n"
				"max_wal_size = 4GB\n"
				"checkpoint_timeout = 15min\n"
				"password_encryption = scram-sha-256\n"
				"\n"
				"# A file for each day of the week, in the directory log beside this one.\n"
				LOG_SETTINGS
				"\n"
				"include = 'settings.conf'\n"
				INCLUDE_NEON_CONF);
	create_file(ep, "neon.conf", NEON_CONF_HEAD);
	create_file(ep, "settings.conf", "# Written by \"neon endpoint config\".\n");
	create_file(ep, "postgresql.auto.conf", "# Written by ALTER SYSTEM.\n");
	create_file(ep, "pg_ident.conf", "# MAPNAME  SYSTEM-USERNAME  PG-USERNAME\n");
	snprintf(hba, sizeof(hba),
			 "# Who may connect to this endpoint, kept over starts.\n"
			 "# TYPE  DATABASE     USER          ADDRESS       METHOD\n"
			 "local   all          all                         %s\n"
			 "host    all          all           %s  %s\n"
			 "%s"
			 "# The pageserver (role " STORAGE_ROLE ") streams the WAL from here.\n"
			 "host    replication  all           127.0.0.1/32  %s\n",
			 method, everywhere, method,
			 repo.trust ? "host    all          all           ::1/128       trust\n" : "", method);
	create_file(ep, "pg_hba.conf", hba);
}

/* An endpoint's own postgresql.conf, which may be older than safekeepers, includes neon.conf. */
static void
include_neon_conf(const Endpoint *ep)
{
	char		path[MAXPGPATH];
	char	   *old;
	PQExpBufferData new;

	make_path(path, "%s", endpoint_path(ep, "conf/postgresql.conf"));
	old = read_small_file(path, CONF_LIMIT, NULL);
	if (old != NULL && strstr(old, INCLUDE_NEON_CONF) == NULL)
	{
		initPQExpBuffer(&new);
		appendPQExpBuffer(&new, "%s\n" INCLUDE_NEON_CONF, old);
		if (PQExpBufferBroken(&new))
			die_oom();
		write_file_durably(path, new.data, new.len);
		termPQExpBuffer(&new);
	}
	free(old);
}

/* "ID:NODE:HOST:PORT,...", in a joint configuration the old ones; the new ones. */
static void
append_members(PQExpBuffer buf, const NeonMembers *set)
{
	for (int list = 0; list < (set->joint ? 2 : 1); list++)
	{
		const char *separator = list ? ";" : "";

		for (int i = 0; i < set->n; i++)
		{
			const NeonMember *m = &set->member[i];

			if (set->joint && !(list ? m->is_new : m->is_old))
				continue;
			appendPQExpBuffer(buf, "%s%d:%s:%s:%d", separator, m->id, m->node, m->host, m->port);
			separator = ",";
		}
	}
}

void
conf_write_quorum(const Endpoint *ep, const Quorum *quorum, const char *boot_id)
{
	PQExpBufferData buf;
	PQExpBufferData members;
	char		names[NEON_QUORUM_TEXT_MAX];
	NeonId		id;

	initPQExpBuffer(&buf);
	appendPQExpBufferStr(&buf, NEON_CONF_HEAD);
	if (quorum != NULL)
	{
		(void) neon_id_parse(boot_id, &id);
		initPQExpBuffer(&members);
		append_members(&members, &quorum->set);
		conf_append_setting(&buf, "neon.safekeepers", members.data);
		appendPQExpBuffer(&buf, "neon.config_generation = " INT64_FORMAT "\n", quorum->generation);
		conf_append_setting(&buf, "synchronous_standby_names",
							members_quorum_text(&quorum->set, &id, names));
		termPQExpBuffer(&members);
	}
	if (PQExpBufferBroken(&buf))
		die_oom();
	write_file_durably(endpoint_path(ep, "conf/neon.conf"), buf.data, buf.len);
	termPQExpBuffer(&buf);
	include_neon_conf(ep);
}

static void
copy_if_different(const char *from, const char *to)
{
	char	   *new = read_small_file(from, CONF_LIMIT, NULL);
	char	   *old = read_small_file(to, CONF_LIMIT, NULL);

	if (new != NULL && (old == NULL || strcmp(new, old) != 0))
		write_file_durably(to, new, strlen(new));
	free(new);
	free(old);
}

static bool
is_newer(const char *path, const char *than)
{
	struct stat a;
	struct stat b;

	if (stat(path, &a) < 0 || stat(than, &b) < 0)
		return false;
	if (a.st_mtim.tv_sec != b.st_mtim.tv_sec)
		return a.st_mtim.tv_sec > b.st_mtim.tv_sec;
	return a.st_mtim.tv_nsec > b.st_mtim.tv_nsec;
}

/* A kept file that is newer holds the same, or what somebody changed in it by hand. */
void
conf_save_auto(const char *endpoint_name, const char *pgdata)
{
	char		from[MAXPGPATH];
	char		to[MAXPGPATH];

	make_path(from, "%s/postgresql.auto.conf", pgdata);
	make_path(to, "%s", repo_path("endpoints/%s/conf/postgresql.auto.conf", endpoint_name));
	if (is_directory(repo_path("endpoints/%s/conf", endpoint_name)) && !is_newer(to, from))
		copy_if_different(from, to);
}

/*
 * Also leaves a postgresql.conf for who calls pg_ctl or postgres on the data
 * directory by hand: it loads the library, which then says what to do.
 */
void
conf_restore_auto(const Endpoint *ep, const char *pgdata)
{
	static const char *const by_hand =
	"# The settings of this endpoint are in ../conf.  Start it by \"neon endpoint start\".\n"
	"shared_preload_libraries = 'neon'\n";
	char		from[MAXPGPATH];
	char		to[MAXPGPATH];

	make_path(from, "%s", endpoint_path(ep, "conf/postgresql.auto.conf"));
	make_path(to, "%s/postgresql.auto.conf", pgdata);
	copy_if_different(from, to);
	make_path(to, "%s/postgresql.conf", pgdata);
	write_file_durably(to, by_hand, strlen(by_hand));
}

/* ---- endpoint config ---- */

/* Does the line set that name? */
static bool
line_sets(const char *line, const char *name)
{
	size_t		len = strlen(name);

	return pg_strncasecmp(line, name, len) == 0 && strncmp(line + len, " = ", 3) == 0;
}

void
conf_append_setting(PQExpBuffer buf, const char *name, const char *value)
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

/*
 * Asks the server for the value that a setting has by the files (and by
 * pgdata's postgresql.auto.conf) and by extra, a name=value or NULL; false if
 * it finds errors in them, then value has its message.
 */
static bool
ask_server(const Endpoint *ep, const char *pgdata, const char *extra, const char *name,
		   PQExpBuffer value)
{
	const char *argv[12];
	int			n = 0;

	argv[n++] = pg_strdup(pg_program("postgres"));
	argv[n++] = "-D";
	argv[n++] = pg_strdup(pgdata);
	argv[n++] = "-c";
	argv[n++] = pg_strdup(strf("config_file=%s", endpoint_path(ep, "conf/postgresql.conf")));
	if (extra != NULL)
	{
		argv[n++] = "-c";
		argv[n++] = extra;
	}
	argv[n++] = "-C";
	argv[n++] = name;
	argv[n] = NULL;
	initPQExpBuffer(value);
	if (run_program(argv, value, 20, NULL) != 0)
		return false;
	if (value->len > 0 && value->data[value->len - 1] == '\n')
		value->data[--value->len] = '\0';
	return true;
}

bool
conf_ask_server(const Endpoint *ep, const char *extra, const char *name, PQExpBuffer value)
{
	return ask_server(ep, endpoint_path(ep, "conf"), extra, name, value);
}

/* The first message of the server's output. */
static const char *
first_message(const char *output)
{
	const char *p = strstr(output, "LOG:  ");
	char		line[1024];

	if (p == NULL)
		p = strstr(output, "FATAL:  ");
	p = p ? strchr(p, ':') + 1 : output;
	strlcpy(line, p + strspn(p, " "), sizeof(line));
	line[strcspn(line, "\n")] = '\0';
	return strf("%s", line);
}

/* Can the setting be different from its default?  Includes may hold anything. */
static bool
files_mention(const Endpoint *ep, const char *name)
{
	static const char *const files[] = {"postgresql.conf", "settings.conf", "postgresql.auto.conf", NULL};
	bool		found = false;

	for (int i = 0; files[i] != NULL && !found; i++)
	{
		char	   *data = read_small_file(endpoint_path(ep, strf("conf/%s", files[i])),
										   CONF_LIMIT, NULL);
		const char *p = data;
		int			includes = (i == 0) ? -2 : 0;	/* settings.conf and neon.conf are ours */

		for (; p != NULL && *p && !found; p++)
		{
			if (pg_strncasecmp(p, name, strlen(name)) == 0)
				found = true;
			if (pg_strncasecmp(p, "include", 7) == 0 && ++includes > 0)
				found = true;
		}
		free(data);
	}
	return found;
}

static void pg_attribute_noreturn()
die_of_files(const Endpoint *ep, const char *answer)
{
	die(EXIT_GENERAL, strf("Correct the files in \"%s\".", endpoint_path(ep, "conf")),
		"the settings of endpoint \"%s\" are not valid: %s", ep->name, first_message(answer));
}

const char *
conf_user_setting(const Endpoint *ep, const char *pgdata, const char *name, const char *otherwise)
{
	PQExpBufferData value;
	const char *result;

	if (!files_mention(ep, name))
		return otherwise;
	if (!ask_server(ep, pgdata, NULL, name, &value))
		die_of_files(ep, value.data);
	result = strf("%s", value.data);
	termPQExpBuffer(&value);
	return result;
}

void
conf_check(const Endpoint *ep, bool all_files)
{
	PQExpBufferData answer;
	const char *missing;

	if (all_files && !conf_ask_server(ep, NULL, "port", &answer))
		die_of_files(ep, answer.data);
	missing = conf_missing_library(ep);
	if (missing != NULL)
		die(EXIT_GENERAL,
			strf("Install it, or take its name out of the setting (\"neon endpoint config %s\", files in \"%s\").",
				 ep->name, endpoint_path(ep, "conf")),
			"%s", missing);
}

/* The lines of settings.conf with these changes. */
static void
edit_settings(const char *old, const Setting *settings, int n, PQExpBuffer new)
{
	for (const char *line = old; line != NULL && *line != '\0';)
	{
		size_t		len = strcspn(line, "\n") + 1;
		bool		stays = true;

		len = strnlen(line, len);
		for (int i = 0; i < n; i++)
			stays = stays && !line_sets(line, settings[i].name);
		if (stays)
			appendBinaryPQExpBuffer(new, line, len);
		line += len;
	}
	for (int i = 0; i < n; i++)
	{
		bool		last = true;

		for (int j = i + 1; j < n; j++)
			last = last && pg_strcasecmp(settings[i].name, settings[j].name) != 0;
		if (last && settings[i].value != NULL)
			conf_append_setting(new, settings[i].name, settings[i].value);
	}
	if (PQExpBufferBroken(new))
		die_oom();
}

/* What the server would say to the files as they are now, these settings in them; NULL if nothing. */
static const char *
settings_problem(const Endpoint *ep, const Setting *settings, int n)
{
	const Setting *set = NULL;
	const char *result = NULL;
	bool		libraries = false;
	PQExpBufferData answer;

	for (int i = 0; i < n; i++)
	{
		if (settings[i].value == NULL)
			continue;
		set = &settings[i];
		libraries = libraries || conf_names_libraries(set->name);
	}
	/* Whatever is asked for, all the files are read. */
	if (set != NULL && !conf_ask_server(ep, NULL, set->name, &answer))
		result = strf("the server refuses %s: %s",
					  n == 1 ? strf("%s=%s", set->name, set->value) : "these settings",
					  first_message(answer.data));
	else if (libraries)
		result = conf_missing_library(ep);
	return result;
}

void
conf_set(const Endpoint *ep, const Setting *settings, int n)
{
	char		path[MAXPGPATH];
	char	   *old;
	const char *problem;
	PQExpBufferData new;

	for (int i = 0; i < n; i++)
	{
		conf_check_name(settings[i].name);
		if (settings[i].value != NULL)
			conf_check_value(ep, settings[i].name, settings[i].value);
	}
	make_path(path, "%s", endpoint_path(ep, "conf/settings.conf"));
	old = read_small_file(path, CONF_LIMIT, NULL);
	initPQExpBuffer(&new);
	edit_settings(old, settings, n, &new);
	write_file_durably(path, new.data, new.len);
	termPQExpBuffer(&new);
	problem = settings_problem(ep, settings, n);
	if (problem != NULL)
	{
		/* back to what it was */
		if (old != NULL)
			write_file_durably(path, old, strlen(old));
		die(EXIT_GENERAL, "The settings are as before.", "%s", problem);
	}
	free(old);
}

/* A quoted value without its closing quote and with its quotes undoubled, in place. */
static void
unquote(char *value)
{
	char	   *to = value;

	for (const char *from = value; *from; from++)
	{
		if (*from == '\'' && from[1] != '\'')
			break;
		if (*from == '\'' || (*from == '\\' && from[1] == '\\'))
			from++;
		*to++ = *from;
	}
	*to = '\0';
}

/* The settings of settings.conf. */
void
conf_print(const Endpoint *ep)
{
	static const char *const titles[] = {"SETTING", "VALUE"};
	static const char *const json_names[] = {"setting", "value"};
	Table	   *table = table_new(2, titles, json_names);
	char	   *data = read_small_file(endpoint_path(ep, "conf/settings.conf"), CONF_LIMIT, NULL);

	for (char *line = data; line != NULL && *line != '\0';)
	{
		char	   *next = strchr(line, '\n');
		char	   *equals;

		if (next != NULL)
			*next++ = '\0';
		equals = strstr(line, " = '");
		if (*line != '#' && equals != NULL)
		{
			*equals = '\0';
			equals += strlen(" = '");
			unquote(equals);
			table_cell(table, line);
			table_cell(table, equals);
		}
		line = next;
	}
	table_print(table);
	free(data);
}

/* ---- the command line ---- */

typedef struct Args
{
	int			n;
	const char **argv;
} Args;

static void
add_arg(Args *args, const char *arg)
{
	Assert(args->n < MAX_ARGS - 1);
	args->argv[args->n++] = pg_strdup(arg);
	args->argv[args->n] = NULL;
}

static void
add_setting(Args *args, const char *name, const char *value)
{
	PQExpBufferData buf;

	initPQExpBuffer(&buf);
	appendPQExpBuffer(&buf, "%s=%s", name, value);
	if (PQExpBufferBroken(&buf))
		die_oom();
	add_arg(args, "-c");
	add_arg(args, buf.data);
	termPQExpBuffer(&buf);
}

/* pg_control demands that these are not lower than where the data was written. */
static void
add_raised(Args *args, const Endpoint *ep, const char *pgdata, const KvFile *boot,
		   const char *name, const char *boot_key, int default_value)
{
	int			needed = (int) kv_get_int(boot, boot_key, 0);
	int			have = atoi(conf_user_setting(ep, pgdata, name, strf("%d", default_value)));

	if (needed > have)
		add_setting(args, name, strf("%d", needed));
}

static void
add_libraries(Args *args, const Endpoint *ep, const char *pgdata)
{
	char	   *list = pg_strdup(conf_user_setting(ep, pgdata, "shared_preload_libraries", ""));
	char	   *rest = list;
	char	   *item;
	PQExpBufferData buf;

	initPQExpBuffer(&buf);
	appendPQExpBufferStr(&buf, "neon");
	while ((item = conf_next_library(&rest)) != NULL)
	{
		if (strcmp(item, "neon") != 0)
			appendPQExpBuffer(&buf, ",%s", item);
	}
	if (PQExpBufferBroken(&buf))
		die_oom();
	add_setting(args, "shared_preload_libraries", buf.data);
	termPQExpBuffer(&buf);
	free(list);
}

static void
add_addresses(Args *args, const Endpoint *ep, const char *pgdata)
{
	const char *listen = conf_user_setting(ep, pgdata, "listen_addresses", LOOPBACK);
	const char *dir = socket_directory(ep->port);

	/* The pageserver comes by the loopback address. */
	if (strstr(listen, LOOPBACK) == NULL && strstr(listen, "*") == NULL &&
		strstr(listen, "0.0.0.0") == NULL && strstr(listen, "localhost") == NULL)
		listen = listen[0] ? strf("%s,%s", LOOPBACK, listen) : LOOPBACK;
	add_setting(args, "listen_addresses", listen);
	add_setting(args, "port", strf("%d", ep->port));
	add_setting(args, "unix_socket_directories", dir ? strf("\"%s\"", dir) : "");
}

/* A value of a connection string, quoted. */
static void
append_conn_value(PQExpBuffer buf, const char *value)
{
	appendPQExpBufferChar(buf, '\'');
	for (; *value; value++)
	{
		if (*value == '\'' || *value == '\\')
			appendPQExpBufferChar(buf, '\\');
		appendPQExpBufferChar(buf, *value);
	}
	appendPQExpBufferChar(buf, '\'');
}

static void
add_identity(Args *args, const Endpoint *ep, bool in_quorum)
{
	PQExpBufferData conn;

	add_setting(args, "neon.tenant_id", ep->tenant);
	add_setting(args, "neon.timeline_id", ep->timeline);
	add_setting(args, "neon.endpoint_id", ep->name);
	add_setting(args, "neon.conf_dir", endpoint_path(ep, "conf"));
	/* What may change under a running server is in neon.conf. */
	if (!in_quorum)
		add_setting(args, "neon.safekeepers", "");
	else
	{
		initPQExpBuffer(&conn);
		appendPQExpBuffer(&conn, "user=tenant_%s dbname=%s sslmode=disable passfile=", ep->tenant,
						  MAINTENANCE_DB);
		append_conn_value(&conn, endpoint_path(ep, "passfile"));
		if (PQExpBufferBroken(&conn))
			die_oom();
		add_setting(args, "neon.safekeeper_connstring", conn.data);
		termPQExpBuffer(&conn);
	}
	initPQExpBuffer(&conn);
	appendPQExpBuffer(&conn, "host=%s port=%d user=tenant_%s dbname=%s sslmode=disable passfile=",
					  LOOPBACK, instance_pageserver().port, ep->tenant, MAINTENANCE_DB);
	append_conn_value(&conn, endpoint_path(ep, "passfile"));
	if (PQExpBufferBroken(&conn))
		die_oom();
	add_setting(args, "neon.pageserver_connstring", conn.data);
	termPQExpBuffer(&conn);
	add_setting(args, "neon.storage_conninfo",
				strf("host=%s port=%d user=%s dbname=%s sslmode=disable", LOOPBACK, ep->port,
					 STORAGE_ROLE, MAINTENANCE_DB));
}

/* Large segments need more than PostgreSQL's default; as many as initdb would set. */
static void
add_min_wal_size(Args *args, const Endpoint *ep, const char *pgdata, const KvFile *boot)
{
	long		segment = kv_get_int(boot, "wal_segment_size", 0);

	if (segment > DEFAULT_SEGMENT_SIZE)
		add_setting(args, "min_wal_size",
					conf_user_setting(ep, pgdata, "min_wal_size",
								 strf("%dMB", (int) (segment / (1024 * 1024) * MIN_WAL_SEGMENTS))));
}

const char **
conf_command_line(const Endpoint *ep, const char *pgdata, const KvFile *boot, bool subscriptions,
				  bool in_quorum)
{
	Args		args = {0, pg_malloc0(MAX_ARGS * sizeof(char *))};

	add_arg(&args, pg_program("postgres"));
	add_arg(&args, "-D");
	add_arg(&args, endpoint_path(ep, "pgdata"));
	add_setting(&args, "config_file", endpoint_path(ep, "conf/postgresql.conf"));
	add_setting(&args, "hba_file", endpoint_path(ep, "conf/pg_hba.conf"));
	add_setting(&args, "ident_file", endpoint_path(ep, "conf/pg_ident.conf"));
	add_libraries(&args, ep, pgdata);
	add_addresses(&args, ep, pgdata);
	add_setting(&args, "fsync", in_quorum ? "off" : "on");
	add_setting(&args, "full_page_writes", conf_user_setting(ep, pgdata, "full_page_writes", "off"));
	add_setting(&args, "restart_after_crash", "off");
	add_setting(&args, "max_slot_wal_keep_size", "-1");
	add_raised(&args, ep, pgdata, boot, "max_connections", "max_connections", 100);
	add_raised(&args, ep, pgdata, boot, "max_worker_processes", "max_worker_processes", 8);
	add_raised(&args, ep, pgdata, boot, "max_wal_senders", "max_wal_senders", 10);
	add_raised(&args, ep, pgdata, boot, "max_prepared_transactions", "max_prepared_xacts", 0);
	add_raised(&args, ep, pgdata, boot, "max_locks_per_transaction", "max_locks_per_xact", 64);
	add_min_wal_size(&args, ep, pgdata, boot);
	if (!in_quorum)
		add_setting(&args, "wal_keep_size", conf_user_setting(ep, pgdata, "wal_keep_size", WAL_KEPT));
	if (!subscriptions)
		add_setting(&args, "max_logical_replication_workers", "0");
	add_identity(&args, ep, in_quorum);
	return args.argv;
}

/* The names in postgresql.auto.conf, as ", "-separated text. */
static void
auto_names(const Endpoint *ep, PQExpBuffer names)
{
	char	   *data = read_small_file(endpoint_path(ep, "conf/postgresql.auto.conf"), CONF_LIMIT, NULL);
	char	   *rest = data;
	char	   *line;

	while (data != NULL && (line = strsep(&rest, "\n")) != NULL)
	{
		char	   *name = line + strspn(line, " \t");
		size_t		len = strcspn(name, " \t=#");

		if (len > 0)
			appendPQExpBuffer(names, "%s%.*s", names->len > 0 ? ", " : "", (int) len, name);
	}
	free(data);
}

const char *
conf_advice(const Endpoint *ep)
{
	PQExpBufferData names;
	const char *result;

	initPQExpBuffer(&names);
	auto_names(ep, &names);
	result = strf("A setting may be the cause: \"neon endpoint config %s\" shows and changes them", ep->name);
	if (names.len > 0)
		result = strf("%s; what ALTER SYSTEM has set (%s) is corrected in \"%s\"", result, names.data,
					  endpoint_path(ep, "conf/postgresql.auto.conf"));
	termPQExpBuffer(&names);
	return strf("%s.", result);
}
