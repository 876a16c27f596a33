/*-------------------------------------------------------------------------
 *
 * mapgrow.c
 *	  The part of the map that grows: forks that were created since the start,
 *	  and chunks of blocks beyond the size that a fork had.
 *
 * Only with a limit of disk space, on a primary: so that what is new can be
 * dropped, too.  It lies in shared memory of its own, of which only as much is
 * really there as was used; forks and chunks that are given up are used again.
 * One lock protects it, under which nothing else is done.
 *
 * The chunks of a fork beyond those of the start are in extents: extent k has
 * 2^k of them, so 26 extents are enough for any fork, and a look-up is a few
 * instructions without a lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/mman.h>

#include "mapgrow.h"
#include "port/pg_bitutils.h"
#include "storage/lwlock.h"

#define GROWN_FORKS			(1U << 20)
#define GROWN_CHUNKS		(1U << 24)	/* 16 TB */
#define EXTENTS				26
#define BUCKETS				(1U << 16)

/* By number of the fork in the map; 0: there is no such extent. */
typedef struct Growth
{
	pg_atomic_uint32 extent[EXTENTS];	/* number of the first chunk */
} Growth;

typedef struct GrowShared
{
	pg_atomic_uint32 insertions;	/* raised when a fork is added */
	pg_atomic_uint32 nforks;	/* used so far; only rises */
	uint32		nchunks;		/* used so far; number 0 is nobody's */
	uint32		free_fork;		/* number + 1, or 0; linked by next */
	uint32		free_extent[EXTENTS];	/* number, or 0; linked by the first chunk's first word */
	uint32		bucket[BUCKETS];	/* number + 1, or 0; linked by next */
} GrowShared;

static GrowShared *grow = NULL;
static MapFork *forks = NULL;
static Growth *growth = NULL;
static MapChunk *chunks = NULL;
static LWLock *lock = NULL;
static uint64 first_number = 0; /* of the forks here, in the whole map */

bool
mapgrow_is_used(void)
{
	return grow != NULL;
}

/* In the postmaster.  FATAL if the address space cannot be had. */
void
mapgrow_startup(uint64 boot_forks, LWLock *grow_lock)
{
	Size		forks_offset = CACHELINEALIGN(sizeof(GrowShared));
	Size		chunks_offset = forks_offset + (Size) GROWN_FORKS * sizeof(MapFork);
	Size		growth_offset = chunks_offset + (Size) GROWN_CHUNKS * sizeof(MapChunk);
	Size		size = growth_offset + (boot_forks + GROWN_FORKS) * sizeof(Growth);
	char	   *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
							  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		ereport(FATAL,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not map %zu bytes of address space: %m", size),
				 errhint("A limit of local disk space (neon.local_size_limit) needs them, and uses few.")));
	grow = (GrowShared *) memory;
	forks = (MapFork *) (memory + forks_offset);
	chunks = (MapChunk *) (memory + chunks_offset);
	growth = (Growth *) (memory + growth_offset);
	lock = grow_lock;
	first_number = boot_forks;
	grow->nchunks = 1;
}

/* ----------
 * Forks
 * ----------
 */

uint32
mapgrow_nforks(void)
{
	return grow == NULL ? 0 : pg_atomic_read_u32(&grow->nforks);
}

MapFork *
mapgrow_fork_at(uint32 number)
{
	return &forks[number];
}

bool
mapgrow_has(const MapFork *fork)
{
	return grow != NULL && fork >= forks && fork < forks + GROWN_FORKS;
}

uint32
mapgrow_insertions(void)
{
	return pg_atomic_read_u32(&grow->insertions);
}

static uint32 *
bucket_of(RelFileNode rnode)
{
	uint32		hash = rnode.relNode * 2654435761U ^ rnode.dbNode * 40503U ^ rnode.spcNode;

	return &grow->bucket[hash >> 16];
}

static MapFork *
find(RelFileNode rnode, ForkNumber forknum)
{
	for (uint32 n = *bucket_of(rnode); n != 0; n = forks[n - 1].next)
	{
		MapFork    *fork = &forks[n - 1];

		if (fork->forknum == forknum && RelFileNodeEquals(fork->rnode, rnode))
			return fork;
	}
	return NULL;
}

MapFork *
mapgrow_find(RelFileNode rnode, ForkNumber forknum)
{
	MapFork    *fork;

	LWLockAcquire(lock, LW_SHARED);
	fork = find(rnode, forknum);
	LWLockRelease(lock);
	return fork;
}

/* A fork that is in no list; 0 if there are too many, else its number + 1. */
static uint32
take_fork(void)
{
	uint32		n = grow->free_fork;

	if (n != 0)
	{
		grow->free_fork = forks[n - 1].next;
		return n;
	}
	if (pg_atomic_read_u32(&grow->nforks) == GROWN_FORKS)
		return 0;
	return pg_atomic_fetch_add_u32(&grow->nforks, 1) + 1;
}

