/*-------------------------------------------------------------------------
 *
 * flushwrite.h
 *	  The versions of an index over stored WAL, written into a layer file.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_FLUSHWRITE_H
#define NEON_PS_FLUSHWRITE_H

#include "layerfile.h"
#include "openlayer.h"

typedef struct IndexWrite
{
	Timeline   *tl;
	LayerWriter *writer;
	const OpenLayer *index;		/* changes no more */
	XLogRecPtr	cut;			/* where it ends */
	bool		images;			/* of pages with long chains */

	uint32		nkeys;			/* results */
	uint32		nimages;
} IndexWrite;

/* Writes all of it, by key; time blocks are not in it.  Reads stored WAL. */
extern void flush_write_index(IndexWrite *w);

#endif							/* NEON_PS_FLUSHWRITE_H */
