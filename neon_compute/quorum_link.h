/*-------------------------------------------------------------------------
 *
 * quorum_link.h
 *	  One safekeeper as the coordinator's process sees it.  Private to
 *	  quorum_worker.c and quorum_report.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_QUORUM_LINK_H
#define NEON_QUORUM_LINK_H

#include "peer.h"
#include "quorum.h"

#define STREAM_GONE_MS	1000	/* a member may come back by itself */
#define REMINDER_MS		60000	/* between two messages of one problem */

typedef enum Request
{
	REQUEST_NONE,
	REQUEST_PREPARE_COMMIT,
	REQUEST_PREPARE_RECEIVE,
	REQUEST_PREPARE_CONFIGURATION,
	REQUEST_COMMIT,
	REQUEST_RECEIVE,
	REQUEST_CONFIGURATION,
} Request;

/* A member, the connection to it and its slot. */
typedef struct Link
{
	MemberStatus status;
	char		name[NEON_MEMBER_NAME_MAX];
	Peer		peer;
	Request		request;		/* in progress */
	bool		prepared;		/* the statements are, on this connection */

	/* commit() */
	uint64		sent_at;		/* the last one was sent; 0: none yet */
	XLogRecPtr	sent_lsn;
	int			sent_lease_ms;
	uint64		lease_until;	/* it has confirmed this */
	bool		refused;		/* the last answer was an error */

	/* receive() */
	uint64		next_receive;	/* not before */
	int			receive_backoff_ms;

	int			generation;		/* of its configuration, as it said last */

	/* the slot */
	bool		slot_seen;		/* it existed in this process's life */
	uint64		skipped_at;		/* it was moved, and that was logged, last */
	uint64		stranger_since; /* held by what is no member; 0: it is not */
	bool		told_streaming;
	uint64		streaming_since;
	uint64		told_at;		/* a problem was logged last */
	char		told_problem[256];
	char		member_says[256];	/* what hinders it although it streams, or "" */
} Link;

/* ---- quorum_report.c ---- */

/* Times are those of neon_boottime_ms(). */
extern void report_problem(Link *link, XLogRecPtr majority, uint64 now);
extern void report_streaming(Link *link, uint64 now);
extern void set_problem(Link *link, const char *text, const char *detail);

/* What of it is shown; majority: where that is. */
extern MemberStatus shown_status(const Link *link, XLogRecPtr majority);

#endif							/* NEON_QUORUM_LINK_H */
