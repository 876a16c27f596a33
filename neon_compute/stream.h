/*-------------------------------------------------------------------------
 *
 * stream.h
 *	  One process's connection to the page service.
 *
 * Requests are answered in the order in which they were sent.  The functions
 * do not throw for anything that the pageserver or the network does: they
 * return false, the connection is gone then, and stream_last_error() says why.
 * They do throw when an interrupt is processed while waiting (cancel,
 * terminate); the next stream_check() finds that out and drops the connection.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_STREAM_H
#define NEON_STREAM_H

#include "neon_frame.h"
#include "utils/timestamp.h"

extern void stream_define_gucs(void);

/*
 * To be called before the others: drops a connection that was left in an
 * unknown state or for which other settings have been loaded.  Returns a
 * number that changes whenever requests sent before will not be answered.
 */
extern uint64 stream_check(void);

/* Is there a connection, so that stream_put() does not have to make one? */
extern bool stream_is_open(void);

/*
 * For who can do without: connects if need be and nothing speaks against it, as
 * that the pageserver is known to be away, or that the caller cannot be interrupted.
 */
extern bool stream_open_if_easy(TimestampTz deadline);

/*
 * Adds a request to what is to be sent, at first connecting if need be, until
 * the deadline; stream_flush() has all of it sent.
 */
extern bool stream_put(const NeonRequest *req, TimestampTz deadline);
extern bool stream_flush(TimestampTz deadline);

/* Would stream_receive() return at once?  Never waits. */
extern bool stream_has_answer(void);

/*
 * Waits for the next answer until the deadline.  resp points into memory of
 * the stream that is good until the next call.
 */
extern bool stream_receive(NeonResponse *resp, TimestampTz deadline);

/* Drops the connection because what came through it made no sense. */
extern void stream_fail(const char *problem);

/* After an error was thrown: lets other processes connect if this one was about to. */
extern void stream_give_up(void);

/* Waits, handling interrupts as the other functions do. */
extern void stream_sleep(long milliseconds);

/* Why the last call returned false; never NULL. */
extern const char *stream_last_error(void);

/* Length of the last answer on the wire, with its header. */
extern int	stream_last_length(void);

#endif							/* NEON_STREAM_H */
