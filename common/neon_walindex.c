/*-------------------------------------------------------------------------
 *
 * neon_walindex.c
 *	  What a WAL record changes.
 *
 * Block references come from the record's header.  Everything else that
 * recovery would do beside them is derived here, one function per resource
 * manager that does such things; all others are block references only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam_xlog.h"
#include "access/rmgr.h"
#include "access/visibilitymapdefs.h"
#include "access/xact.h"
#include "catalog/pg_control.h"
#include "catalog/storage_xlog.h"
#include "commands/dbcommands_xlog.h"
#include "commands/tablespace.h"
#include "neon_walindex.h"
#include "replication/origin.h"
#include "storage/bufpage.h"
#include "utils/relmapper.h"

/* Heap blocks of which one page of the visibility map keeps two bits each. */
#define VM_BYTES_PER_PAGE	(BLCKSZ - MAXALIGN(SizeOfPageHeaderData))
#define VM_HEAPBLOCKS_PER_BYTE	(BITS_PER_BYTE / BITS_PER_HEAPBLOCK)
#define VM_HEAPBLOCKS_PER_PAGE	(VM_BYTES_PER_PAGE * VM_HEAPBLOCKS_PER_BYTE)

StaticAssertDecl(VM_HEAPBLOCKS_PER_PAGE == 32672, "visibility map layout");

#define CALL(callback, ...) \
	do { if (sink->callback) sink->callback(arg, __VA_ARGS__); } while (0)

/* Position in the main data of a record; every step checks the length. */
typedef struct DataCursor
{
	XLogReaderState *record;
	const char *p;
	const char *end;
} DataCursor;

static void
malformed(XLogReaderState *record)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("WAL record at %X/%X is malformed",
					LSN_FORMAT_ARGS(record->ReadRecPtr)),
			 errdetail("Resource manager %u, info %02X, length %u.",
					   (unsigned) XLogRecGetRmid(record),
					   (unsigned) XLogRecGetInfo(record),
					   (unsigned) XLogRecGetTotalLen(record))));
}

static void
cursor_init(DataCursor *c, XLogReaderState *record)
{
	c->record = record;
	c->p = XLogRecGetData(record);
	c->end = c->p + XLogRecGetDataLen(record);
}

/* The next len bytes. */
static const char *
cursor_take(DataCursor *c, size_t len)
{
	const char *p = c->p;

	if (len > (size_t) (c->end - c->p))
		malformed(c->record);
	c->p += len;
	return p;
}

static void
cursor_copy(DataCursor *c, void *dst, size_t len)
{
	memcpy(dst, cursor_take(c, len), len);
}

/* A count followed by that many things of the given size. */
static const char *
cursor_array(DataCursor *c, size_t size, int *n)
{
	int32		count;

	cursor_copy(c, &count, sizeof(count));
	if (count < 0 || (size_t) count > (size_t) (c->end - c->p) / size)
		malformed(c->record);
	*n = count;
	return cursor_take(c, count * size);
}

/* Main data as a struct of at least this size. */
static const void *
main_data(XLogReaderState *record, size_t size)
{
	if (XLogRecGetDataLen(record) < size)
		malformed(record);
	return XLogRecGetData(record);
}

/* ---- block references ---- */

/*
 * With checksums and without full page writes a hint bit is logged as a
 * reference without an image: recovery does nothing with it.
 */
static bool
changes_nothing(XLogReaderState *record, const DecodedBkpBlock *block)
{
	return XLogRecGetRmid(record) == RM_XLOG_ID &&
		(XLogRecGetInfo(record) & ~XLR_INFO_MASK) == XLOG_FPI_FOR_HINT &&
		!block->has_image;
}

