/*-------------------------------------------------------------------------
 *
 * neon_sqlutil.c
 *	  What the SQL functions of the services share: reading arguments,
 *	  checking rights.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "neon_sqlutil.h"
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

void
sql_put_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}
