/*-------------------------------------------------------------------------
 *
 * control.c
 *	  What pg_control would say at any LSN, from WAL alone.
 *
 * The counters are moved by the records that move them in recovery, with one
 * difference: truncation records move the oldest transaction and multixact
 * too, as the files are already cut then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/clog.h"
#include "access/commit_ts.h"
#include "access/multixact.h"
#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog_internal.h"
#include "control.h"
#include "miscadmin.h"
#include "neon_bootrec.h"
#include "neon_walindex.h"
#include "store.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "walstore.h"

#define CONTROL_VERSION		1
#define CONTROL_ENCODED_SIZE	(1 + 2 * 8 + sizeof(CheckPoint) + 4 + 1 + 5 * 4 + 1 + 4 + 8 + 3 * 8 + 8)

/* ---- from and into control files; the one list of the settings that they keep ---- */

#define PARAMETER(field) \
	{offsetof(ControlFileData, field), offsetof(xl_parameter_change, field), \
	 sizeof(((xl_parameter_change *) NULL)->field)}

static const struct
{
	size_t		in_file;
	size_t		in_record;
	size_t		size;
}			parameters[] = {
	PARAMETER(wal_level),
	PARAMETER(wal_log_hints),
	PARAMETER(MaxConnections),
	PARAMETER(max_worker_processes),
	PARAMETER(max_wal_senders),
	PARAMETER(max_prepared_xacts),
	PARAMETER(max_locks_per_xact),
	PARAMETER(track_commit_timestamp),
};

static void
get_parameters(xl_parameter_change *to, const ControlFileData *file)
{
	for (int i = 0; i < lengthof(parameters); i++)
		memcpy((char *) to + parameters[i].in_record,
			   (const char *) file + parameters[i].in_file, parameters[i].size);
}

void
control_set_parameters(ControlFileData *file, const ControlState *state)
{
	for (int i = 0; i < lengthof(parameters); i++)
		memcpy((char *) file + parameters[i].in_file,
			   (const char *) &state->parameters + parameters[i].in_record, parameters[i].size);
}

void
control_init(ControlState *state, const ControlFileData *file,
			 XLogRecPtr prev, XLogRecPtr lsn)
{
	memset(state, 0, sizeof(*state));
	state->lsn = lsn;
	state->prev = prev;
	state->checkpoint = file->checkPointCopy;
	state->checkpoint.oldestActiveXid = InvalidTransactionId;
	get_parameters(&state->parameters, file);
	state->max_commit_time = time_t_to_timestamptz(file->checkPointCopy.time);
	state->commit_end = lsn;
	state->commit_time = state->max_commit_time;
}

/* ---- advancing over a record ---- */

/* nextXid goes beyond xid; the epoch is kept, or counted up at a wrap. */
static void
pass_xid(ControlState *state, TransactionId xid)
{
	TransactionId next = XidFromFullTransactionId(state->checkpoint.nextXid);
	uint32		epoch = EpochFromFullTransactionId(state->checkpoint.nextXid);

	if (!TransactionIdIsNormal(xid) || TransactionIdPrecedes(xid, next))
		return;
	TransactionIdAdvance(xid);
	if (xid < next)
		epoch++;
	state->checkpoint.nextXid = FullTransactionIdFromEpochAndXid(epoch, xid);
}

static void
pass_multixact(ControlState *state, MultiXactId next, MultiXactOffset offset)
{
	if (MultiXactIdPrecedes(state->checkpoint.nextMulti, next))
		state->checkpoint.nextMulti = next;
	if ((int32) (offset - state->checkpoint.nextMultiOffset) > 0)
		state->checkpoint.nextMultiOffset = offset;
}

static void
set_from_shutdown_checkpoint(ControlState *state, const CheckPoint *c)
{
	state->checkpoint.nextXid = c->nextXid;
	state->checkpoint.nextOid = c->nextOid;
	state->checkpoint.nextMulti = c->nextMulti;
	state->checkpoint.nextMultiOffset = c->nextMultiOffset;
	state->checkpoint.oldestXid = c->oldestXid;
	state->checkpoint.oldestXidDB = c->oldestXidDB;
	state->checkpoint.oldestMulti = c->oldestMulti;
	state->checkpoint.oldestMultiDB = c->oldestMultiDB;
	state->checkpoint.oldestCommitTsXid = c->oldestCommitTsXid;
	state->checkpoint.newestCommitTsXid = c->newestCommitTsXid;
	state->checkpoint.fullPageWrites = c->fullPageWrites;
	state->checkpoint.time = c->time;
}