static void
block_references(XLogReaderState *record, const WalIndexSink *sink, void *arg)
{
	int			id;

	for (id = 0; id <= XLogRecMaxBlockId(record); id++)
	{
		DecodedBkpBlock *block;
		NeonKey		key;
		bool		base;

		if (!XLogRecHasBlockRef(record, id))
			continue;
		block = XLogRecGetBlock(record, id);
		if (block->forknum == FSM_FORKNUM)
			continue;
		if (block->forknum < 0 || block->forknum > MAX_FORKNUM)
			malformed(record);
		base = (block->flags & BKPBLOCK_WILL_INIT) != 0 ||
			(block->has_image && block->apply_image);
		key = neon_page_key(block->rnode, block->forknum, block->blkno);
		if (block->blkno == InvalidBlockNumber)
			malformed(record);
		CALL(extend, block->rnode, block->forknum, block->blkno + 1);
		if (!changes_nothing(record, block))
			CALL(page, &key, base, false);
	}
}

/* ---- the visibility map, as heap changes clear it ---- */

static void
vm_reference(const WalIndexSink *sink, void *arg, RelFileNode rnode, BlockNumber mapblk)
{
	NeonKey		key = neon_page_key(rnode, VISIBILITYMAP_FORKNUM, mapblk);

	CALL(page, &key, false, true);
}

/* The map page of the heap block that the record's block reference id names. */
static void
vm_of_block(XLogReaderState *record, int id, const WalIndexSink *sink, void *arg)
{
	DecodedBkpBlock *block;

	if (!XLogRecHasBlockRef(record, id))
		malformed(record);
	block = XLogRecGetBlock(record, id);
	vm_reference(sink, arg, block->rnode, block->blkno / VM_HEAPBLOCKS_PER_PAGE);
}

/* Block 0 is the new tuple's, block 1 the old one's where it is another. */
static void
vm_of_update(XLogReaderState *record, const WalIndexSink *sink, void *arg)
{
	const xl_heap_update *xlrec = main_data(record, SizeOfHeapUpdate);
	bool		new_cleared = (xlrec->flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED) != 0;
	bool		old_cleared = (xlrec->flags & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED) != 0;
	int			old_id = XLogRecHasBlockRef(record, 1) ? 1 : 0;

	if (new_cleared && old_cleared && XLogRecHasBlockRef(record, 0) &&
		XLogRecGetBlock(record, 0)->blkno / VM_HEAPBLOCKS_PER_PAGE ==
		XLogRecGetBlock(record, old_id)->blkno / VM_HEAPBLOCKS_PER_PAGE)
		old_cleared = false;	/* the same map page, told once */
	if (old_cleared)
		vm_of_block(record, old_id, sink, arg);
	if (new_cleared)
		vm_of_block(record, 0, sink, arg);
}

/* Records that may clear bits in the map of the heap block that is their block reference 0. */
static const struct
{
	RmgrId		rmid;
	uint8		op;
	uint8		cleared;		/* the flag that says so */
	size_t		size;			/* of the main data */
	size_t		flags;			/* where in them; one byte */
}			vm_clearing[] = {
	{RM_HEAP_ID, XLOG_HEAP_INSERT, XLH_INSERT_ALL_VISIBLE_CLEARED,
	SizeOfHeapInsert, offsetof(xl_heap_insert, flags)},
	{RM_HEAP_ID, XLOG_HEAP_DELETE, XLH_DELETE_ALL_VISIBLE_CLEARED,
	SizeOfHeapDelete, offsetof(xl_heap_delete, flags)},
	{RM_HEAP_ID, XLOG_HEAP_LOCK, XLH_LOCK_ALL_FROZEN_CLEARED,
	SizeOfHeapLock, offsetof(xl_heap_lock, flags)},
	{RM_HEAP2_ID, XLOG_HEAP2_MULTI_INSERT, XLH_INSERT_ALL_VISIBLE_CLEARED,
	SizeOfHeapMultiInsert, offsetof(xl_heap_multi_insert, flags)},
	{RM_HEAP2_ID, XLOG_HEAP2_LOCK_UPDATED, XLH_LOCK_ALL_FROZEN_CLEARED,
	SizeOfHeapLockUpdated, offsetof(xl_heap_lock_updated, flags)},
};

