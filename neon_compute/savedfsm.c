/*-------------------------------------------------------------------------
 *
 * savedfsm.c
 *	  Free space maps from one life of a compute to the next.
 *
 * Of each map only what its leaf pages say is saved: a byte for each block of
 * the relation, packed.  At the next start the bytes lie in memory that all
 * processes share, and a relation's map is made from them when somebody first
 * asks whether it has one.  So a start costs nothing for relations that nobody
 * touches.  What is true of a relation that changed meanwhile is a matter of
 * its size only: a map is a hint, and whoever follows it looks at the page.
 *
 * Saving reads files and, for pages that are there, shared buffers, without
 * the locks of relations: a page that changes meanwhile is as good a hint.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_tablespace_d.h"
#include "common/pg_lzcompress.h"
#include "common/relpath.h"
#include "map.h"
#include "neon_clock.h"
#include "neon_durable.h"
#include "saved.h"
#include "savedfsm_private.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "storage/fsm_internals.h"
#include "storage/lwlock.h"

#define FSM_LOCK_TRANCHE	"neon_saved_fsm"

/* What was restored: made in the postmaster, inherited, and shared. */
static struct
{
	uint32		n;
	const FsmEntry *entries;	/* in order */
	pg_atomic_uint32 *done;		/* put back, or given up */
	const char *packed;			/* entries point into it */
	LWLock	   *lock;			/* held while a map's file is made */
}			restored;

static uint32
leaves_for(BlockNumber nblocks)
{
	return nblocks / SlotsPerFSMPage + (nblocks % SlotsPerFSMPage != 0);
}

/* ---- at the start ---- */

void
savedfsm_request_shmem(void)
{
	RequestNamedLWLockTranche(FSM_LOCK_TRANCHE, 1);
}

void
savedfsm_shmem_startup(void)
{
	restored.lock = &GetNamedLWLockTranche(FSM_LOCK_TRANCHE)->lock;
}

static bool
entries_are_valid(const FsmEntry *entries, uint32 n, uint64 packed_len)
{
	for (uint32 i = 0; i < n; i++)
	{
		const FsmEntry *e = &entries[i];

		if (e->nblocks == 0 || e->nblocks > MaxBlockNumber ||
			e->offset > packed_len || e->len > packed_len - e->offset ||
			(i > 0 && fsm_compare_entries(e - 1, e) >= 0))
			return false;
	}
	return true;
}

bool
savedfsm_restore(const char *body, uint32 len)
{
	uint32		n;
	uint64		entries_end;
	char	   *shared;

	if (len < sizeof(n))
		return false;
	memcpy(&n, body, sizeof(n));
	entries_end = sizeof(n) + (uint64) n * sizeof(FsmEntry);
	if (n == 0 || entries_end > len)
		return false;
	/* flags first: what follows needs no more than their alignment */
	shared = mmap(NULL, n * sizeof(pg_atomic_uint32) + len, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
	{
		ereport(LOG,
				(errmsg("could not allocate memory for the free space maps of the last life: %m")));
		return false;
	}
	memcpy(shared + n * sizeof(pg_atomic_uint32), body, len);
	restored.done = (pg_atomic_uint32 *) shared;
	shared += n * sizeof(pg_atomic_uint32);
	if (!entries_are_valid((FsmEntry *) (shared + sizeof(n)), n, len - entries_end))
	{
		ereport(LOG,
				(errmsg("saved free space maps of the last life are not used: they are damaged")));
		(void) munmap(restored.done, n * sizeof(pg_atomic_uint32) + len);
		return false;
	}
	for (uint32 i = 0; i < n; i++)
		pg_atomic_init_u32(&restored.done[i], 0);
	restored.entries = (FsmEntry *) (shared + sizeof(n));
	restored.packed = shared + entries_end;
	restored.n = n;
	return true;
}

/* ---- putting a map back ---- */

/* A map's file while it is made. */
typedef struct MapFile
{
	int			fd;
	const char *p;				/* packed leaves */
	const char *end;
	PGAlignedBlock middle;
	PGAlignedBlock root;
} MapFile;

static bool
write_page(MapFile *file, Page page, BlockNumber blk)
{
	PageSetChecksumInplace(page, blk);
	return durable_pwrite(file->fd, page, BLCKSZ, (off_t) blk * BLCKSZ);
}

/* The next leaf's bytes into slots[SlotsPerFSMPage]; false if they are damaged. */
static bool
take_leaf(MapFile *file, uint8 *slots, bool *empty)
{
	uint16		len;

	memset(slots, 0, SlotsPerFSMPage);
	errno = 0;
	if (file->end - file->p < (ptrdiff_t) sizeof(len))
		return false;
	memcpy(&len, file->p, sizeof(len));
	file->p += sizeof(len);
	*empty = len == 0;
	if (len > SlotsPerFSMPage || file->end - file->p < len)
		return false;
	if (len == SlotsPerFSMPage)
		memcpy(slots, file->p, len);
	else if (len > 0 &&
			 pglz_decompress(file->p, len, (char *) slots, SlotsPerFSMPage, true) != SlotsPerFSMPage)
		return false;
	file->p += len;
	return true;
}

/* Leaves that say nothing stay holes, which are read as empty pages. */
static bool
write_leaf(MapFile *file, uint32 leaf, const uint8 *slots, uint32 nslots)
{
	PGAlignedBlock page;
	FSMPage		fsm = (FSMPage) PageGetContents(page.data);

	PageInit(page.data, BLCKSZ, 0);
	memcpy(fsm->fp_nodes + NonLeafNodesPerPage, slots, nslots);
	(void) fsm_rebuild_page(page.data);
	(void) fsm_set_avail(file->middle.data, leaf % SlotsPerFSMPage, fsm_get_max_avail(page.data));
	return write_page(file, page.data, fsm_leaf_block(leaf));
}

static bool
write_middle(MapFile *file, uint32 middle)
{
	(void) fsm_set_avail(file->root.data, middle, fsm_get_max_avail(file->middle.data));
	if (!write_page(file, file->middle.data, fsm_middle_block(middle)))
		return false;
	PageInit(file->middle.data, BLCKSZ, 0);
	return true;
}

/* errno is 0 if the packed bytes are damaged. */
static bool
write_map(MapFile *file, BlockNumber nblocks)
{
	uint32		nleaves = leaves_for(nblocks);
	uint8		slots[SlotsPerFSMPage];
	bool		empty;

	PageInit(file->root.data, BLCKSZ, 0);
	PageInit(file->middle.data, BLCKSZ, 0);
	if (ftruncate(file->fd, (off_t) (fsm_leaf_block(nleaves - 1) + 1) * BLCKSZ) != 0)
		return false;
	for (uint32 leaf = 0; leaf < nleaves; leaf++)
	{
		if (!take_leaf(file, slots, &empty))
			return false;
		if (!empty && !write_leaf(file, leaf, slots, Min(SlotsPerFSMPage, nblocks - leaf * SlotsPerFSMPage)))
			return false;
		if ((leaf + 1 == nleaves || (leaf + 1) % SlotsPerFSMPage == 0) &&
			!write_middle(file, leaf / SlotsPerFSMPage))
			return false;
	}
	return write_page(file, file->root.data, 0);
}

/* A map that was not made; why is an errno, or 0. */
static void
take_back(const char *path, int why)
{
	(void) unlink(path);
	if (why == 0)
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("saved free space map \"%s\" is damaged and not used", path)));
	else
	{
		errno = why;
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	}
}

