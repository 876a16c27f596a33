/*-------------------------------------------------------------------------
 *
 * relsizes.h
 *	  Reading pgdata/neon.relsizes: the relation forks at the boot LSN.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_RELSIZES_H
#define NEON_RELSIZES_H

#include "storage/block.h"

/* An entry as in the file, little-endian: one fork of a permanent relation. */
typedef struct RelSize
{
	uint32		spc;
	uint32		db;
	uint32		rel;
	uint32		fork;			/* main or visibility map */
	uint32		nblocks;
} RelSize;

typedef struct RelSizes
{
	uint32		nforks;
	RelSize    *forks;			/* sorted by spc, db, rel, fork; no two equal */
} RelSizes;

/*
 * Loads and checks the file, whose LSN must be that of neon_boot.  FATAL if
 * anything about it is wrong.  relsizes_free() gives the memory back.
 */
extern void relsizes_load(RelSizes *sizes);
extern void relsizes_free(RelSizes *sizes);

#endif							/* NEON_RELSIZES_H */
