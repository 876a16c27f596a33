/*-------------------------------------------------------------------------
 *
 * memsmgr.c
 *	  Relation storage of a redo process: one page, the target.
 *
 * Every relation exists, has the largest size and accepts everything, but only
 * the target's content is kept.  Any other block reads as an initialised page
 * with the largest LSN, so that redo routines find it done and leave it alone.
 * A record may all the same initialise or restore other blocks; these do not
 * get the records between, so afterwards they must look done again
 * ("poisoned"), or the next record would be applied to a state it was not made
 * for.
 *
 * Invariant: between two pages no valid buffer is the target and all valid
 * buffers are poisoned.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/smgr.h"

#include "neon_smgrswap.h"
#include "walredo.h"

#define POISON_LSN	((XLogRecPtr) PG_UINT64_MAX)

typedef struct TargetPage
{
	bool		valid;			/* there is a target */
	bool		saved;			/* its buffer was evicted into data */
	RelFileNode rnode;
	ForkNumber	fork;
	BlockNumber blk;
	PGAlignedBlock data;
} TargetPage;

static TargetPage target;
static PGAlignedBlock poisoned_page;

bool
memsmgr_is_target(RelFileNode rnode, ForkNumber fork, BlockNumber blk)
{
	return target.valid && blk == target.blk && fork == target.fork &&
		RelFileNodeEquals(rnode, target.rnode);
}

/* ---- the storage manager's functions ---- */

static void
mem_init(void)
{
}

static void
mem_open(SMgrRelation reln)
{
}

static void
mem_close(SMgrRelation reln, ForkNumber fork)
{
}

static void
mem_create(SMgrRelation reln, ForkNumber fork, bool isRedo)
{
}

static bool
mem_exists(SMgrRelation reln, ForkNumber fork)
{
	return true;
}

static void
mem_unlink(RelFileNodeBackend rnode, ForkNumber fork, bool isRedo)
{
}

static void
mem_write(SMgrRelation reln, ForkNumber fork, BlockNumber blk, char *buffer,
		  bool skipFsync)
{
	if (!memsmgr_is_target(reln->smgr_rnode.node, fork, blk))
		return;
	memcpy(target.data.data, buffer, BLCKSZ);
	target.saved = true;
}

static bool
mem_prefetch(SMgrRelation reln, ForkNumber fork, BlockNumber blk)
{
	return true;
}

static void
mem_read(SMgrRelation reln, ForkNumber fork, BlockNumber blk, char *buffer)
{
	if (!memsmgr_is_target(reln->smgr_rnode.node, fork, blk))
		memcpy(buffer, poisoned_page.data, BLCKSZ);
	else if (target.saved)
		memcpy(buffer, target.data.data, BLCKSZ);
	else
		memset(buffer, 0, BLCKSZ);
}

static void
mem_writeback(SMgrRelation reln, ForkNumber fork, BlockNumber blk, BlockNumber nblocks)
{
}

static BlockNumber
mem_nblocks(SMgrRelation reln, ForkNumber fork)
{
	return MaxBlockNumber;
}

static void
mem_truncate(SMgrRelation reln, ForkNumber fork, BlockNumber old_blocks,
			 BlockNumber nblocks)
{
}

static void
mem_immedsync(SMgrRelation reln, ForkNumber fork)
{
}

static const f_smgr mem_smgr = {
	.smgr_init = mem_init,
	.smgr_shutdown = NULL,
	.smgr_open = mem_open,
	.smgr_close = mem_close,
	.smgr_create = mem_create,
	.smgr_exists = mem_exists,
	.smgr_unlink = mem_unlink,
	.smgr_extend = mem_write,
	.smgr_prefetch = mem_prefetch,
	.smgr_read = mem_read,
	.smgr_write = mem_write,
	.smgr_writeback = mem_writeback,
	.smgr_nblocks = mem_nblocks,
	.smgr_truncate = mem_truncate,
	.smgr_immedsync = mem_immedsync,
};

