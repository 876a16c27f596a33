/*-------------------------------------------------------------------------
 *
 * election.h
 *	  The protocol's decisions (docs/wal-service.md), without SQL.
 *
 * Each is a step of the state machine: it checks its guard under the
 * operation lock, persists, and only then returns what the reply says.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_ELECTION_H
#define NEON_SK_ELECTION_H

#include "table.h"

typedef struct SkPromise
{
	SkPositions positions;
	SkState		state;			/* as persisted, the new promise in it */
	char		last_writer[SK_LAUNCHER_MAX];	/* text of the promise before this one */
	int			lease_left_ms;
} SkPromise;

/* R1, R2.  NS001 unless term > promised. */
extern void sk_promise(SkTimeline *tl, uint64 generation, uint32 term, const char *launcher,
					   SkPromise *result);

/*
 * R5, R6, R7: the log is cut to what it shares with the history, which becomes
 * its own.  What is missing up to x is not copied here.
 */
extern void sk_elected(SkTimeline *tl, uint64 generation, uint32 term, XLogRecPtr x,
					   const SkHistory *history);

/*
 * R12 and the read lease: lease_ms > 0 renews it if promised = term and this
 * member counts; true if so.  A lease that was not granted here is not waited
 * for by the next launcher: the compute must not count on it.
 */
extern bool sk_commit(SkTimeline *tl, uint64 generation, uint32 term, XLogRecPtr lsn,
					  uint32 lease_ms, SkPositions *result);

extern void sk_release(SkTimeline *tl, uint64 generation, uint32 term);

/* §8: adopts a configuration of a higher generation; promised rises to its floor. */
extern void sk_members(SkTimeline *tl, const SkConfig *config);

/*
 * §8: a learner takes on the history of WAL that is committed, to copy that
 * WAL; its promise rises to the last term of it.  Returns the promised term.
 */
extern uint32 sk_follow(SkTimeline *tl, uint64 generation, const SkHistory *history);

#endif							/* NEON_SK_ELECTION_H */
