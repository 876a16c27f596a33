/*-------------------------------------------------------------------------
 *
 * flushtime.h
 *	  Time blocks (timeblock.h) of the WAL that a flush covers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_FLUSHTIME_H
#define NEON_PS_FLUSHTIME_H

#include "layerfile.h"

/*
 * Adds the blocks of (lo, cut] to the file, whose other keys are all there: keys
 * of kind TIME are the last ones.  Only those that are wanted (NULL: all).
 * Returns how many; 0 if the timeline has no control state (it was not made
 * from a data directory), and then its WAL has to stay.
 */
extern uint32 flush_time_blocks(Timeline *tl, LayerWriter *writer, XLogRecPtr lo, XLogRecPtr cut,
								bool (*wanted) (void *arg, const NeonKey *key), void *arg);

#endif							/* NEON_PS_FLUSHTIME_H */
