/*-------------------------------------------------------------------------
 *
 * smgr.c
 *	  The storage manager below the buffer manager of a compute.
 *
 * Everything is md.c's work, on ordinary files.  For blocks that were in the
 * database at the boot LSN and are not in the files yet, the functions here
 * fetch first, or see to it that nobody fetches over what is written.  The
 * rules by which they do this are in README.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "catalog/pg_largeobject.h"
#include "coordinator.h"
#include "diskhold.h"
#include "files.h"
#include "hydrate.h"
#include "hydration.h"
#include "kept.h"
#include "localstat.h"
#include "map.h"
#include "miscadmin.h"
#include "neon.h"
#include "neon_testpoint.h"
#include "pace.h"
#include "redial.h"
#include "reference.h"
#include "saved.h"
#include "smgr.h"
#include "storage/bufpage.h"
#include "stream.h"
#include "utils/rel.h"

volatile bool *smgr_reached = NULL;

/* In the self-test: notes that the slot was reached, and that is all. */
static inline bool
self_test_reaches(SmgrSlot slot)
{
	if (likely(smgr_reached == NULL))
		return false;
	smgr_reached[slot] = true;
	return true;
}

/* The map's entry for a fork, with its files; NULL if it is local. */
static MapFork *
mapped_fork(SMgrRelation reln, ForkNumber forknum)
{
	MapFork    *fork;

	if (SmgrIsTemp(reln))
		return NULL;
	fork = map_lookup(reln->smgr_rnode.node, forknum);
	if (fork)
		files_ensure(fork);
	return fork;
}

/* ----------
 * Blocks
 * ----------
 */

/*
 * Is this a catalog?  VACUUM FULL and REINDEX give those file numbers like
 * others', then the relation cache's entry tells, which who opens a relation
 * makes the owner of what he reads by.  Large objects are data.
 */
static bool
is_catalog(SMgrRelation reln)
{
	Oid			relid = reln->smgr_rnode.node.relNode;

	if (relid >= FirstNormalObjectId && reln->smgr_owner != NULL)
		relid = ((const RelationData *) ((char *) reln->smgr_owner - offsetof(RelationData, rd_smgr)))->rd_id;
	return relid < FirstNormalObjectId && relid != LargeObjectRelationId &&
		relid != LargeObjectLOidPNIndexId;
}

/*
 * A present block stays present until its chunk is dropped, which raises the
 * chunk's generation: if that is still the same after the read, and even, what
 * was read was there.
 */
static void
neon_read(SMgrRelation reln, ForkNumber forknum, BlockNumber blkno, char *buffer)
{
	MapFork    *fork;
	MapChunk   *chunk;
	bool		missed = false;

	if (self_test_reaches(SLOT_READ))
		return;
	if (!SmgrIsTemp(reln) && !is_catalog(reln))
		neon_throttle_read();
	fork = mapped_fork(reln, forknum);
	if (fork == NULL || blkno >= map_watermark(fork))
	{
		mdread(reln, forknum, blkno, buffer);
		if (!SmgrIsTemp(reln))
			local_count(LOCAL_HITS, 1);
		return;
	}

	if (!is_catalog(reln))
		disk_make_room_for_vacuum(buffer);
	chunk = map_chunk(fork, blkno);
	for (;;)
	{
		uint32		gen = map_generation(chunk);

		pg_read_barrier();
		if (unlikely(map_being_dropped(gen)))
		{
			map_wait_dropped(fork, blkno);
			continue;
		}
		map_note_used(chunk);
		if (map_absent(fork, chunk, blkno))
		{
			/* the catalogs are small, and who looks for what hinders others needs them */
			if (!is_catalog(reln))
				disk_make_room(buffer);
			if (hydrate_block(fork, blkno) && !missed)
				local_count(LOCAL_READ_AHEAD_HITS, 1);
			missed = true;
			continue;
		}
		MAP_TEST_POINT(fork->rnode, "read_present");
		mdread(reln, forknum, blkno, buffer);
		pg_read_barrier();
		if (map_generation(chunk) == gen || NEON_TEST_BUG("read_once"))
			break;
	}
	local_count(missed ? LOCAL_MISSES : LOCAL_HITS, 1);
}

/*
 * Writing, or extending by, a block that may be absent.  The lock keeps out a
 * hydrator, which would put the old version over the new one; the bit is set
 * after the data is there.
 */
