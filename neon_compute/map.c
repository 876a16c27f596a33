/*-------------------------------------------------------------------------
 *
 * map.c
 *	  The overlay map: a mapped file that is built once and lives one boot.
 *
 * pgdata/neon.map is made by the postmaster from pgdata/neon.relsizes, which
 * came with the base backup, and inherited by every child.  It lies outside
 * PostgreSQL's shared memory because its size is known only then and because
 * a page cache backed file costs no memory for what is never looked at.  All
 * its space is allocated when it is made: a full disk is an error at start
 * and no SIGBUS later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "localdisk.h"
#include "map.h"
#include "mapgrow.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "port/pg_bitutils.h"
#include "relsizes.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#define MAP_FILE_NAME		"neon.map"
#define MAP_MAGIC			"NEONMAP"
#define MAP_VERSION			1
#define MAP_LOCKS			256
#define MAP_LOCK_TRANCHE	"neon_map"

typedef struct MapHeader
{
	char		magic[8];
	uint32		version;
	uint32		pad;
	NeonId		tenant_id;
	NeonId		timeline_id;
	NeonId		boot_id;
	XLogRecPtr	boot_lsn;
	uint64		nforks;
	uint64		nchunks;
	uint64		forks_offset;
	uint64		chunks_offset;
	uint64		file_size;

	pg_atomic_uint64 missing_files;
	pg_atomic_uint64 clean_before;	/* see map_set_clean_before() */
	pg_atomic_uint32 hydrated;
} MapHeader;

/*
 * Backend-local, direct-mapped cache of lookups.  Entries stay true for ever,
 * but for what grows: an entry that is found there is looked at, and that none
 * was found is so until one is inserted.
 */
#define LOOKUP_SLOTS		1024

typedef struct LookupSlot
{
	RelFileNode rnode;
	bool		valid;
	uint32		insertions;		/* into the part that grows, if there is one */
	MapFork    *forks[MAX_FORKNUM + 1];
} LookupSlot;

static MapHeader *map = NULL;
static MapFork *map_forks = NULL;
static MapChunk *map_chunks = NULL;
static LWLockPadded *map_locks = NULL;
static LookupSlot lookup_cache[LOOKUP_SLOTS];

void
map_request_shmem(void)
{
	/* one more is for growing */
	RequestNamedLWLockTranche(MAP_LOCK_TRANCHE, MAP_LOCKS + 1);
}

/* ----------
 * Building
 * ----------
 */

/* Creates the file with all its space; returns its mapping. */
static void *
create_map_file(uint64 size)
{
	int			fd;
	int			rc;
	void	   *mapping;

	fd = BasicOpenFile(MAP_FILE_NAME, O_RDWR | O_CREAT | O_EXCL | PG_BINARY);
	if (fd < 0 && errno == EEXIST)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("data directory was used before"),
				 errdetail("File \"%s\" of an earlier start exists.", MAP_FILE_NAME),
				 errhint("Use \"neon endpoint start\".")));
	if (fd < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", MAP_FILE_NAME)));
	do
	{
		rc = posix_fallocate(fd, 0, (off_t) size);
	} while (rc == EINTR);
	if (rc != 0)
	{
		errno = rc;
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not allocate %llu bytes for file \"%s\": %m",
						(unsigned long long) size, MAP_FILE_NAME)));
	}
	mapping = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mapping == MAP_FAILED)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not map file \"%s\": %m", MAP_FILE_NAME)));
	if (close(fd) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", MAP_FILE_NAME)));
	return mapping;
}

