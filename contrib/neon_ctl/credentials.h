/*-------------------------------------------------------------------------
 *
 * credentials.h
 *	  Which passwords are in whose password file.
 *
 * A service or an endpoint logs in to the others with what its own file has.
 * All of these do nothing where clients are trusted.  They die if the file of
 * an endpoint or of the pageserver cannot be written.  A safekeeper may have
 * lost its disk, or have a full one, which must be in nobody's way: it is
 * warned of, and what is missing is written when the safekeeper is started.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_CREDENTIALS_H
#define NEON_CTL_CREDENTIALS_H

#include "endpoint.h"
#include "instance.h"

/* Of new services, for each other; there are no endpoints yet. */
extern void credentials_of_services(const Instance *all, int n);

/* Of an instance, for itself: all that it may have to log in to. */
extern void credentials_complete(const Instance *inst);

/* Of a new safekeeper, for itself, the pageserver, the others and all endpoints. */
extern void credentials_of_safekeeper(const Instance *new);

/* Of an endpoint, for itself and all services. */
extern void credentials_of_endpoint(const Endpoint *ep);

/* Services forget the endpoint. */
extern void credentials_forget_endpoint(const Endpoint *ep);

#endif							/* NEON_CTL_CREDENTIALS_H */