static void
heap_effects(XLogReaderState *record, const WalIndexSink *sink, void *arg)
{
	RmgrId		rmid = XLogRecGetRmid(record);
	uint8		op = XLogRecGetInfo(record) & XLOG_HEAP_OPMASK;

	if (rmid == RM_HEAP_ID && (op == XLOG_HEAP_UPDATE || op == XLOG_HEAP_HOT_UPDATE))
		vm_of_update(record, sink, arg);
	for (int i = 0; i < lengthof(vm_clearing); i++)
	{
		const uint8 *data;

		if (vm_clearing[i].rmid != rmid || vm_clearing[i].op != op)
			continue;
		data = main_data(record, vm_clearing[i].size);
		if (data[vm_clearing[i].flags] & vm_clearing[i].cleared)
			vm_of_block(record, 0, sink, arg);
	}
}

/* ---- files of relations ---- */

/*
 * Cuts the visibility map to what nheapblocks need.  Bits beyond them in the
 * last page that stays are cleared by the same record.
 */
static void
truncate_vm(RelFileNode rnode, BlockNumber nheapblocks, const WalIndexSink *sink, void *arg)
{
	BlockNumber mapblk = nheapblocks / VM_HEAPBLOCKS_PER_PAGE;

	if (nheapblocks % VM_HEAPBLOCKS_PER_PAGE == 0)
		CALL(truncate, rnode, VISIBILITYMAP_FORKNUM, mapblk);
	else
	{
		CALL(truncate, rnode, VISIBILITYMAP_FORKNUM, mapblk + 1);
		vm_reference(sink, arg, rnode, mapblk);
	}
}

static void
smgr_effects(XLogReaderState *record, const WalIndexSink *sink, void *arg)
{
	switch (XLogRecGetInfo(record) & ~XLR_INFO_MASK)
	{
		case XLOG_SMGR_CREATE:
			{
				const xl_smgr_create *xlrec = main_data(record, sizeof(xl_smgr_create));

				if (xlrec->forkNum < 0 || xlrec->forkNum > MAX_FORKNUM)
					malformed(record);
				if (xlrec->forkNum != FSM_FORKNUM)
					CALL(create, xlrec->rnode, xlrec->forkNum);
				break;
			}
		case XLOG_SMGR_TRUNCATE:
			{
				const xl_smgr_truncate *xlrec = main_data(record, sizeof(xl_smgr_truncate));

				if (xlrec->flags & SMGR_TRUNCATE_HEAP)
					CALL(truncate, xlrec->rnode, MAIN_FORKNUM, xlrec->blkno);
				if (xlrec->flags & SMGR_TRUNCATE_VM)
					truncate_vm(xlrec->rnode, xlrec->blkno, sink, arg);
				break;
			}
		default:
			break;
	}
}

/* ---- transactions ---- */