static void
advance_from_online_checkpoint(ControlState *state, const CheckPoint *c)
{
	if (U64FromFullTransactionId(c->nextXid) >
		U64FromFullTransactionId(state->checkpoint.nextXid))
		state->checkpoint.nextXid = c->nextXid;
	pass_multixact(state, c->nextMulti, c->nextMultiOffset);
	if (TransactionIdPrecedes(state->checkpoint.oldestXid, c->oldestXid))
	{
		state->checkpoint.oldestXid = c->oldestXid;
		state->checkpoint.oldestXidDB = c->oldestXidDB;
	}
	if (MultiXactIdPrecedes(state->checkpoint.oldestMulti, c->oldestMulti))
	{
		state->checkpoint.oldestMulti = c->oldestMulti;
		state->checkpoint.oldestMultiDB = c->oldestMultiDB;
	}
	state->checkpoint.fullPageWrites = c->fullPageWrites;
	state->checkpoint.time = c->time;
}

static void
change_parameters(ControlState *state, const xl_parameter_change *p)
{
	if (!p->track_commit_timestamp)
	{
		state->checkpoint.oldestCommitTsXid = InvalidTransactionId;
		state->checkpoint.newestCommitTsXid = InvalidTransactionId;
	}
	else if (state->checkpoint.oldestCommitTsXid == InvalidTransactionId)
	{
		/* as when the module is activated: nothing older may be looked up */
		state->checkpoint.oldestCommitTsXid =
			XidFromFullTransactionId(state->checkpoint.nextXid);
		state->checkpoint.newestCommitTsXid = state->checkpoint.oldestCommitTsXid;
	}
	state->parameters = *p;
}

/* True if the record's main data was long enough to be copied. */
static bool
copy_data(XLogReaderState *record, void *dst, size_t size)
{
	if (XLogRecGetDataLen(record) < size)
		return false;
	memcpy(dst, XLogRecGetData(record), size);
	return true;
}

static void
advance_xlog(ControlState *state, XLogReaderState *record)
{
	CheckPoint	checkpoint;
	xl_parameter_change parameters;

	switch (XLogRecGetInfo(record) & ~XLR_INFO_MASK)
	{
		case XLOG_NEXTOID:
			copy_data(record, &state->checkpoint.nextOid, sizeof(Oid));
			break;
		case XLOG_CHECKPOINT_SHUTDOWN:
			if (copy_data(record, &checkpoint, sizeof(checkpoint)))
				set_from_shutdown_checkpoint(state, &checkpoint);
			if (bootrec_term(record) != 0)
				state->term = bootrec_term(record);
			break;
		case XLOG_CHECKPOINT_ONLINE:
			if (copy_data(record, &checkpoint, sizeof(checkpoint)))
				advance_from_online_checkpoint(state, &checkpoint);
			break;
		case XLOG_FPW_CHANGE:
			copy_data(record, &state->checkpoint.fullPageWrites, sizeof(bool));
			break;
		case XLOG_PARAMETER_CHANGE:
			if (copy_data(record, &parameters, sizeof(parameters)))
				change_parameters(state, &parameters);
			break;
		default:
			break;
	}
}

static void
advance_commit_ts(ControlState *state, const WalXact *xact)
{
	TransactionId newest = TransactionIdLatest(xact->xid, xact->nsubxacts, xact->subxacts);
	CheckPoint *c = &state->checkpoint;

	if (c->oldestCommitTsXid == InvalidTransactionId)
		c->oldestCommitTsXid = xact->xid;
	if (c->newestCommitTsXid == InvalidTransactionId ||
		TransactionIdPrecedes(c->newestCommitTsXid, newest))
		c->newestCommitTsXid = newest;
}

static void
advance_xact(ControlState *state, XLogReaderState *record)
{
	WalXact		xact;
	TransactionId xid;
	const TransactionId *subxacts;
	int			nsubxacts;
	XLogRecPtr	origin_lsn;
	int			i;

	if (walindex_parse_xact(record, &xact))
	{
		pass_xid(state, xact.xid);
		for (i = 0; i < xact.nsubxacts; i++)
			pass_xid(state, xact.subxacts[i]);
		if (xact.commit)
		{
			if (state->parameters.track_commit_timestamp)
				advance_commit_ts(state, &xact);
			if (xact.time > state->max_commit_time)
				state->max_commit_time = xact.time;
			state->commit_end = record->EndRecPtr;
			state->commit_time = xact.time;
		}
	}
	else if (walindex_parse_prepare(record, &xid, &nsubxacts, &subxacts, &origin_lsn))
	{
		pass_xid(state, xid);
		for (i = 0; i < nsubxacts; i++)
			pass_xid(state, subxacts[i]);
	}
	else
		return;
	state->last_commit_end = record->EndRecPtr;
	state->last_commit_start = record->ReadRecPtr;
}