static void
init_header(const RelSizes *sizes, uint64 nchunks)
{
	MapHeader	layout;

	memset(&layout, 0, sizeof(layout));
	strlcpy(layout.magic, MAP_MAGIC, sizeof(layout.magic));
	layout.version = MAP_VERSION;
	layout.tenant_id = neon_boot.tenant_id;
	layout.timeline_id = neon_boot.timeline_id;
	layout.boot_id = neon_boot.boot_id;
	layout.boot_lsn = neon_boot.boot_lsn;
	layout.nforks = sizes->nforks;
	layout.nchunks = nchunks;
	layout.forks_offset = CACHELINEALIGN(sizeof(MapHeader));
	layout.chunks_offset = CACHELINEALIGN(layout.forks_offset +
										  sizes->nforks * sizeof(MapFork));
	layout.file_size = layout.chunks_offset + nchunks * sizeof(MapChunk);

	map = create_map_file(layout.file_size);
	memcpy(map, &layout, sizeof(layout));
	map_forks = (MapFork *) ((char *) map + layout.forks_offset);
	map_chunks = (MapChunk *) ((char *) map + layout.chunks_offset);

	pg_atomic_init_u64(&map->missing_files, sizes->nforks);
	pg_atomic_init_u64(&map->clean_before, InvalidXLogRecPtr);
	pg_atomic_init_u32(&map->hydrated, 0);
}

static void
init_forks(const RelSizes *sizes)
{
	uint64		chunk = 0;

	for (uint64 i = 0; i < sizes->nforks; i++)
	{
		const RelSize *size = &sizes->forks[i];
		MapFork    *fork = &map_forks[i];

		fork->rnode.spcNode = size->spc;
		fork->rnode.dbNode = size->db;
		fork->rnode.relNode = size->rel;
		fork->forknum = (ForkNumber) size->fork;
		fork->boot_blocks = size->nblocks;
		pg_atomic_init_u32(&fork->watermark, size->nblocks);
		pg_atomic_init_u32(&fork->file_state, MAP_FILE_MISSING);
		pg_atomic_init_u32(&fork->local, 0);
		fork->next = 0;
		fork->first_chunk = chunk;
		chunk += map_fork_chunks(fork);
	}
}

/* The file's new blocks are zeros, which is what each field begins with. */
static void
init_chunks(uint64 nchunks)
{
	for (uint64 i = 0; i < nchunks; i++)
	{
		MapChunk   *chunk = &map_chunks[i];

		for (int w = 0; w < lengthof(chunk->present); w++)
		{
			pg_atomic_init_u64(&chunk->present[w], 0);
			pg_atomic_init_u64(&chunk->changed[w], 0);
		}
		pg_atomic_init_u64(&chunk->dirty_lsn, 0);
		pg_atomic_init_u32(&chunk->gen, 0);
		pg_atomic_init_u32(&chunk->asked, 0);
	}
}

/*
 * When shared memory is made again after a child crashed, the map stays as it
 * is: it says the truth about files that no crash of a process changes.
 */
void
map_startup(void)
{
	map_locks = GetNamedLWLockTranche(MAP_LOCK_TRANCHE);
	if (map == NULL)
	{
		RelSizes	sizes;
		uint64		nchunks = 0;

		relsizes_load(&sizes);
		for (uint64 i = 0; i < sizes.nforks; i++)
			nchunks += ((uint64) sizes.forks[i].nblocks + MAP_CHUNK_BLOCKS - 1) /
				MAP_CHUNK_BLOCKS;
		init_header(&sizes, nchunks);
		init_forks(&sizes);
		init_chunks(nchunks);
		relsizes_free(&sizes);
		if (disk_is_limited && neon_boot.kind == NEON_PRIMARY)
			mapgrow_startup(map->nforks, &map_locks[MAP_LOCKS].lock);
	}
}

/* ----------
 * Looking up
 * ----------
 */

bool
map_exists(void)
{
	return map != NULL;
}

uint64
map_nforks(void)
{
	return map == NULL ? 0 : map->nforks + mapgrow_nforks();
}

MapFork *
map_fork_at(uint64 number)
{
	Assert(number < map_nforks());
	return number < map->nforks ? &map_forks[number] : mapgrow_fork_at(number - map->nforks);
}

uint64
map_fork_number(const MapFork *fork)
{
	return mapgrow_has(fork) ? map->nforks + (fork - mapgrow_fork_at(0)) : fork - map_forks;
}