bool
walindex_parse_xact(XLogReaderState *record, WalXact *xact)
{
	uint8		info = XLogRecGetInfo(record) & XLOG_XACT_OPMASK;
	DataCursor	c;
	uint32		xinfo = 0;
	int			n;

	if (XLogRecGetRmid(record) != RM_XACT_ID)
		return false;
	if (info != XLOG_XACT_COMMIT && info != XLOG_XACT_COMMIT_PREPARED &&
		info != XLOG_XACT_ABORT && info != XLOG_XACT_ABORT_PREPARED)
		return false;

	memset(xact, 0, sizeof(*xact));
	xact->commit = info == XLOG_XACT_COMMIT || info == XLOG_XACT_COMMIT_PREPARED;
	xact->prepared = info == XLOG_XACT_COMMIT_PREPARED || info == XLOG_XACT_ABORT_PREPARED;
	xact->xid = XLogRecGetXid(record);

	cursor_init(&c, record);
	cursor_copy(&c, &xact->time, sizeof(xact->time));
	xact->origin_time = xact->time;
	if (XLogRecGetInfo(record) & XLOG_XACT_HAS_INFO)
		cursor_copy(&c, &xinfo, sizeof(xinfo));
	if (xinfo & XACT_XINFO_HAS_DBINFO)
		cursor_take(&c, sizeof(xl_xact_dbinfo));
	if (xinfo & XACT_XINFO_HAS_SUBXACTS)
		xact->subxacts = (const TransactionId *)
			cursor_array(&c, sizeof(TransactionId), &xact->nsubxacts);
	if (xinfo & XACT_XINFO_HAS_RELFILENODES)
		xact->rels = (const RelFileNode *)
			cursor_array(&c, sizeof(RelFileNode), &xact->nrels);
	if (xinfo & XACT_XINFO_HAS_DROPPED_STATS)
		cursor_array(&c, sizeof(xl_xact_stats_item), &n);
	if (xact->commit && (xinfo & XACT_XINFO_HAS_INVALS))
		cursor_array(&c, sizeof(SharedInvalidationMessage), &n);
	if (xinfo & XACT_XINFO_HAS_TWOPHASE)
	{
		cursor_copy(&c, &xact->xid, sizeof(xact->xid));
		if (xinfo & XACT_XINFO_HAS_GID)
			cursor_take(&c, strnlen(c.p, c.end - c.p) + 1);
	}
	if (xinfo & XACT_XINFO_HAS_ORIGIN)
	{
		/* not aligned in the record */
		cursor_copy(&c, &xact->origin_lsn, sizeof(XLogRecPtr));
		cursor_copy(&c, &xact->origin_time, sizeof(TimestampTz));
		xact->origin = XLogRecGetOrigin(record);
	}
	return true;
}

bool
walindex_parse_prepare(XLogReaderState *record, TransactionId *xid, int *nsubxacts,
					   const TransactionId **subxacts, XLogRecPtr *origin_lsn)
{
	const xl_xact_prepare *header;
	DataCursor	c;

	if (XLogRecGetRmid(record) != RM_XACT_ID ||
		(XLogRecGetInfo(record) & XLOG_XACT_OPMASK) != XLOG_XACT_PREPARE)
		return false;

	cursor_init(&c, record);
	header = (const xl_xact_prepare *) cursor_take(&c, MAXALIGN(sizeof(xl_xact_prepare)));
	cursor_take(&c, MAXALIGN(header->gidlen));
	if (header->nsubxacts < 0 ||
		(size_t) header->nsubxacts > (c.end - c.p) / sizeof(TransactionId))
		malformed(record);
	*xid = header->xid;
	*nsubxacts = header->nsubxacts;
	*subxacts = (const TransactionId *) c.p;
	*origin_lsn = header->origin_lsn;
	return true;
}

static void
xact_effects(XLogReaderState *record, const WalIndexSink *sink, void *arg)
{
	WalXact		xact;
	TransactionId xid;
	XLogRecPtr	origin_lsn;
	const TransactionId *subxacts;
	int			nsubxacts;
	int			i;

	if (walindex_parse_xact(record, &xact))
	{
		for (i = 0; i < xact.nrels; i++)
			CALL(drop, xact.rels[i]);
		if (xact.prepared)
			CALL(finish_prepared, xact.xid);
		if (xact.origin != InvalidRepOriginId)
			CALL(origin, xact.origin, xact.origin_lsn, false);
	}
	else if (walindex_parse_prepare(record, &xid, &nsubxacts, &subxacts, &origin_lsn))
	{
		CALL(prepare, xid, XLogRecGetData(record), XLogRecGetDataLen(record));
		if (XLogRecGetOrigin(record) != InvalidRepOriginId)
			CALL(origin, XLogRecGetOrigin(record), origin_lsn, false);
	}
}

/* ---- databases, tablespaces, relation maps, origins ---- */

