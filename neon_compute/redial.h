/*-------------------------------------------------------------------------
 *
 * redial.h
 *	  When the processes of this server may try to connect to the pageserver.
 *
 * While it can be reached each of them connects when it likes.  Once an
 * attempt failed or a connection broke they take turns: one tries, the others
 * wait for what comes of it, and the time from one try to the next doubles.
 * The first answer that a new connection gets lets all of them connect.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_REDIAL_H
#define NEON_REDIAL_H

extern void redial_request_shmem(void);
extern void redial_shmem_startup(void);

/* Do processes take turns? */
extern bool redial_is_needed(void);

/*
 * Milliseconds until this process should ask again; 0: it may connect now, and
 * then tells what came of it by one of the next three.  A turn of which nothing
 * is heard ends after a second.
 */
extern long redial_ask(void);

extern void redial_succeeded(void);

/* reached: something at the pageserver's address took the connection. */
extern void redial_failed(const char *problem, bool reached);

/* Nothing came of it: the attempt was cancelled.  At other times it does nothing. */
extern void redial_give_up(void);

/* A connection that was in use broke. */
extern void redial_lost(const char *problem);

/*
 * Something else was heard of the pageserver, in any process: a try is worth
 * while now.
 */
extern void redial_now(void);

/* Why the last try failed, into buf; left alone if nothing is known. */
extern void redial_problem(char *buf, size_t size);

#endif							/* NEON_REDIAL_H */
