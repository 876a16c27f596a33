/*-------------------------------------------------------------------------
 *
 * ingest.c
 *	  From a decoded WAL record to the store.
 *
 * What a record changes is collected as an array of puts, which go to the
 * store in one call.  Beside the references to the record these are whole new
 * states: sizes of forks, databases, tablespaces, two-phase files, origins,
 * bounds of SLRUs, control state.  Sizes are kept in a hash that is filled
 * from the store on first touch; it is a cache and may be emptied whenever
 * everything is published.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xlog_internal.h"
#include "blobs.h"
#include "controlat.h"
#include "ingest.h"
#include "ingest_private.h"
#include "miscadmin.h"
#include "neon_bootrec.h"
#include "neon_clock.h"
#include "neon_testpoint.h"
#include "neon_walindex.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "walmend.h"
#include "walstore.h"

/* Records between two calls of ingest_flush() while decoding what is stored. */
#define STORED_BATCH		10000

/* Bytes looked at in one go behind the last record. */
#define TAIL_CHUNK			(128 * 1024)

/* How long another process may keep the ownership that is asked for. */
#define OWNERSHIP_TIMEOUT_MS	60000

/* ---- collecting puts ---- */

void
ingest_put(Ingest *ingest, NeonKey key, uint8 value_kind, bool base, const void *data, uint32 len)
{
	StorePut   *put;

	if (ingest->nputs == ingest->max_puts)
	{
		ingest->max_puts *= 2;
		ingest->puts = repalloc_huge(ingest->puts, ingest->max_puts * sizeof(StorePut));
	}
	put = &ingest->puts[ingest->nputs++];
	put->key = key;
	put->value_kind = value_kind;
	put->base = base;
	put->data = data;
	put->len = len;
}

XLogRecPtr
ingest_known_lsn(const Ingest *ingest)
{
	return ingest->aside ? ingest->aside->lsn : timeline_last_record_lsn(ingest->tl);
}

/* A whole new state; the bytes stay until the record is done. */
static void
put_blob(Ingest *ingest, NeonKey key, StringInfo buf)
{
	ingest_put(ingest, key, NEON_VALUE_BLOB, true, buf->data, buf->len);
}

static void
put_tombstone(Ingest *ingest, NeonKey key)
{
	ingest_put(ingest, key, NEON_VALUE_TOMBSTONE, true, NULL, 0);
}

/* ---- what walindex tells ---- */

static void
on_page(void *arg, const NeonKey *key, bool base, bool implicit)
{
	ingest_put(arg, *key, NEON_VALUE_WAL, base, NULL, 0);
}

static void
on_extend(void *arg, RelFileNode rnode, ForkNumber fork, BlockNumber nblocks)
{
	sizes_extend(arg, neon_size_key(rnode, fork), nblocks);
}

static void
on_create(void *arg, RelFileNode rnode, ForkNumber fork)
{
	sizes_extend(arg, neon_size_key(rnode, fork), 0);
}

static void
on_truncate(void *arg, RelFileNode rnode, ForkNumber fork, BlockNumber nblocks)
{
	sizes_truncate(arg, neon_size_key(rnode, fork), nblocks);
}

static void
on_drop(void *arg, RelFileNode rnode)
{
	static const ForkNumber forks[] = {MAIN_FORKNUM, VISIBILITYMAP_FORKNUM, INIT_FORKNUM};
	int			i;

	for (i = 0; i < lengthof(forks); i++)
		sizes_drop(arg, neon_size_key(rnode, forks[i]));
}

static void
put_database(Ingest *ingest, Oid spc, Oid db, const char *relmap, int len)
{
	DatabaseBlob *blob = palloc0(sizeof(DatabaseBlob));
	StringInfoData buf;

	if (len > BLOB_RELMAP_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("relation map of database %u has %d bytes", db, len)));
	blob->relmap_len = len;
	if (len > 0)
		memcpy(blob->relmap, relmap, len);
	initStringInfo(&buf);
	blob_put_database(&buf, blob);
	put_blob(ingest, neon_key(NEON_KEY_DATABASE, spc, db, 0, 0, 0), &buf);
}

static void
on_create_db(void *arg, Oid db, Oid spc)
{
	put_database(arg, spc, db, NULL, 0);
}

static void
on_relmap(void *arg, Oid db, Oid spc, const char *data, int len)
{
	put_database(arg, spc, db, data, len);
}

static void
on_create_db_copy(void *arg, Oid db, Oid spc, Oid src_db, Oid src_spc)
{
	if (((Ingest *) arg)->aside)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("database %u was copied by files, which WAL does not have", db)));
	dbcopy_run(arg, spc, db, src_spc, src_db);
}

