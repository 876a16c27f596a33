/*-------------------------------------------------------------------------
 *
 * flushtime.c
 *	  Time blocks of a flush: one walk over the WAL that it makes needless.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "controlat.h"
#include "flushtime.h"
#include "rebuild.h"
#include "store_private.h"
#include "timeblock.h"
#include "walmend.h"
#include "walstore.h"

#define RECORDS_PER_TICK	4096

typedef struct TimeFlush
{
	LayerWriter *writer;
	bool		(*wanted) (void *arg, const NeonKey *key);
	void	   *arg;
	ControlState state;			/* behind the last record read */
	TimeBlock	block;			/* being filled */
	StringInfoData bytes;
	uint32		nblocks;
} TimeFlush;

/* The block ends at an LSN and goes into the file. */
static void
write_block(TimeFlush *f, XLogRecPtr end)
{
	NeonKey		key = timeblock_key(f->block.start + 1);
	StoreVersion v = {0};

	if (f->wanted != NULL && !f->wanted(f->arg, &key))
		return;
	resetStringInfo(&f->bytes);
	timeblock_encode(&f->block, end, &f->bytes);
	v.lsn = f->block.start + MAXIMUM_ALIGNOF;
	v.value_kind = NEON_VALUE_BLOB;
	v.base = true;
	v.data = f->bytes.data;
	v.len = f->bytes.len;
	layer_writer_add(f->writer, &key, &v);
	f->nblocks++;
}

/* Where the megabyte that lsn, a record's end, lies in begins. */
static XLogRecPtr
span_start(XLogRecPtr lsn)
{
	return (lsn - 1) / TIMEBLOCK_SPAN * TIMEBLOCK_SPAN;
}

/* Blocks up to the megabyte of a record that ends at lsn, also those that no record ends in. */
static void
pass_spans(TimeFlush *f, XLogRecPtr lsn)
{
	while (span_start(f->block.start + 1) < span_start(lsn))
	{
		XLogRecPtr	next = span_start(f->block.start + 1) + TIMEBLOCK_SPAN;

		write_block(f, next);
		timeblock_begin(&f->block, &f->state, next);
	}
}

static void
pass_record(TimeFlush *f, XLogReaderState *record)
{
	pass_spans(f, record->EndRecPtr);
	control_advance(&f->state, record);
	if (timeblock_entry_kind(&f->state) == TIME_OTHER)
		return;
	timeblock_add(&f->block, &f->state);
	if (timeblock_is_full(&f->block))
	{
		write_block(f, f->state.lsn);
		timeblock_begin(&f->block, &f->state, f->state.lsn);
	}
}

static void
walk(TimeFlush *f, Timeline *tl, XLogRecPtr cut)
{
	WalCursor  *cursor = walstore_cursor(tl, f->state.lsn, f->state.prev, cut);
	uint64		n = 0;

	while (f->state.lsn < cut && walcursor_next(cursor) == WALCURSOR_RECORD)
	{
		pass_record(f, cursor->reader);
		if (++n % RECORDS_PER_TICK == 0)
			store_tick();
	}
	if (f->state.lsn != cut)
	{
		rebuild_note_wal(tl, f->state.lsn);
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored WAL is invalid behind %X/%X, in %s", LSN_FORMAT_ARGS(f->state.lsn),
						walmend_place(tl, f->state.lsn)),
				 errdetail("%s", cursor->problem ? cursor->problem : "It ends there.")));
	}
	walcursor_close(cursor);
}

uint32
flush_time_blocks(Timeline *tl, LayerWriter *writer, XLogRecPtr lo, XLogRecPtr cut,
				  bool (*wanted) (void *arg, const NeonKey *key), void *arg)
{
	TimeFlush	f = {.writer = writer, .wanted = wanted, .arg = arg};

	if (!control_find(tl, lo, &f.state))
		return 0;
	if (f.state.lsn != lo)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("no record ends at %X/%X, where the last layer does",
						LSN_FORMAT_ARGS(lo))));
	initStringInfo(&f.bytes);
	timeblock_begin(&f.block, &f.state, lo);
	walk(&f, tl, cut);
	/* the next flush, and whoever boots there, needs the state at the end */
	if (f.block.last.lsn != cut)
		timeblock_add(&f.block, &f.state);
	if (f.block.start < cut)
		write_block(&f, cut);
	return f.nblocks;
}
