/*-------------------------------------------------------------------------
 *
 * replay.h
 *	  Walks of the model on the functions of the library: what replay.c, which
 *	  takes the steps, tracerecord.c, which draws the records, and tracecheck.c,
 *	  which reads and compares, share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_REPLAY_H
#define NEON_SK_REPLAY_H

#include "common/pg_prng.h"
#include "../skwal.h"
#include "walmake.h"

#define MEMBERS			4		/* the most that a trace has */
#define OLD_MEMBERS		0x7		/* bits: of generations 1 and 2 */
#define NEW_MEMBERS		0xb		/* of 2 and 3 */
#define MAX_LAUNCHERS	8
#define MAX_LENGTH		12
#define SEGMENT_SIZE	(1024 * 1024)
#define SYSTEM_ID		UINT64CONST(7000000000000000001)
#define MAX_NUMBERS		8

/* One line of a trace. */
typedef struct Line
{
	char	   *text;
	char		action[32];
	int			n;				/* numbers behind the action */
	int			number[MAX_NUMBERS];
	int			promised;
	int			flush;
	int			last_log_term;
	int			generation;
	int			kept;			/* records below it are removed */
	int			terms;			/* the history: 1 + position for each term */
	int			start[MAX_LAUNCHERS + 1];
	int			length;			/* the log: 1 + launcher for each record */
	int			log[MAX_LENGTH];
} Line;

typedef struct TraceLauncher
{
	uint32		term;
	XLogRecPtr	x;
	SkHistory	history;
	int			end;
	int			log[MAX_LENGTH];
} TraceLauncher;

typedef struct TraceMember
{
	NeonId		timeline;
	SkTimeline *tl;
	XLogRecPtr	commit_lsn;		/* what it must say */
	int			log[MAX_LENGTH];	/* as the last line of it had it */
	int			kept;
} TraceMember;

typedef struct Replay
{
	int			trace;
	int			nmembers;
	int			step;
	bool		segments;		/* a record ends in each segment */
	Line	   *line;
	TraceLauncher *launcher;	/* of the line, or NULL */
	TraceMember *member;
	SkTimeline *tl;
	bool		before;			/* the line was done before the kill */
	const char *kill_at;		/* the test point that raises an error */
	bool		kills;			/* or kills the instance */
	bool		killed;
	int			seed;
	NeonId		tenant;
	XLogRecPtr	start_lsn;
	XLogRecPtr	term_x[MAX_LAUNCHERS + 1];
	MadeRecord	record[MAX_LAUNCHERS][MAX_LENGTH];
	TraceLauncher launchers[MAX_LAUNCHERS];
	TraceMember members[MEMBERS];
	pg_prng_state random;
} Replay;

/* ereport(ERROR): the step and the safekeeper do not agree. */
extern void trace_differs(Replay *r, const char *format,...) pg_attribute_noreturn() pg_attribute_printf(2, 3);

/* False if there is nothing in the line.  text is kept. */
extern bool trace_parse_line(char *text, Line *line);

/* Is the trace's member a in the configuration of this generation? */
extern bool trace_is_member(int a, int generation);

/* From 0 to n - 1. */
extern int	trace_draw(Replay *r, int n);

/* What must come out the same after a kill is drawn by what it is for. */
extern void trace_draw_for(Replay *r, int what);

/* Where the logs begin. */
extern XLogRecPtr trace_draw_start(Replay *r);

/* The compute of launcher who writes another record. */
extern void trace_append_record(Replay *r, int who);

/* Where a log of n records of the model ends. */
extern XLogRecPtr trace_lsn(Replay *r, const int *log, int n);

/* A history of the model, with the entry of the timeline's creation. */
extern void trace_history(Replay *r, const int *start, int terms, SkHistory *history);

/*
 * What the line's member says, and what its files say, is what the line says.
 * whole: the log is read from its start to the zeros behind it.
 */
extern void trace_compare(Replay *r, bool whole);

#endif							/* NEON_SK_REPLAY_H */
