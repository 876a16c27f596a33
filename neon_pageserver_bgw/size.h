/*-------------------------------------------------------------------------
 *
 * size.h
 *	  Size of a relation fork and its cut list, as a value of the store.
 *
 * A truncation to n blocks at LSN c pushes {c, n}.  For block b the floor is
 * the newest cut with blocks <= b: versions of b with LSN <= floor do not
 * exist (the page is zero until written again).  So truncation, drop and
 * re-extension never touch pages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_SIZE_H
#define NEON_PS_SIZE_H

#include "access/xlogdefs.h"
#include "lib/stringinfo.h"
#include "storage/block.h"

#define SIZE_MAX_CUTS 60

typedef struct SizeCut
{
	XLogRecPtr	lsn;
	BlockNumber blocks;
} SizeCut;

typedef struct RelSize
{
	BlockNumber nblocks;
	bool		dropped;		/* the fork does not exist */
	uint8		ncuts;			/* strictly growing blocks with growing lsn */
	SizeCut		cuts[SIZE_MAX_CUTS];
} RelSize;

extern void relsize_init(RelSize *size);

/* True if the value changed. */
extern bool relsize_extend(RelSize *size, BlockNumber nblocks);

/*
 * Cuts to nblocks at lsn (the end of the record).  When the list is full, one
 * older cut is forgotten: see size.c for which, and what that means.
 */
extern void relsize_truncate(RelSize *size, XLogRecPtr lsn, BlockNumber nblocks);
extern void relsize_drop(RelSize *size, XLogRecPtr lsn);
extern void relsize_create(RelSize *size);	/* exists again; keeps the cuts */

/* Versions of block blk with LSN <= the result do not exist. */
extern XLogRecPtr relsize_floor(const RelSize *size, BlockNumber blk);

extern void relsize_encode(const RelSize *size, StringInfo buf);

/* False if the bytes are no size value. */
extern bool relsize_decode(const char *data, uint32 len, RelSize *size);

#endif							/* NEON_PS_SIZE_H */
