/*-------------------------------------------------------------------------
 *
 * slru.c
 *	  Pages of pg_xact, pg_multixact and pg_commit_ts, from WAL records.
 *
 * One walk over a record, slru_walk(), finds every change to an SLRU page; the
 * index only wants to know the pages, a reader wants them changed.  The
 * changes are those of the server at run time: bits or entries set in a page
 * that a ZEROPAGE record began.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/clog.h"
#include "access/commit_ts.h"
#include "access/multixact.h"
#include "access/rmgr.h"
#include "access/slru.h"
#include "access/transam.h"
#include "access/xlog_internal.h"
#include "blobs.h"
#include "catalog/pg_control.h"
#include "neon_walindex.h"
#include "slru.h"
#include "utils/memutils.h"
#include "walstore.h"

/* pg_xact: two bits a transaction */
#define CLOG_XACTS_PER_BYTE		4
#define CLOG_XACTS_PER_PAGE		(BLCKSZ * CLOG_XACTS_PER_BYTE)

/* pg_multixact/offsets */
#define MX_OFFSETS_PER_PAGE		(BLCKSZ / sizeof(MultiXactOffset))

/* pg_multixact/members: groups of four flag bytes and four transactions */
#define MX_MEMBERS_PER_GROUP	4
#define MX_GROUP_SIZE			(MX_MEMBERS_PER_GROUP * (1 + sizeof(TransactionId)))
#define MX_GROUPS_PER_PAGE		(BLCKSZ / MX_GROUP_SIZE)
#define MX_MEMBERS_PER_PAGE		(MX_GROUPS_PER_PAGE * MX_MEMBERS_PER_GROUP)

/* pg_commit_ts: time and origin */
#define CTS_ENTRY_SIZE			(sizeof(TimestampTz) + sizeof(RepOriginId))
#define CTS_XACTS_PER_PAGE		(BLCKSZ / CTS_ENTRY_SIZE)

StaticAssertDecl(MX_MEMBERS_PER_PAGE == 1636, "pg_multixact/members layout");
StaticAssertDecl(CTS_XACTS_PER_PAGE == 819, "pg_commit_ts layout");

/* One change: len bytes at offset; of pg_xact one byte, of which mask is replaced. */
typedef struct SlruChange
{
	NeonSlru	slru;
	BlockNumber page;
	bool		zero;			/* the page begins anew */
	uint32		offset;
	uint32		len;
	uint8		mask;			/* bits of the byte that change; 0xFF for whole bytes */
	char		bytes[CTS_ENTRY_SIZE];
} SlruChange;

typedef void (*SlruChangeCallback) (const SlruChange *change, void *arg);

const char *
slru_dir(NeonSlru slru)
{
	switch (slru)
	{
		case NEON_SLRU_CLOG:
			return "pg_xact";
		case NEON_SLRU_MXOFFSETS:
			return "pg_multixact/offsets";
		case NEON_SLRU_MXMEMBERS:
			return "pg_multixact/members";
		case NEON_SLRU_COMMIT_TS:
			return "pg_commit_ts";
	}
	elog(ERROR, "unknown SLRU %d", (int) slru);
	return NULL;				/* keep compiler quiet */
}

NeonKey
slru_page_key(NeonSlru slru, BlockNumber page)
{
	return neon_key(NEON_KEY_SLRU, slru, 0, 0, 0, page);
}

NeonKey
slru_bounds_key(NeonSlru slru)
{
	return neon_key(NEON_KEY_SLRU_BOUNDS, slru, 0, 0, 0, 0);
}

/* ---- the changes of a record ---- */

static void
change_bytes(NeonSlru slru, BlockNumber page, uint32 offset, const void *bytes, uint32 len,
			 SlruChangeCallback cb, void *arg)
{
	SlruChange	change = {.slru = slru, .page = page, .offset = offset, .len = len, .mask = 0xFF};

	memcpy(change.bytes, bytes, len);
	cb(&change, arg);
}

static void
change_zero(NeonSlru slru, BlockNumber page, SlruChangeCallback cb, void *arg)
{
	SlruChange	change = {.slru = slru, .page = page, .zero = true};

	cb(&change, arg);
}