/* The lock is held.  If it fails there is no file, as if nothing had been saved. */
static void
make_file(const FsmEntry *entry, BlockNumber nblocks)
{
	char	   *path = relpathperm(entry->rnode, FSM_FORKNUM);
	MapFile		file;

	file.p = restored.packed + entry->offset;
	file.end = file.p + entry->len;
	file.fd = BasicOpenFile(path, O_WRONLY | O_CREAT | O_EXCL | PG_BINARY);
	if (file.fd >= 0)
	{
		bool		made = write_map(&file, nblocks);
		int			why = errno;

		if (close(file.fd) != 0 && made)
		{
			made = false;
			why = errno;
		}
		if (!made)
			take_back(path, why);
	}
	pfree(path);
}

static int
find_entry(const RelFileNode *rnode)
{
	uint32		low = 0;
	uint32		high = restored.n;

	while (low < high)
	{
		uint32		mid = low + (high - low) / 2;
		int			order = memcmp(&restored.entries[mid].rnode, rnode, sizeof(RelFileNode));

		if (order == 0)
			return mid;
		if (order < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return -1;
}

/* Blocks of the relation that it had at the boot LSN, and has not lost since. */
static BlockNumber
known_blocks(const FsmEntry *entry)
{
	MapFork    *fork = map_lookup(entry->rnode, MAIN_FORKNUM);

	return fork == NULL ? 0 : Min(map_watermark(fork), entry->nblocks);
}

void
savedfsm_put_back(RelFileNode rnode)
{
	int			i = find_entry(&rnode);

	if (i < 0 || pg_atomic_read_u32(&restored.done[i]) != 0)
		return;
	LWLockAcquire(restored.lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&restored.done[i]) == 0)
	{
		BlockNumber nblocks = known_blocks(&restored.entries[i]);

		if (nblocks > 0)
			make_file(&restored.entries[i], nblocks);
		pg_atomic_write_u32(&restored.done[i], 1);
	}
	LWLockRelease(restored.lock);
}

/* ---- what nobody has touched ---- */

void
savedfsm_add_untouched(FsmCollector *col)
{
	for (uint32 i = 0; i < restored.n; i++)
	{
		const FsmEntry *e = &restored.entries[i];

		if (pg_atomic_read_u32(&restored.done[i]) == 0 && known_blocks(e) > 0)
			fsm_add(col, e->rnode, e->nblocks, restored.packed + e->offset, e->len);
	}
}
