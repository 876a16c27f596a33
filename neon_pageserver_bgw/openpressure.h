/*-------------------------------------------------------------------------
 *
 * openpressure.h
 *	  Sharing the memory of the open indexes among the timelines.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_OPENPRESSURE_H
#define NEON_PS_OPENPRESSURE_H

#include "timeline.h"

/*
 * Is memory getting short, and does this timeline have more of it than its
 * share?  Then its owner should flush.
 */
extern bool openpressure_is_over(const TimelineShared *shared);

/*
 * For the supervisor, every second: asks for the flush of the index that weighs
 * most, and of all that are above their share when memory is nearly gone.  True
 * if memory is short.
 */
extern bool openpressure_relieve(void);

#endif							/* NEON_PS_OPENPRESSURE_H */