static void
change_clog(TransactionId xid, int status, SlruChangeCallback cb, void *arg)
{
	int			shift = (xid % CLOG_XACTS_PER_BYTE) * 2;
	SlruChange	change = {.slru = NEON_SLRU_CLOG, .page = xid / CLOG_XACTS_PER_PAGE,
		.offset = (xid % CLOG_XACTS_PER_PAGE) / CLOG_XACTS_PER_BYTE,
	.len = 1, .mask = 3 << shift};

	change.bytes[0] = (char) (status << shift);
	cb(&change, arg);
}

static void
change_commit_ts(TransactionId xid, const WalXact *xact, SlruChangeCallback cb, void *arg)
{
	char		entry[CTS_ENTRY_SIZE];

	memcpy(entry, &xact->origin_time, sizeof(TimestampTz));
	memcpy(entry + sizeof(TimestampTz), &xact->origin, sizeof(RepOriginId));
	change_bytes(NEON_SLRU_COMMIT_TS, xid / CTS_XACTS_PER_PAGE,
				 (xid % CTS_XACTS_PER_PAGE) * CTS_ENTRY_SIZE, entry, CTS_ENTRY_SIZE, cb, arg);
}

static void
walk_xact(XLogReaderState *record, bool commit_ts, SlruChangeCallback cb, void *arg)
{
	WalXact		xact;
	int			status;
	int			i;

	if (!walindex_parse_xact(record, &xact))
		return;
	status = xact.commit ? TRANSACTION_STATUS_COMMITTED : TRANSACTION_STATUS_ABORTED;
	commit_ts = commit_ts && xact.commit;
	change_clog(xact.xid, status, cb, arg);
	if (commit_ts)
		change_commit_ts(xact.xid, &xact, cb, arg);
	for (i = 0; i < xact.nsubxacts; i++)
	{
		change_clog(xact.subxacts[i], status, cb, arg);
		if (commit_ts)
			change_commit_ts(xact.subxacts[i], &xact, cb, arg);
	}
}

static void
change_offset(MultiXactId multi, MultiXactOffset offset, SlruChangeCallback cb, void *arg)
{
	change_bytes(NEON_SLRU_MXOFFSETS, multi / MX_OFFSETS_PER_PAGE,
				 (multi % MX_OFFSETS_PER_PAGE) * sizeof(MultiXactOffset),
				 &offset, sizeof(offset), cb, arg);
}

static void
change_member(MultiXactOffset offset, const MultiXactMember *member,
			  SlruChangeCallback cb, void *arg)
{
	BlockNumber page = offset / MX_MEMBERS_PER_PAGE;
	uint32		group = (offset / MX_MEMBERS_PER_GROUP) % MX_GROUPS_PER_PAGE;
	uint32		index = offset % MX_MEMBERS_PER_GROUP;
	uint8		flags = (uint8) member->status;

	change_bytes(NEON_SLRU_MXMEMBERS, page, group * MX_GROUP_SIZE + index,
				 &flags, sizeof(flags), cb, arg);
	change_bytes(NEON_SLRU_MXMEMBERS, page,
				 group * MX_GROUP_SIZE + MX_MEMBERS_PER_GROUP + index * sizeof(TransactionId),
				 &member->xid, sizeof(TransactionId), cb, arg);
}

/*
 * A new multixact: where its members begin, where those of the next one will,
 * and the members.
 */
static void
walk_multixact_create(XLogReaderState *record, SlruChangeCallback cb, void *arg)
{
	const xl_multixact_create *xlrec = (const xl_multixact_create *) XLogRecGetData(record);
	MultiXactId next = xlrec->mid + 1;
	MultiXactOffset next_offset = xlrec->moff + xlrec->nmembers;
	int			i;

	if (XLogRecGetDataLen(record) < SizeOfMultiXactCreate || xlrec->nmembers < 0 ||
		(XLogRecGetDataLen(record) - SizeOfMultiXactCreate) / sizeof(MultiXactMember) <
		(uint32) xlrec->nmembers)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("multixact record at %X/%X is malformed",
						LSN_FORMAT_ARGS(record->ReadRecPtr))));
	if (next < FirstMultiXactId)
		next = FirstMultiXactId;
	if (next_offset == 0)
		next_offset = 1;		/* 0 means "not set" */
	change_offset(xlrec->mid, xlrec->moff, cb, arg);
	change_offset(next, next_offset, cb, arg);
	for (i = 0; i < xlrec->nmembers; i++)
		change_member(xlrec->moff + i, &xlrec->members[i], cb, arg);
}

