/*-------------------------------------------------------------------------
 *
 * ingestworker.h
 *	  The worker that receives and indexes the WAL of one timeline.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_INGESTWORKER_H
#define NEON_PS_INGESTWORKER_H

#include "neon_id.h"

/* Orders a worker for a row of the table of sources; false if there is no place for one. */
extern bool ingestworker_start(int row, const NeonId *timeline);

#endif							/* NEON_PS_INGESTWORKER_H */