void
mapgrow_add(RelFileNode rnode, ForkNumber forknum)
{
	uint32		n;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	n = find(rnode, forknum) != NULL ? 0 : take_fork();
	if (n != 0)
	{
		MapFork    *fork = &forks[n - 1];

		pg_atomic_write_u32(&fork->watermark, 0);
		fork->rnode = rnode;
		fork->forknum = forknum;
		fork->boot_blocks = 0;
		pg_atomic_write_u32(&fork->file_state, MAP_FILE_DONE);
		pg_atomic_write_u32(&fork->local, 0);
		fork->first_chunk = n;	/* which locks it has */
		fork->next = *bucket_of(rnode);
		*bucket_of(rnode) = n;
		pg_write_barrier();
		pg_atomic_fetch_add_u32(&grow->insertions, 1);
	}
	LWLockRelease(lock);
}

/* The extents of a fork can be used by others. */
static void
release_extents(Growth *g)
{
	for (int k = 0; k < EXTENTS; k++)
	{
		uint32		first = pg_atomic_read_u32(&g->extent[k]);

		if (first == 0)
			continue;
		pg_atomic_write_u32(&g->extent[k], 0);
		pg_atomic_write_u64(&chunks[first].present[0], grow->free_extent[k]);
		grow->free_extent[k] = first;
	}
}

void
mapgrow_remove(MapFork *fork)
{
	uint32		n = fork - forks + 1;
	uint32	   *link;

	Assert(map_watermark(fork) == 0);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	link = bucket_of(fork->rnode);
	while (*link != 0 && *link != n)
		link = &forks[*link - 1].next;
	if (*link == n)
	{
		*link = fork->next;
		memset(&fork->rnode, 0, sizeof(fork->rnode));
		release_extents(&growth[first_number + n - 1]);
		fork->next = grow->free_fork;
		grow->free_fork = n;
	}
	LWLockRelease(lock);
}

/* ----------
 * Chunks
 * ----------
 */

static Growth *
growth_of(const MapFork *fork)
{
	return &growth[map_fork_number(fork)];
}

/* The extent that has the chunk, and the place of the chunk in it. */
static int
extent_of(uint64 chunk, uint64 *place)
{
	int			k = pg_leftmost_one_pos64(chunk + 1);

	*place = chunk + 1 - (UINT64CONST(1) << k);
	return k;
}

/* One that is nobody's, if the fork was removed in this moment. */
MapChunk *
mapgrow_chunk(const MapFork *fork, uint64 chunk)
{
	uint64		place;
	int			k = extent_of(chunk, &place);
	uint32		first = pg_atomic_read_u32(&growth_of(fork)->extent[k]);

	return first == 0 ? &chunks[0] : &chunks[first + place];
}

/* The number of the first chunk of an extent that is nobody's; 0 if there are too many. */
static uint32
take_extent(int k)
{
	uint32		first = grow->free_extent[k];
	uint32		n = 1U << k;

	if (first != 0)
		grow->free_extent[k] = (uint32) pg_atomic_read_u64(&chunks[first].present[0]);
	else if (n <= GROWN_CHUNKS - grow->nchunks)
	{
		first = grow->nchunks;
		grow->nchunks += n;
	}
	/* generations go on, so that nobody takes one of now for one of then */
	for (uint32 i = 0; first != 0 && i < n; i++)
	{
		MapChunk   *chunk = &chunks[first + i];

		for (int w = 0; w < lengthof(chunk->present); w++)
		{
			pg_atomic_write_u64(&chunk->present[w], 0);
			pg_atomic_write_u64(&chunk->changed[w], 0);
		}
		pg_atomic_write_u64(&chunk->dirty_lsn, 0);
		(void) pg_atomic_fetch_add_u32(&chunk->gen, 2);
		pg_atomic_write_u32(&chunk->asked, 0);
	}
	return first;
}

bool
mapgrow_reserve(const MapFork *fork, uint64 nchunks)
{
	Growth	   *g = growth_of(fork);
	uint64		place;
	int			last;
	bool		ok = true;

	if (nchunks == 0)
		return true;
	last = extent_of(nchunks - 1, &place);
	if (pg_atomic_read_u32(&g->extent[last]) != 0)
		return true;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int k = 0; ok && k <= last; k++)
	{
		if (pg_atomic_read_u32(&g->extent[k]) == 0)
		{
			uint32		first = take_extent(k);

			pg_write_barrier();
			pg_atomic_write_u32(&g->extent[k], first);
			ok = first != 0;
		}
	}
	LWLockRelease(lock);
	return ok;
}
