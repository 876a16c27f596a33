/*-------------------------------------------------------------------------
 *
 * known.h
 *	  Which timelines this safekeeper was given, whatever became of their files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_KNOWN_H
#define NEON_SK_KNOWN_H

#include "neon_id.h"

#define SKKNOWN_DIR		"neon/known"

/* Durable when it returns; ERROR if that cannot be done. */
extern void skknown_add(const NeonId *tenant, const NeonId *timeline);

extern bool skknown_has(const NeonId *tenant, const NeonId *timeline);

/* After the tombstone, which says the same for good. */
extern void skknown_remove(const NeonId *tenant, const NeonId *timeline);

#endif							/* NEON_SK_KNOWN_H */
