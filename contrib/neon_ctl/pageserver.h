/*-------------------------------------------------------------------------
 *
 * pageserver.h
 *	  What the command asks of the pageserver, one function per SQL function.
 *	  The only place that knows their signatures.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_PAGESERVER_H
#define NEON_CTL_PAGESERVER_H

#include "postgres_fe.h"
#include "access/xlogdefs.h"
#include "db.h"
#include "neon_id.h"

#define BRANCH_NAME_MAX 64

typedef struct TimelineInfo
{
	char		tenant[NEON_ID_HEXLEN + 1];
	char		id[NEON_ID_HEXLEN + 1];
	char		name[BRANCH_NAME_MAX];
	char		ancestor[NEON_ID_HEXLEN + 1];	/* "" if none */
	XLogRecPtr	ancestor_lsn;
	XLogRecPtr	start_lsn;
	XLogRecPtr	last_record_lsn;
	XLogRecPtr	flush_lsn;
	uint32		term;
	int			segment_size;
	char		state[32];
} TimelineInfo;

/* The last process that could write a timeline; term 0: there was none. */
typedef struct WriterInfo
{
	char		endpoint[64];
	char		boot_id[NEON_ID_HEXLEN + 1];
	uint32		term;
	XLogRecPtr	boot_lsn;
	char		pgdata[MAXPGPATH];	/* relative to DIR */
	char		machine_boot_id[64];
	XLogRecPtr	drained_lsn;	/* invalid: not drained */
} WriterInfo;

/* A connection as superuser; dies with EXIT_NOT_RUNNING if there is none. */
extern PGconn *ps_connect(void);

/* NULL instead of dying. */
extern PGconn *ps_try_connect(void);

extern const char *lsn_text(XLogRecPtr lsn);

/* All timelines of a tenant (NULL: of all), ordered by start; *n of them, malloc'd. */
extern TimelineInfo *ps_timelines(PGconn *conn, const char *tenant, int *n);

extern bool ps_timeline_by_id(PGconn *conn, const char *tenant, const char *id, TimelineInfo *info);

/*
 * The timeline as it is now, its stored WAL decoded to the end (after a start
 * of the pageserver that takes a moment); dies if it is gone.
 */
extern void ps_refresh(PGconn *conn, TimelineInfo *tl);

/* By branch name, or by id; dies if there is none. */
extern void ps_find_timeline(PGconn *conn, const char *tenant, const char *name_or_id,
							 TimelineInfo *info);

extern void ps_writer_get(PGconn *conn, const TimelineInfo *tl, WriterInfo *writer);

/* Highest term of the timeline and of all its ancestors. */
extern uint32 ps_highest_term(PGconn *conn, const TimelineInfo *tl);

extern void ps_writer_acquire(PGconn *conn, const TimelineInfo *tl, uint32 expected_term,
							  const WriterInfo *writer);
extern void ps_writer_drained(PGconn *conn, const TimelineInfo *tl, const char *boot_id, XLogRecPtr lsn);
extern void ps_writer_abandon(PGconn *conn, const TimelineInfo *tl, const char *boot_id, XLogRecPtr lsn);

/*
 * Returns the end of the last valid record; if the WAL is damaged there, as far
 * as the pageserver can see, *problem says so and start is returned.
 */
extern XLogRecPtr ps_feed(PGconn *conn, const TimelineInfo *tl, const WriterInfo *writer,
						  XLogRecPtr start, const char *data, int len, const char **problem);

/* Dies with EXIT_TIMEOUT if the pageserver does not get there. */
extern void ps_wait_lsn(PGconn *conn, const TimelineInfo *tl, XLogRecPtr lsn, int timeout_s);

/* Last commit at or before the time; dies if that is before the history. */
extern XLogRecPtr ps_lsn_for_time(PGconn *conn, const TimelineInfo *tl, const char *time);

/* Has it a later commit, so that nothing to come changes what that finds? */
extern bool ps_time_is_settled(PGconn *conn, const TimelineInfo *tl, const char *time);

/* The end of the last commit, abort or prepare at or below lsn, or the branch's start. */
extern XLogRecPtr ps_round_lsn(PGconn *conn, const TimelineInfo *tl, XLogRecPtr lsn);

/* at_lsn InvalidXLogRecPtr and at_time NULL: now. */
extern void ps_branch_create(PGconn *conn, const TimelineInfo *from, const char *name,
							 XLogRecPtr at_lsn, const char *at_time, char *id, XLogRecPtr *lsn);

#endif							/* NEON_CTL_PAGESERVER_H */
