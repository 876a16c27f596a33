/*-------------------------------------------------------------------------
 *
 * neon_receive.h
 *	  A client of PostgreSQL's streaming replication.
 *
 * Nothing here blocks without reacting to interrupts; every wait is bounded.
 * Connections are libpq's, so they must be closed on every way out: the
 * receiver is registered to be closed at process exit, and by
 * receiver_close().
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_RECEIVE_H
#define NEON_RECEIVE_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

typedef struct Receiver Receiver;

typedef enum ReceiverResult
{
	RECEIVER_NOTHING,			/* no message is there yet */
	RECEIVER_WAL,				/* WAL bytes */
	RECEIVER_KEEPALIVE,
	RECEIVER_ENDED,				/* the source ended it or went away: see problem */
} ReceiverResult;

/* One message of the stream. */
typedef struct ReceiverMessage
{
	XLogRecPtr	start;			/* of the bytes */
	XLogRecPtr	wal_end;		/* of the source */
	const char *data;			/* valid until the next call */
	size_t		len;
	bool		reply_requested;
	const char *problem;		/* of RECEIVER_ENDED */
} ReceiverMessage;

/* What the connection string does not say. */
typedef struct ReceiverOptions
{
	bool		replication;	/* to the walsender */
	const char *application_name;
	const char *passfile;		/* NULL or "": libpq's default */
	const char *options;		/* settings of the session, or NULL */

	/*
	 * Asked whenever a wait ends, if not NULL: true gives up what is being
	 * waited for, as a timeout would.
	 */
	bool		(*interrupted) (void *arg);
	void	   *interrupted_arg;
} ReceiverOptions;

/* The rows of a query. */
typedef struct ReceiverRows ReceiverRows;

/*
 * ereport(ERROR) unless the connection string has nothing but host, port, user,
 * database and sslmode, names a host, and is shorter than size.
 */
extern void receiver_check_conninfo(const char *conninfo, size_t size);

/* Connects.  NULL with *problem, palloc'd, if that fails or takes longer than timeout_ms. */
extern Receiver *receiver_connect(const char *conninfo, const ReceiverOptions *options,
								  int timeout_ms, char **problem);

/* False with *problem if the source is another system or WAL timeline. */
extern bool receiver_identify(Receiver *r, uint64 system_identifier, int timeout_ms,
							  char **problem);

/* The source's own position at the last successful receiver_identify(). */
extern XLogRecPtr receiver_position(const Receiver *r);

/* Begins to stream behind start. */
extern bool receiver_start(Receiver *r, const char *slot, XLogRecPtr start, int timeout_ms,
						   char **problem);

/* The next message, without waiting. */
extern ReceiverResult receiver_next(Receiver *r, ReceiverMessage *message);

/* Tells the positions (invalid: none); false with *problem if the connection is broken. */
extern bool receiver_reply(Receiver *r, XLogRecPtr written, XLogRecPtr flushed,
						   XLogRecPtr applied, bool request_reply, char **problem);

/* One row, one column, as text in CurrentMemoryContext; NULL with *problem on failure. */
extern char *receiver_query(Receiver *r, const char *sql, int timeout_ms, char **problem);

/* All rows of a query, NULL with *problem on failure; free with receiver_free_rows. */
extern ReceiverRows *receiver_rows(Receiver *r, const char *sql, int timeout_ms,
								   char **problem);
extern int	receiver_nrows(const ReceiverRows *rows);

/* As text; NULL if it is null.  column 0 is the first one; all must be there. */
extern const char *receiver_value(const ReceiverRows *rows, int row, int column);
extern void receiver_free_rows(ReceiverRows *rows);

/*
 * For those who wait for many connections at once: a libpq connection that was
 * begun, not registered to be closed.  NULL with *problem on failure.
 */
extern struct pg_conn *receiver_begin_connecting(const char *conninfo,
												 const ReceiverOptions *options,
												 char **problem);

extern int	receiver_socket(const Receiver *r);
extern void receiver_close(Receiver *r);

#endif							/* NEON_RECEIVE_H */
