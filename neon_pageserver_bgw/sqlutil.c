/*-------------------------------------------------------------------------
 *
 * sqlutil.c
 *	  What the SQL functions share: reading arguments, checking rights.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "sqlutil.h"
#include "utils/acl.h"
#include "utils/builtins.h"

NeonId
sql_parse_id(const char *text, const char *what)
{
	NeonId		id;

	if (!neon_id_parse(text, &id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s id: \"%.64s\"", what, text),
				 errdetail("An id is written as 32 hexadecimal digits.")));
	return id;
}

char *
sql_text_arg(FunctionCallInfo fcinfo, int argno, const char *what)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
	return text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

NeonId
sql_id_arg(FunctionCallInfo fcinfo, int argno, const char *what)
{
	return sql_parse_id(sql_text_arg(fcinfo, argno, what), what);
}

Datum
sql_id_datum(const NeonId *id)
{
	char		hex[NEON_ID_HEXLEN + 1];

	return CStringGetTextDatum(neon_id_format(id, hex));
}

char *
tenant_role_name(const NeonId *tenant, char *buf)
{
	char		hex[NEON_ID_HEXLEN + 1];

	snprintf(buf, NEON_TENANT_ROLE_MAX, NEON_TENANT_ROLE_PREFIX "%s",
			 neon_id_format(tenant, hex));
	return buf;
}

void
check_tenant_access(const NeonId *tenant)
{
	char		name[NEON_TENANT_ROLE_MAX];
	Oid			role;

	if (superuser())
		return;
	role = get_role_oid(tenant_role_name(tenant, name), true);
	if (!OidIsValid(role) || !has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for this tenant"),
				 errdetail("Only superusers and role \"%s\" may use it.", name)));
}

void
check_superuser(const char *function)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to call %s", function)));
}

void
sql_refuse_transaction_block(const char *function)
{
	if (IsTransactionBlock() || IsSubTransaction())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", function),
				 errdetail("What it does is not undone by a rollback.")));
}

static bool
branch_name_char(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') || strchr("_-./", c) != NULL;
}

void
sql_check_branch_name(const char *name)
{
	NeonId		id;
	const char *problem = NULL;
	const char *p;

	if (name[0] == '\0')
		problem = "It must not be empty.";
	else if (strlen(name) >= NEON_NAME_MAX)
		problem = "It must be shorter than 64 characters.";
	else if (name[0] == '-' || name[0] == '.' || name[0] == '/')
		problem = "It must begin with a letter, a digit or an underscore.";
	else if (neon_id_parse(name, &id))
		problem = "It could be taken for an id.";
	for (p = name; *p && problem == NULL; p++)
		if (!branch_name_char(*p))
			problem = "Only letters, digits and the characters _ - . / may be in it.";
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid branch name: \"%.64s\"", name),
				 errdetail_internal("%s", problem),
				 errhint("Choose another name.")));
}

Timeline *
sql_open_timeline(FunctionCallInfo fcinfo, int tenant_argno, int timeline_argno)
{
	NeonId		tenant = sql_id_arg(fcinfo, tenant_argno, "tenant");
	NeonId		timeline = sql_id_arg(fcinfo, timeline_argno, "timeline");

	check_tenant_access(&tenant);
	return timeline_open(&tenant, &timeline, false);
}

XLogRecPtr
sql_history_start(Timeline *tl)
{
	while (tl->ancestor)
		tl = tl->ancestor;
	return tl->id.start_lsn;
}

void
sql_put_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}