static void
advance_multixact(ControlState *state, XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;
	int			i;

	if (info == XLOG_MULTIXACT_CREATE_ID &&
		XLogRecGetDataLen(record) >= SizeOfMultiXactCreate)
	{
		const xl_multixact_create *xlrec = (const xl_multixact_create *) XLogRecGetData(record);
		int			room = (XLogRecGetDataLen(record) - SizeOfMultiXactCreate) /
			sizeof(MultiXactMember);

		pass_multixact(state, xlrec->mid + 1, xlrec->moff + xlrec->nmembers);
		for (i = 0; i < Min(xlrec->nmembers, room); i++)
			pass_xid(state, xlrec->members[i].xid);
	}
	else if (info == XLOG_MULTIXACT_TRUNCATE_ID)
	{
		xl_multixact_truncate xlrec;

		if (copy_data(record, &xlrec, SizeOfMultiXactTruncate))
		{
			state->checkpoint.oldestMulti = xlrec.endTruncOff;
			state->checkpoint.oldestMultiDB = xlrec.oldestMultiDB;
		}
	}
}

static void
advance_truncation(ControlState *state, XLogReaderState *record)
{
	xl_clog_truncate clog;
	xl_commit_ts_truncate commit_ts;

	if (XLogRecGetRmid(record) == RM_CLOG_ID)
	{
		if ((XLogRecGetInfo(record) & ~XLR_INFO_MASK) == CLOG_TRUNCATE &&
			copy_data(record, &clog, sizeof(clog)))
		{
			state->checkpoint.oldestXid = clog.oldestXact;
			state->checkpoint.oldestXidDB = clog.oldestXactDb;
		}
	}
	else if ((XLogRecGetInfo(record) & ~XLR_INFO_MASK) == COMMIT_TS_TRUNCATE &&
			 copy_data(record, &commit_ts, SizeOfCommitTsTruncate) &&
			 state->checkpoint.oldestCommitTsXid != InvalidTransactionId &&
			 TransactionIdPrecedes(state->checkpoint.oldestCommitTsXid, commit_ts.oldestXid))
		state->checkpoint.oldestCommitTsXid = commit_ts.oldestXid;
}

void
control_advance(ControlState *state, XLogReaderState *record)
{
	pass_xid(state, XLogRecGetXid(record));
	switch (XLogRecGetRmid(record))
	{
		case RM_XLOG_ID:
			advance_xlog(state, record);
			break;
		case RM_XACT_ID:
			advance_xact(state, record);
			break;
		case RM_MULTIXACT_ID:
			advance_multixact(state, record);
			break;
		case RM_CLOG_ID:
		case RM_COMMIT_TS_ID:
			advance_truncation(state, record);
			break;
		default:
			break;
	}
	state->prev = record->ReadRecPtr;
	state->lsn = record->EndRecPtr;
}

/* ---- stored form: fixed order, little-endian as the machine ---- */

NeonKey
control_key(void)
{
	return neon_key(NEON_KEY_CONTROL, 0, 0, 0, 0, 0);
}

/* Writes or reads each field in turn; the one list of them. */
static void
control_fields(ControlState *s, void (*field) (void *arg, void *p, size_t len), void *arg)
{
	field(arg, &s->lsn, sizeof(uint64));
	field(arg, &s->prev, sizeof(uint64));
	field(arg, &s->checkpoint, sizeof(CheckPoint));
	for (int i = 0; i < lengthof(parameters); i++)
		field(arg, (char *) &s->parameters + parameters[i].in_record, parameters[i].size);
	field(arg, &s->term, sizeof(uint32));
	field(arg, &s->max_commit_time, sizeof(int64));
	field(arg, &s->last_commit_end, sizeof(uint64));
	field(arg, &s->last_commit_start, sizeof(uint64));
	field(arg, &s->commit_end, sizeof(uint64));
	field(arg, &s->commit_time, sizeof(int64));
}

static void
put_field(void *arg, void *p, size_t len)
{
	appendBinaryStringInfo((StringInfo) arg, p, len);
}

static void
get_field(void *arg, void *p, size_t len)
{
	const char **from = arg;

	memcpy(p, *from, len);
	*from += len;
}

void
control_encode(const ControlState *state, StringInfo buf)
{
	ControlState copy = *state;

	appendStringInfoCharMacro(buf, CONTROL_VERSION);
	control_fields(&copy, put_field, buf);
}

bool
control_decode(const char *data, uint32 len, ControlState *state)
{
	const char *from = data + 1;

	if (len != CONTROL_ENCODED_SIZE || data[0] != CONTROL_VERSION)
		return false;
	memset(state, 0, sizeof(*state));
	control_fields(state, get_field, &from);
	return true;
}

/* ---- the state at an LSN ---- */

