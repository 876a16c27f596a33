/*-------------------------------------------------------------------------
 *
 * confcheck.c
 *	  What an endpoint's settings cannot be, beyond what the server itself
 *	  refuses when it reads its files.
 *
 * Names that are neon's own affair, values that end the start of a compute,
 * settings of the library, which is not loaded where the files are tried, and
 * libraries that are not installed: the server would notice these only when
 * what ran before has been stopped.
 *
 *-------------------------------------------------------------------------
 */
#include "endpoint.h"

#include <sys/stat.h>

#include "instance.h"
#include "output.h"

/* ---- names and values ---- */

/* Set by neon itself, or meant for servers that follow another one. */
static const char *const guarded[] = {
	"archive_mode", "config_file", "data_directory", "external_pid_file", "fsync", "hba_file",
	"hot_standby", "ident_file", "max_slot_wal_keep_size", "neon.conf_dir", "neon.endpoint_id",
	"neon.config_generation", "neon.pageserver_connstring", "neon.safekeeper_connstring",
	"neon.safekeepers", "neon.storage_conninfo", "neon.tenant_id", "neon.timeline_id", "port",
	"restart_after_crash", "unix_socket_directories",
	"archive_cleanup_command", "primary_conninfo", "primary_slot_name", "promote_trigger_file",
	"recovery_end_command", "recovery_min_apply_delay", "recovery_target",
	"recovery_target_action", "recovery_target_inclusive", "recovery_target_lsn",
	"recovery_target_name", "recovery_target_time", "recovery_target_timeline",
	"recovery_target_xid", "restore_command", NULL
};

/* What the server takes, but not a compute. */
static const struct
{
	const char *name;
	const char *value;
	const char *why;
	const char *hint;
}			refused[] = {
	{"wal_level", "minimal", "its WAL is what is stored", "Use \"replica\" or \"logical\"."},
	{"max_wal_senders", "0", "its WAL is streamed to the storage", "Leave it at 10 or more."},
	{"max_replication_slots", "0", "its WAL is streamed to the storage", "Leave it at 10 or more."},
};

/*
 * The library's settings that users may set, each with a setting of the server
 * that takes the same values (two where none does), down to min.
 */
static const struct
{
	const char *name;
	const char *like;
	const char *or_like;
	double		min;			/* or 0, where or_zero */
	const char *hint;
	bool		or_zero;
}			library_settings[] = {
	{"neon.fetch_timeout", "statement_timeout", NULL, 1, "Give a time from 1ms on, as 30s."},
	{"neon.keep_local", "enable_seqscan", NULL, 0, "It is on or off."},
	{"neon.hydrate_rate", "temp_file_limit", NULL, 0, "Give an amount per second, as 20MB; 0 is off."},
	{"neon.log_slow_fetch", "log_min_duration_statement", NULL, -1, "Give a time, as 1s; -1 is off."},
	{"neon.log_statement_fetches", "log_min_duration_statement", NULL, -1, "Give a time, as 1s; -1 is off."},
	{"neon.prewarm_rate", "temp_file_limit", NULL, 0, "Give an amount per second, as 50MB; 0 is off."},
	{"neon.read_lease", "statement_timeout", NULL, 500, "Give a time from 500ms to 1h, as 5s."},
	{"neon.max_unflushed_wal", "wal_keep_size", NULL, 1, "Give an amount from 1MB on, as 1GB."},
	{"neon.safekeeper_wal_keep", "wal_keep_size", NULL, 1, "Give an amount from 1MB on, as 10GB."},
	{"neon.consumer_wal_keep", "max_slot_wal_keep_size", NULL, -1, "Give an amount, as 10GB; -1 is no limit."},
	{"neon.save_interval", "log_autovacuum_min_duration", NULL, -1, "Give a time, as 5min; 0 is at the stop only, -1 never."},
	{"neon.local_size_limit", "temp_file_limit", NULL, 16 * 1024, "Give an amount from 16MB on, as 10GB; 0 is no limit.", true},
	{"neon.max_ingest_lag", "temp_file_limit", "seq_page_cost", 0, "Give an amount, as 64MB; 0 is off."},
};

