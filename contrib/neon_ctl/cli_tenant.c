/*-------------------------------------------------------------------------
 *
 * cli_tenant.c
 *	  neon tenant create, list, config, set-default, delete.
 *
 *-------------------------------------------------------------------------
 */
#include "cli.h"

#include "db.h"
#include "election.h"
#include "endpoint.h"
#include "fsutil.h"
#include "neon_id.h"
#include "output.h"
#include "pageserver.h"
#include "repo.h"

#define CREATE_TIMEOUT	300
#define IMPORT_TIMEOUT	(24 * 3600) /* of a data directory of any size */

static const char *const secret_names[] = {"superuser", "storage", "role"};

/* ---- options of creation, as JSON ---- */

static void
add_verifier(PGconn *conn, PQExpBuffer buf, const char *key, const char *password, const char *role)
{
	char	   *verifier;

	if (repo.trust)
		return;
	verifier = PQencryptPasswordConn(conn, password, role, "scram-sha-256");
	if (verifier == NULL)
		die(EXIT_GENERAL, "Try again.", "could not hash a password: %s", PQerrorMessage(conn));
	json_string(buf, key, verifier);
	PQfreemem(verifier);
}

/* The pageserver has another current directory.  What cannot be resolved is its to refuse. */
static const char *
pgdata_path(const Invocation *inv)
{
	const char *given = inv->option[OPT_PGDATA];
	char	   *real = realpath(given, NULL);

	if (real == NULL && given[0] != '/')
		die(EXIT_GENERAL, "Give the path of a data directory.", "could not find \"%s\": %m", given);
	return real ? real : given;
}

const char *
creation_options(PGconn *conn, const Invocation *inv, const char *tenant, bool new_tenant)
{
	PQExpBufferData buf;
	const char *result;

	json_begin(&buf);
	if (option_given(inv, OPT_LOCALE))
		json_string(&buf, "locale", inv->option[OPT_LOCALE]);
	if (option_given(inv, OPT_ENCODING))
		json_string(&buf, "encoding", inv->option[OPT_ENCODING]);
	if (option_given(inv, OPT_DATA_CHECKSUMS))
		appendPQExpBuffer(&buf, "%s\"checksums\": true", buf.len > 1 ? ", " : "");
	if (option_given(inv, OPT_WAL_SEGSIZE))
		json_number(&buf, "segsize", option_int(inv, OPT_WAL_SEGSIZE));
	if (option_given(inv, OPT_PGDATA))
		json_string(&buf, "pgdata", pgdata_path(inv));
	add_verifier(conn, &buf, "superuser_verifier", tenant_secret(tenant, "superuser"), SUPERUSER);
	add_verifier(conn, &buf, "storage_verifier", tenant_secret(tenant, "storage"), STORAGE_ROLE);
	if (new_tenant)
		add_verifier(conn, &buf, "tenant_role_verifier", tenant_secret(tenant, "role"),
					 strf("tenant_%s", tenant));
	appendPQExpBufferChar(&buf, '}');
	if (PQExpBufferBroken(&buf))
		die_oom();
	result = pg_strdup(buf.data);
	termPQExpBuffer(&buf);
	return result;
}

/* Secrets are in the config before the tenant is there, so that they cannot get lost. */
static void
save_secrets(const char *tenant)
{
	int			lock = lock_acquire("config", 30, NULL);

	config_reload();
	for (int i = 0; i < lengthof(secret_names) && !repo.trust; i++)
	{
		const char *key = strf("tenant.%s.%s_password", tenant, secret_names[i]);

		if (kv_get(&repo.config, key) == NULL)
			kv_set(&repo.config, key, new_password());
	}
	config_save();
	lock_release(lock);
}

static void
forget_tenant(const char *tenant)
{
	int			lock = lock_acquire("config", 30, NULL);

	config_reload();
	for (int i = 0; i < lengthof(secret_names); i++)
		kv_unset(&repo.config, strf("tenant.%s.%s_password", tenant, secret_names[i]));
	if (strcmp(kv_get_default(&repo.config, "default_tenant", ""), tenant) == 0)
		kv_unset(&repo.config, "default_tenant");
	config_save();
	lock_release(lock);
}

static void
set_default_tenant(const char *tenant)
{
	int			lock = lock_acquire("config", 30, NULL);

	config_reload();
	kv_set(&repo.config, "default_tenant", tenant);
	config_save();
	lock_release(lock);
	say("Setting tenant %s as a default one", tenant);
}

static bool
tenant_exists(PGconn *conn, const char *tenant)
{
	PGresult   *res = db_exec(conn, 60, NULL,
							  "SELECT 1 FROM neon_pageserver.tenants WHERE tenant_id = $1", 1, tenant);
	bool		found = PQntuples(res) > 0;

	PQclear(res);
	return found;
}

static const char *
normal_id(const char *given, char *hex)
{
	NeonId		id;

	if (!neon_id_parse(given, &id))
		die(EXIT_USAGE, "An id is 32 hexadecimal digits.", "\"%s\" is no id of a tenant", given);
	return neon_id_format(&id, hex);
}

