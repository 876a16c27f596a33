/*-------------------------------------------------------------------------
 *
 * db.h
 *	  Connections and statements with a time limit and progress.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_DB_H
#define NEON_CTL_DB_H

#include "postgres_fe.h"
#include "libpq-fe.h"

/*
 * Begins to connect to the database postgres; never NULL.  The caller drives
 * it on by PQconnectPoll.
 */
extern PGconn *db_start_connect(const char *host, int port, const char *user, const char *password);

/* First line of libpq's message, without what every message begins with, in a buffer of strf(). */
extern const char *db_connection_problem(PGconn *conn);

/*
 * Connects to 127.0.0.1:port, database postgres.  NULL if it fails within
 * timeout_s; then *problem (may be NULL) says why, in a buffer of strf().
 */
extern PGconn *db_try_connect(int port, const char *user, const char *password,
							  int timeout_s, const char **problem);

/*
 * Runs one statement (extended protocol; all parameters as text unless
 * formats says 1).  progress, if not NULL, is shown while it runs.  Returns
 * the result, which may be an error: db_check tells it.
 */
extern PGresult *db_send(PGconn *conn, const char *sql, int nparams, const char *const *values,
						 const int *lengths, const int *formats, int timeout_s,
						 const char *progress);

/*
 * As db_send with nparams text parameters (NULL is SQL's null), and dies on an
 * error with the server's message and hint.
 */
extern PGresult *db_exec(PGconn *conn, int timeout_s, const char *progress, const char *sql,
						 int nparams,...);

/* Dies if the result is an error.  fallback_hint is used if the server has none. */
extern void db_check(PGconn *conn, PGresult *result, const char *fallback_hint);

/* SQLSTATE of a failed result, "" if there is none (connection lost). */
extern const char *db_sqlstate(const PGresult *result);

/* Message of a failed result; never NULL. */
extern const char *db_primary(const PGresult *result);

/*
 * Waits until the socket is ready and input is consumed; dies at the
 * deadline (milliseconds of now_ms) or when the connection is lost.
 */
extern void db_wait_input(PGconn *conn, int64 deadline_ms, const char *what);

/* NULL for SQL null. */
extern const char *db_value(const PGresult *result, int row, const char *column);

#endif							/* NEON_CTL_DB_H */