static void
on_drop_db(void *arg, Oid db, Oid spc)
{
	Ingest	   *ingest = arg;

	sizes_drop_database(ingest, spc, db);
	put_tombstone(ingest, neon_key(NEON_KEY_DATABASE, spc, db, 0, 0, 0));
}

static void
on_create_tablespace(void *arg, Oid spc, const char *path)
{
	StringInfoData buf;

	initStringInfo(&buf);
	blob_put_tablespace(&buf, path);
	put_blob(arg, neon_key(NEON_KEY_TABLESPACE, spc, 0, 0, 0, 0), &buf);
}

static void
on_drop_tablespace(void *arg, Oid spc)
{
	put_tombstone(arg, neon_key(NEON_KEY_TABLESPACE, spc, 0, 0, 0, 0));
}

/* The key of a prepared transaction: the epoch in which its xid is near nextXid. */
static NeonKey
twophase_key(Ingest *ingest, TransactionId xid)
{
	FullTransactionId next = ingest->control.checkpoint.nextXid;
	TransactionId next_xid = XidFromFullTransactionId(next);
	uint32		epoch = EpochFromFullTransactionId(next);

	if (TransactionIdPrecedes(xid, next_xid))
	{
		if (xid > next_xid)
			epoch--;
	}
	else if (xid < next_xid)
		epoch++;
	return neon_key(NEON_KEY_TWOPHASE, 0, 0, epoch, 0, xid);
}

static void
on_prepare(void *arg, TransactionId xid, const char *data, uint32 len)
{
	StringInfoData buf;

	initStringInfo(&buf);
	blob_put_twophase(&buf, data, len);
	put_blob(arg, twophase_key(arg, xid), &buf);
}

static void
on_finish_prepared(void *arg, TransactionId xid)
{
	put_tombstone(arg, twophase_key(arg, xid));
}

/* ---- replication origins ---- */

typedef struct OriginEntry
{
	RepOriginId origin;
	XLogRecPtr	remote_lsn;
} OriginEntry;

static NeonKey
origin_key(RepOriginId origin)
{
	return neon_key(NEON_KEY_ORIGIN, 0, 0, origin, 0, 0);
}

static XLogRecPtr
stored_origin(Ingest *ingest, RepOriginId origin)
{
	NeonKey		key = origin_key(origin);
	XLogRecPtr	remote_lsn = InvalidXLogRecPtr;
	StoreChain	chain;

	store_get(ingest->tl, &key, 1, ingest_known_lsn(ingest), &chain);
	if (chain.found == STORE_FOUND && chain.nversions > 0 &&
		chain.versions[0].value_kind == NEON_VALUE_BLOB &&
		!blob_get_origin(chain.versions[0].data, chain.versions[0].len, &remote_lsn))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored state of replication origin %u is malformed", origin)));
	return remote_lsn;
}

static OriginEntry *
origin_entry(Ingest *ingest, RepOriginId origin)
{
	OriginEntry *entry;
	bool		found;

	entry = hash_search(ingest->origins, &origin, HASH_ENTER, &found);
	if (!found)
	{
		/* nothing of it was put in this life, so the store knows it all */
		entry->remote_lsn = stored_origin(ingest, origin);
	}
	return entry;
}

static void
on_origin(void *arg, RepOriginId origin, XLogRecPtr remote_lsn, bool force)
{
	OriginEntry *entry = origin_entry(arg, origin);
	StringInfoData buf;

	if (!force && remote_lsn <= entry->remote_lsn)
		return;
	entry->remote_lsn = remote_lsn;
	initStringInfo(&buf);
	blob_put_origin(&buf, remote_lsn);
	put_blob(arg, origin_key(origin), &buf);
}

static void
on_drop_origin(void *arg, RepOriginId origin)
{
	OriginEntry *entry = origin_entry(arg, origin);

	entry->remote_lsn = InvalidXLogRecPtr;
	put_tombstone(arg, origin_key(origin));
}

static const WalIndexSink ingest_sink = {
	.page = on_page,
	.extend = on_extend,
	.create = on_create,
	.truncate = on_truncate,
	.drop = on_drop,
	.create_db_copy = on_create_db_copy,
	.create_db = on_create_db,
	.drop_db = on_drop_db,
	.create_tablespace = on_create_tablespace,
	.drop_tablespace = on_drop_tablespace,
	.relmap = on_relmap,
	.prepare = on_prepare,
	.finish_prepared = on_finish_prepared,
	.origin = on_origin,
	.drop_origin = on_drop_origin,
};

/* ---- control state ---- */

