/*-------------------------------------------------------------------------
 *
 * tenant.c
 *	  SQL functions that make and remove tenants and root timelines.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "libpq/crypt.h"
#include "miscadmin.h"
#include "sqlutil.h"
#include "tenant.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/pg_lsn.h"

PG_FUNCTION_INFO_V1(neon_tenant_create);
PG_FUNCTION_INFO_V1(neon_timeline_create);
PG_FUNCTION_INFO_V1(neon_tenant_delete);

typedef enum OptionType
{
	OPTION_TEXT,
	OPTION_VERIFIER,
	OPTION_BOOL,
	OPTION_INT,
	OPTION_ID,
	OPTION_NAME,
	OPTION_PATH,
} OptionType;

typedef struct OptionDef
{
	const char *name;
	OptionType	type;
	size_t		offset;			/* in TenantJob */
	size_t		size;
	bool		tenant_only;	/* not of timeline_create */
} OptionDef;

#define JOB_FIELD(field) offsetof(TenantJob, field), sizeof(((TenantJob *) 0)->field)

static const OptionDef option_defs[] = {
	{"locale", OPTION_TEXT, JOB_FIELD(options.locale)},
	{"encoding", OPTION_TEXT, JOB_FIELD(options.encoding)},
	{"checksums", OPTION_BOOL, JOB_FIELD(options.checksums)},
	{"segsize", OPTION_INT, JOB_FIELD(options.segsize_mb)},
	{"name", OPTION_NAME, JOB_FIELD(name), true},
	{"timeline_id", OPTION_ID, JOB_FIELD(timeline)},
	{"superuser_verifier", OPTION_VERIFIER, JOB_FIELD(options.superuser_verifier)},
	{"storage_verifier", OPTION_VERIFIER, JOB_FIELD(options.storage_verifier)},
	{"pgdata", OPTION_PATH, JOB_FIELD(pgdata), true},
	{"tenant_role_verifier", OPTION_VERIFIER, JOB_FIELD(role_verifier), true},
};

/* ---- options ---- */

static const OptionDef *
find_option(const char *name, bool new_tenant)
{
	for (int i = 0; i < lengthof(option_defs); i++)
		if (strcmp(option_defs[i].name, name) == 0 &&
			(new_tenant || !option_defs[i].tenant_only))
			return &option_defs[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown option \"%.64s\"", name)));
	return NULL;				/* not reached */
}

/* The value as text; jsonb numbers and booleans are written as such. */
static char *
option_text(const OptionDef *def, JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" must not be an array or object", def->name)));
	}
	return NULL;				/* not reached */
}

static void
bad_option_value(const OptionDef *def, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", def->name),
			 errdetail_internal("%s", detail)));
}

static void
set_option(TenantJob *job, const OptionDef *def, const char *text)
{
	char	   *field = (char *) job + def->offset;
	int			number;

	switch (def->type)
	{
		case OPTION_VERIFIER:
			if (get_password_type(text) != PASSWORD_TYPE_SCRAM_SHA_256)
				bad_option_value(def, "It must be a SCRAM-SHA-256 verifier.");
			/* FALLTHROUGH */
		case OPTION_TEXT:
			if (text[0] == '\0' || text[0] == '-' || strlen(text) >= def->size)
				bad_option_value(def, "It is empty or too long.");
			strlcpy(field, text, def->size);
			break;
		case OPTION_NAME:
			sql_check_branch_name(text);
			strlcpy(field, text, def->size);
			break;
		case OPTION_PATH:
			if (!is_absolute_path(text) || strlen(text) >= def->size - NAMEDATALEN)
				bad_option_value(def, "It must be an absolute path, and not too long.");
			strlcpy(field, text, def->size);
			canonicalize_path(field);
			break;
		case OPTION_BOOL:
			if (!parse_bool(text, (bool *) field))
				bad_option_value(def, "It must be true or false.");
			break;
		case OPTION_INT:
			number = pg_strtoint32(text);
			if (number < 1 || number > 1024 || (number & (number - 1)) != 0)
				bad_option_value(def, "It must be a power of two from 1 to 1024 (megabytes).");
			*(int *) field = number;
			break;
		case OPTION_ID:
			*(NeonId *) field = sql_parse_id(text, "timeline");
			break;
	}
}

