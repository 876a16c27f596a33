/*-------------------------------------------------------------------------
 *
 * reference.h
 *	  For tests: pages from a local data directory in place of a pageserver.
 *
 * Only builds with TESTING=1 have it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_REFERENCE_H
#define NEON_REFERENCE_H

#include "neon_frame.h"

#ifdef NEON_TESTING
extern void reference_define_gucs(void);
extern bool reference_is_used(void);

/* As stream_put() and stream_receive(). */
extern bool reference_send(const NeonRequest *req);
extern bool reference_receive(NeonResponse *resp);

/* A random pause between the receipt of pages and their installation. */
extern void reference_pause(void);
#else
static inline void
reference_define_gucs(void)
{
}

static inline bool
reference_is_used(void)
{
	return false;
}

static inline bool
reference_send(const NeonRequest *req)
{
	return false;
}

static inline bool
reference_receive(NeonResponse *resp)
{
	return false;
}

static inline void
reference_pause(void)
{
}
#endif

#endif							/* NEON_REFERENCE_H */