/* So that it is found without much WAL being read, until a flush has written time blocks. */
static void
put_control(Ingest *ingest)
{
	StringInfoData buf;

	initStringInfo(&buf);
	control_encode(&ingest->control, &buf);
	put_blob(ingest, control_key(), &buf);
	ingest->control_put = ingest->control.lsn;
}

static bool
is_checkpoint(XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;

	return XLogRecGetRmid(record) == RM_XLOG_ID &&
		(info == XLOG_CHECKPOINT_SHUTDOWN || info == XLOG_CHECKPOINT_ONLINE);
}

/* ---- one record ---- */

void
ingest_record(Ingest *ingest, XLogReaderState *record)
{
	MemoryContext old = MemoryContextSwitchTo(ingest->record_context);
	uint32		term = bootrec_term(record);

	ingest->record = record;
	ingest->nputs = 0;

	walindex_record(record, &ingest_sink, ingest);
	slrucache_record(ingest, record);
	control_advance(&ingest->control, record);
	sizes_put_changed(ingest);
	if (ingest->aside == NULL && (is_checkpoint(record) ||
								  record->EndRecPtr - ingest->control_put >= CONTROL_INTERVAL))
		put_control(ingest);

	if (ingest->aside)
		ingest->aside->put(ingest->aside->arg, record->ReadRecPtr, record->EndRecPtr,
						   ingest->puts, ingest->nputs);
	else if (ingest->nputs > 0)
		store_put(ingest->tl, record->ReadRecPtr, record->EndRecPtr,
				  ingest->puts, ingest->nputs);
	if (term != 0 && ingest->aside == NULL)
		timeline_set_term(ingest->tl, term, record->EndRecPtr);

	ingest->record = NULL;
	ingest->nrecords++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(ingest->record_context);
}

void
ingest_publish(Ingest *ingest)
{
	if (ingest->aside || ingest->control.lsn == timeline_last_record_lsn(ingest->tl))
		return;
	store_publish(ingest->tl, ingest->control.prev, ingest->control.lsn);
	timeline_set_logical_size(ingest->tl, ingest->logical_size);
	sizes_trim(ingest);
}

/* What was put before the record that is being worked on becomes readable. */
void
ingest_publish_before(Ingest *ingest)
{
	/* control state is not advanced yet */
	ingest_publish(ingest);
}

void
ingest_flush(Ingest *ingest, IngestFlush when)
{
	ingest_publish(ingest);
	if ((when == INGEST_FLUSH_IF_DUE && !store_flush_due(ingest->tl)) ||
		(when == INGEST_FLUSH_IF_CROWDED && !store_flush_crowded(ingest->tl)))
		return;
	if (timeline_disk_consistent_lsn(ingest->tl) >= ingest->control.lsn)
		return;
	if (when == INGEST_FLUSH_WAIT)
		store_flush(ingest->tl);
	else
		store_flush_start(ingest->tl);
}

const ControlState *
ingest_state(const Ingest *ingest)
{
	return &ingest->control;
}

/* ---- behind the last record ---- */

/* True if the rest of the segment of lsn is zeros, and no later one is stored. */
static bool
tail_is_clean(Timeline *tl, XLogRecPtr lsn)
{
	uint32		segsize = tl->id.wal_segment_size;
	XLogRecPtr	end = lsn - XLogSegmentOffset(lsn, segsize) + segsize;
	char	   *buf = palloc(TAIL_CHUNK);
	bool		clean = !walstore_read(tl, end, buf, 1);

	while (clean && lsn < end)
	{
		size_t		n = Min(TAIL_CHUNK, end - lsn);

		/* what is not stored needs no cleaning */
		if (!walstore_read(tl, lsn, buf, n))
			break;
		clean = buf[0] == 0 && memcmp(buf, buf + 1, n - 1) == 0;
		lsn += n;
	}
	pfree(buf);
	return clean;
}

/* Overwrites a part of a segment. */
static void
zero_range(Timeline *tl, XLogRecPtr from, XLogRecPtr to)
{
	static const char zeros[XLOG_BLCKSZ];

	while (from < to)
	{
		size_t		n = Min(to - from, XLOG_BLCKSZ - from % XLOG_BLCKSZ);

		walstore_write(tl, from, zeros, n);
		from += n;
	}
}

void
ingest_clean_tail(Ingest *ingest, XLogRecPtr dirty_end)
{
	XLogRecPtr	end = ingest->control.lsn;
	uint32		segsize = ingest->tl->id.wal_segment_size;

	if (dirty_end == PG_UINT64_MAX)
	{
		if (!tail_is_clean(ingest->tl, end))
			walstore_zero_after(ingest->tl, end);
	}
	else if (dirty_end / segsize != end / segsize)
		walstore_zero_after(ingest->tl, end);
	else
		zero_range(ingest->tl, end, dirty_end);
}