static void
write_absent_block(SMgrRelation reln, MapFork *fork, BlockNumber blkno, char *buffer,
				   bool skip_fsync,
				   void (*md_write) (SMgrRelation, ForkNumber, BlockNumber, char *, bool))
{
	LWLock	   *lock = map_chunk_lock(fork, blkno);

	if (!NEON_TEST_BUG("no_write_lock"))
		LWLockAcquire(lock, LW_EXCLUSIVE);
	md_write(reln, fork->forknum, blkno, buffer, skip_fsync);
	map_set_present(map_chunk(fork, blkno), blkno);
	if (!NEON_TEST_BUG("no_write_lock"))
		LWLockRelease(lock);
	disk_note_allocated(BLCKSZ);
}

/* After a write, in which only a broken rule has something left to do. */
static void
write_is_done(const MapFork *fork, MapChunk *chunk, BlockNumber blkno)
{
	MAP_TEST_POINT(fork->rnode, "write_done");
	if (NEON_TEST_BUG("late_dirty"))
		map_note_write(chunk, blkno, InvalidXLogRecPtr);
}

/*
 * Of a page of a table: its LSN, as all that was changed since are hints, which
 * may be lost.  So who only reads makes nothing that could not be dropped.  The
 * bit for "all visible" comes without an LSN, but is no hint; pages of indexes and
 * sequences have more of that kind, and a special area by which they are known.
 */
static XLogRecPtr
last_change(const MapFork *fork, Page page)
{
	if (fork->forknum != MAIN_FORKNUM || PageIsNew(page) ||
		((PageHeader) page)->pd_special != BLCKSZ ||
		(PageIsAllVisible(page) && !NEON_TEST_BUG("visible_is_hint")) ||
		PageGetLSN(page) < wal_segment_size || NEON_TEST_BUG("hints_count"))
		return InvalidXLogRecPtr;
	return PageGetLSN(page);
}

/*
 * A present block needs no lock.  A hydrator that has not seen its bit yet
 * will, under the lock, and leave the block alone.  If the chunk was dropped
 * meanwhile, the page may have been written to a place that was made a hole:
 * the caller holds the page locked, so it is simply written again.
 */
static void
neon_write(SMgrRelation reln, ForkNumber forknum, BlockNumber blkno, char *buffer,
		   bool skip_fsync)
{
	MapFork    *fork;
	MapChunk   *chunk;
	uint32		gen;

	if (self_test_reaches(SLOT_WRITE))
		return;
	fork = mapped_fork(reln, forknum);
	if (fork == NULL || blkno >= map_watermark(fork))
	{
		mdwrite(reln, forknum, blkno, buffer, skip_fsync);
		return;
	}
	chunk = map_chunk(fork, blkno);
	if (!NEON_TEST_BUG("late_dirty"))
		map_note_write(chunk, blkno, last_change(fork, buffer));
	gen = map_generation(chunk);
	pg_read_barrier();
	if ((!map_being_dropped(gen) || NEON_TEST_BUG("write_once")) &&
		!map_absent(fork, chunk, blkno))
	{
		MAP_TEST_POINT(fork->rnode, "write_present");
		mdwrite(reln, forknum, blkno, buffer, skip_fsync);
		pg_memory_barrier();
		if (likely(map_generation(chunk) == gen) || NEON_TEST_BUG("write_once"))
		{
			write_is_done(fork, chunk, blkno);
			return;
		}
	}
	disk_pause_writer();
	write_absent_block(reln, fork, blkno, buffer, skip_fsync, mdwrite);
	write_is_done(fork, chunk, blkno);
}

/*
 * Bytes that this takes.  Whoever extends by an empty page beyond the end, as
 * CREATE DATABASE does, is about to write what lies between, as blocks that are
 * here already; a hash index fills what it skips over time.
 */
static uint64
growth(SMgrRelation reln, ForkNumber forknum, BlockNumber blkno, Page page)
{
	BlockNumber nblocks = blkno;

	if (disk_is_limited && reln->smgr_cached_nblocks[forknum] != blkno && PageIsNew(page))
		nblocks = Min(mdnblocks(reln, forknum), blkno);
	return ((uint64) (blkno - nblocks) + 1) * BLCKSZ;
}