int
map_compare_rnode(const RelFileNode *a, const RelFileNode *b)
{
	if (a->spcNode != b->spcNode)
		return a->spcNode < b->spcNode ? -1 : 1;
	if (a->dbNode != b->dbNode)
		return a->dbNode < b->dbNode ? -1 : 1;
	if (a->relNode != b->relNode)
		return a->relNode < b->relNode ? -1 : 1;
	return 0;
}

/* Fills the slot by binary search; forks of a relation are neighbours. */
static void
fill_slot(LookupSlot *slot, RelFileNode rnode)
{
	uint64		low = 0;
	uint64		high = map->nforks;

	memset(slot, 0, sizeof(*slot));
	slot->rnode = rnode;
	slot->valid = true;
	if (mapgrow_is_used())
	{
		slot->insertions = mapgrow_insertions();
		pg_read_barrier();
		slot->forks[MAIN_FORKNUM] = mapgrow_find(rnode, MAIN_FORKNUM);
		slot->forks[VISIBILITYMAP_FORKNUM] = mapgrow_find(rnode, VISIBILITYMAP_FORKNUM);
	}
	while (low < high)
	{
		uint64		mid = low + (high - low) / 2;

		if (map_compare_rnode(&map_forks[mid].rnode, &rnode) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < map->nforks && RelFileNodeEquals(map_forks[low].rnode, rnode); low++)
		slot->forks[map_forks[low].forknum] = &map_forks[low];
}

static bool
slot_is_current(const LookupSlot *slot, ForkNumber forknum)
{
	const MapFork *fork = slot->forks[forknum];

	if (slot->insertions != mapgrow_insertions())
		return false;
	return fork == NULL || RelFileNodeEquals(fork->rnode, slot->rnode);
}

MapFork *
map_lookup(RelFileNode rnode, ForkNumber forknum)
{
	uint32		hash = rnode.relNode * 2654435761U ^ rnode.dbNode * 40503U ^ rnode.spcNode;
	LookupSlot *slot = &lookup_cache[(hash >> 7) % LOOKUP_SLOTS];

	if (unlikely(!slot->valid || !RelFileNodeEquals(slot->rnode, rnode) ||
				 (mapgrow_is_used() && !slot_is_current(slot, forknum))))
	{
		/* before the map exists there is nothing to remember */
		if (map == NULL)
			return NULL;
		fill_slot(slot, rnode);
	}
	return slot->forks[forknum];
}

MapChunk *
map_chunk(const MapFork *fork, BlockNumber blkno)
{
	uint64		chunk = blkno / MAP_CHUNK_BLOCKS;

	if (likely(chunk < map_fork_chunks(fork)))
		return &map_chunks[fork->first_chunk + chunk];
	return mapgrow_chunk(fork, chunk - map_fork_chunks(fork));
}

/* ----------
 * Changing
 * ----------
 */

LWLock *
map_chunk_lock(const MapFork *fork, BlockNumber blkno)
{
	return &map_locks[(fork->first_chunk + blkno / MAP_CHUNK_BLOCKS) % MAP_LOCKS].lock;
}

LWLock *
map_file_lock(const MapFork *fork)
{
	return &map_locks[map_fork_number(fork) % MAP_LOCKS].lock;
}

void
map_set_present(MapChunk *chunk, BlockNumber blkno)
{
	uint32		bit = blkno % MAP_CHUNK_BLOCKS;

	(void) pg_atomic_fetch_or_u64(&chunk->present[bit / 64], UINT64CONST(1) << (bit % 64));
}

void
map_set_present_word(MapChunk *chunk, int word, uint64 bits)
{
	if (bits != 0)
		(void) pg_atomic_fetch_or_u64(&chunk->present[word], bits);
}

/* The block counts as changed.  After dirty_lsn was raised, see forget_changed(). */
static void
note_changed(MapChunk *chunk, BlockNumber blkno)
{
	pg_atomic_uint64 *word = &chunk->changed[blkno % MAP_CHUNK_BLOCKS / 64];
	uint64		bit = UINT64CONST(1) << (blkno % 64);

	pg_memory_barrier();
	if (!(pg_atomic_read_u64(word) & bit) && !NEON_TEST_BUG("no_changed"))
		(void) pg_atomic_fetch_or_u64(word, bit);
}

void
map_note_write(MapChunk *chunk, BlockNumber blkno, XLogRecPtr changed)
{
	uint64		lsn = RecoveryInProgress() ? PG_UINT64_MAX :
		changed != InvalidXLogRecPtr ? changed : GetXLogInsertRecPtr();
	uint64		old = pg_atomic_read_u64(&chunk->dirty_lsn);

	while (old < lsn &&
		   !pg_atomic_compare_exchange_u64(&chunk->dirty_lsn, &old, lsn))
		;
	if (lsn >= pg_atomic_read_u64(&map->clean_before))
		note_changed(chunk, blkno);
	/* whoever drops the block sees this, or we see that it is being dropped */
	pg_memory_barrier();
}

void
map_set_clean_before(XLogRecPtr lsn)
{
	uint64		old = map == NULL ? PG_UINT64_MAX : pg_atomic_read_u64(&map->clean_before);

	while (old < lsn &&
		   !pg_atomic_compare_exchange_u64(&map->clean_before, &old, lsn))
		;
}

/* ----------
 * Dropping
 * ----------
 */

void
map_wait_dropped(const MapFork *fork, BlockNumber blkno)
{
	LWLock	   *lock = map_chunk_lock(fork, blkno);

	LWLockAcquire(lock, LW_SHARED);
	LWLockRelease(lock);
}

/* The bits of a chunk's word that are below the watermark. */
static uint64
present_word(const MapChunk *chunk, int word, uint64 nblocks)
{
	uint64		bits = pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &chunk->present[word]));
	uint64		first = (uint64) word * 64;

	if (nblocks <= first)
		return 0;
	if (nblocks - first < 64)
		bits &= (UINT64CONST(1) << (nblocks - first)) - 1;
	return bits;
}

