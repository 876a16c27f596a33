/*-------------------------------------------------------------------------
 *
 * autoconf.h
 *	  The kept copy of postgresql.auto.conf.
 *
 * Both take AutoFileLock, and ereport(ERROR) if a file cannot be copied.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_AUTOCONF_H
#define NEON_AUTOCONF_H

/* Before ALTER SYSTEM, which reads the file and writes it anew: what somebody changed in the copy is in it. */
extern void autoconf_take_edits(void);

/* After ALTER SYSTEM. */
extern void autoconf_keep(void);

#endif							/* NEON_AUTOCONF_H */
