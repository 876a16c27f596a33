/*-------------------------------------------------------------------------
 *
 * neon_clientmsg.h
 *	  Messages of the client of this backend, read without ever blocking.
 *
 * The stock reader blocks in the middle of a message, deaf to cancels and
 * barriers, and knows no time limit there.  Here bytes are gathered as they
 * come, and a message is taken when all of it is here.  Once this reader has
 * begun in a process, the stock one must not be used there any more until
 * nothing is left (clientmsg_partial).
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CLIENTMSG_H
#define NEON_CLIENTMSG_H

/* Largest message body that a client may send. */
#define CLIENTMSG_MAX_BODY		8192

/* Forgets everything that was read. */
extern void clientmsg_reset(void);

/* Takes over what the stock reader has read already. */
extern void clientmsg_take_over(void);

/*
 * Reads what has arrived; false if there is nothing now.  With SSL, decrypted
 * bytes may sit in the library: try this before waiting, always.  Ends the
 * process if the client is gone.
 */
extern bool clientmsg_read(void);

/*
 * Type and body of the next message, or false if it is not complete.  The body
 * is valid until the next clientmsg_read.  FATAL on an impossible length.
 */
extern bool clientmsg_take(char *type, const char **body, int *len);

/* Are there bytes that were not taken? */
extern bool clientmsg_partial(void);

/*
 * Waits for the client's socket (WL_SOCKET_READABLE, WL_SOCKET_WRITEABLE), the
 * latch, which is reset, or timeout_ms (-1: for ever).  Ends the process with
 * the postmaster.
 */
extern void clientmsg_wait(int events, long timeout_ms, uint32 wait_event);

/* Ends the process without trying to tell the client anything. */
extern void clientmsg_client_gone(void) pg_attribute_noreturn();

#endif							/* NEON_CLIENTMSG_H */
