/*-------------------------------------------------------------------------
 *
 * quorum.h
 *	  The safekeepers of one timeline, asked all at once.
 *
 * A Quorum is the timeline's configuration, as the pageserver's manifest has
 * it, with a session to each member that answers.  A question goes to all of
 * them in parallel; who is silent is left behind when a majority has answered
 * and a moment has passed, and its session is closed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_QUORUM_H
#define NEON_CTL_QUORUM_H

#include "pageserver.h"
#include "neon_members.h"

/* SQLSTATEs of the functions of neon_safekeeper */
#define SQLSTATE_SUPERSEDED		"NS001"
#define SQLSTATE_GENERATION		"NS002"
#define SQLSTATE_DAMAGED		"NS003"
#define SQLSTATE_UNKNOWN		"NS004"

typedef struct QuorumMember
{
	PGconn	   *conn;			/* NULL: it does not answer */
	bool		connecting;		/* within quorum_open */
	bool		skip;			/* not to be asked */
	bool		deleted;		/* it said so, at quorum_positions */
	PGresult   *res;			/* answer to the last question, or NULL */
	char		problem[512];	/* why there is no good answer, "" if there is one */
} QuorumMember;

typedef struct Quorum
{
	char		tenant[NEON_ID_HEXLEN + 1];
	char		timeline[NEON_ID_HEXLEN + 1];
	char		branch[BRANCH_NAME_MAX];
	int64		generation;
	char	   *config;			/* as JSON */
	XLogRecPtr	start_lsn;		/* where the safekeepers' WAL of it begins; of laptop mode's branches not the branch's start */
	NeonMembers set;			/* who they are; same places as member[] */
	QuorumMember member[NEON_MEMBERS_UNION_MAX];
} Quorum;

/* How the members stand, from quorum_positions. */
typedef struct Position
{
	bool		answered;
	bool		known;			/* it has the timeline */
	int64		generation;
	uint32		promised;
	uint32		last_log_term;
	XLogRecPtr	flush_lsn;
	XLogRecPtr	commit_lsn;
	bool		counts;
	int			lease_left_ms;
	char		last_writer[512];
	char		state[32];
} Position;

/* The safekeepers that keep new branches, as a JSON array of members, in a buffer of strf(). */
extern const char *quorum_repo_members(void);

/* Are those members for which is_one[] is true a majority? */
extern bool quorum_is_majority(const Quorum *q, const bool *is_one);

/*
 * Reads the configuration, or makes all safekeepers of this directory the
 * first one if the timeline is new, and connects.  Waits until all are connected or refused, or a majority
 * is and a moment has passed.
 */
extern void quorum_open(PGconn *ps, const TimelineInfo *tl, Quorum *q);
extern void quorum_close(Quorum *q);

/*
 * Asks all connected members; each gets ->res or ->problem.  An SQL error is
 * both.  Returns when all answered, at the time limit, or grace_ms after a
 * majority answered (after enough(), if it is not NULL, was true).
 */
extern void quorum_ask(Quorum *q, int timeout_ms, int grace_ms, bool (*enough) (const Quorum *q),
					   const char *progress, const char *sql, int nparams,...);

/* The member's last answer is a result. */
extern bool quorum_answered(const Quorum *q, int i);
extern const char *quorum_value(const Quorum *q, int i, const char *column);
extern XLogRecPtr quorum_lsn(const Quorum *q, int i, const char *column);
extern int64 quorum_number(const Quorum *q, int i, const char *column);
extern bool quorum_bool(const Quorum *q, int i, const char *column);
extern const char *quorum_sqlstate(const Quorum *q, int i);

/* How they all stand; positions has a place for each member. */
extern void quorum_positions(Quorum *q, Position *positions);

/* "safekeeper 2 (127.0.0.1:5455): connection refused; ...", in a buffer of strf(). */
extern const char *quorum_problems(const Quorum *q);

/* What to do about that: in a buffer of strf() or constant. */
extern const char *quorum_hint(const Quorum *q);

/* Dies unless a majority answered. */
extern void quorum_need_majority(const Quorum *q, const char *what);

/* Dies unless there are sessions to a majority. */
extern void quorum_need_sessions(const Quorum *q, const char *what);

#endif							/* NEON_CTL_QUORUM_H */