bool
control_stored(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	NeonKey		key = control_key();
	StoreChain	chain;

	store_get(tl, &key, 1, lsn, &chain);
	if (chain.found != STORE_FOUND || chain.nversions < 1 ||
		chain.versions[0].value_kind != NEON_VALUE_BLOB)
		return false;
	if (!control_decode(chain.versions[0].data, chain.versions[0].len, state))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored control state at %X/%X is malformed",
						LSN_FORMAT_ARGS(chain.versions[0].lsn))));
	return true;
}

static void
stored_or_error(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	if (!control_stored(tl, lsn, state))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("LSN %X/%X lies before the history of the timeline",
						LSN_FORMAT_ARGS(lsn))));
}

/*
 * Advances over the records that end at or below lsn.  Bad WAL below lsn is an
 * error: all of it was valid when it was ingested.
 */
static void
advance_to(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	WalCursor  *cursor;

	if (state->lsn >= lsn)
		return;
	cursor = walstore_cursor(tl, state->lsn, state->prev, lsn);
	for (;;)
	{
		WalCursorResult result = walcursor_next(cursor);

		if (result == WALCURSOR_INVALID)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("stored WAL is invalid behind %X/%X",
							LSN_FORMAT_ARGS(state->lsn)),
					 errdetail("%s", cursor->problem)));
		/* a WAL switch ends at the segment's end, which its bytes do not reach */
		if (result == WALCURSOR_MORE || cursor->next > lsn)
			break;
		control_advance(state, cursor->reader);
		if (state->lsn == lsn)
			break;
	}
	walcursor_close(cursor);
}

void
control_at(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "control state",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	stored_or_error(tl, lsn, state);
	advance_to(tl, lsn, state);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	if (state->lsn != lsn)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("LSN %X/%X is not the end of a WAL record",
						LSN_FORMAT_ARGS(lsn)),
				 errhint("The nearest end of a record below it is %X/%X.",
						 LSN_FORMAT_ARGS(state->lsn))));
}

/* The first LSN of the whole history: where the root timeline starts. */
static XLogRecPtr
history_start(Timeline *tl)
{
	while (tl->ancestor)
		tl = tl->ancestor;
	return tl->id.start_lsn;
}

void
control_round_to_commit(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "control state",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	XLogRecPtr	target;

	stored_or_error(tl, lsn, state);
	advance_to(tl, lsn, state);
	target = state->last_commit_end;
	/* the start of a timeline is as good as a commit */
	if (target < tl->id.start_lsn && tl->id.start_lsn <= lsn)
		target = tl->id.start_lsn;
	target = Max(target, history_start(tl));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	control_at(tl, target, state);
}

/* ---- times ---- */

/*
 * The newest stored state in [low, high] whose max_commit_time is not above
 * when: found by halving, as that time only grows.
 */
static bool
stored_before(Timeline *tl, TimestampTz when, XLogRecPtr low, XLogRecPtr high,
			  ControlState *state)
{
	ControlState probe;

	if (!control_stored(tl, low, state) || state->max_commit_time > when)
		return false;
	while (high - low > CONTROL_INTERVAL / 4)
	{
		XLogRecPtr	middle = low + (high - low) / 2;

		CHECK_FOR_INTERRUPTS();
		if (!control_stored(tl, middle, &probe))
			return false;
		if (probe.max_commit_time > when)
			high = middle;
		else
		{
			*state = probe;
			low = middle;
		}
	}
	return true;
}

/* Stops before the first commit later than when; true if there was one. */
static bool
advance_until_time(Timeline *tl, TimestampTz when, XLogRecPtr end, ControlState *state)
{
	WalCursor  *cursor;
	bool		later = false;

	if (state->lsn >= end)
		return false;
	cursor = walstore_cursor(tl, state->lsn, state->prev, end);
	while (walcursor_next(cursor) == WALCURSOR_RECORD && cursor->next <= end)
	{
		WalXact		xact;

		CHECK_FOR_INTERRUPTS();
		if (walindex_parse_xact(cursor->reader, &xact) && xact.commit && xact.time > when)
		{
			later = true;
			break;
		}
		control_advance(state, cursor->reader);
	}
	walcursor_close(cursor);
	return later;
}

bool
control_lsn_for_timestamp(Timeline *tl, TimestampTz when, XLogRecPtr *lsn,
						  TimestampTz *commit_time, bool *in_future)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "control state",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	XLogRecPtr	end = timeline_last_record_lsn(tl);
	ControlState state;
	bool		found;

	found = stored_before(tl, when, history_start(tl), end, &state);
	if (found)
	{
		*in_future = !advance_until_time(tl, when, end, &state);
		*lsn = state.commit_end;
		*commit_time = state.commit_time;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return found;
}
