/*-------------------------------------------------------------------------
 *
 * server.h
 *	  A PostgreSQL instance as seen from outside: is it running, who is
 *	  attached to its memory, start, stop.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_SERVER_H
#define NEON_CTL_SERVER_H

#include "postgres_fe.h"

#include "logs.h"

typedef enum ServerState
{
	SERVER_STOPPED,				/* no postmaster.pid */
	SERVER_RUNNING,
	SERVER_CRASHED,				/* postmaster.pid of a process that is gone */
	SERVER_ORPHANED,			/* the same, but processes of it are still there */
} ServerState;

typedef struct ServerInfo
{
	ServerState state;
	pid_t		pid;			/* of the postmaster; 0 if not running */
	int			port;
	bool		ready;			/* it says "ready" or "standby" */
} ServerInfo;

typedef enum StopMode
{
	STOP_FAST,					/* SIGINT, then as immediate */
	STOP_IMMEDIATE,				/* SIGQUIT, after 5 s SIGKILL */
} StopMode;

/* pgdata need not exist. */
extern void server_info(const char *pgdata, ServerInfo *info);

/* True if any process has pgdata as its directory or is attached to its shared memory. */
extern bool server_in_use(const char *pgdata);

/*
 * Stops whatever runs on pgdata, stopped processes too, and waits until
 * nobody is attached.  fast_timeout_s is how long STOP_FAST may take before
 * the immediate stop.  Dies if something does not go away.
 */
extern void server_stop(const char *pgdata, StopMode mode, int fast_timeout_s, const char *what);

/* The same; false instead of the end. */
extern bool server_try_stop(const char *pgdata, StopMode mode, int fast_timeout_s, const char *what);

/*
 * Removes lock files of a killed postmaster, of its directory and of its
 * socket, since PostgreSQL would only ask whether there is a process of that
 * number, be it another one or a zombie.  The caller has seen that the server
 * does not run and the port is free.
 */
extern void server_clear_leftovers(const char *pgdata, int port);

/*
 * Starts argv (a postgres command line) on pgdata and waits until the
 * postmaster accepts connections.  Dies with the log's first FATAL line, and
 * with advice, if not NULL, added to the HINT of one that is the server's own.
 */
extern void server_start(const char *const argv[], const char *pgdata, const char *log,
						 const char *what, const char *logs_command, const char *advice,
						 int timeout_s);

/* After the end of a postmaster: waits, not long, until its logging collector has written the rest. */
extern void server_await_last_log(const char *pgdata);

#endif							/* NEON_CTL_SERVER_H */
