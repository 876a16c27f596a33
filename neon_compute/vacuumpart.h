/*-------------------------------------------------------------------------
 *
 * vacuumpart.h
 *	  The part of the local disk space that VACUUM may take.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_VACUUMPART_H
#define NEON_VACUUMPART_H

#include "localdisk.h"
#include "storage/proc.h"

extern void vacuumpart_request_shmem(void);
extern void vacuumpart_shmem_startup(void);

/* Does this process run a VACUUM (a worker of one, too) where there is a limit? */
static inline bool
vacuumpart_concerns_me(void)
{
	return disk_is_limited && (MyProc->statusFlags & PROC_IN_VACUUM) != 0;
}

/*
 * Counts what this VACUUM has changed since it was asked last.  true if it has
 * changed something since and has to wait before it changes more.
 */
extern bool vacuumpart_must_wait(void);

/* Is the part used up? */
extern bool vacuumpart_is_used_up(void);

/* Bytes that VACUUM has changed and that cannot be dropped yet, and may have changed at most. */
extern uint64 vacuumpart_changed(void);
extern uint64 vacuumpart_allowed(void);

/* ----------
 * For the evictor.
 * ----------
 */

/* Now and then, looks at the whole map; settles: what is changed can be dropped some time. */
extern void vacuumpart_set(bool settles);

/* More often. */
extern void vacuumpart_look(void);

/* What was changed before this LSN can be dropped. */
extern void vacuumpart_settle(XLogRecPtr clean_before);

#endif							/* NEON_VACUUMPART_H */
