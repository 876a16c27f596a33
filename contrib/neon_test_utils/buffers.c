/*-------------------------------------------------------------------------
 *
 * buffers.c
 *	  Emptying shared buffers, so that the next read goes to the storage
 *	  manager.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgwriter.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"

PG_FUNCTION_INFO_V1(clear_buffer_cache);

typedef enum DropResult
{
	DROP_EMPTY,
	DROP_DONE,
	DROP_IN_USE,
} DropResult;

/*
 * Drops one clean, unpinned buffer from the mapping table.  The mapping lock
 * comes before the header lock, as everywhere; between the two looks at the
 * tag the buffer may have become another page's, or dirty, or pinned: then it
 * is kept.
 */
static DropResult
drop_buffer(BufferDesc *buf)
{
	BufferTag	tag;
	uint32		hash;
	uint32		state;
	bool		free_it = false;
	LWLock	   *partition;

	state = LockBufHdr(buf);
	tag = buf->tag;
	UnlockBufHdr(buf, state);
	if (!(state & BM_TAG_VALID))
		return DROP_EMPTY;

	hash = BufTableHashCode(&tag);
	partition = BufMappingPartitionLock(hash);
	LWLockAcquire(partition, LW_EXCLUSIVE);
	state = LockBufHdr(buf);
	if (BUFFERTAGS_EQUAL(tag, buf->tag) && BUF_STATE_GET_REFCOUNT(state) == 0 &&
		(state & BM_TAG_VALID) && !(state & (BM_DIRTY | BM_IO_IN_PROGRESS)))
	{
		CLEAR_BUFFERTAG(buf->tag);
		state &= ~(BUF_FLAG_MASK | BUF_USAGECOUNT_MASK);
		free_it = true;
	}
	UnlockBufHdr(buf, state);
	if (free_it)
		BufTableDelete(&tag, hash);
	LWLockRelease(partition);

	if (!free_it)
		return DROP_IN_USE;
	StrategyFreeBuffer(buf);
	return DROP_DONE;
}

/* Pages in use by someone (and unlogged pages not yet checkpointed) stay. */
Datum
clear_buffer_cache(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	int64		dropped = 0;
	int64		kept = 0;
	int			i;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	RequestCheckpoint(CHECKPOINT_IMMEDIATE | CHECKPOINT_FORCE | CHECKPOINT_WAIT |
					  CHECKPOINT_FLUSH_ALL);
	for (i = 0; i < NBuffers; i++)
	{
		DropResult	result;

		CHECK_FOR_INTERRUPTS();
		result = drop_buffer(GetBufferDescriptor(i));
		if (result == DROP_DONE)
			dropped++;
		else if (result == DROP_IN_USE)
			kept++;
	}

	values[0] = Int64GetDatum(dropped);
	values[1] = Int64GetDatum(kept);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
