/*-------------------------------------------------------------------------
 *
 * sql.h
 *	  What the files with SQL functions of the extension "neon" share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SQL_H
#define NEON_SQL_H

#include "fmgr.h"
#include "funcapi.h"

#define NEON_SQL_FUNCTION(name) \
	PG_FUNCTION_INFO_V1(name); \
	extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS)

/* A row type with the columns of the calling function's result. */
extern TupleDesc result_row_type(FunctionCallInfo fcinfo);

#endif							/* NEON_SQL_H */
