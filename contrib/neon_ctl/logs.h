/*-------------------------------------------------------------------------
 *
 * logs.h
 *	  The log of a server: the file that its start writes to, and the files of
 *	  its logging collector in the directory "log" beside that.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_LOGS_H
#define NEON_CTL_LOGS_H

#include "postgres_fe.h"

/* For the postgresql.conf of what we create: a file for each day of the week. */
#define LOG_SETTINGS \
	"logging_collector = on\n" \
	"log_directory = '../log'\n" \
	"log_filename = 'postgresql-%a.log'\n" \
	"log_rotation_age = 1d\n" \
	"log_rotation_size = 0\n" \
	"log_truncate_on_rotation = on\n"

/* Where all files of a log ended at some time. */
typedef struct LogMark LogMark;

/* log is the start's file; malloc'd. */
extern LogMark *log_mark(const char *log);

/* Puts a start's file that has become large aside, over the one before. */
extern void log_rotate(const char *log);

/*
 * Why the server ended since the mark: that a compute ended itself, else the
 * first FATAL or PANIC line; with the first DETAIL, and the HINT if there is
 * one ("" if not).  False if the log does not say.
 */
extern bool log_failure(const LogMark *mark, char *message, char *hint, size_t size);

/* Copies all files to stdout, what was written last at the end. */
extern void server_print_log(const char *log, const char *what);

#endif							/* NEON_CTL_LOGS_H */
