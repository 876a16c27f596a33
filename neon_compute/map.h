/*-------------------------------------------------------------------------
 *
 * map.h
 *	  Which blocks of the database at the boot LSN are in local files.
 *
 * Only blocks below the size that a fork had at the boot LSN can be remote,
 * so everything that can ever be asked is known at boot: the map is a table
 * of forks, and arrays of chunks.  A fork that is not in it is local.  With a
 * limit of disk space what is new can become remote, too: then the map grows.
 *
 * README.md has the lock protocol.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_MAP_H
#define NEON_MAP_H

#include "access/transam.h"
#include "common/relpath.h"
#include "neon.h"
#include "neon_testpoint.h"
#include "port/atomics.h"
#include "storage/block.h"
#include "storage/lwlock.h"
#include "storage/relfilenode.h"

/* The unit of locking and of eviction: 1 MB. */
#define MAP_CHUNK_BLOCKS	128

/*
 * In MapChunk.gen: set when the chunk is read, taken away when the evictor
 * passes by.  The rest is the generation, which is odd while the chunk is
 * being dropped.
 */
#define MAP_GEN_USED		0x80000000U

/* A test point that the catalogs do not reach. */
#define MAP_TEST_POINT(rnode, name) \
	do { \
		if ((rnode).relNode >= FirstNormalObjectId) \
			NEON_TEST_POINT(name); \
	} while (0)

typedef struct MapChunk
{
	pg_atomic_uint64 present[MAP_CHUNK_BLOCKS / 64];	/* 1 bit a block */
	pg_atomic_uint64 changed[MAP_CHUNK_BLOCKS / 64];	/* the same, see map_note_write() */
	pg_atomic_uint64 dirty_lsn; /* of the last local write, see map_note_write(); or 0 */
	pg_atomic_uint32 gen;		/* generation, and MAP_GEN_USED */
	pg_atomic_uint32 asked;		/* who last asked for many of its blocks, and when */
} MapChunk;

typedef struct MapFork
{
	RelFileNode rnode;
	ForkNumber	forknum;
	BlockNumber boot_blocks;	/* size at the boot LSN */

	/*
	 * Blocks at or beyond the watermark are local, whatever their bits say.
	 * At first boot_blocks; truncate, unlink and re-creation lower it.  Only
	 * if the map grows is it raised, when the fork is extended.
	 */
	pg_atomic_uint32 watermark;
	pg_atomic_uint32 file_state;	/* MapFileState; changed under the file lock */
	pg_atomic_uint32 local;		/* 1: of an unlogged relation, never extended in the map */
	uint32		next;			/* mapgrow.c's, under its lock */
	uint64		first_chunk;
} MapFork;

typedef enum MapFileState
{
	MAP_FILE_MISSING = 0,		/* not created yet */
	MAP_FILE_DONE,				/* created, or removed again */
} MapFileState;

/* ----------
 * Making it; all in the postmaster, FATAL on any problem.
 * ----------
 */
extern void map_request_shmem(void);
extern void map_startup(void);

/* ----------
 * Looking things up.  Nothing here allocates, takes locks or fails, so it may
 * be done in a critical section.
 * ----------
 */
extern bool map_exists(void);
extern uint64 map_nforks(void);
extern MapFork *map_fork_at(uint64 number);
extern uint64 map_fork_number(const MapFork *fork);

/* The order of relations in the map. */
extern int	map_compare_rnode(const RelFileNode *a, const RelFileNode *b);

/* NULL if the fork is local. */
extern MapFork *map_lookup(RelFileNode rnode, ForkNumber forknum);
extern MapChunk *map_chunk(const MapFork *fork, BlockNumber blkno);

static inline uint64
map_fork_chunks(const MapFork *fork)
{
	return ((uint64) fork->boot_blocks + MAP_CHUNK_BLOCKS - 1) / MAP_CHUNK_BLOCKS;
}

static inline BlockNumber
map_watermark(const MapFork *fork)
{
	return pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &fork->watermark));
}

static inline bool
map_present(const MapChunk *chunk, BlockNumber blkno)
{
	uint32		bit = blkno % MAP_CHUNK_BLOCKS;
	uint64		word = pg_atomic_read_u64(unconstify(pg_atomic_uint64 *,
													 &chunk->present[bit / 64]));

	return (word >> (bit % 64)) & 1;
}

static inline uint32
map_generation(const MapChunk *chunk)
{
	return pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &chunk->gen)) & ~MAP_GEN_USED;
}

/* Is the chunk being dropped, in this generation? */
static inline bool
map_being_dropped(uint32 generation)
{
	return generation & 1;
}

/* The chunk was read: it is to stay for a while. */
static inline void
map_note_used(MapChunk *chunk)
{
	if (unlikely(!(pg_atomic_read_u32(&chunk->gen) & MAP_GEN_USED)))
		(void) pg_atomic_fetch_or_u32(&chunk->gen, MAP_GEN_USED);
}

