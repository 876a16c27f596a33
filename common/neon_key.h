/*-------------------------------------------------------------------------
 *
 * neon_key.h
 *	  Keys of everything a timeline stores, and the kinds of their values.
 *
 * On disk a key is 18 bytes, big-endian, ordered by memcmp():
 *
 *	  kind u8 | spc u32 | db u32 | rel u32 | fork u8 | blk u32
 *
 * The first 14 bytes are the object id.  In memory a key is the struct
 * below, with its padding always zero (use the constructors), so it may be
 * hashed as a blob.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_KEY_H
#define NEON_KEY_H

#include "common/relpath.h"
#include "storage/block.h"
#include "storage/relfilenode.h"

typedef enum NeonKeyKind
{
	NEON_KEY_CONTROL = 0x01,	/* control state, in the open index only */
	NEON_KEY_DATABASE = 0x02,	/* spc, db: relation map and flags */
	NEON_KEY_TABLESPACE = 0x03, /* spc */
	NEON_KEY_SIZE = 0x08,		/* spc, db, rel, fork: size and cut list */
	NEON_KEY_PAGE = 0x10,		/* spc, db, rel, fork, blk */
	NEON_KEY_SLRU = 0x20,		/* spc = NeonSlru, blk = page number */
	NEON_KEY_SLRU_BOUNDS = 0x21,	/* spc = NeonSlru: oldest and latest page */
	NEON_KEY_TWOPHASE = 0x30,	/* rel = epoch, blk = xid */
	NEON_KEY_ORIGIN = 0x31,		/* rel = replication origin */
	NEON_KEY_FILE = 0x32,		/* small file, by hash of its path */
	NEON_KEY_TIME = 0x50,		/* rel, blk: number of a megabyte of WAL */
} NeonKeyKind;

typedef enum NeonSlru
{
	NEON_SLRU_CLOG = 0,
	NEON_SLRU_MXOFFSETS = 1,
	NEON_SLRU_MXMEMBERS = 2,
	NEON_SLRU_COMMIT_TS = 3,
} NeonSlru;

#define NEON_NUM_SLRUS 4

typedef struct NeonKey
{
	uint8		kind;			/* NeonKeyKind */
	uint8		fork;			/* ForkNumber */
	uint16		pad;			/* always 0 */
	Oid			spc;
	Oid			db;
	Oid			rel;
	BlockNumber blk;
} NeonKey;

#define NEON_KEY_ENCODED_SIZE	18
#define NEON_OBJECT_ID_SIZE		14

typedef enum NeonValueKind
{
	NEON_VALUE_WAL = 0,			/* a WAL record, by reference to stored WAL */
	NEON_VALUE_IMAGE = 1,		/* 8 kB page */
	NEON_VALUE_SIZE = 2,		/* see size.h of the pageserver */
	NEON_VALUE_TOMBSTONE = 3,	/* the object does not exist from here on */
	NEON_VALUE_BLOB = 4,		/* whole new state of a non-page object */
} NeonValueKind;

static inline NeonKey
neon_key(uint8 kind, Oid spc, Oid db, Oid rel, uint8 fork, BlockNumber blk)
{
	NeonKey		k;

	k.kind = kind;
	k.fork = fork;
	k.pad = 0;
	k.spc = spc;
	k.db = db;
	k.rel = rel;
	k.blk = blk;
	return k;
}

static inline NeonKey
neon_page_key(RelFileNode rnode, ForkNumber fork, BlockNumber blk)
{
	return neon_key(NEON_KEY_PAGE, rnode.spcNode, rnode.dbNode, rnode.relNode,
					(uint8) fork, blk);
}

static inline NeonKey
neon_size_key(RelFileNode rnode, ForkNumber fork)
{
	return neon_key(NEON_KEY_SIZE, rnode.spcNode, rnode.dbNode, rnode.relNode,
					(uint8) fork, 0);
}

/* Same order as memcmp() of the encoded forms. */
extern int	neon_key_cmp(const NeonKey *a, const NeonKey *b);

extern void neon_key_encode(const NeonKey *key, uint8 *buf);

/* False if the bytes are no valid key (kind or fork out of range). */
extern bool neon_key_decode(const uint8 *buf, NeonKey *key);

#endif							/* NEON_KEY_H */
