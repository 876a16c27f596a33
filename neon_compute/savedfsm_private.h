/*-------------------------------------------------------------------------
 *
 * savedfsm_private.h
 *	  What the two halves of saved free space maps share: savedfsm.c, which
 *	  puts them back, and savedfsm_collect.c, which saves them.
 *
 * The body: the number of entries (u32), the entries in order of their rnode's bytes, then
 * their packed bytes.  Packed is for each leaf page of the map a length (u16)
 * and so many bytes: 0, it says nothing; SlotsPerFSMPage, its slots; less, its
 * slots compressed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SAVEDFSM_PRIVATE_H
#define NEON_SAVEDFSM_PRIVATE_H

#include "lib/stringinfo.h"
#include "storage/block.h"
#include "storage/relfilenode.h"

typedef struct FsmEntry
{
	RelFileNode rnode;
	BlockNumber nblocks;		/* slots that are saved */
	uint32		offset;			/* in the packed bytes */
	uint32		len;
} FsmEntry;

typedef struct FsmCollection
{
	FsmEntry   *entries;
	uint32		n;
	uint32		max;
	uint32		skipped;		/* for which there was no room */
	StringInfoData packed;
} FsmCollection;

/* Block of the map at which a leaf page lies. */
extern BlockNumber fsm_leaf_block(uint32 leaf);

/* For qsort. */
extern int	fsm_compare_entries(const void *a, const void *b);

/* Adds a relation, if there is room. */
extern void savedfsm_add(FsmCollection *c, RelFileNode rnode, BlockNumber nblocks,
						 const char *packed, uint32 len);

/* Adds what was restored and not put back yet. */
extern void savedfsm_add_untouched(FsmCollection *c);

#endif							/* NEON_SAVEDFSM_PRIVATE_H */