/* Blocks of the chunk below the watermark. */
static uint32
mapped_blocks(const MapFork *fork, BlockNumber start)
{
	BlockNumber watermark = map_watermark(fork);

	return watermark <= start ? 0 : Min(watermark - start, MAP_CHUNK_BLOCKS);
}

/*
 * Those of the chunk's first nblocks that may be dropped, or *all, as those of a
 * chunk that was never written; returns their number.
 */
static uint32
droppable(MapChunk *chunk, uint32 nblocks, XLogRecPtr clean_before, uint64 *words, bool *all)
{
	uint64		dirty_lsn = pg_atomic_read_u64(&chunk->dirty_lsn);
	uint32		n = 0;

	*all = dirty_lsn == 0 || dirty_lsn < clean_before;
	for (int w = 0; w < lengthof(chunk->present); w++)
	{
		words[w] = present_word(chunk, w, nblocks);
		if (!*all)
			words[w] &= ~pg_atomic_read_u64(&chunk->changed[w]);
		n += pg_popcount64(words[w]);
	}
	return n;
}

uint32
map_chunk_droppable(const MapFork *fork, BlockNumber start, XLogRecPtr clean_before)
{
	uint64		words[MAP_CHUNK_BLOCKS / 64];
	bool		all;

	return droppable(map_chunk(fork, start), mapped_blocks(fork, start), clean_before, words, &all);
}

/*
 * Bits of changed blocks are taken away if all of them were changed before
 * clean_before.  Who writes raises dirty_lsn first, then sets the bit: if his
 * was taken away, too, the LSN is seen here.  The caller holds the chunk lock.
 */
static void
forget_changed(MapChunk *chunk, RelFileNode rnode, XLogRecPtr clean_before)
{
	if (pg_atomic_read_u64(&chunk->dirty_lsn) >= clean_before)
		return;
	MAP_TEST_POINT(rnode, "forget_changed");
	for (int w = 0; w < lengthof(chunk->changed); w++)
		pg_atomic_write_u64(&chunk->changed[w], 0);
	pg_memory_barrier();
	if (pg_atomic_read_u64(&chunk->dirty_lsn) < clean_before || NEON_TEST_BUG("forget_once"))
		return;
	for (int w = 0; w < lengthof(chunk->changed); w++)
		pg_atomic_write_u64(&chunk->changed[w], PG_UINT64_MAX);
}