/*
 * Proves that the calls this process depends on go through our table: a
 * server whose compiler resolved one of them to md.c would touch files.
 */
static void
check_installed(void)
{
	RelFileNode nowhere = {PG_UINT32_MAX, PG_UINT32_MAX, PG_UINT32_MAX};
	SMgrRelation reln = smgropen(nowhere, InvalidBackendId);
	PGAlignedBlock page;

	memset(page.data, 0, BLCKSZ);
	if (!smgrexists(reln, MAIN_FORKNUM) ||
		smgrnblocks(reln, MAIN_FORKNUM) != MaxBlockNumber)
		elog(FATAL, "storage manager of the redo process is not in effect");
	smgrcreate(reln, MAIN_FORKNUM, true);
	smgrwrite(reln, MAIN_FORKNUM, 0, page.data, true);
	smgrread(reln, MAIN_FORKNUM, 0, page.data);
	if (PageGetLSN((Page) page.data) != POISON_LSN)
		elog(FATAL, "storage manager of the redo process is not in effect");
	smgrcloseall();
}

void
memsmgr_install(void)
{
	PageInit((Page) poisoned_page.data, BLCKSZ, 0);
	PageSetLSN((Page) poisoned_page.data, POISON_LSN);
	smgrswap_install(&mem_smgr);
	check_installed();
}

/* ---- the target ---- */

void
memsmgr_set_target(const WalRedoPage *page, const char *base)
{
	Buffer		buf;

	target.rnode = page->rnode;
	target.fork = (ForkNumber) page->fork;
	target.blk = page->blk;
	target.saved = false;
	target.valid = true;

	/* The block may be in a buffer as a poisoned page. */
	buf = ReadBufferWithoutRelcache(target.rnode, target.fork, target.blk,
									RBM_ZERO_AND_LOCK, NULL, true);
	if (base != NULL)
		memcpy(BufferGetPage(buf), base, BLCKSZ);
	else
		memset(BufferGetPage(buf), 0, BLCKSZ);
	MarkBufferDirty(buf);
	UnlockReleaseBuffer(buf);
}

void
memsmgr_take_target(char *page)
{
	Buffer		buf;

	buf = ReadBufferWithoutRelcache(target.rnode, target.fork, target.blk,
									RBM_NORMAL, NULL, true);
	LockBuffer(buf, BUFFER_LOCK_EXCLUSIVE);
	memcpy(page, BufferGetPage(buf), BLCKSZ);
	memcpy(BufferGetPage(buf), poisoned_page.data, BLCKSZ);
	UnlockReleaseBuffer(buf);
	target.valid = false;
}

/*
 * A page that was left new would be taken for a missing one, so it becomes an
 * initialised page.
 */
void
memsmgr_poison_others(void)
{
	BufferTag	tag;
	int			i;

	INIT_BUFFERTAG(tag, target.rnode, target.fork, target.blk);
	for (i = 0; i < NBuffers; i++)
	{
		BufferDesc *desc = GetBufferDescriptor(i);
		Page		page;

		if ((pg_atomic_read_u32(&desc->state) & BM_VALID) == 0 ||
			(target.valid && BUFFERTAGS_EQUAL(desc->tag, tag)))
			continue;
		page = BufferGetPage(i + 1);
		if (PageIsNew(page))
			memcpy(page, poisoned_page.data, BLCKSZ);
		else
			PageSetLSN(page, POISON_LSN);
	}
}

/* After an error nothing in the buffers is worth anything. */
void
memsmgr_forget_all(void)
{
	int			i;

	target.valid = false;
	for (i = 0; i < NBuffers; i++)
	{
		if (pg_atomic_read_u32(&GetBufferDescriptor(i)->state) & BM_VALID)
			memcpy(BufferGetPage(i + 1), poisoned_page.data, BLCKSZ);
	}
}
