/*-------------------------------------------------------------------------
 *
 * source.h
 *	  Where the WAL of each active timeline comes from: a table in shared
 *	  memory, one row per timeline that has a source, and its worker.
 *
 * A row is made by timeline_source() and freed when the source is cleared and
 * its worker has ended.  All fields are under one LWLock, held for moments.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_SOURCE_H
#define NEON_PS_SOURCE_H

#include "ingest.h"
#include "storage/proc.h"

#define SOURCE_MAX_CONNINFO		8
#define SOURCE_CONNINFO_SIZE	1024
#define SOURCE_APPLICATION_NAME	"neon_pageserver"

typedef enum SourceKind
{
	SOURCE_COMPUTE,				/* one writer streams its own WAL, by a slot */
	SOURCE_SAFEKEEPERS,			/* any of them has what is committed */
} SourceKind;

/* What the worker follows. */
typedef struct SourceTarget
{
	uint32		generation;		/* changes with every timeline_source() */
	SourceKind	kind;
	uint32		term;			/* of a compute: whose boot record must be first; 0: plain PostgreSQL */
	int			nconninfo;		/* 0: no source */
	char		conninfo[SOURCE_MAX_CONNINFO][SOURCE_CONNINFO_SIZE];
} SourceTarget;

extern char *ingest_passfile;
extern int	ingest_source_timeout;

/* ---- called by SQL functions ---- */

/*
 * Sets or changes the source and sees to it that a worker runs.  ereport(ERROR)
 * if there is no room for another source or worker.
 */
extern void source_set(Timeline *tl, SourceKind kind, uint32 term, char **conninfo, int nconninfo);

/* The timeline has no source any more; its worker ends. */
extern void source_clear(Timeline *tl);

/* A copy of the target; false if there is none. */
extern bool source_get_target(Timeline *tl, SourceTarget *target);

/* Asks the worker to write a layer now; false if none runs. */
extern bool source_request_flush(Timeline *tl);

/* ---- called by the worker of a row ---- */

/* Makes this process the row's worker; false if it is not wanted. */
extern bool source_attach(int row, NeonId *tenant, NeonId *timeline);
extern void source_worker_target(int row, SourceTarget *target);

/* Milliseconds for a new worker to wait: longer the more often workers failed. */
extern int	source_failure_pause(int row);

extern uint32 source_generation(int row);	/* without a lock; 0: no source */
extern void source_report(int row, bool connected, XLogRecPtr received, XLogRecPtr reported,
						  TimestampTz last_message);
extern void source_report_error(int row, const char *message);
extern bool source_take_flush_request(int row);

/* Was the source named within the last idle_ms?  If not, there is none any more. */
extern bool source_is_named(int row, int idle_ms);
extern void source_forget_if_unnamed(int row, int idle_ms);

#endif							/* NEON_PS_SOURCE_H */