/* The page number of a ZEROPAGE record. */
static void
walk_zeropage(XLogReaderState *record, NeonSlru slru, SlruChangeCallback cb, void *arg)
{
	int			page;

	if (XLogRecGetDataLen(record) < sizeof(page))
		return;
	memcpy(&page, XLogRecGetData(record), sizeof(page));
	change_zero(slru, page, cb, arg);
}

static void
walk_multixact(XLogReaderState *record, SlruChangeCallback cb, void *arg)
{
	switch (XLogRecGetInfo(record) & ~XLR_INFO_MASK)
	{
		case XLOG_MULTIXACT_ZERO_OFF_PAGE:
			walk_zeropage(record, NEON_SLRU_MXOFFSETS, cb, arg);
			break;
		case XLOG_MULTIXACT_ZERO_MEM_PAGE:
			walk_zeropage(record, NEON_SLRU_MXMEMBERS, cb, arg);
			break;
		case XLOG_MULTIXACT_CREATE_ID:
			walk_multixact_create(record, cb, arg);
			break;
		default:
			break;
	}
}

static void
slru_walk(XLogReaderState *record, bool commit_ts, SlruChangeCallback cb, void *arg)
{
	switch (XLogRecGetRmid(record))
	{
		case RM_XACT_ID:
			walk_xact(record, commit_ts, cb, arg);
			break;
		case RM_CLOG_ID:
			if ((XLogRecGetInfo(record) & ~XLR_INFO_MASK) == CLOG_ZEROPAGE)
				walk_zeropage(record, NEON_SLRU_CLOG, cb, arg);
			break;
		case RM_COMMIT_TS_ID:
			if ((XLogRecGetInfo(record) & ~XLR_INFO_MASK) == COMMIT_TS_ZEROPAGE)
				walk_zeropage(record, NEON_SLRU_COMMIT_TS, cb, arg);
			break;
		case RM_MULTIXACT_ID:
			walk_multixact(record, cb, arg);
			break;
		default:
			break;
	}
}

/* ---- which pages a record changes ---- */

typedef struct ToldPage
{
	NeonSlru	slru;
	BlockNumber page;
} ToldPage;

typedef struct EmitState
{
	SlruEmit	emit;
	void	   *arg;
	/* pages already told: few, and mostly the last one again */
	ToldPage   *told;
	int			ntold;
	int			capacity;
	ToldPage	first[8];
} EmitState;

static bool
was_told(const EmitState *es, const SlruChange *change)
{
	int			i;

	for (i = es->ntold - 1; i >= 0; i--)
	{
		if (es->told[i].page == change->page && es->told[i].slru == change->slru)
			return true;
	}
	return false;
}

static void
remember_told(EmitState *es, const SlruChange *change)
{
	if (es->ntold == es->capacity)
	{
		ToldPage   *more = palloc(2 * es->capacity * sizeof(ToldPage));

		memcpy(more, es->told, es->ntold * sizeof(ToldPage));
		if (es->told != es->first)
			pfree(es->told);
		es->told = more;
		es->capacity *= 2;
	}
	es->told[es->ntold].slru = change->slru;
	es->told[es->ntold].page = change->page;
	es->ntold++;
}

static void
emit_change(const SlruChange *change, void *arg)
{
	EmitState  *es = arg;

	if (was_told(es, change))
		return;
	remember_told(es, change);
	es->emit(change->slru, change->page, change->zero, es->arg);
}

void
slru_pages_of_record(XLogReaderState *record, bool commit_ts, SlruEmit emit, void *arg)
{
	EmitState	es;

	es.emit = emit;
	es.arg = arg;
	es.told = es.first;
	es.ntold = 0;
	es.capacity = lengthof(es.first);
	slru_walk(record, commit_ts, emit_change, &es);
	if (es.told != es.first)
		pfree(es.told);
}

/* ---- applying to one page ---- */

typedef struct ApplyState
{
	NeonSlru	slru;
	BlockNumber page;
	char	   *buf;
} ApplyState;

static void
apply_change(const SlruChange *change, void *arg)
{
	ApplyState *as = arg;
	uint8	   *at = (uint8 *) as->buf + change->offset;

	if (change->slru != as->slru || change->page != as->page)
		return;
	if (change->zero)
		memset(as->buf, 0, BLCKSZ);
	else if (change->mask != 0xFF)
		*at = (*at & ~change->mask) | (uint8) change->bytes[0];
	else
		memcpy(at, change->bytes, change->len);
}

