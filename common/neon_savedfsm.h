/*-------------------------------------------------------------------------
 *
 * neon_savedfsm.h
 *	  Free space maps as they are saved: a byte for each block, packed.
 *
 * The body: the number of entries (u32), the entries in order of their rnode's bytes, then
 * their packed bytes.  Packed is for each leaf page of the map a length (u16)
 * and so many bytes: 0, it says nothing; SlotsPerFSMPage, its slots; less, its
 * slots compressed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SAVEDFSM_H
#define NEON_SAVEDFSM_H

#include "datatype/timestamp.h"
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

typedef struct FsmCollector
{
	TimestampTz deadline;		/* neon_clock() */
	/* Gets a page that is not as in its file; NULL: there is none. */
	bool		(*read_page) (void *arg, RelFileNode rnode, BlockNumber blk, char *page);
	void	   *arg;

	/* what was collected, by fsm_begin() empty */
	FsmEntry   *entries;
	uint32		n;
	uint32		max;
	uint32		skipped;		/* for which there was no room */
	StringInfoData packed;
	StringInfoData one;			/* of one relation */
} FsmCollector;

/* Blocks of the map at which a page of the middle level and a leaf page lie. */
extern BlockNumber fsm_middle_block(uint32 middle);
extern BlockNumber fsm_leaf_block(uint32 leaf);

/* For qsort. */
extern int	fsm_compare_entries(const void *a, const void *b);

extern void fsm_begin(FsmCollector *col);

/* Adds a relation, if there is room. */
extern void fsm_add(FsmCollector *col, RelFileNode rnode, BlockNumber nblocks,
					const char *packed, uint32 len);

/*
 * All maps in the directory of a database in a tablespace, or in those of all
 * databases; false if time is over.  What cannot be read is left out.
 */
extern bool fsm_add_directory(FsmCollector *col, const char *path, Oid spc, Oid db);
extern bool fsm_add_databases(FsmCollector *col, const char *path, Oid spc);

/* Appends the body. */
extern void fsm_end(FsmCollector *col, StringInfo out);

#endif							/* NEON_SAVEDFSM_H */