/* Beyond the watermark all is local, until it is raised. */
static void
neon_extend(SMgrRelation reln, ForkNumber forknum, BlockNumber blkno, char *buffer,
			bool skip_fsync)
{
	MapFork    *fork;
	uint64		bytes;

	if (self_test_reaches(SLOT_EXTEND))
		return;
	if (!SmgrIsTemp(reln))
	{
		neon_throttle();
		pace_wait(PACE_EXTEND_MS);
	}
	disk_make_room(NULL);
	fork = mapped_fork(reln, forknum);
	if (fork != NULL && blkno < map_watermark(fork))
	{
		map_note_write(map_chunk(fork, blkno), blkno, InvalidXLogRecPtr);
		write_absent_block(reln, fork, blkno, buffer, skip_fsync, mdextend);
		return;
	}
	bytes = growth(reln, forknum, blkno, buffer);
	mdextend(reln, forknum, blkno, buffer, skip_fsync);
	disk_note_allocated(bytes);
	if (fork != NULL)
		map_extended(fork, blkno);
}

static bool
neon_prefetch(SMgrRelation reln, ForkNumber forknum, BlockNumber blkno)
{
	MapFork    *fork;

	if (self_test_reaches(SLOT_PREFETCH))
		return true;
	fork = mapped_fork(reln, forknum);
	if (fork == NULL || blkno >= map_watermark(fork) ||
		!map_absent(fork, map_chunk(fork, blkno), blkno))
		return mdprefetch(reln, forknum, blkno);
	hydrate_prefetch(fork, blkno);
	return true;
}

/* ----------
 * Forks
 * ----------
 */

/* A fork that is made anew has nothing remote, whatever one was there before. */
static void
neon_create(SMgrRelation reln, ForkNumber forknum, bool is_redo)
{
	MapFork    *fork;

	if (self_test_reaches(SLOT_CREATE))
		return;
	fork = mapped_fork(reln, forknum);
	mdcreate(reln, forknum, is_redo);
	if (fork != NULL && !is_redo)
		map_lower_watermark(fork, 0);
	if (!SmgrIsTemp(reln))
		map_fork_created(reln->smgr_rnode.node, forknum);
}

static bool
neon_exists(SMgrRelation reln, ForkNumber forknum)
{
	if (self_test_reaches(SLOT_EXISTS))
		return false;
	if (forknum == FSM_FORKNUM && !SmgrIsTemp(reln))
		savedfsm_put_back(reln->smgr_rnode.node);
	/* asked after a commit, too, of what was dropped, when nothing may fail */
	else if (!SmgrIsTemp(reln) && files_missing(map_lookup(reln->smgr_rnode.node, forknum)))
		return true;
	return mdexists(reln, forknum);
}

static BlockNumber
neon_nblocks(SMgrRelation reln, ForkNumber forknum)
{
	if (self_test_reaches(SLOT_NBLOCKS))
		return 0;
	(void) mapped_fork(reln, forknum);
	return mdnblocks(reln, forknum);
}

/*
 * Called in a critical section.  The watermark falls before the file is cut:
 * blocks that are cut off and come back later are never asked for.
 */
static void
neon_truncate(SMgrRelation reln, ForkNumber forknum, BlockNumber old_blocks,
			  BlockNumber nblocks)
{
	MapFork    *fork;

	if (self_test_reaches(SLOT_TRUNCATE))
		return;
	fork = mapped_fork(reln, forknum);
	if (fork != NULL && !NEON_TEST_BUG("no_watermark"))
		map_lower_watermark(fork, nblocks);
	mdtruncate(reln, forknum, old_blocks, nblocks);
}

/* After this the relation's files are not created or written by us any more. */
static void
forget_fork(RelFileNode rnode, ForkNumber forknum)
{
	MapFork    *fork = map_lookup(rnode, forknum);

	if (fork != NULL)
	{
		files_forget(fork);
		map_lower_watermark(fork, 0);
		map_fork_removed(fork);
	}
}

static void
neon_unlink(RelFileNodeBackend rnode, ForkNumber forknum, bool is_redo)
{
	if (self_test_reaches(SLOT_UNLINK))
		return;
	if (!RelFileNodeBackendIsTemp(rnode))
	{
		for (ForkNumber f = 0; f <= MAX_FORKNUM; f++)
			if (forknum == InvalidForkNumber || forknum == f)
				forget_fork(rnode.node, f);
	}
	mdunlink(rnode, forknum, is_redo);
}