void
slru_apply(XLogReaderState *record, NeonSlru slru, BlockNumber page, char *buf)
{
	ApplyState	as = {slru, page, buf};

	/* commit timestamps: that the page is asked for says that they are kept */
	slru_walk(record, slru == NEON_SLRU_COMMIT_TS, apply_change, &as);
}

/* ---- bounds ---- */

/* Files have 32 pages; a truncation removes whole files. */
static BlockNumber
file_start(BlockNumber page)
{
	return page - page % SLRU_PAGES_PER_SEGMENT;
}

static void
bounds_zero(SlruBounds *b, BlockNumber page)
{
	if (!b->exists)
		b->oldest = page;
	b->exists = true;
	b->latest = page;
}

/* Files wholly before page go away. */
static void
bounds_cut(SlruBounds *b, BlockNumber page)
{
	BlockNumber start = file_start(page);

	/* distances wrap; a cut that would take all or go backward does nothing */
	if (b->exists && (int32) (start - b->oldest) > 0 && (int32) (b->latest - start) >= 0)
		b->oldest = start;
}

static bool
bounds_of_parameter_change(XLogReaderState *record, TransactionId next_xid, SlruBounds *b)
{
	xl_parameter_change p;

	if ((XLogRecGetInfo(record) & ~XLR_INFO_MASK) != XLOG_PARAMETER_CHANGE ||
		XLogRecGetDataLen(record) < sizeof(p))
		return false;
	memcpy(&p, XLogRecGetData(record), sizeof(p));
	if (!p.track_commit_timestamp)
		b->exists = false;
	else if (!b->exists)
		bounds_zero(b, next_xid / CTS_XACTS_PER_PAGE);
	return true;
}

static void
bounds_of_multixact(XLogReaderState *record, SlruBounds *bounds)
{
	xl_multixact_truncate xlrec;

	if ((XLogRecGetInfo(record) & ~XLR_INFO_MASK) != XLOG_MULTIXACT_TRUNCATE_ID ||
		XLogRecGetDataLen(record) < SizeOfMultiXactTruncate)
		return;
	memcpy(&xlrec, XLogRecGetData(record), SizeOfMultiXactTruncate);
	bounds_cut(&bounds[NEON_SLRU_MXMEMBERS], xlrec.endTruncMemb / MX_MEMBERS_PER_PAGE);
	/* as the server does: up to the page of the multixact before the oldest */
	bounds_cut(&bounds[NEON_SLRU_MXOFFSETS],
			   (xlrec.endTruncOff - 1) / MX_OFFSETS_PER_PAGE);
}

static void
bounds_of_change(const SlruChange *change, void *arg)
{
	SlruBounds *b = &((SlruBounds *) arg)[change->slru];

	if (change->zero || !b->exists)
		bounds_zero(b, change->page);
}

/* True for the records that can move bounds. */
static bool
moves_bounds(XLogReaderState *record)
{
	switch (XLogRecGetRmid(record))
	{
		case RM_XLOG_ID:
			return (XLogRecGetInfo(record) & ~XLR_INFO_MASK) == XLOG_PARAMETER_CHANGE;
		case RM_CLOG_ID:
		case RM_COMMIT_TS_ID:
			return true;
		case RM_MULTIXACT_ID:
			return (XLogRecGetInfo(record) & ~XLR_INFO_MASK) != XLOG_MULTIXACT_CREATE_ID;
		default:
			return false;
	}
}

bool
slru_move_bounds(XLogReaderState *record, TransactionId next_xid, SlruBounds *bounds)
{
	SlruBounds	before[NEON_NUM_SLRUS];
	int			page;
	uint8		info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;

	if (!moves_bounds(record))
		return false;
	memcpy(before, bounds, sizeof(before));
	slru_walk(record, false, bounds_of_change, bounds);
	switch (XLogRecGetRmid(record))
	{
		case RM_XLOG_ID:
			bounds_of_parameter_change(record, next_xid, &bounds[NEON_SLRU_COMMIT_TS]);
			break;
		case RM_MULTIXACT_ID:
			bounds_of_multixact(record, bounds);
			break;
		case RM_CLOG_ID:
		case RM_COMMIT_TS_ID:
			if ((XLogRecGetRmid(record) == RM_CLOG_ID ? info == CLOG_TRUNCATE :
				 info == COMMIT_TS_TRUNCATE) && XLogRecGetDataLen(record) >= sizeof(page))
			{
				memcpy(&page, XLogRecGetData(record), sizeof(page));
				bounds_cut(&bounds[XLogRecGetRmid(record) == RM_CLOG_ID ?
								   NEON_SLRU_CLOG : NEON_SLRU_COMMIT_TS], page);
			}
			break;
		default:
			break;
	}
	return memcmp(before, bounds, sizeof(before)) != 0;
}

