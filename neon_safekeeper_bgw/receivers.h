/*-------------------------------------------------------------------------
 *
 * receivers.h
 *	  Who fetches WAL for which timeline: a table in shared memory, one row per
 *	  timeline that has something to fetch, and its worker.
 *
 * A row is made by an order and freed when its worker has ended and no newer
 * order came meanwhile.  All fields are under one LWLock, held for moments.
 * Nothing of it survives a restart of the instance: the compute's coordinator,
 * the launcher or the peers' worker orders again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_RECEIVERS_H
#define NEON_SK_RECEIVERS_H

#include "table.h"

#define RECEIVER_CONNINFO_SIZE	1024

/* What the worker of a row is to do.  Orders of one term add up. */
typedef struct ReceiverOrder
{
	uint32		serial;			/* changes with every order */
	uint32		term;
	XLogRecPtr	upto;			/* copy from peers at least up to here */
	char		donor[RECEIVER_CONNINFO_SIZE];	/* the peer to ask first, or "" */
	char		conninfo[RECEIVER_CONNINFO_SIZE];	/* of the compute, or "" */
	NeonId		boot_id;		/* of the compute */
} ReceiverOrder;

extern char *receivers_passfile;

/* ---- ordering; ereport(ERROR) if there is no room for another row or worker ---- */

/* Copy what is missing up to upto (at least up to the start of the term). */
extern void receivers_order_copy(SkTimeline *tl, uint32 term, XLogRecPtr upto, const char *donor);

/* Stream from the compute of a term. */
extern void receivers_order_stream(SkTimeline *tl, uint32 term, const NeonId *boot_id,
								   const char *conninfo);

/* Is there a row for the timeline, that is: is anything being fetched? */
extern bool receivers_busy(SkTimeline *tl);

/* ---- called by the worker of a row ---- */

/* Makes this process the row's worker; false if it is not wanted. */
extern bool receivers_attach(int row, NeonId *tenant, NeonId *timeline);
extern void receivers_get_order(int row, ReceiverOrder *order);
extern uint32 receivers_serial(int row);	/* without a lock */

/* The order was done or given up.  True: no newer one is there, the row is free. */
extern bool receivers_finish(int row, uint32 serial);

/* ---- called by init.c ---- */
extern void skstream_define_gucs(void);
extern Size skstream_shmem_size(void);
extern void skstream_shmem_init(void);
extern void skstream_register_workers(void);

/* ---- copy.c ---- */

/*
 * What elected() does last: has the timeline's worker copy up to x from the
 * donor (conninfo; NULL or empty: from any peer that counts) and waits until
 * that is durable, a higher term was promised, or the time is over.  The
 * caller looks at the positions.  Holds no lock.
 */
extern void sk_copy_to_x(SkTimeline *tl, uint32 term, XLogRecPtr x, const char *donor,
						 int timeout_ms);

#endif							/* NEON_SK_RECEIVERS_H */
