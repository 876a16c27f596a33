/*-------------------------------------------------------------------------
 *
 * neon_sqlutil.h
 *	  What the SQL functions of the services share: reading arguments,
 *	  checking rights.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SQLUTIL_H
#define NEON_SQLUTIL_H

#include "fmgr.h"
#include "neon_id.h"

/* "tenant_" and 32 digits: the role whose computes use a tenant. */
#define NEON_TENANT_ROLE_PREFIX	"tenant_"
#define NEON_TENANT_ROLE_MAX	(sizeof(NEON_TENANT_ROLE_PREFIX) + NEON_ID_HEXLEN)

/*
 * The id in a text argument; what ("tenant") names it in
 * the error.  ereport(ERROR, ERRCODE_INVALID_PARAMETER_VALUE) if it is none.
 */
extern NeonId sql_id_arg(FunctionCallInfo fcinfo, int argno, const char *what);
extern NeonId sql_parse_id(const char *text, const char *what);

/* A palloc'd C string of a text argument that is not null. */
extern char *sql_text_arg(FunctionCallInfo fcinfo, int argno, const char *what);

/* An id as a text datum. */
extern Datum sql_id_datum(const NeonId *id);

/*
 * ereport(ERROR) unless the caller is a superuser or has the rights of the
 * tenant's role.  Says the same whether or not the tenant exists.
 */
extern void check_tenant_access(const NeonId *tenant);

/* ereport(ERROR) unless the caller is a superuser. */
extern void check_superuser(const char *function);

/*
 * ereport(ERROR, ERRCODE_ACTIVE_SQL_TRANSACTION) inside a transaction block or
 * subtransaction: what function does cannot be rolled back.
 */
extern void sql_refuse_transaction_block(const char *function);

/* The tenant's role name into buf[NEON_TENANT_ROLE_MAX]; returns buf. */
extern char *tenant_role_name(const NeonId *tenant, char *buf);

/* One row of a set-returning function that materializes. */
extern void sql_put_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls);

#endif							/* NEON_SQLUTIL_H */
