/*-------------------------------------------------------------------------
 *
 * copyio.h
 *	  A client connection taken over by a procedure: COPY BOTH or COPY OUT.
 *
 * The procedure leaves its transaction for a fresh one that never takes a
 * snapshot, so it holds back no xmin however long it runs, and locks and pins
 * are still released after an error.  All waits are interruptible: cancel at
 * message boundaries, termination and barriers at any time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_COPYIO_H
#define NEON_PS_COPYIO_H

#include "fmgr.h"
#include "lib/stringinfo.h"

typedef enum CopyIoMode
{
	COPYIO_BOTH = 'W',
	COPYIO_OUT = 'H',
} CopyIoMode;

/*
 * To be called by a procedure, after its arguments were copied to memory that
 * outlives a transaction.  Ends the transaction, begins another, tells the
 * client; ereport(ERROR) if the CALL is inside a transaction block.
 */
extern void copyio_begin(FunctionCallInfo fcinfo, const char *procedure, CopyIoMode mode);

/* Tells the client that we are done; the procedure may return after it. */
extern void copyio_end(void);

/* Bytes to be sent: append whole messages, then copyio_flush. */
extern StringInfo copyio_out(void);

/* Starts a CopyData message in copyio_out(); returns its place for copyio_finish_data. */
extern int	copyio_start_data(void);
extern void copyio_finish_data(int place);

/* Sends all of copyio_out() and empties it.  Ends the process if the client is gone. */
extern void copyio_flush(void);

/*
 * The next CopyData message if one is here: true, and body points to it until
 * the next call.  *done is set when the client said CopyDone.  Anything that
 * the protocol does not allow here is FATAL.
 */
extern bool copyio_next(const char **body, int *len, bool *done);

/* Waits until the client sent something more; when it did not for a while, idle is called once. */
extern void copyio_wait(void (*idle) (void));

/*
 * In a PG_CATCH that throws on: the messages already read are dropped, as the
 * server would do; FATAL if a part of one was read.
 */
extern void copyio_abandon(void);

/*
 * After an error that was caught and is to be survived: a fresh transaction,
 * everything released.  The error state is the caller's.
 */
extern void copyio_recover(void);

#endif							/* NEON_PS_COPYIO_H */
