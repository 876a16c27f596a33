/*-------------------------------------------------------------------------
 *
 * timeblock.c
 *	  Time blocks: encoding and decoding.
 *
 * docs/storage-format.md has the layout.  An entry names only the fields of
 * the control state that differ from the one before; a commit in a busy
 * database takes about 6 bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "timeblock.h"

#define TIMEBLOCK_VERSION	1
#define MAX_ENTRIES			4096
#define UNIT				8	/* record ends and starts are multiples of it */
#define KIND_BITS			2

#define FIELD(name) {offsetof(ControlState, name), sizeof(((ControlState *) NULL)->name)}

/* What records change beside positions, the frequent ones first.  The order is part of the format. */
static const struct
{
	size_t		offset;
	size_t		size;
}			fields[] = {
	FIELD(commit_time),
	FIELD(checkpoint.nextXid),
	FIELD(checkpoint.nextMulti),
	FIELD(checkpoint.nextMultiOffset),
	FIELD(checkpoint.newestCommitTsXid),
	FIELD(checkpoint.nextOid),
	FIELD(checkpoint.time),
	FIELD(checkpoint.oldestXid),
	FIELD(checkpoint.oldestXidDB),
	FIELD(checkpoint.oldestMulti),
	FIELD(checkpoint.oldestMultiDB),
	FIELD(checkpoint.oldestCommitTsXid),
	FIELD(checkpoint.fullPageWrites),
	FIELD(term),
	FIELD(parameters.wal_level),
	FIELD(parameters.wal_log_hints),
	FIELD(parameters.MaxConnections),
	FIELD(parameters.max_worker_processes),
	FIELD(parameters.max_wal_senders),
	FIELD(parameters.max_prepared_xacts),
	FIELD(parameters.max_locks_per_xact),
	FIELD(parameters.track_commit_timestamp),
};

TimeEntryKind
timeblock_entry_kind(const ControlState *state)
{
	if (state->last_commit_end != state->lsn)
		return TIME_OTHER;
	return state->commit_end == state->lsn ? TIME_COMMIT : TIME_NO_COMMIT;
}

/* ---- fields ---- */

static uint64
get_field(const ControlState *state, int i)
{
	const char *at = (const char *) state + fields[i].offset;
	uint64		v8;
	uint32		v4;

	switch (fields[i].size)
	{
		case sizeof(uint64):
			memcpy(&v8, at, sizeof(v8));
			return v8;
		case sizeof(uint32):
			memcpy(&v4, at, sizeof(v4));
			return v4;
		default:
			Assert(fields[i].size == 1);
			return *(const uint8 *) at;
	}
}

static void
set_field(ControlState *state, int i, uint64 v)
{
	char	   *at = (char *) state + fields[i].offset;
	uint32		v4 = (uint32) v;

	switch (fields[i].size)
	{
		case sizeof(uint64):
			memcpy(at, &v, sizeof(v));
			break;
		case sizeof(uint32):
			memcpy(at, &v4, sizeof(v4));
			break;
		default:
			*(uint8 *) at = (uint8) v;
	}
}

static inline uint64
zigzag(int64 v)
{
	return ((uint64) v << 1) ^ (uint64) (v >> 63);
}

static inline int64
unzigzag(uint64 v)
{
	return (int64) (v >> 1) ^ -(int64) (v & 1);
}

/* ---- writing ---- */

void
timeblock_begin(TimeBlock *block, const ControlState *base, XLogRecPtr start)
{
	block->base = *base;
	block->last = *base;
	block->start = start;
	block->nentries = 0;
	if (block->entries.data == NULL)
		initStringInfo(&block->entries);
	resetStringInfo(&block->entries);
}

void
timeblock_add(TimeBlock *block, const ControlState *state)
{
	StringInfo	buf = &block->entries;
	uint64		changed = 0;

	for (int i = 0; i < lengthof(fields); i++)
	{
		if (get_field(state, i) != get_field(&block->last, i))
			changed |= UINT64CONST(1) << i;
	}
	codec_put_varint(buf, changed << KIND_BITS | timeblock_entry_kind(state));
	codec_put_varint(buf, (state->lsn - block->last.lsn) / UNIT);
	codec_put_varint(buf, (state->lsn - state->prev) / UNIT);
	for (int i = 0; i < lengthof(fields); i++)
	{
		if (changed & UINT64CONST(1) << i)
			codec_put_varint(buf, zigzag((int64) (get_field(state, i) -
												  get_field(&block->last, i))));
	}
	block->last = *state;
	block->nentries++;
}

bool
timeblock_is_full(const TimeBlock *block)
{
	return block->nentries >= MAX_ENTRIES;
}

void
timeblock_encode(const TimeBlock *block, XLogRecPtr end, StringInfo buf)
{
	StringInfoData base;

	initStringInfo(&base);
	control_encode(&block->base, &base);
	codec_put_u8(buf, TIMEBLOCK_VERSION);
	codec_put_u64(buf, block->start);
	codec_put_u64(buf, end);
	codec_put_varint(buf, base.len);
	codec_put_bytes(buf, base.data, base.len);
	codec_put_varint(buf, block->nentries);
	codec_put_bytes(buf, block->entries.data, block->entries.len);
	pfree(base.data);
}

/* ---- reading ---- */

static void
bad_block(const TimeBlockReader *reader)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("stored time block of %X/%X is malformed", LSN_FORMAT_ARGS(reader->start))));
}

void
timeblock_open(TimeBlockReader *reader, const char *data, uint32 len)
{
	Cursor	   *c = &reader->cursor;
	uint8		version;
	const uint8 *base;
	uint64		base_len;

	*c = cursor_over(data, len);
	version = cursor_u8(c);
	reader->start = cursor_u64(c);
	reader->end = cursor_u64(c);
	base_len = cursor_varint(c);
	base = cursor_bytes(c, base_len);
	reader->left = (uint32) cursor_varint(c);
	if (!c->ok || version != TIMEBLOCK_VERSION || reader->end < reader->start ||
		!control_decode((const char *) base, base_len, &reader->state) ||
		reader->left > cursor_left(c))
		bad_block(reader);
}

bool
timeblock_next(TimeBlockReader *reader)
{
	ControlState *state = &reader->state;
	Cursor	   *c = &reader->cursor;
	uint64		tag;
	XLogRecPtr	end;
	uint64		length;

	if (reader->left == 0)
		return false;
	tag = cursor_varint(c);
	end = state->lsn + cursor_varint(c) * UNIT;
	length = cursor_varint(c) * UNIT;
	for (int i = 0; i < lengthof(fields); i++)
	{
		if (tag & UINT64CONST(1) << (i + KIND_BITS))
			set_field(state, i, get_field(state, i) + (uint64) unzigzag(cursor_varint(c)));
	}
	if (!c->ok || tag >> (lengthof(fields) + KIND_BITS) != 0 ||
		end <= reader->start || end > reader->end || length >= end)
		bad_block(reader);
	state->lsn = end;
	state->prev = end - length;
	if ((tag & 3) != TIME_OTHER)
	{
		state->last_commit_end = end;
		state->last_commit_start = state->prev;
	}
	if ((tag & 3) == TIME_COMMIT)
	{
		state->commit_end = end;
		state->max_commit_time = Max(state->max_commit_time, state->commit_time);
	}
	reader->left--;
	return true;
}
