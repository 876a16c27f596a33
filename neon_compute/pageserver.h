/*-------------------------------------------------------------------------
 *
 * pageserver.h
 *	  SQL calls to the pageserver, each on a connection of its own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PAGESERVER_CLIENT_H
#define NEON_PAGESERVER_CLIENT_H

#include "nodes/pg_list.h"

/* What went wrong: the pageserver's error, or 08006 and libpq's words. */
typedef struct PageserverError
{
	char		sqlstate[6];
	char	   *message;
	char	   *detail;			/* NULL if none */
	char	   *hint;			/* NULL if none */
} PageserverError;

/*
 * Runs one query with text parameters; true and *rows (a List of char *[],
 * one string or NULL per column) if it succeeded, else *error.  Waits at most
 * timeout_ms, interruptibly; idle, if not NULL, is called at least every
 * 100 ms meanwhile and may throw.  Allocates in the current context.
 */
extern bool pageserver_query(const char *application_name, const char *query,
							 int nparams, const char *const *params,
							 int timeout_ms, void (*idle) (void),
							 List **rows, PageserverError *error);

/* As above, but ereport(ERROR) with what the pageserver said. */
extern List *pageserver_call(const char *query, int nparams,
							 const char *const *params, int timeout_ms);

/* "HOST:PORT" of neon.pageserver_connstring, for messages; palloc'd. */
extern char *pageserver_address(void);

#endif							/* NEON_PAGESERVER_CLIENT_H */
