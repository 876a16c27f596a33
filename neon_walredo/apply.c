/*-------------------------------------------------------------------------
 *
 * apply.c
 *	  Applies WAL records to the target page with the server's own redo
 *	  routines.
 *
 * Owns: the reader state that redo routines see, and which records are let
 * through to them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "catalog/pg_control.h"
#include "catalog/storage_xlog.h"
#include "miscadmin.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/lwlock.h"
#include "storage/smgr.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "walredo.h"

/* Open relations are dropped after so many pages. */
#define PAGES_PER_CLEANUP	1024

static XLogReaderState *reader;
static DecodedXLogRecord *decoded;
static size_t decoded_size;
static WalRedoPage current;
static bool working;			/* between apply_begin and its end */
static uint32 npages;

void
apply_init(void)
{
	reader = XLogReaderAllocate(wal_segment_size, NULL,
								XL_ROUTINE(.page_read = NULL), NULL);
	if (reader == NULL)
		elog(FATAL, "out of memory");
	decoded_size = 256 * 1024;
	decoded = MemoryContextAlloc(TopMemoryContext, decoded_size);
}

/*
 * The resource managers that change pages of relations by block references or
 * as listed for implicit effects, and of those that do other things too the
 * kinds of records.
 */
static bool
record_is_for_pages(const XLogRecord *record)
{
	uint8		info = record->xl_info & ~XLR_INFO_MASK;

	switch (record->xl_rmid)
	{
		case RM_XLOG_ID:
			return info == XLOG_FPI || info == XLOG_FPI_FOR_HINT;
		case RM_SMGR_ID:
			return info == XLOG_SMGR_TRUNCATE;
		case RM_HEAP_ID:
		case RM_HEAP2_ID:
		case RM_BTREE_ID:
		case RM_HASH_ID:
		case RM_GIN_ID:
		case RM_GIST_ID:
		case RM_SEQ_ID:
		case RM_SPGIST_ID:
		case RM_BRIN_ID:
		case RM_GENERIC_ID:
			return true;
		default:
			return false;
	}
}

static void
record_context(void *arg)
{
	const WalRedoRecord *where = arg;
	const XLogRecord *record = &decoded->header;
	const char *rmgr = "unknown";

	if (RmgrIdIsBuiltin(record->xl_rmid))
		rmgr = RmgrTable[record->xl_rmid].rm_name;
	errcontext("WAL redo of record at %X/%X (%s, info %02X) for block %u of relation %u/%u/%u, fork %d",
			   LSN_FORMAT_ARGS(where->start), rmgr, record->xl_info,
			   current.blk, current.rnode.spcNode, current.rnode.dbNode,
			   current.rnode.relNode, (int) current.fork);
}

void
apply_begin(const WalRedoPage *page, const char *base)
{
	if (page->fork > MAX_FORKNUM || page->blk == InvalidBlockNumber)
		elog(ERROR, "invalid block number %u or fork %u", page->blk, page->fork);
	current = *page;
	working = true;
	memsmgr_set_target(page, base);
}

static void
decode(const WalRedoRecord *where, const char *data, uint32 len)
{
	XLogRecord *record = (XLogRecord *) data;
	size_t		need;
	char	   *problem = NULL;

	if (len < SizeOfXLogRecord || record->xl_tot_len != len)
		elog(ERROR, "record at %X/%X has a wrong length", LSN_FORMAT_ARGS(where->start));
	if (!record_is_for_pages(record))
		elog(ERROR, "record at %X/%X (resource manager %u, info %02X) does not change pages",
			 LSN_FORMAT_ARGS(where->start), record->xl_rmid, record->xl_info);
	need = DecodeXLogRecordRequiredSpace(len);
	if (need > decoded_size)
	{
		DecodedXLogRecord *larger = MemoryContextAlloc(TopMemoryContext, need);

		pfree(decoded);
		decoded = larger;
		decoded_size = need;
	}
	if (!DecodeXLogRecord(reader, decoded, record, where->start, &problem))
		elog(ERROR, "could not decode record at %X/%X: %s",
			 LSN_FORMAT_ARGS(where->start), problem ? problem : "");
	decoded->next_lsn = where->end;
	reader->record = decoded;
	reader->ReadRecPtr = where->start;
	reader->EndRecPtr = where->end;
}