/* A user's data directory has its properties already. */
static void
check_options(const TenantJob *job)
{
	InitdbOptions standard;

	if (job->pgdata[0] == '\0')
		return;
	initdb_default_options(&standard);
	if (strcmp(job->options.locale, standard.locale) != 0 ||
		strcmp(job->options.encoding, standard.encoding) != 0 ||
		job->options.checksums != standard.checksums ||
		job->options.segsize_mb != standard.segsize_mb)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a new database system cannot be given with \"pgdata\"")));
}

static void
read_options(TenantJob *job, Jsonb *options)
{
	JsonbIterator *it;
	JsonbValue	value;
	JsonbIteratorToken token;
	const OptionDef *def = NULL;

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	it = JsonbIteratorInit(&options->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			def = find_option(pnstrdup(value.val.string.val, value.val.string.len),
							  job->new_tenant);
		else if (token == WJB_VALUE && value.type != jbvNull)
			set_option(job, def, option_text(def, &value));
	}
	check_options(job);
}

/* ---- making ---- */

static NeonId
generate_id(void)
{
	NeonId		id;

	if (!neon_id_generate(&id))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random id")));
	return id;
}

static void
init_job(TenantJob *job, bool new_tenant)
{
	memset(job, 0, sizeof(*job));
	job->database = MyDatabaseId;
	job->new_tenant = new_tenant;
	initdb_default_options(&job->options);
	strlcpy(job->name, "main", sizeof(job->name));
}

/* The cheap checks, before initdb; the final ones are under locks in timeline.c. */
static void
check_job(TenantJob *job)
{
	char		hex[NEON_ID_HEXLEN + 1];

	if (neon_id_is_zero(&job->tenant))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid tenant id: all of its digits are 0"),
				 errhint("Pass NULL to have an id made.")));
	if (neon_id_is_zero(&job->timeline))
		job->timeline = generate_id();
	if (job->new_tenant && tenant_exists(&job->tenant))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("tenant %s already exists", neon_id_format(&job->tenant, hex))));
	if (!job->new_tenant && !tenant_exists(&job->tenant))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("tenant %s does not exist", neon_id_format(&job->tenant, hex))));
	if (job->new_tenant)
		return;
	if (timeline_open_by_name(&job->tenant, job->name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("branch \"%s\" already exists", job->name)));
	if (timeline_open(&job->tenant, &job->timeline, true) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("timeline %s already exists", neon_id_format(&job->timeline, hex))));
}

Datum
neon_tenant_create(PG_FUNCTION_ARGS)
{
	TenantJob	job;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	check_superuser("tenant_create");
	sql_refuse_transaction_block("tenant_create");
	InitMaterializedSRF(fcinfo, 0);
	init_job(&job, true);
	job.tenant = PG_ARGISNULL(0) ? generate_id() : sql_id_arg(fcinfo, 0, "tenant");
	if (!PG_ARGISNULL(1))
		read_options(&job, PG_GETARG_JSONB_P(1));
	check_job(&job);
	tenant_job_delegate(&job);

	values[0] = sql_id_datum(&job.tenant);
	values[1] = sql_id_datum(&job.timeline);
	values[2] = LSNGetDatum(job.lsn);
	sql_put_row(fcinfo, values, nulls);
	return (Datum) 0;
}

Datum
neon_timeline_create(PG_FUNCTION_ARGS)
{
	TenantJob	job;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	check_superuser("timeline_create");
	sql_refuse_transaction_block("timeline_create");
	InitMaterializedSRF(fcinfo, 0);
	init_job(&job, false);
	job.tenant = sql_id_arg(fcinfo, 0, "tenant");
	strlcpy(job.name, sql_text_arg(fcinfo, 1, "name"), sizeof(job.name));
	sql_check_branch_name(sql_text_arg(fcinfo, 1, "name"));
	if (!PG_ARGISNULL(2))
		read_options(&job, PG_GETARG_JSONB_P(2));
	check_job(&job);
	tenant_job_delegate(&job);

	values[0] = sql_id_datum(&job.timeline);
	values[1] = LSNGetDatum(job.lsn);
	sql_put_row(fcinfo, values, nulls);
	return (Datum) 0;
}

/*
 * Files first, then the role with this transaction: a role without a tenant
 * has no rights to anything, a tenant without its role would be of no use.
 */
Datum
neon_tenant_delete(PG_FUNCTION_ARGS)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	char		hex[NEON_ID_HEXLEN + 1];

	check_superuser("tenant_delete");
	sql_refuse_transaction_block("tenant_delete");
	if (!tenant_exists(&tenant))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("tenant %s does not exist", neon_id_format(&tenant, hex))));
	tenant_drop(&tenant);
	tenant_role_drop(&tenant);
	PG_RETURN_VOID();
}