/* Must the block be fetched before it can be read?  An answer of no is final
 * (as long as its chunk is not dropped), one of yes may be out of date. */
static inline bool
map_absent(const MapFork *fork, const MapChunk *chunk, BlockNumber blkno)
{
	return !map_present(chunk, blkno) && blkno < map_watermark(fork);
}

/* ----------
 * Changing it.
 * ----------
 */

/* The lock of a chunk; no two chunks' locks may be held together. */
extern LWLock *map_chunk_lock(const MapFork *fork, BlockNumber blkno);

/* The lock under which a fork's files are created. */
extern LWLock *map_file_lock(const MapFork *fork);

/* After the data is in the file.  The caller holds the chunk lock. */
extern void map_set_present(MapChunk *chunk, BlockNumber blkno);

/* Several at once, while the fork's files are not done: then no lock is needed. */
extern void map_set_present_word(MapChunk *chunk, int word, uint64 bits);

/*
 * Before a local write of a block that was changed last at that LSN,
 * InvalidXLogRecPtr if nobody knows; a full memory barrier.  Takes no lock.  The
 * block counts as changed, until map_forget_changed(), if it could not be dropped.
 */
extern void map_note_write(MapChunk *chunk, BlockNumber blkno, XLogRecPtr changed);

/* What was changed last before this LSN may be dropped, now and later; only rises. */
extern void map_set_clean_before(XLogRecPtr lsn);

/* Returns when the chunk is not being dropped.  Takes the chunk lock. */
extern void map_wait_dropped(const MapFork *fork, BlockNumber blkno);

/*
 * Blocks of the chunk that begins at start which are here and may be dropped: all,
 * or, if it was written at or after clean_before, those that do not count as
 * changed.  Those of the evictor.
 */
extern uint32 map_chunk_droppable(const MapFork *fork, BlockNumber start, XLogRecPtr clean_before);

/* If the chunk was not written at or after clean_before, no block counts as changed. */
extern void map_forget_changed(const MapFork *fork, RelFileNode rnode, BlockNumber start,
							   XLogRecPtr clean_before);

/*
 * What is done to the file of a chunk that is being dropped: under its lock, while
 * its generation is odd.  These must not throw.
 */
typedef struct MapDropper
{
	/* has the file something that cannot be fetched again? */
	bool		(*must_stay) (void *arg);
	void		(*free_space) (void *arg, BlockNumber start, uint32 nblocks);
	void	   *arg;
} MapDropper;

/*
 * Makes the blocks that map_chunk_droppable() counts absent, and has their space
 * given back meanwhile.  Returns how many were dropped; 0 if they must stay, or if
 * the fork is not that relation's any more.
 */
extern uint32 map_drop_chunk(const MapFork *fork, RelFileNode rnode, BlockNumber start,
							 XLogRecPtr clean_before, const MapDropper *dropper);

/*
 * Blocks from nblocks on are local for ever.  Returns after the last hydrator
 * that might not know it is done with them.  Takes chunk locks one by one.
 */
extern void map_lower_watermark(MapFork *fork, BlockNumber nblocks);

/* ----------
 * Growing, if there is a limit of disk space on a primary; else these do nothing.
 * ----------
 */

/* A fork was created, with no blocks.  An init fork says that the relation is local. */
extern void map_fork_created(RelFileNode rnode, ForkNumber forknum);

/* The fork was unlinked and is local; what was added for it is given up. */
extern void map_fork_removed(MapFork *fork);

/* After the fork was extended by a block at or beyond the watermark. */
extern void map_extended(MapFork *fork, BlockNumber blkno);

/* The caller holds the file lock and the state was MAP_FILE_MISSING. */
extern void map_file_done(MapFork *fork);
extern uint64 map_missing_files(void);

/* Set when everything is present, and durable, for good. */
extern bool map_is_hydrated(void);
extern void map_set_hydrated(void);

/*
 * A hint, so that the processes of a parallel scan share the work: this process
 * asks for many blocks of the chunk; it does not any more; which ones, counted
 * from the chunk's start, did another one ask for within the last moment?
 */
extern void map_note_asked(MapChunk *chunk, BlockNumber blkno, uint32 nblocks);
extern void map_forget_asked(MapChunk *chunk);
extern bool map_asked_by_other(const MapChunk *chunk, uint32 *first, uint32 *end);
extern bool map_block_asked_by_other(const MapFork *fork, BlockNumber blkno);

/*
 * How many of the blocks that were remote at boot, and were not cut off since,
 * are here, and how many are not: of one fork, or of all.
 */
extern void map_count_fork_blocks(const MapFork *fork, uint64 *present, uint64 *absent);
extern void map_count_blocks(uint64 *present, uint64 *absent);

#endif							/* NEON_MAP_H */