static void
dbase_effects(XLogReaderState *record, const WalIndexSink *sink, void *arg)
{
	switch (XLogRecGetInfo(record) & ~XLR_INFO_MASK)
	{
		case XLOG_DBASE_CREATE_FILE_COPY:
			{
				const xl_dbase_create_file_copy_rec *xlrec =
					main_data(record, sizeof(xl_dbase_create_file_copy_rec));

				CALL(create_db_copy, xlrec->db_id, xlrec->tablespace_id,
					 xlrec->src_db_id, xlrec->src_tablespace_id);
				break;
			}
		case XLOG_DBASE_CREATE_WAL_LOG:
			{
				const xl_dbase_create_wal_log_rec *xlrec =
					main_data(record, sizeof(xl_dbase_create_wal_log_rec));

				CALL(create_db, xlrec->db_id, xlrec->tablespace_id);
				break;
			}
		case XLOG_DBASE_DROP:
			{
				DataCursor	c;
				Oid			db;
				const char *spcs;
				int			n;
				int			i;

				cursor_init(&c, record);
				cursor_copy(&c, &db, sizeof(db));
				spcs = cursor_array(&c, sizeof(Oid), &n);
				for (i = 0; i < n; i++)
				{
					Oid			spc;

					memcpy(&spc, spcs + i * sizeof(Oid), sizeof(spc));
					CALL(drop_db, db, spc);
				}
				break;
			}
		default:
			break;
	}
}

static void
tablespace_effects(XLogReaderState *record, const WalIndexSink *sink, void *arg)
{
	DataCursor	c;
	Oid			spc;

	cursor_init(&c, record);
	cursor_copy(&c, &spc, sizeof(spc));
	switch (XLogRecGetInfo(record) & ~XLR_INFO_MASK)
	{
		case XLOG_TBLSPC_CREATE:
			if (strnlen(c.p, c.end - c.p) == (size_t) (c.end - c.p))
				malformed(record);
			CALL(create_tablespace, spc, c.p);
			break;
		case XLOG_TBLSPC_DROP:
			CALL(drop_tablespace, spc);
			break;
		default:
			break;
	}
}

static void
relmap_effects(XLogReaderState *record, const WalIndexSink *sink, void *arg)
{
	const xl_relmap_update *xlrec;

	if ((XLogRecGetInfo(record) & ~XLR_INFO_MASK) != XLOG_RELMAP_UPDATE)
		return;
	xlrec = main_data(record, MinSizeOfRelmapUpdate);
	if (xlrec->nbytes < 0 ||
		(size_t) xlrec->nbytes > XLogRecGetDataLen(record) - MinSizeOfRelmapUpdate)
		malformed(record);
	CALL(relmap, xlrec->dbid, xlrec->tsid, xlrec->data, xlrec->nbytes);
}

static void
origin_effects(XLogReaderState *record, const WalIndexSink *sink, void *arg)
{
	switch (XLogRecGetInfo(record) & ~XLR_INFO_MASK)
	{
		case XLOG_REPLORIGIN_SET:
			{
				const xl_replorigin_set *xlrec = main_data(record, sizeof(xl_replorigin_set));

				CALL(origin, xlrec->node_id, xlrec->remote_lsn, xlrec->force);
				break;
			}
		case XLOG_REPLORIGIN_DROP:
			{
				const xl_replorigin_drop *xlrec = main_data(record, sizeof(xl_replorigin_drop));

				CALL(drop_origin, xlrec->node_id);
				break;
			}
		default:
			break;
	}
}

void
walindex_record(XLogReaderState *record, const WalIndexSink *sink, void *arg)
{
	block_references(record, sink, arg);
	switch (XLogRecGetRmid(record))
	{
		case RM_HEAP_ID:
		case RM_HEAP2_ID:
			heap_effects(record, sink, arg);
			break;
		case RM_SMGR_ID:
			smgr_effects(record, sink, arg);
			break;
		case RM_XACT_ID:
			xact_effects(record, sink, arg);
			break;
		case RM_DBASE_ID:
			dbase_effects(record, sink, arg);
			break;
		case RM_TBLSPC_ID:
			tablespace_effects(record, sink, arg);
			break;
		case RM_RELMAP_ID:
			relmap_effects(record, sink, arg);
			break;
		case RM_REPLORIGIN_ID:
			origin_effects(record, sink, arg);
			break;
		default:
			break;
	}
}