/* Is it still that relation's?  The caller holds the chunk lock. */
static bool
is_chunk_of(const MapFork *fork, RelFileNode rnode, BlockNumber start)
{
	return mapped_blocks(fork, start) > 0 && RelFileNodeEquals(fork->rnode, rnode);
}

void
map_forget_changed(const MapFork *fork, RelFileNode rnode, BlockNumber start, XLogRecPtr clean_before)
{
	LWLock	   *lock = map_chunk_lock(fork, start);
	const MapChunk *chunk = map_chunk(fork, start);

	if ((pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &chunk->changed[0])) |
		 pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &chunk->changed[1]))) == 0 ||
		pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &chunk->dirty_lsn)) >= clean_before)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (is_chunk_of(fork, rnode, start))
		forget_changed(map_chunk(fork, start), rnode, clean_before);
	LWLockRelease(lock);
}

/* Has each run of these blocks of the chunk given back. */
static void
free_runs(BlockNumber start, const uint64 *words, const MapDropper *dropper)
{
	uint32		n = 0;

	for (uint32 i = 0; i <= MAP_CHUNK_BLOCKS; i++)
	{
		if (i < MAP_CHUNK_BLOCKS && (words[i / 64] >> (i % 64)) & 1)
			n++;
		else if (n > 0)
		{
			dropper->free_space(dropper->arg, start + i - n, n);
			n = 0;
		}
	}
}

uint32
map_drop_chunk(const MapFork *fork, RelFileNode rnode, BlockNumber start, XLogRecPtr clean_before,
			   const MapDropper *dropper)
{
	LWLock	   *lock = map_chunk_lock(fork, start);
	uint64		words[MAP_CHUNK_BLOCKS / 64];
	MapChunk   *chunk;
	uint32		nblocks;
	uint32		dropped;
	bool		all;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (!is_chunk_of(fork, rnode, start))
	{
		LWLockRelease(lock);
		return 0;
	}
	chunk = map_chunk(fork, start);
	/* odd, before dirty_lsn and changed are looked at: a barrier on both sides */
	(void) pg_atomic_fetch_add_u32(&chunk->gen, 1);
	/* once: it may rise meanwhile */
	nblocks = mapped_blocks(fork, start);
	dropped = droppable(chunk, nblocks, clean_before, words, &all);
	/* as late: what is written after this look sees the generation, and is written again */
	if ((all || dropped > 0) && dropper->must_stay(dropper->arg))
		dropped = 0;
	else if (all || dropped > 0)
	{
		MAP_TEST_POINT(rnode, "drop_decided");
		for (int w = 0; w < lengthof(chunk->present); w++)
			(void) pg_atomic_fetch_and_u64(&chunk->present[w], ~words[w]);
		if (all)
			dropper->free_space(dropper->arg, start, nblocks);
		else
			free_runs(start, words, dropper);
		forget_changed(chunk, rnode, clean_before);
	}
	(void) pg_atomic_fetch_add_u32(&chunk->gen, 1);
	LWLockRelease(lock);
	return dropped;
}

/* ----------
 * Cutting
 * ----------
 */

void
map_lower_watermark(MapFork *fork, BlockNumber nblocks)
{
	uint32		old = map_watermark(fork);
	uint64		nlocks;

	do
	{
		if (old <= nblocks)
			return;
	} while (!pg_atomic_compare_exchange_u32(&fork->watermark, &old, nblocks));

	if (NEON_TEST_BUG("no_pass"))
		return;
	/* chunks that follow each other have different locks */
	nlocks = (uint64) (old - 1) / MAP_CHUNK_BLOCKS - nblocks / MAP_CHUNK_BLOCKS + 1;
	nlocks = Min(nlocks, MAP_LOCKS);
	for (uint64 i = 0; i < nlocks; i++)
	{
		LWLock	   *lock = map_chunk_lock(fork, nblocks + i * MAP_CHUNK_BLOCKS);

		LWLockAcquire(lock, LW_EXCLUSIVE);
		LWLockRelease(lock);
	}
}

