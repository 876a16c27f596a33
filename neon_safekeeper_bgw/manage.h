/*-------------------------------------------------------------------------
 *
 * manage.h
 *	  Creating and deleting timelines on this safekeeper.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_MANAGE_H
#define NEON_SK_MANAGE_H

#include "table.h"

/*
 * Makes the timeline that st describes (ids, constants, configuration,
 * history, promised), with len bytes of WAL from the start of start_lsn's
 * segment to start_lsn in head, or none.  No-op if it is here with the same
 * constants.  ereport(ERROR): NS004 if it was deleted here.
 */
extern void sk_create(SkState *st, const char *head, size_t len);

/* Tombstone first, then the files.  An unknown timeline gets a tombstone too. */
extern void sk_delete(const NeonId *tenant, const NeonId *timeline, uint64 generation, bool force);

#endif							/* NEON_SK_MANAGE_H */