void
ingest_rest(Ingest *ingest)
{
	ingest_clean_tail(ingest, PG_UINT64_MAX);
	walstore_sync(ingest->tl);
	walstore_give_space_back(ingest->tl, ingest->control.lsn);
}

bool
ingest_check_term(const Ingest *ingest, uint32 term, XLogReaderState *record,
				  const char **problem)
{
	uint32		booted = bootrec_term(record);
	uint32		last = ingest->control.term;

	if (term == 0)
		return true;
	if (last < term && booted != term)
	{
		*problem = psprintf("WAL at %X/%X does not begin with the boot record of term %u",
							LSN_FORMAT_ARGS(record->ReadRecPtr), term);
		return false;
	}
	if (last >= term && booted != 0)
	{
		*problem = psprintf("WAL of term %u has a boot record of term %u at %X/%X",
							term, booted, LSN_FORMAT_ARGS(record->ReadRecPtr));
		return false;
	}
	return true;
}

/* ---- beginning and end ---- */

static HTAB *
make_origins(MemoryContext context)
{
	HASHCTL		ctl = {.keysize = sizeof(RepOriginId), .entrysize = sizeof(OriginEntry), .hcxt = context};

	return hash_create("ingest origins", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static Ingest *
begin(Timeline *tl, const IngestAside *aside)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ingest",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Ingest	   *ingest = palloc0(sizeof(Ingest));

	ingest->tl = tl;
	ingest->aside = aside;
	ingest->context = context;
	ingest->record_context = AllocSetContextCreate(context, "ingest record",
												   ALLOCSET_DEFAULT_SIZES);
	ingest->max_puts = 64;
	ingest->puts = palloc(ingest->max_puts * sizeof(StorePut));
	ingest->origins = make_origins(context);

	MemoryContextSwitchTo(ingest->record_context);
	control_at(tl, ingest_known_lsn(ingest), &ingest->control);
	ingest->control_put = ingest->control.lsn;
	sizes_load(ingest);
	slrucache_load(ingest);
	MemoryContextSwitchTo(old);
	MemoryContextReset(ingest->record_context);
	return ingest;
}

Ingest *
ingest_begin(Timeline *tl)
{
	return begin(tl, NULL);
}

Ingest *
ingest_begin_aside(Timeline *tl, const IngestAside *aside)
{
	return begin(tl, aside);
}

void
ingest_end(Ingest *ingest)
{
	MemoryContextDelete(ingest->context);
}

/* ---- what is stored already ---- */

/*
 * A process may have ended between writing bytes and refusing them, so the
 * last writer's rules hold here too: nothing behind where it was drained, and
 * behind where it booted only its own WAL.
 */
static bool
may_be_stored(const Ingest *ingest, const TimelineWriter *writer, XLogReaderState *record)
{
	const char *problem;

	if (writer->term == 0 || record->ReadRecPtr < writer->boot_lsn ||
		ingest_check_term(ingest, writer->term, record, &problem))
		return true;
	ereport(LOG,
			(errmsg("stored WAL behind %X/%X is left out: %s",
					LSN_FORMAT_ARGS(ingest->control.lsn), problem)));
	return false;
}

static WalCursor *
open_stored(const Ingest *ingest, const TimelineWriter *writer)
{
	XLogRecPtr	limit = PG_UINT64_MAX;

	if (writer->term != 0 && !XLogRecPtrIsInvalid(writer->drained_lsn))
		limit = writer->drained_lsn;
	return walstore_cursor(ingest->tl, ingest->control.lsn, ingest->control.prev, limit);
}

/* Stored WAL is not valid, or not there, and goes on behind that: a later start of the walk may do better. */
static void
note_break(Ingest *ingest, const WalCursor *cursor, WalCursorResult result)
{
	char		hex[NEON_ID_HEXLEN + 1];

	ingest->goes_on = 0;
	if (result == WALCURSOR_RECORD || cursor->next >= cursor->limit)
		return;
	ingest->goes_on = walmend_goes_on(ingest->tl, cursor->next, cursor->limit);
	if (ingest->goes_on == 0)
		return;
	ereport(LOG,
			(errmsg("stored WAL of timeline \"%s\" is damaged, or was never synchronized, behind %X/%X",
					neon_id_format(&ingest->tl->id.timeline, hex), LSN_FORMAT_ARGS(cursor->next)),
			 errdetail("In %s: %s. It goes on up to %X/%X.",
					   walmend_place(ingest->tl, cursor->next),
					   result == WALCURSOR_INVALID ? cursor->problem : "it is not stored",
					   LSN_FORMAT_ARGS(ingest->goes_on))));
}

XLogRecPtr
ingest_goes_on(const Ingest *ingest)
{
	return ingest->goes_on;
}

void
ingest_stored_wal(Ingest *ingest)
{
	Timeline   *tl = ingest->tl;
	TimelineWriter writer;
	WalCursor  *cursor;
	WalCursorResult result;
	XLogRecPtr	start = ingest->control.lsn;
	TimestampTz began = neon_clock();
	uint64		count = 0;

	timeline_get_writer(tl, &writer);
	cursor = open_stored(ingest, &writer);
	while ((result = walcursor_next(cursor)) == WALCURSOR_RECORD &&
		   may_be_stored(ingest, &writer, cursor->reader))
	{
		ingest_record(ingest, cursor->reader);
		if (++count % STORED_BATCH == 0)
		{
			CHECK_FOR_INTERRUPTS();
			ingest_flush(ingest, INGEST_FLUSH_IF_CROWDED);
		}
	}
	note_break(ingest, cursor, result);
	walcursor_close(cursor);
	ingest_publish(ingest);
	if (timeline_flush_lsn(tl) < ingest->control.lsn)
	{
		walstore_secure(tl, ingest->control.lsn);
		timeline_set_flush_lsn(tl, ingest->control.lsn);
	}
	ingest_mark_recovered(tl);
	if (count > 0)
		ereport(LOG,
				(errmsg("indexed " UINT64_FORMAT " stored WAL records (%.1f MB) up to %X/%X in %ld ms",
						count, (ingest->control.lsn - start) / 1048576.0,
						LSN_FORMAT_ARGS(ingest->control.lsn),
						TimestampDifferenceMilliseconds(began, neon_clock()))));
}

/* ---- for other processes than the worker ---- */

void
ingest_with_ownership(Timeline *tl, void (*body) (Ingest *ingest, void *arg), void *arg)
{
	if (!timeline_acquire_ownership(tl, true, OWNERSHIP_TIMEOUT_MS))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not get hold of the timeline"),
				 errdetail("Another process has been writing it for %d seconds.",
						   OWNERSHIP_TIMEOUT_MS / 1000)));
	PG_TRY();
	{
		Ingest	   *ingest = ingest_begin(tl);

		ingest_stored_wal(ingest);
		body(ingest, arg);
		ingest_end(ingest);
	}
	PG_FINALLY();
	{
		timeline_release_ownership(tl);
	}
	PG_END_TRY();
}

