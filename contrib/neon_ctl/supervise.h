/*-------------------------------------------------------------------------
 *
 * supervise.h
 *	  The process that starts an endpoint again after a crash.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_SUPERVISE_H
#define NEON_CTL_SUPERVISE_H

#include "endpoint.h"

/*
 * Leaves a process behind that watches the boot that runs now, in place of one
 * that watched an earlier boot.  Nothing if the endpoint holds no boot.
 */
extern void supervise_leave(const Endpoint *ep);

/* Is there one? */
extern bool supervise_runs(const char *name);

/* Ends it, and a boot that it has under way; nothing if there is none. */
extern void supervise_end(const char *name);

/*
 * The same watch in this process, until the endpoint is stopped by others or
 * a signal asks for the end: true.
 */
extern bool supervise_here(const Endpoint *ep);

/* Did the server of this directory end by a clean stop? */
extern bool was_stopped_cleanly(const char *pgdata);

#endif							/* NEON_CTL_SUPERVISE_H */