/* ----------
 * Growing
 * ----------
 */

static void
set_local(MapFork *fork)
{
	pg_atomic_write_u32(&fork->local, 1);
	map_lower_watermark(fork, 0);
}

/*
 * Whether a relation is unlogged is not known before its init fork is made;
 * until then its creator's transaction runs, so nothing of it is dropped.
 */
void
map_fork_created(RelFileNode rnode, ForkNumber forknum)
{
	MapFork    *main;
	MapFork    *vm;

	if (!mapgrow_is_used())
		return;
	main = map_lookup(rnode, MAIN_FORKNUM);
	vm = map_lookup(rnode, VISIBILITYMAP_FORKNUM);
	switch (forknum)
	{
		case MAIN_FORKNUM:
			if (main == NULL)
				mapgrow_add(rnode, forknum);
			else
				pg_atomic_write_u32(&main->local, 0);
			break;
		case VISIBILITYMAP_FORKNUM:
			if (vm == NULL && main != NULL && pg_atomic_read_u32(&main->local) == 0)
				mapgrow_add(rnode, forknum);
			break;
		case INIT_FORKNUM:
			if (NEON_TEST_BUG("local_only"))
				break;
			if (main != NULL)
				set_local(main);
			if (vm != NULL)
				set_local(vm);
			break;
		default:
			break;
	}
}

void
map_fork_removed(MapFork *fork)
{
	if (mapgrow_has(fork))
		mapgrow_remove(fork);
}

/* Sets the bits of all blocks from the first to the last one. */
static void
set_present_range(MapFork *fork, BlockNumber first, BlockNumber last)
{
	for (BlockNumber blkno = first; blkno <= last;)
	{
		LWLock	   *lock = map_chunk_lock(fork, blkno);
		MapChunk   *chunk = map_chunk(fork, blkno);
		BlockNumber end = Min(last, blkno / MAP_CHUNK_BLOCKS * MAP_CHUNK_BLOCKS + MAP_CHUNK_BLOCKS - 1);

		for (BlockNumber b = blkno; b <= end; b++)
			map_note_write(chunk, b, InvalidXLogRecPtr);
		LWLockAcquire(lock, LW_EXCLUSIVE);
		for (; blkno <= end; blkno++)
			map_set_present(chunk, blkno);
		LWLockRelease(lock);
	}
}

static void
raise_watermark(MapFork *fork, BlockNumber nblocks)
{
	uint32		old = map_watermark(fork);

	while (old < nblocks &&
		   !pg_atomic_compare_exchange_u32(&fork->watermark, &old, nblocks))
		;
}

/*
 * Blocks between the watermark and this one are holes, which are read as zeros
 * here, too.  Their bits, and dirty_lsn, are right before the watermark is
 * raised: whoever drops the chunk before that does not touch them, and whoever
 * does after that sees when they were written.
 */
void
map_extended(MapFork *fork, BlockNumber blkno)
{
	uint64		chunks = (uint64) blkno / MAP_CHUNK_BLOCKS + 1;
	uint32		old = map_watermark(fork);

	if (!mapgrow_is_used() || blkno < old || pg_atomic_read_u32(&fork->local) != 0)
		return;
	if (chunks > map_fork_chunks(fork) &&
		!mapgrow_reserve(fork, chunks - map_fork_chunks(fork)))
		return;
	if (NEON_TEST_BUG("watermark_first"))
		raise_watermark(fork, blkno + 1);
	else
		set_present_range(fork, old, blkno);
	MAP_TEST_POINT(fork->rnode, "map_extends");
	if (NEON_TEST_BUG("watermark_first"))
		set_present_range(fork, old, blkno);
	raise_watermark(fork, blkno + 1);
}

