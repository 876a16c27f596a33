/*-------------------------------------------------------------------------
 *
 * ticket.h
 *	  The boot ticket: the right to start this data directory once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_TICKET_H
#define NEON_TICKET_H

#include "neon.h"

#define NEON_BOOT_FILE			"neon.boot"
#define NEON_TICKET_FILE		"neon.ticket"
#define NEON_USED_TICKET_FILE	"neon.ticket.used"

/*
 * Reads neon.boot and neon.ticket, checks them against each other, the
 * settings, the binaries and pg_control, and fills neon_boot.  Changes
 * nothing.  ereport(FATAL) with a HINT if anything does not fit.  Called in
 * the postmaster, in the data directory, after pg_control has been read.
 */
extern void ticket_validate(void);

/* Makes the ticket unusable, durably; FATAL on failure.  In the postmaster. */
extern void ticket_consume(void);

#endif							/* NEON_TICKET_H */