void
conf_check_name(const char *name)
{
	size_t		len = strlen(name);

	if (len == 0 || len > 63 ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.") != len)
		die(EXIT_USAGE, "Give it as name=value.", "\"%s\" is no name of a setting", name);
	for (int i = 0; guarded[i] != NULL; i++)
	{
		if (pg_strcasecmp(name, guarded[i]) == 0)
			die(EXIT_USAGE,
				strcmp(guarded[i], "port") == 0 ?
				"Use \"neon endpoint start NAME --port PORT\"." : "Leave it as it is.",
				"setting \"%s\" is made by neon and cannot be changed", guarded[i]);
	}
	if (safekeeper_count() > 0 && pg_strcasecmp(name, "synchronous_standby_names") == 0)
		die(EXIT_USAGE, "Leave it as it is.",
			"setting \"%s\" is made by neon and cannot be changed", "synchronous_standby_names");
}

/* Would the server take the value for its own setting of that name? */
static bool
server_takes(const Endpoint *ep, const char *name, const char *value, double min, bool or_zero)
{
	PQExpBufferData answer;
	bool		result;

	result = conf_ask_server(ep, strf("%s=%s", name, value), name, &answer) &&
		(atof(answer.data) >= min || (or_zero && atof(answer.data) == 0));
	termPQExpBuffer(&answer);
	return result;
}

static void
check_library_setting(const Endpoint *ep, const char *name, const char *value)
{
	for (int i = 0; i < lengthof(library_settings); i++)
	{
		if (pg_strcasecmp(name, library_settings[i].name) != 0)
			continue;
		if (!server_takes(ep, library_settings[i].like, value, library_settings[i].min,
						  library_settings[i].or_zero) &&
			(library_settings[i].or_like == NULL ||
			 !server_takes(ep, library_settings[i].or_like, value, library_settings[i].min,
						   library_settings[i].or_zero)))
			die(EXIT_GENERAL, library_settings[i].hint, "invalid value for setting \"%s\": \"%s\"",
				name, value);
		return;
	}
	die(EXIT_GENERAL, "docs/settings.md lists those that there are.",
		"there is no setting \"%s\"", name);
}

void
conf_check_value(const Endpoint *ep, const char *name, const char *value)
{
	for (int i = 0; i < lengthof(refused); i++)
	{
		if (pg_strcasecmp(name, refused[i].name) == 0 && pg_strcasecmp(value, refused[i].value) == 0)
			die(EXIT_USAGE, refused[i].hint, "an endpoint cannot run with %s=%s: %s", name, value,
				refused[i].why);
	}
	if (pg_strncasecmp(name, "neon.", strlen("neon.")) == 0)
		check_library_setting(ep, name, value);
}

/* ---- libraries ---- */

#define LIBDIR_MACRO	"$libdir"

/* The settings that name libraries. */
static const char *const preload_settings[] = {
	"shared_preload_libraries", "session_preload_libraries", "local_preload_libraries", NULL
};

char *
conf_next_library(char **rest)
{
	char	   *item;

	while ((item = strsep(rest, ",")) != NULL)
	{
		size_t		len;

		item += strspn(item, " \t\n\"");
		len = strlen(item);
		while (len > 0 && strchr(" \t\n\"", item[len - 1]) != NULL)
			item[--len] = '\0';
		if (len > 0)
			return item;
	}
	return NULL;
}

static bool
is_file(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

/* The file itself, or with the suffix of libraries. */
static bool
file_is_there(const char *file)
{
	char		path[MAXPGPATH];
	const char *base = "";

	if (strncmp(file, LIBDIR_MACRO "/", strlen(LIBDIR_MACRO "/")) == 0)
	{
		base = NEON_PG_PKGLIBDIR;
		file += strlen(LIBDIR_MACRO);
	}
	else if (file[0] != '/')
		return false;
	if (strlen(base) + strlen(file) + strlen(DLSUFFIX) >= sizeof(path))
		return false;
	snprintf(path, sizeof(path), "%s%s", base, file);
	if (is_file(path))
		return true;
	strlcat(path, DLSUFFIX, sizeof(path));
	return is_file(path);
}

static bool
library_is_there(const char *name, const char *search_path)
{
	char	   *list = pg_strdup(search_path);
	char	   *rest = list;
	const char *dir;
	bool		found = false;

	if (strchr(name, '/') != NULL)
		found = file_is_there(name);
	else
	{
		while (!found && (dir = strsep(&rest, ":")) != NULL)
			found = file_is_there(strf("%s/%s", dir, name));
	}
	free(list);
	return found;
}

/* The first library of the value that is in no directory of dynamic_library_path, or NULL. */
static const char *
first_missing(const char *setting, const char *value, const char *search_path)
{
	bool		is_local = strcmp(setting, "local_preload_libraries") == 0;
	char	   *list = pg_strdup(value);
	char	   *rest = list;
	const char *missing = NULL;
	char	   *item;

	while (missing == NULL && (item = conf_next_library(&rest)) != NULL)
	{
		/* Those that any user may ask for lie in a directory of their own. */
		const char *name = is_local && strchr(item, '/') == NULL ?
			strf(LIBDIR_MACRO "/plugins/%s", item) : item;

		if (!library_is_there(name, search_path))
			missing = strf("%s", item);
	}
	free(list);
	return missing;
}

bool
conf_names_libraries(const char *name)
{
	for (int i = 0; preload_settings[i] != NULL; i++)
	{
		if (pg_strcasecmp(name, preload_settings[i]) == 0)
			return true;
	}
	return pg_strcasecmp(name, "dynamic_library_path") == 0;
}

const char *
conf_missing_library(const Endpoint *ep)
{
	const char *conf = pg_strdup(endpoint_path(ep, "conf"));

	for (int i = 0; preload_settings[i] != NULL; i++)
	{
		/* ours is loaded always */
		char	   *value = psprintf("%s,%s", i == 0 ? "neon" : "",
									 conf_user_setting(ep, conf, preload_settings[i], ""));
		char	   *search_path = pg_strdup(conf_user_setting(ep, conf, "dynamic_library_path",
															  LIBDIR_MACRO));
		const char *missing = first_missing(preload_settings[i], value, search_path);

		if (missing != NULL)
			return strf("library \"%s\" of %s is not installed on this machine", missing,
						preload_settings[i]);
	}
	return NULL;
}
