/*-------------------------------------------------------------------------
 *
 * guard.h
 *	  Everything that a compute refuses to do.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_GUARD_H
#define NEON_GUARD_H

#include "neon.h"

/* Directory outside the data directory that keeps ALTER SYSTEM's file; may be "". */
extern char *neon_conf_dir;

/* In _PG_init: settings under which no compute may run.  FATAL with a HINT. */
extern void guard_check_settings(void);
extern void guard_check_primary_settings(void); /* once the ticket is read */

/* After all libraries are loaded: FATAL if one of them has a resource manager. */
extern void guard_check_libraries(void);

/* In _PG_init: installs the hooks. */
extern void guard_install(void);
extern void admission_install(void);

#endif							/* NEON_GUARD_H */
