/*-------------------------------------------------------------------------
 *
 * peer.c
 *	  A connection to a storage instance that is never waited for.
 *
 * Memory is libpq's, so a peer survives any memory context.  Whoever drives
 * it closes it when its process ends; a process that dies leaves it to the
 * kernel.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>

#include "neon_clock.h"
#include "peer.h"

#define MIN_BACKOFF_MS	100
#define MAX_BACKOFF_MS	2000

void
peer_close(Peer *peer)
{
	PQclear(peer->result);
	PQfinish(peer->conn);
	peer->result = NULL;
	peer->conn = NULL;
	peer->state = PEER_CLOSED;
	peer->unflushed = false;
	peer->next_connect = 0;
}

/* A copy on one line: libpq breaks lines, and ends with a break. */
static void
set_problem(Peer *peer, const char *text)
{
	int			n = 0;

	for (; *text && n < (int) sizeof(peer->problem) - 1; text++)
	{
		bool		blank = *text == '\n' || *text == '\t' || *text == ' ';

		if (!blank)
			peer->problem[n++] = *text;
		else if (n > 0 && peer->problem[n - 1] != ' ')
			peer->problem[n++] = ' ';
	}
	if (n > 0 && peer->problem[n - 1] == ' ')
		n--;
	peer->problem[n] = '\0';
}

void
peer_fail(Peer *peer, const char *why)
{
	set_problem(peer, why);
	peer_close(peer);
	peer->backoff_ms = Min(Max(peer->backoff_ms * 2, MIN_BACKOFF_MS), MAX_BACKOFF_MS);
	peer->next_connect = neon_boottime_ms() + peer->backoff_ms;
}

static PeerEvent
fail(Peer *peer, const char *why)
{
	peer_fail(peer, why);
	return PEER_FAILED;
}

static PeerEvent
fail_connection(Peer *peer)
{
	/* the text belongs to the connection */
	char		why[sizeof(peer->problem)];

	strlcpy(why, PQerrorMessage(peer->conn), sizeof(why));
	return fail(peer, why[0] ? why : "the connection was lost");
}

void
peer_connect(Peer *peer, const char *const *keywords, const char *const *values, int timeout_ms)
{
	uint64		now = neon_boottime_ms();

	if (peer->state != PEER_CLOSED || now < peer->next_connect)
		return;
	peer->conn = PQconnectStartParams(keywords, values, true);
	if (peer->conn == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	peer->state = PEER_CONNECTING;
	peer->polling = PGRES_POLLING_WRITING;
	peer->deadline = now + timeout_ms;
}

/* A statement was given to libpq, or was refused by it. */
static void
sent(Peer *peer, int ok, int timeout_ms)
{
	peer->state = PEER_BUSY;
	peer->deadline = neon_boottime_ms() + timeout_ms;
	peer->unflushed = true;
	if (!ok)
		peer->deadline = 0;
}

void
peer_prepare(Peer *peer, const char *name, const char *query, int timeout_ms)
{
	Assert(peer->state == PEER_IDLE);
	sent(peer, PQsendPrepare(peer->conn, name, query, 0, NULL), timeout_ms);
}

void
peer_execute(Peer *peer, const char *name, int nparams, const char *const *params, int timeout_ms)
{
	Assert(peer->state == PEER_IDLE);
	sent(peer, PQsendQueryPrepared(peer->conn, name, nparams, params, NULL, NULL, 0), timeout_ms);
}

/* Has what libpq waits for happened?  PQconnectPoll may not be called before. */
static bool
connect_can_proceed(const Peer *peer)
{
	struct pollfd fd = {PQsocket(peer->conn), POLLOUT, 0};

	if (peer->polling == PGRES_POLLING_READING)
		fd.events = POLLIN;
	return fd.fd != PGINVALID_SOCKET && poll(&fd, 1, 0) > 0;
}

static PeerEvent
drive_connecting(Peer *peer)
{
	if (PQstatus(peer->conn) == CONNECTION_BAD)
		return fail_connection(peer);
	if (connect_can_proceed(peer))
		peer->polling = PQconnectPoll(peer->conn);
	if (peer->polling == PGRES_POLLING_FAILED)
		return fail_connection(peer);
	if (peer->polling == PGRES_POLLING_OK)
	{
		if (PQsetnonblocking(peer->conn, 1) != 0)
			return fail_connection(peer);
		peer->state = PEER_IDLE;
		return PEER_CONNECTED;
	}
	return neon_boottime_ms() >= peer->deadline ? fail(peer, "connection timed out") : PEER_NOTHING;
}

/* Sends and receives what can be sent and received; false if it is broken. */
static bool
exchange(Peer *peer)
{
	if (peer->unflushed)
	{
		int			rc = PQflush(peer->conn);

		if (rc < 0)
			return false;
		peer->unflushed = rc > 0;
	}
	return PQconsumeInput(peer->conn) != 0 && PQstatus(peer->conn) == CONNECTION_OK;
}

static PeerEvent
drive_busy(Peer *peer, PGresult **result)
{
	PGresult   *next;

	if (!exchange(peer))
		return fail_connection(peer);
	while (!PQisBusy(peer->conn))
	{
		next = PQgetResult(peer->conn);
		if (next == NULL)
		{
			if (peer->result == NULL)
				return fail_connection(peer);
			*result = peer->result;
			peer->result = NULL;
			peer->state = PEER_IDLE;
			return PEER_RESULT;
		}
		PQclear(peer->result);
		peer->result = next;
	}
	return neon_boottime_ms() >= peer->deadline ? fail(peer, "no answer in time") : PEER_NOTHING;
}

void
peer_succeeded(Peer *peer)
{
	peer->backoff_ms = 0;
	peer->problem[0] = '\0';
}

PeerEvent
peer_drive(Peer *peer, PGresult **result)
{
	*result = NULL;
	switch (peer->state)
	{
		case PEER_CLOSED:
			return PEER_NOTHING;
		case PEER_CONNECTING:
			return drive_connecting(peer);
		case PEER_IDLE:
			/* nothing is expected but the end of the connection */
			return exchange(peer) ? PEER_NOTHING : fail_connection(peer);
		case PEER_BUSY:
			return drive_busy(peer, result);
	}
	return PEER_NOTHING;
}

int
peer_wait_events(const Peer *peer)
{
	if (peer->state == PEER_CLOSED || PQsocket(peer->conn) == PGINVALID_SOCKET)
		return 0;
	if (peer->state == PEER_CONNECTING)
		return peer->polling == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
	return WL_SOCKET_READABLE | (peer->unflushed ? WL_SOCKET_WRITEABLE : 0);
}

uint64
peer_wakeup(const Peer *peer)
{
	switch (peer->state)
	{
		case PEER_CLOSED:
			return peer->next_connect;
		case PEER_CONNECTING:
		case PEER_BUSY:
			return peer->deadline;
		case PEER_IDLE:
			break;
	}
	return PG_UINT64_MAX;
}
