/*-------------------------------------------------------------------------
 *
 * output.h
 *	  Everything the command says: errors, notices, progress, tables, JSON.
 *
 * Results go to stdout, all else to stderr.  A failure ends the process with
 * one "neon: error:" line, one "HINT:" line and an exit code that is not 0.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_OUTPUT_H
#define NEON_CTL_OUTPUT_H

#include "postgres_fe.h"
#include "pqexpbuffer.h"

typedef enum ExitCode
{
	EXIT_OK = 0,
	EXIT_GENERAL = 1,
	EXIT_USAGE = 2,
	EXIT_NOT_RUNNING = 3,
	EXIT_TIMEOUT = 4,
	EXIT_SUPERSEDED = 5,		/* of a supervisor's child: nothing more to do */
} ExitCode;

/* Set once by main from --json: results as one JSON document, no prose. */
extern bool output_json;

/*
 * Reports and exits.  hint must not be NULL; it may hold several sentences.
 * Registered cleanups (at_exit_remove) run.
 */
extern void die(ExitCode code, const char *hint, const char *fmt,...)
			pg_attribute_printf(3, 4) pg_attribute_noreturn();
extern void die_oom(void) pg_attribute_noreturn();

/* One line on stderr that does not change the exit code. */
extern void warn(const char *fmt,...) pg_attribute_printf(1, 2);

/* One line on stdout; nothing with --json. */
extern void say(const char *fmt,...) pg_attribute_printf(1, 2);

/* The last formatted text of a message, owned by a ring of buffers. */
extern const char *strf(const char *fmt,...) pg_attribute_printf(1, 2);

/*
 * Progress of a wait: shown on a terminal only, after half a second, and
 * wiped by progress_end.  Call progress_tick as often as you like.
 */
extern void progress_begin(const char *what);
extern void progress_tick(void);
extern void progress_end(void);

/*
 * A table of strings; cells are copied.  A column without a title is in JSON
 * only, one without a JSON name is not in it.
 */
typedef struct Table Table;

extern Table *table_new(int ncolumns, const char *const *titles, const char *const *json_names);
extern void table_number_column(Table *table, int column);	/* a number in JSON */
extern void table_cell(Table *table, const char *value);	/* NULL: absent */
extern void table_print(Table *table);	/* as a table, or as a JSON array */
extern void table_print_object(Table *table);	/* its one row as a JSON object */

/* One JSON object of string members, printed as a document with --json only. */
extern void json_begin(PQExpBuffer buf);
extern void json_string(PQExpBuffer buf, const char *name, const char *value);
extern void json_number(PQExpBuffer buf, const char *name, int64 value);
extern void json_bool(PQExpBuffer buf, const char *name, bool value);
extern void json_end_print(PQExpBuffer buf);

/*
 * Removes the file or directory tree at process exit unless forgotten.  A few
 * at a time.
 */
extern void at_exit_remove(const char *path);
extern void at_exit_forget(const char *path);

#endif							/* NEON_CTL_OUTPUT_H */
