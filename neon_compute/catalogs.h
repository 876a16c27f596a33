/*-------------------------------------------------------------------------
 *
 * catalogs.h
 *	  The system catalogs that a compute fetches first after its start.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CATALOGS_H
#define NEON_CATALOGS_H

#include "saved.h"

/*
 * The catalogs' chunks, whole, palloc'd; their number is returned.  The list of
 * what was in use tells which databases matter.
 */
extern uint32 catalog_chunks(const WarmChunk *warm, uint32 nwarm, const WarmChunk **chunks);

#endif							/* NEON_CATALOGS_H */