void
map_file_done(MapFork *fork)
{
	Assert(pg_atomic_read_u32(&fork->file_state) == MAP_FILE_MISSING);
	pg_write_barrier();
	pg_atomic_write_u32(&fork->file_state, MAP_FILE_DONE);
	(void) pg_atomic_fetch_sub_u64(&map->missing_files, 1);
}

uint64
map_missing_files(void)
{
	return map == NULL ? 0 : pg_atomic_read_u64(&map->missing_files);
}

bool
map_is_hydrated(void)
{
	return map != NULL && pg_atomic_read_u32(&map->hydrated) != 0;
}

void
map_set_hydrated(void)
{
	pg_atomic_write_u32(&map->hydrated, 1);
}

/*
 * Who asked for many of a chunk's blocks: the process (16 bits), the first
 * block (7), how many (2: 16, 32, 64, 128), when (7, in units of 8 ms).  It is
 * of no harm that the first and the last repeat.
 */
#define ASKED_CLOCK_US		8192
#define ASKED_CLOCK_MASK	0x7F
#define ASKED_MOMENT		25	/* 200 ms */
#define ASKED_LEAST			16

static uint32
asked_clock(void)
{
	return (uint32) (neon_clock() / ASKED_CLOCK_US) & ASKED_CLOCK_MASK;
}

static uint32
asked_process(void)
{
	return (uint32) MyProcPid << 16;
}

void
map_note_asked(MapChunk *chunk, BlockNumber blkno, uint32 nblocks)
{
	uint32		first = blkno % MAP_CHUNK_BLOCKS;
	uint32		size = 0;

	if (nblocks < ASKED_LEAST)
		return;
	while (size < 3 && (ASKED_LEAST << size) < nblocks)
		size++;
	pg_atomic_write_u32(&chunk->asked,
						asked_process() | first << 9 | size << 7 | asked_clock());
}

void
map_forget_asked(MapChunk *chunk)
{
	uint32		asked = pg_atomic_read_u32(&chunk->asked);

	if (asked != 0 && (asked & 0xFFFF0000) == asked_process())
		(void) pg_atomic_compare_exchange_u32(&chunk->asked, &asked, 0);
}

bool
map_asked_by_other(const MapChunk *chunk, uint32 *first, uint32 *end)
{
	uint32		asked = pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &chunk->asked));

	if (asked == 0 || (asked & 0xFFFF0000) == asked_process() ||
		((asked_clock() - asked) & ASKED_CLOCK_MASK) > ASKED_MOMENT)
		return false;
	*first = asked >> 9 & (MAP_CHUNK_BLOCKS - 1);
	*end = Min(*first + (ASKED_LEAST << (asked >> 7 & 3)), MAP_CHUNK_BLOCKS);
	return true;
}

bool
map_block_asked_by_other(const MapFork *fork, BlockNumber blkno)
{
	uint32		place = blkno % MAP_CHUNK_BLOCKS;
	uint32		first;
	uint32		end;

	return map_asked_by_other(map_chunk(fork, blkno), &first, &end) &&
		place >= first && place < end;
}

/* ----------
 * Counting
 * ----------
 */

/* Bits at or beyond the watermark say nothing. */
void
map_count_fork_blocks(const MapFork *fork, uint64 *present, uint64 *absent)
{
	BlockNumber watermark = map_watermark(fork);
	uint64		n = 0;

	for (uint64 start = 0; start < watermark; start += 64)
	{
		MapChunk   *chunk = map_chunk(fork, start);
		uint64		word = pg_atomic_read_u64(&chunk->present[(start % MAP_CHUNK_BLOCKS) / 64]);

		if (watermark - start < 64)
			word &= (UINT64CONST(1) << (watermark - start)) - 1;
		n += pg_popcount64(word);
	}
	*present = n;
	*absent = watermark - n;
}

void
map_count_blocks(uint64 *present, uint64 *absent)
{
	*present = *absent = 0;
	for (uint64 i = 0; i < map_nforks(); i++)
	{
		uint64		here;
		uint64		not_here;

		map_count_fork_blocks(map_fork_at(i), &here, &not_here);
		*present += here;
		*absent += not_here;
	}
}
