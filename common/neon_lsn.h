/*-------------------------------------------------------------------------
 *
 * neon_lsn.h
 *	  LSNs as text, as servers answer with them.
 *
 * Usable from the backend and from frontend programs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_LSN_H
#define NEON_LSN_H

#include "access/xlogdefs.h"

/*
 * Parses exactly what pg_lsn accepts, one to eight hexadecimal digits on each
 * side of a slash; false (lsn untouched) if it is anything else or NULL.
 */
extern bool neon_lsn_parse(const char *text, XLogRecPtr *lsn);

#endif							/* NEON_LSN_H */
