/*-------------------------------------------------------------------------
 *
 * fetchlog.h
 *	  Statements that waited long for pages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_FETCHLOG_H
#define NEON_FETCHLOG_H

/* In the postmaster. */
extern void fetchlog_define_settings(void);
extern void fetchlog_install(void);

#endif							/* NEON_FETCHLOG_H */
