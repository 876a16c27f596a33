/*-------------------------------------------------------------------------
 *
 * election.h
 *	  What the safekeepers of a timeline are told: created, who writes next,
 *	  that a writer is gone, deleted.
 *
 * Callers hold the timeline's lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_ELECTION_H
#define NEON_CTL_ELECTION_H

#include "quorum.h"

typedef struct Election
{
	uint32		term;
	XLogRecPtr	lsn;			/* X: where the term begins */
	int			lease_left_ms;	/* how long the last writer may still answer reads from now on */
} Election;

/*
 * Who was promised last, as the launcher wrote it, taken apart; false if that
 * was no compute.
 */
typedef struct LastWriter
{
	uint32		term;
	char		text[512];		/* as the launcher wrote it */
	char		endpoint[64];
	char		boot_id[NEON_ID_HEXLEN + 1];
	int			lease_left_ms;	/* the longest that a member has granted */
} LastWriter;

extern bool election_last_writer(Quorum *q, LastWriter *writer);

/*
 * Makes the timeline on those members that answer and do not have it; dies
 * unless a majority has it then.
 */
extern void election_create(PGconn *ps, const TimelineInfo *tl, Quorum *q);

/*
 * Wins a new term: when this returns, X is committed by a majority that
 * counts for the term, and no lower term commits any more.  writer describes
 * who asks.  Dies if there is no majority.
 */
extern void election_run(PGconn *ps, const TimelineInfo *tl, Quorum *q, const char *writer,
						 Election *result);

/* Members that missed a change of the configuration get it. */
extern void election_tell_members(Quorum *q, const Position *pos);

/* The tenant's role on one safekeeper. */
extern void election_create_role(PGconn *conn, const char *tenant);

/*
 * The true bytes of the segment of lsn below it, as a bytea's text, or NULL:
 * then the segment is zeros there.  malloc'd.
 */
extern char *election_read_head(PGconn *ps, const TimelineInfo *tl, XLogRecPtr lsn);

/* Of the branch, as a bigint's text, in a buffer of strf(). */
extern const char *election_system_identifier(PGconn *ps, const TimelineInfo *tl);

/* Ends the lease of a term of which no process is left. */
extern void election_release(Quorum *q, uint32 term);

/*
 * The largest LSN that can have been acknowledged, committed: everything that
 * was acknowledged before lies below.  *term gets the term that has it.
 */
extern XLogRecPtr election_sync(PGconn *ps, const TimelineInfo *tl, Quorum *q, uint32 *term);

/*
 * The two together for a timeline that the pageserver has just made: nothing
 * in laptop mode.
 */
extern void election_create_timeline(PGconn *ps, const char *tenant, const char *timeline);

/*
 * missed.c: what was created or deleted while a safekeeper did not run is, by
 * now, on those that answer.  A branch without a majority is left for later.
 */
extern void missed_catch_up(PGconn *ps);

/* Dies unless so many safekeepers run that a timeline can be made.  Nothing in laptop mode. */
extern void election_check_running(const char *what);

/* Removes the timeline from the safekeepers; dies unless a majority did.  Nothing in laptop mode. */
extern void election_delete_timeline(PGconn *ps, const TimelineInfo *tl);

/* Removes the tenant's role from those safekeepers that answer. */
extern void election_forget_tenant(const char *tenant);

/* Tells the pageserver to take the WAL from the members. */
extern void election_set_source(PGconn *ps, const TimelineInfo *tl, const Quorum *q, uint32 term);

#endif							/* NEON_CTL_ELECTION_H */