static void
choose_id(const Invocation *inv, char *hex)
{
	NeonId		id;

	if (option_given(inv, OPT_TENANT_ID))
		normal_id(inv->option[OPT_TENANT_ID], hex);
	else if (neon_id_generate(&id))
		neon_id_format(&id, hex);
	else
		die(EXIT_GENERAL, "Check the machine's random number source.",
			"could not generate a random id");
}

static void
check_segsize(const Invocation *inv)
{
	int			mb;

	if (!option_given(inv, OPT_WAL_SEGSIZE))
		return;
	mb = option_int(inv, OPT_WAL_SEGSIZE);
	if (mb < 1 || mb > 1024 || (mb & (mb - 1)) != 0)
		die(EXIT_USAGE, "Give 1, 2, 4, 8, 16, 32, 64, 128, 256, 512 or 1024.",
			"%d is no size of WAL segments", mb);
}

static void
check_pgdata(const Invocation *inv)
{
	if (option_given(inv, OPT_PGDATA) &&
		(option_given(inv, OPT_LOCALE) || option_given(inv, OPT_ENCODING) ||
		 option_given(inv, OPT_DATA_CHECKSUMS) || option_given(inv, OPT_WAL_SEGSIZE)))
		die(EXIT_USAGE, "Leave them out: the data directory has its own.",
			"--locale, --encoding, --data-checksums and --wal-segsize cannot be given with --pgdata");
}

int
cmd_tenant_create(Invocation *inv)
{
	char		tenant[NEON_ID_HEXLEN + 1];
	PGconn	   *conn;
	PGresult   *res;
	PQExpBufferData buf;

	check_segsize(inv);
	check_pgdata(inv);
	conn = ps_connect();
	election_check_running("creating a tenant");
	choose_id(inv, tenant);
	if (tenant_exists(conn, tenant))
		die(EXIT_GENERAL, "Give another id, or none.", "there is a tenant %s already", tenant);
	save_secrets(tenant);
	res = db_send(conn, "SELECT * FROM neon_pageserver.tenant_create($1, $2)", 2,
				  (const char *[]) {tenant, creation_options(conn, inv, tenant, true)},
				  NULL, NULL, option_given(inv, OPT_PGDATA) ? IMPORT_TIMEOUT : CREATE_TIMEOUT,
				  option_given(inv, OPT_PGDATA) ? "importing the data directory" :
				  "creating the tenant (initdb)");
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		forget_tenant(tenant);
	db_check(conn, res, "Look into the pageserver's log: \"neon pageserver logs\".");
	say("tenant %s successfully created on the pageserver", tenant);
	election_create_timeline(conn, tenant, db_value(res, 0, "timeline_id"));
	say("Created an initial timeline '%s' at Lsn %s for tenant: %s",
		db_value(res, 0, "timeline_id"), db_value(res, 0, "lsn"), tenant);
	if (option_given(inv, OPT_SET_DEFAULT))
		set_default_tenant(tenant);
	json_begin(&buf);
	json_string(&buf, "tenant_id", tenant);
	json_string(&buf, "timeline_id", db_value(res, 0, "timeline_id"));
	json_string(&buf, "lsn", db_value(res, 0, "lsn"));
	json_end_print(&buf);
	PQclear(res);
	PQfinish(conn);
	return EXIT_OK;
}

int
cmd_tenant_list(Invocation *inv)
{
	static const char *const titles[] = {"TENANT", "TIMELINES", "LOGICAL SIZE", "STORED", "DEFAULT"};
	static const char *const json_names[] = {"tenant_id", "timelines", "logical_size", "physical_size", "default"};
	Table	   *table = table_new(5, titles, json_names);
	const char *standard = kv_get_default(&repo.config, "default_tenant", "");
	PGconn	   *conn = ps_connect();
	PGresult   *res = db_exec(conn, 60, "listing tenants",
							  output_json ? "SELECT tenant_id, timelines, logical_size, physical_size FROM neon_pageserver.tenants ORDER BY 1"
							  : "SELECT tenant_id, timelines, pg_size_pretty(logical_size) AS logical_size,"
							  " pg_size_pretty(physical_size) AS physical_size FROM neon_pageserver.tenants ORDER BY 1", 0);

	for (int c = 1; c <= 3; c++)
		table_number_column(table, c);
	for (int i = 0; i < PQntuples(res); i++)
	{
		for (int c = 0; c < 4; c++)
			table_cell(table, db_value(res, i, json_names[c]));
		table_cell(table, strcmp(db_value(res, i, "tenant_id"), standard) == 0 ? "yes" : "no");
	}
	table_print(table);
	PQclear(res);
	PQfinish(conn);
	return EXIT_OK;
}

/* The value of name=value in text, if it is that setting. */
static const char *
value_of(const char *name, const char *text)
{
	size_t		n = strlen(name);

	return strncmp(text, name, n) == 0 && text[n] == '=' ? text + n + 1 : NULL;
}

