/*-------------------------------------------------------------------------
 *
 * mapgrow.h
 *	  The part of the map that grows; for map.c, which see.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_MAPGROW_H
#define NEON_MAPGROW_H

#include "map.h"

/* In the postmaster, before its children; FATAL if there is no memory. */
extern void mapgrow_startup(uint64 boot_forks, LWLock *grow_lock);

extern bool mapgrow_is_used(void);

/* Forks, by number; those that are given up have a watermark of 0. */
extern uint32 mapgrow_nforks(void);
extern MapFork *mapgrow_fork_at(uint32 number);
extern bool mapgrow_has(const MapFork *fork);

/* NULL if it is not here, which is so until this number is another one. */
extern MapFork *mapgrow_find(RelFileNode rnode, ForkNumber forknum);
extern uint32 mapgrow_insertions(void);

/* With no blocks.  Does nothing if it is here already, or if there is no room. */
extern void mapgrow_add(RelFileNode rnode, ForkNumber forknum);

/* The fork's watermark is 0, and who knew another one is done with it. */
extern void mapgrow_remove(MapFork *fork);

/* A chunk beyond those that the fork had at the start, counted from these. */
extern MapChunk *mapgrow_chunk(const MapFork *fork, uint64 chunk);

/* Sees to it that the fork has so many of them; false if there is no room. */
extern bool mapgrow_reserve(const MapFork *fork, uint64 nchunks);

#endif							/* NEON_MAPGROW_H */