/* ---- reading ---- */

bool
slru_bounds_at(Timeline *tl, NeonSlru slru, XLogRecPtr lsn,
			   BlockNumber *oldest, BlockNumber *latest)
{
	NeonKey		key = slru_bounds_key(slru);
	StoreChain	chain;

	store_get(tl, &key, 1, lsn, &chain);
	if (chain.found != STORE_FOUND || chain.nversions < 1 ||
		chain.versions[0].value_kind != NEON_VALUE_BLOB)
		return false;
	if (!blob_get_slru_bounds(chain.versions[0].data, chain.versions[0].len, oldest, latest))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored bounds of %s are malformed", slru_dir(slru))));
	return true;
}

/* Decodes the record of a version and applies it. */
static void
apply_version(XLogReaderState *reader, const StoreVersion *version, NeonSlru slru,
			  BlockNumber page, char *buf)
{
	NeonKey		key = slru_page_key(slru, page);
	XLogRecord *record = store_record(&key, version);
	DecodedXLogRecord *decoded = palloc(DecodeXLogRecordRequiredSpace(record->xl_tot_len));
	char	   *problem;

	if (!DecodeXLogRecord(reader, decoded, record, version->start, &problem))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not decode WAL record at %X/%X: %s",
						LSN_FORMAT_ARGS(version->start), problem)));
	reader->record = decoded;
	reader->ReadRecPtr = version->start;
	reader->EndRecPtr = version->lsn;
	slru_apply(reader, slru, page, buf);
	reader->record = NULL;
}

/*
 * Versions from the base on, oldest first.  A version that is no WAL is the
 * page itself.
 */
static void
apply_chain(Timeline *tl, const StoreChain *chain, NeonSlru slru, BlockNumber page, char *buf)
{
	XLogReaderState *reader = XLogReaderAllocate(tl->id.wal_segment_size, NULL,
												 XL_ROUTINE(.page_read = NULL), NULL);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "SLRU record",
												  ALLOCSET_DEFAULT_SIZES);
	int			i;

	if (reader == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	for (i = chain->nversions - 1; i >= 0; i--)
	{
		const StoreVersion *version = &chain->versions[i];

		if (version->value_kind == NEON_VALUE_WAL)
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			apply_version(reader, version, slru, page, buf);
			MemoryContextSwitchTo(old);
			MemoryContextReset(context);
		}
		else if (version->value_kind == NEON_VALUE_IMAGE && version->len == BLCKSZ)
			memcpy(buf, version->data, BLCKSZ);
		else
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("page %u of %s has a value of kind %u at %X/%X",
							page, slru_dir(slru), (unsigned) version->value_kind,
							LSN_FORMAT_ARGS(version->lsn))));
	}
	MemoryContextDelete(context);
	XLogReaderFree(reader);
}

/*
 * When commit timestamps are switched off their files go away, and the first
 * page after that begins a new file, whose pages before it are empty.
 */
static bool
was_removed(Timeline *tl, NeonSlru slru, BlockNumber page, XLogRecPtr lsn)
{
	BlockNumber oldest;
	BlockNumber latest;

	if (slru != NEON_SLRU_COMMIT_TS)
		return false;
	return !slru_bounds_at(tl, slru, lsn, &oldest, &latest) || (int32) (page - oldest) < 0;
}

void
slru_page_at(Timeline *tl, NeonSlru slru, BlockNumber page, XLogRecPtr lsn, char *buf)
{
	NeonKey		key = slru_page_key(slru, page);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "SLRU page",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	StoreChain	chain;

	memset(buf, 0, BLCKSZ);
	store_get(tl, &key, 1, lsn, &chain);
	if (chain.found == STORE_FOUND && !was_removed(tl, slru, page, lsn))
		apply_chain(tl, &chain, slru, page, buf);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
