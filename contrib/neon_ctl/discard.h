/*-------------------------------------------------------------------------
 *
 * discard.h
 *	  Old data directories, which are removed behind the command's back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_DISCARD_H
#define NEON_CTL_DISCARD_H

#include "endpoint.h"

/* Renames the endpoint's data directory, at once; fine if there is none. */
extern void discard_pgdata(const Endpoint *ep, const char *pgdata);

/* Leaves a process behind that removes what was discarded, if there is anything. */
extern void discard_remove(const Endpoint *ep);

/* Ends that process, so that nobody else removes anything of the endpoint now. */
extern void discard_end(const char *name);

#endif							/* NEON_CTL_DISCARD_H */
