/*-------------------------------------------------------------------------
 *
 * openlayer.h
 *	  The open index of a timeline: what was put since the last flush, in
 *	  blocks of one pool in shared memory.
 *
 * An address is a number of 8-byte units from the pool's base, valid in every
 * process.  Writing needs the timeline's index_lock exclusively (and is the
 * owner's alone), reading needs it shared; the owner reads without.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_OPENLAYER_H
#define NEON_PS_OPENLAYER_H

#include "store.h"

#define OPEN_BLOCK_SIZE		32768

typedef uint32 OpenAddr;		/* 0: none */

typedef struct OpenLayer
{
	XLogRecPtr	base_lsn;		/* versions are newer than this */
	uint32		block;			/* being filled; 0: none */
	uint32		used;			/* bytes of it */
	uint32		nblocks;		/* owned, with the spare ones */
	uint32		spare;			/* list of reserved blocks */
	uint32		nspare;
	OpenAddr	directory;		/* of bucket segments */
	uint32		nbuckets;
	uint32		nkeys;
	uint64		nrefs;
	XLogRecPtr	newest;			/* largest LSN put */
	OpenAddr	pages;			/* list of all keys of kind PAGE */
	OpenAddr	others;			/* list of all other keys */
} OpenLayer;

/* A key and its versions, oldest first: two in place, then chunks. */
typedef struct OpenKey
{
	NeonKey		key;
	OpenAddr	next;			/* in the bucket */
	OpenAddr	list;			/* in its list of all keys */
	OpenAddr	tail;			/* newest chunk */
	uint32		nrefs;
	uint64		ref[2];
} OpenKey;

/* A growing array of versions, newest first, in CurrentMemoryContext. */
typedef struct VersionList
{
	int			n;
	int			max;
	StoreVersion *v;
} VersionList;

extern StoreVersion *versions_add(VersionList *list);
extern void versions_free(VersionList *list);	/* with their data */

/*
 * What a lookup wants: versions in (above, upto], newest first, at most down
 * to the first base.
 */
typedef struct VersionRange
{
	XLogRecPtr	upto;
	XLogRecPtr	above;
} VersionRange;

/* An empty layer that owns no block. */
extern void openlayer_init(OpenLayer *layer, XLogRecPtr base_lsn);

/*
 * Takes as many blocks as the puts may need, and some more.  False if the pool has not enough
 * (what was taken is kept).
 */
extern bool openlayer_reserve(OpenLayer *layer, const StorePut *puts, int nputs,
							  uint32 more);

/* Adds one version; room was reserved.  Returns how many the key has then. */
extern uint32 openlayer_add(OpenLayer *layer, XLogRecPtr start, XLogRecPtr end,
						  const StorePut *put);

extern OpenKey *openlayer_find(const OpenLayer *layer, const NeonKey *key);

/* Appends what the range wants; true if the last one is a base. */
extern bool openlayer_collect(const OpenLayer *layer, const OpenKey *key, Timeline *tl,
							  VersionRange range, VersionList *list);

/* The newest reference <= upto; false if there is none. */
extern bool openlayer_newest(const OpenLayer *layer, const OpenKey *key, XLogRecPtr upto,
							 uint64 *ref);

/* All references of a key, oldest first. */
typedef void (*OpenVisit) (const OpenLayer *layer, uint64 ref, void *arg);
extern void openlayer_visit(const OpenLayer *layer, const OpenKey *key, OpenVisit visit, void *arg);

/* Decodes a reference; data is palloc'd if the version has some and load is set. */
extern void openlayer_decode(const OpenLayer *layer, uint64 ref, bool load, StoreVersion *version);

extern OpenKey *openlayer_first(const OpenLayer *layer, bool pages);
extern OpenKey *openlayer_next(const OpenKey *key);

/* Forgets versions newer than lsn. */
extern void openlayer_trim(OpenLayer *layer, XLogRecPtr lsn);

/* Gives all blocks back. */
extern void openlayer_free(OpenLayer *layer);

static inline uint64
openlayer_bytes(const OpenLayer *layer)
{
	return (uint64) layer->nblocks * OPEN_BLOCK_SIZE;
}

/* The pool. */
extern uint64 openpool_total_bytes(void);
extern uint64 openpool_free_bytes(void);

/* Waits until blocks are freed or timeout_ms passed. */
extern void openpool_wait_for_room(int timeout_ms);

#endif							/* NEON_PS_OPENLAYER_H */
