/*-------------------------------------------------------------------------
 *
 * lease.h
 *	  The read lease: how long this compute may answer without asking.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_LEASE_H
#define NEON_LEASE_H

#include "neon.h"

/* Part of neon.read_lease that a compute itself counts on. */
#define NEON_LEASE_USED_PERCENT		80

extern void lease_request_shmem(void);
extern void lease_shmem_startup(void);

/* In _PG_init: installs the hooks in which clients' statements are checked. */
extern void lease_install(void);

/* A majority grants until then, in neon_boottime_ms(); only rises. */
extern void lease_set_until(uint64 until_ms);

/* True also for a server that needs no lease. */
extern bool lease_held(void);

/* Milliseconds, 0 if it is over or none is needed. */
extern int	lease_left_ms(void);

/* When it ends, in neon_boottime_ms(); 0: it was never granted. */
extern uint64 lease_until_ms(void);

/* FATAL 57P03 for a new client without a lease. */
extern void lease_check_connection(void);

#endif							/* NEON_LEASE_H */
