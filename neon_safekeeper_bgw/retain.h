/*-------------------------------------------------------------------------
 *
 * retain.h
 *	  Which WAL of a timeline is kept, and the worker that removes the rest.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_RETAIN_H
#define NEON_SK_RETAIN_H

#include "slot.h"

/*
 * How much may be written before the slot is invalidated (below 0: it will be
 * soon); false if there is no limit, or the timeline was not opened yet.
 */
extern bool retain_slot_allowance(const SkSlotInfo *slot, int64 *bytes);

/*
 * What the worker does each round for a timeline whose positions are known:
 * decides what is kept, and removes the rest unless somebody else is at work
 * there.  ereport(ERROR) if that fails.
 */
extern void retain_look_after(SkTimeline *tl);

/* ---- called by init.c ---- */
extern void retain_define_gucs(void);
extern void retain_register_worker(void);

/* Entry point of the worker. */
extern PGDLLEXPORT void neon_safekeeper_retain_main(Datum arg);

#endif							/* NEON_SK_RETAIN_H */