/* The reference to the target, or -1; *others if there are other references. */
static int
find_target(bool *others)
{
	int			found = -1;
	int			i;

	*others = false;
	for (i = 0; i <= decoded->max_block_id; i++)
	{
		DecodedBkpBlock *block = &decoded->blocks[i];

		if (!block->in_use)
			continue;
		if (found < 0 && memsmgr_is_target(block->rnode, block->forknum, block->blkno))
			found = i;
		else
			*others = true;
	}
	return found;
}

/*
 * A record of full-page images has one for each of up to 32 blocks: restore
 * only the target's.  (Not so for other resource managers, some of which
 * change a page after its image was restored.)
 */
static void
restore_image(int block_id)
{
	Buffer		buf;
	Page		page;

	if (block_id < 0 || !XLogRecHasBlockImage(reader, block_id))
	{
		/* Hint bits are logged without image if full_page_writes is off. */
		if (block_id >= 0 &&
			(decoded->header.xl_info & ~XLR_INFO_MASK) == XLOG_FPI_FOR_HINT)
			return;
		elog(ERROR, "record has no image of the page");
	}
	buf = ReadBufferWithoutRelcache(current.rnode, (ForkNumber) current.fork,
									current.blk, RBM_ZERO_AND_LOCK, NULL, true);
	page = BufferGetPage(buf);
	if (!RestoreBlockImage(reader, block_id, page))
		elog(ERROR, "could not restore image: %s", reader->errormsg_buf);
	if (!PageIsNew(page))
		PageSetLSN(page, reader->EndRecPtr);
	MarkBufferDirty(buf);
	UnlockReleaseBuffer(buf);
}

/*
 * Of a truncation only the tail of the last visibility map page is a change
 * of a page.
 */
static void
apply_truncation(void)
{
	xl_smgr_truncate *trunc = (xl_smgr_truncate *) decoded->main_data;

	if (decoded->main_data_len != sizeof(xl_smgr_truncate) ||
		!RelFileNodeEquals(trunc->rnode, current.rnode) ||
		current.fork != VISIBILITYMAP_FORKNUM)
		elog(ERROR, "truncation is not one of this page");
	trunc->flags &= SMGR_TRUNCATE_VM;
	RmgrTable[RM_SMGR_ID].rm_redo(reader);
	/* Sizes were cached, but the next page may lie beyond. */
	smgrcloseall();
}

void
apply_record(const WalRedoRecord *where, const char *data, uint32 len)
{
	ErrorContextCallback callback;
	bool		others;
	int			block_id;

	decode(where, data, len);

	callback.callback = record_context;
	callback.arg = unconstify(WalRedoRecord *, where);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	block_id = find_target(&others);
	/* Changes of visibility map bits are not block references. */
	if (block_id < 0 && current.fork != VISIBILITYMAP_FORKNUM)
		elog(ERROR, "record does not change the page");

	if (decoded->header.xl_rmid == RM_XLOG_ID)
		restore_image(block_id);
	else if (decoded->header.xl_rmid == RM_SMGR_ID)
		apply_truncation();
	else
	{
		RmgrTable[decoded->header.xl_rmid].rm_redo(reader);
		if (others || block_id < 0)
			memsmgr_poison_others();
	}

	/* Redo takes a new page for one that was truncated later, and skips it. */
	if (XLogHaveInvalidPages())
		elog(ERROR, "record needs an earlier version of the page, which is all zeros");
	error_context_stack = callback.previous;
}

void
apply_finish(char *page)
{
	memsmgr_take_target(page);
	working = false;
	if (++npages % PAGES_PER_CLEANUP == 0)
		smgrcloseall();
}

void
apply_recover(void)
{
	if (!working)
		return;
	working = false;
	LWLockReleaseAll();
	AbortBufferIO();
	UnlockBuffers();
	ResourceOwnerRelease(CurrentResourceOwner, RESOURCE_RELEASE_BEFORE_LOCKS, false, true);
	memsmgr_forget_all();
	/* Relation handles may point into memory of the failed redo routine. */
	smgrcloseall();
	XLogDropRelation(current.rnode, (ForkNumber) current.fork);
}
