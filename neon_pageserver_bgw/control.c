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
#include "neon_bootrec.h"
#include "neon_walindex.h"
#include "utils/timestamp.h"

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

	if (data == NULL || len != CONTROL_ENCODED_SIZE || data[0] != CONTROL_VERSION)
		return false;
	memset(state, 0, sizeof(*state));
	control_fields(state, get_field, &from);
	return true;
}