/* True if a valid record is stored behind the last one. */
static bool
more_is_stored(Timeline *tl)
{
	WalCursor  *cursor = walstore_cursor(tl, timeline_last_record_lsn(tl),
										timeline_prev_record_lsn(tl), PG_UINT64_MAX);
	bool		more = walcursor_next(cursor) == WALCURSOR_RECORD;

	walcursor_close(cursor);
	return more;
}

/* The owner's part, without the cost of an Ingest where nothing is to be done. */
static void
index_what_is_stored(Timeline *tl)
{
	Ingest	   *ingest;

	if (!more_is_stored(tl))
	{
		ingest_mark_recovered(tl);
		return;
	}
	NEON_TEST_POINT("stored-wal");
	ingest = ingest_begin(tl);
	ingest_stored_wal(ingest);
	ingest_flush(ingest, INGEST_FLUSH_IF_DUE);
	ingest_end(ingest);
}

static void
recover_as_owner(Timeline *tl)
{
	PG_TRY();
	{
		index_what_is_stored(tl);
	}
	PG_CATCH();
	{
		timeline_release_ownership(tl);
		PG_RE_THROW();
	}
	PG_END_TRY();
	timeline_release_ownership(tl);
}

void
ingest_begin_catch_up(Timeline *tl)
{
	if (!ingest_is_recovered(tl) && timeline_acquire_ownership(tl, false, 0))
		recover_as_owner(tl);
}

void
ingest_catch_up(Timeline *tl)
{
	TimestampTz end = TimestampTzPlusMilliseconds(neon_clock(), OWNERSHIP_TIMEOUT_MS);

	while (!ingest_is_recovered(tl))
	{
		CHECK_FOR_INTERRUPTS();
		if (timeline_acquire_ownership(tl, false, 200))
			recover_as_owner(tl);
		else if (neon_clock() > end)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("stored WAL of the timeline has not been indexed yet"),
					 errhint("Try again later.")));
	}
}
