/*-------------------------------------------------------------------------
 *
 * peer.h
 *	  A connection to a storage instance that is never waited for.
 *
 * The coordinator has one to each safekeeper and one to the pageserver, and
 * drives all of them in one loop: peer_drive after every wait, whatever the
 * wait was ended by.  One query at a time; times are those of neon_boottime_ms().
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PEER_H
#define NEON_PEER_H

#include "libpq-fe.h"
#include "storage/latch.h"

typedef enum PeerState
{
	PEER_CLOSED,
	PEER_CONNECTING,
	PEER_IDLE,					/* ready for a query */
	PEER_BUSY,
} PeerState;

typedef enum PeerEvent
{
	PEER_NOTHING,
	PEER_CONNECTED,
	PEER_RESULT,				/* *result is the query's last result; PQclear it */
	PEER_FAILED,				/* closed; problem says why */
} PeerEvent;

typedef struct Peer
{
	PeerState	state;
	PGconn	   *conn;
	PostgresPollingStatusType polling;
	PGresult   *result;			/* of the query in progress */
	uint64		deadline;		/* of the connecting or the query */
	uint64		next_connect;	/* not before */
	int			backoff_ms;
	bool		unflushed;		/* part of a query is still to be sent */
	char		problem[256];	/* why it failed last, on one line */
} Peer;

/*
 * Begins to connect, if the peer is closed and its back-off is over.  The
 * last of the keywords is NULL; the first value of "dbname" may be a string.
 */
extern void peer_connect(Peer *peer, const char *const *keywords, const char *const *values,
						 int timeout_ms);

/* Begins a statement; the peer is idle.  A failure is told by peer_drive. */
extern void peer_prepare(Peer *peer, const char *name, const char *query, int timeout_ms);
extern void peer_execute(Peer *peer, const char *name, int nparams,
						 const char *const *params, int timeout_ms);

/* Does what can be done without waiting. */
extern PeerEvent peer_drive(Peer *peer, PGresult **result);

/* The socket events that the peer waits for; 0 if it has no socket. */
extern int	peer_wait_events(const Peer *peer);

/* When has peer_drive to be called at the latest?  PG_UINT64_MAX: no matter. */
extern uint64 peer_wakeup(const Peer *peer);

/* Closes it for what an answer says: the next connection is made after the back-off. */
extern void peer_fail(Peer *peer, const char *why);

/* What was asked for was done: forgets the problem and the back-off. */
extern void peer_succeeded(Peer *peer);

/* Closes the connection; the next one is made at once. */
extern void peer_close(Peer *peer);

#endif							/* NEON_PEER_H */
