/*-------------------------------------------------------------------------
 *
 * run.h
 *	  Who we are, and how other programs are run.
 *
 * Called by root, the command keeps root only as its real and saved user id:
 * its effective one is that of the user who runs the servers, so all files of
 * the state directory are that user's.  Children drop root for good.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_RUN_H
#define NEON_CTL_RUN_H

#include "postgres_fe.h"
#include "pqexpbuffer.h"

/* True if the command was called by root. */
extern bool called_by_root(void);

/* The user who runs the servers; as root this is name, or "postgres" if NULL. */
extern void assume_server_user(const char *name);
extern const char *server_user(void);
extern uid_t server_uid(void);
extern gid_t server_gid(void);

/* For the caller's own files (the passfile): back to who called, and again. */
extern void assume_caller(void);
extern void reassume_server_user(void);

/* Root is given up for good. */
extern void give_up_root(void);

/* Full path of a program of the PostgreSQL installation that we were built for. */
extern const char *pg_program(const char *name);

/*
 * True from the moment when no program, server or not, may outlive this
 * command, however it ends: then a server gets SIGQUIT (a program is always killed).
 */
extern bool children_end_with_us;

/*
 * Runs a program to its end as the server's user, with no shell, in "/", with
 * an environment without PG* variables.  Its stdout and stderr are appended to
 * output.  Returns the exit status, or -1 after a signal or timeout.
 */
extern int	run_program(const char *const argv[], PQExpBuffer output, int timeout_s,
						const char *progress);

/*
 * Starts a server in a session of its own, output appended to log.  Returns
 * its pid; the caller may waitpid() for it.
 */
extern pid_t run_server(const char *const argv[], const char *log);

/*
 * A step of a command at which a test may kill it: builds with injection
 * points end there by SIGKILL if $NEON_TEST_KILL_AT names it, and stop there by
 * SIGSTOP if $NEON_TEST_STOP_AT does.
 */
#ifdef NEON_TESTING
extern void test_point(const char *name);
#else
#define test_point(name) ((void) 0)
#endif

/* Milliseconds of a clock that only goes forward. */
extern int64 now_ms(void);
extern void sleep_ms(int ms);

#endif							/* NEON_CTL_RUN_H */