/* What is not given stays; what is given without a value is the pageserver's from then on. */
static void
configure_tenant(const Invocation *inv, PGconn *conn, const char *tenant)
{
	const char *pitr = NULL;
	const char *horizon = NULL;

	for (int i = 0; i < inv->nargs; i++)
	{
		const char *p = value_of("pitr_interval", inv->arg[i]);
		const char *h = value_of("gc_horizon", inv->arg[i]);

		if (p == NULL && h == NULL)
			die(EXIT_USAGE, "Settings are pitr_interval=TIME and gc_horizon=BYTES.",
				"\"%s\" is no setting of a tenant", inv->arg[i]);
		pitr = p ? p : pitr;
		horizon = h ? h : horizon;
	}
	PQclear(db_exec(conn, 60, "changing settings",
					"SELECT neon_pageserver.tenant_configure($1,"
					" CASE WHEN $2::text IS NOT NULL THEN nullif($2, '')::interval WHEN own_pitr_interval THEN pitr_interval END,"
					" CASE WHEN $3::text IS NOT NULL THEN pg_size_bytes(nullif($3, '')) WHEN own_gc_horizon THEN gc_horizon END)"
					" FROM neon_pageserver.tenant_settings($1)", 3, tenant, pitr, horizon));
}

static void
print_settings(PGconn *conn, const char *tenant)
{
	static const char *const titles[] = {"SETTING", "VALUE", "SOURCE"};
	static const char *const json_names[] = {"setting", "value", "source"};
	Table	   *table = table_new(3, titles, json_names);
	PGresult   *res = db_exec(conn, 60, "reading settings",
							  "SELECT 'pitr_interval' AS setting, pitr_interval::text AS value,"
							  " CASE WHEN own_pitr_interval THEN 'tenant' ELSE 'pageserver' END AS source"
							  " FROM neon_pageserver.tenant_settings($1) UNION ALL"
							  " SELECT 'gc_horizon', gc_horizon::text,"
							  " CASE WHEN own_gc_horizon THEN 'tenant' ELSE 'pageserver' END"
							  " FROM neon_pageserver.tenant_settings($1)", 1, tenant);

	for (int i = 0; i < PQntuples(res); i++)
	{
		for (int c = 0; c < 3; c++)
			table_cell(table, db_value(res, i, json_names[c]));
	}
	table_print(table);
	PQclear(res);
}

int
cmd_tenant_config(Invocation *inv)
{
	const char *tenant = chosen_tenant(inv);
	PGconn	   *conn = ps_connect();

	if (inv->nargs > 0)
		configure_tenant(inv, conn, tenant);
	print_settings(conn, tenant);
	PQfinish(conn);
	return EXIT_OK;
}

int
cmd_tenant_set_default(Invocation *inv)
{
	char		tenant[NEON_ID_HEXLEN + 1];
	PGconn	   *conn;

	normal_id(inv->arg[0], tenant);
	conn = ps_connect();
	if (!tenant_exists(conn, tenant))
		die(EXIT_GENERAL, "See \"neon tenant list\".", "there is no tenant %s", tenant);
	set_default_tenant(tenant);
	PQfinish(conn);
	return EXIT_OK;
}

void
check_no_endpoints(const char *tenant, const char *timeline, const char *what)
{
	int			n;
	char	  **names;
	char		owner[256];

	/* strf() texts do not last while endpoints are listed and loaded */
	strlcpy(owner, what, sizeof(owner));
	names = endpoint_names(&n);
	for (int i = 0; i < n; i++)
	{
		Endpoint	ep;

		endpoint_load(&ep, names[i]);
		if (ep.exists && strcmp(ep.tenant, tenant) == 0 &&
			(timeline == NULL || strcmp(ep.timeline, timeline) == 0))
			die(EXIT_GENERAL,
				strf("Remove it by \"neon endpoint destroy %s\", or move it to another branch.",
					 names[i]),
				"endpoint \"%s\" belongs to %s", names[i], owner);
	}
}

static void
delete_on_safekeepers(PGconn *conn, const char *tenant)
{
	int			n;
	TimelineInfo *all = ps_timelines(conn, tenant, &n);

	for (int i = 0; i < n; i++)
		election_delete_timeline(conn, &all[i]);
	free(all);
}

int
cmd_tenant_delete(Invocation *inv)
{
	char		tenant[NEON_ID_HEXLEN + 1];
	PGconn	   *conn;

	normal_id(inv->arg[0], tenant);
	check_no_endpoints(tenant, NULL, strf("tenant %s", tenant));
	conn = ps_connect();
	if (!tenant_exists(conn, tenant))
		die(EXIT_GENERAL, "See \"neon tenant list\".", "there is no tenant %s", tenant);
	delete_on_safekeepers(conn, tenant);
	PQclear(db_exec(conn, 120, "deleting the tenant", "SELECT neon_pageserver.tenant_delete($1)",
					1, tenant));
	election_forget_tenant(tenant);
	forget_tenant(tenant);
	say("tenant %s deleted", tenant);
	PQfinish(conn);
	return EXIT_OK;
}