void
neon_drop_database_map(Oid db, Oid spc)
{
	for (uint64 i = 0; i < map_nforks(); i++)
	{
		MapFork    *fork = map_fork_at(i);

		if (fork->rnode.dbNode == db && (spc == InvalidOid || fork->rnode.spcNode == spc))
			forget_fork(fork->rnode, fork->forknum);
	}
}

/* ----------
 * Start
 * ----------
 */

#ifdef NEON_TESTING

/* Puts md.c's function into one slot of the table. */
static void
leave_out_slot(f_smgr *table, const char *name)
{
	if (strcmp(name, smgr_slot_name(SLOT_CREATE)) == 0)
		table->smgr_create = mdcreate;
	else if (strcmp(name, smgr_slot_name(SLOT_EXISTS)) == 0)
		table->smgr_exists = mdexists;
	else if (strcmp(name, smgr_slot_name(SLOT_UNLINK)) == 0)
		table->smgr_unlink = mdunlink;
	else if (strcmp(name, smgr_slot_name(SLOT_EXTEND)) == 0)
		table->smgr_extend = mdextend;
	else if (strcmp(name, smgr_slot_name(SLOT_PREFETCH)) == 0)
		table->smgr_prefetch = mdprefetch;
	else if (strcmp(name, smgr_slot_name(SLOT_READ)) == 0)
		table->smgr_read = mdread;
	else if (strcmp(name, smgr_slot_name(SLOT_WRITE)) == 0)
		table->smgr_write = mdwrite;
	else if (strcmp(name, smgr_slot_name(SLOT_NBLOCKS)) == 0)
		table->smgr_nblocks = mdnblocks;
	else if (strcmp(name, smgr_slot_name(SLOT_TRUNCATE)) == 0)
		table->smgr_truncate = mdtruncate;
	else
		elog(FATAL, "slot \"%s\" is not one that is replaced", name);
}
#endif

void
neon_smgr_install(void)
{
	f_smgr		table = smgrswap_md;

	table.smgr_create = neon_create;
	table.smgr_exists = neon_exists;
	table.smgr_unlink = neon_unlink;
	table.smgr_extend = neon_extend;
	table.smgr_prefetch = neon_prefetch;
	table.smgr_read = neon_read;
	table.smgr_write = neon_write;
	table.smgr_nblocks = neon_nblocks;
	table.smgr_truncate = neon_truncate;
#ifdef NEON_TESTING
	if (getenv("NEON_TEST_SKIP_SLOT") != NULL)
		leave_out_slot(&table, getenv("NEON_TEST_SKIP_SLOT"));
#endif
	smgrswap_install(&table);
	files_install_hook();
}

void
neon_smgr_define_gucs(void)
{
	stream_define_gucs();
	hydration_define_gucs();
	reference_define_gucs();
	disk_define_settings();
	kept_define_settings();
#ifdef NEON_TESTING
	testpoint_define_gucs("neon");
#endif
}

void
neon_smgr_request_shmem(void)
{
	map_request_shmem();
	kept_request_shmem();
	localstat_request_shmem();
	redial_request_shmem();
	hydration_request_shmem();
	disk_request_shmem();
	diskhold_request_shmem();
	vacuumpart_request_shmem();
}

void
neon_smgr_shmem_startup(void)
{
	localstat_shmem_startup();
	redial_shmem_startup();
	hydration_shmem_startup();
	map_startup();
	kept_startup();
	keptstop_register();
	disk_shmem_startup();
	diskhold_shmem_startup();
	vacuumpart_shmem_startup();
	files_startup();
}

void
neon_local_stats(NeonLocalStats *stats)
{
	uint64		present;
	uint64		absent;

	memset(stats, 0, sizeof(*stats));
	stats->hits = local_total(LOCAL_HITS);
	stats->misses = local_total(LOCAL_MISSES);
	stats->fetched_pages = local_total(LOCAL_FETCHED_PAGES);
	stats->fetched_bytes = local_total(LOCAL_FETCHED_BYTES);
	map_count_blocks(&present, &absent);
	stats->present_bytes = present * BLCKSZ;
	stats->absent_bytes = absent * BLCKSZ;
	disk_fill_stats(stats);
}
