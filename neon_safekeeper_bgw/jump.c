/*-------------------------------------------------------------------------
 *
 * jump.c
 *	  A member that lacks WAL which nobody keeps any more begins its log anew.
 *
 * Retention removes what the pageserver has in layer files, and keeps it for a
 * member that is behind only up to a limit.  A member whose log ends below what
 * the others still have takes a peer's wal_start as its own: its log becomes
 * [wal_start, first_record), where first_record is the end of the record that
 * reaches into that segment, and from there it is copied as always.
 *
 * It is as if everything below had been copied at once and then been removed by
 * retention: the donor counts for the promised term, so what it has committed is
 * in that term's log, and what lies below its wal_start is durable at the
 * pageserver.  History and promise stay, flush_lsn rises.  The new segments are
 * durable before the state file, whose replacement decides: before it, a restart
 * finds the old log and removes them; after it, the old segments are below
 * wal_start, like those of a removal that was interrupted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "jump.h"
#include "neon_lsn.h"
#include "neon_sqlutil.h"
#include "neon_testpoint.h"
#include "slot.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include <libpq-fe.h>

#define BEGINNING_COLUMNS	7
#define MAX_HEAD			(16 * 1024 * 1024)	/* bytes of a record that began before */
#define ASK_MS				10000

PG_FUNCTION_INFO_V1(neon_sk_log_beginning);

/* ---- the donor ---- */

static void
check_aligned(const SkTimeline *tl, XLogRecPtr wal_start)
{
	if (wal_start % tl->wal_segment_size != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the WAL that is here begins inside of a segment, at %X/%X",
						LSN_FORMAT_ARGS(wal_start))));
}

static void
read_head(SkTimeline *tl, SkBeginning *b)
{
	char	   *data;

	if (!skreader_first_record(tl, b->wal_start, b->commit_lsn, &b->first_record))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the page at %X/%X is not valid", LSN_FORMAT_ARGS(b->first_record))));
	b->len = b->first_record - b->wal_start;
	if (b->len > MAX_HEAD)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the WAL that is here begins with %zu bytes of one record", b->len)));
	b->data = data = palloc(b->len + 1);
	if (!skwal_read(tl, b->wal_start, data, b->len))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("WAL from %X/%X on is not here", LSN_FORMAT_ARGS(b->wal_start))));
}

void
sk_read_beginning(SkTimeline *tl, uint32 term, SkBeginning *b)
{
	SkState    *st = palloc(sizeof(SkState));

	memset(b, 0, sizeof(*b));
	sk_lock(tl);
	if (sk_status(tl) == SK_UNOPENED)
		sk_open_from_disk(tl);
	sk_check_healthy(tl);
	sk_check_counts(tl, term);
	sk_get_state(tl, st);
	check_aligned(tl, st->wal_start);
	b->wal_start = st->wal_start;
	b->commit_lsn = st->commit_lsn;
	b->term = *skhistory_last(&st->history);
	if (b->term.start < st->wal_start && st->boot_term == term)
		b->boot_id = st->boot_id;
	read_head(tl, b);
	sk_unlock(tl);
	pfree(st);
}

/* log_beginning(tenant, timeline, term) */
Datum
neon_sk_log_beginning(PG_FUNCTION_ARGS)
{
	NeonId		tenant;
	NeonId		timeline;
	SkBeginning b;
	TupleDesc	desc;
	Datum		values[BEGINNING_COLUMNS];
	bool		nulls[BEGINNING_COLUMNS] = {false};

	sql_refuse_transaction_block("log_beginning");
	sk_check_storage_role();
	tenant = sql_id_arg(fcinfo, 0, "tenant");
	timeline = sql_id_arg(fcinfo, 1, "timeline");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	sk_read_beginning(sk_open(&tenant, &timeline), (uint32) PG_GETARG_INT32(2), &b);
	values[0] = LSNGetDatum(b.wal_start);
	values[1] = LSNGetDatum(b.first_record);
	values[2] = LSNGetDatum(b.commit_lsn);
	values[3] = Int32GetDatum(b.term.term);
	values[4] = LSNGetDatum(b.term.start);
	values[5] = sql_id_datum(&b.boot_id);
	values[6] = PointerGetDatum(cstring_to_text_with_len(b.data, b.len));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* ---- the member ---- */

/* Bytes from the network: the files tell below whether they are WAL. */
static void
check_beginning(const SkTimeline *tl, const SkBeginning *b)
{
	if (b->wal_start % tl->wal_segment_size != 0 || b->wal_start < tl->start_lsn ||
		b->first_record < b->wal_start || b->first_record - b->wal_start != b->len ||
		b->len > MAX_HEAD || b->commit_lsn < b->first_record)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a peer sent an invalid beginning of its log")));
}

/* Is the donor's log that of the election which this member knows, too? */
static bool
same_election(const SkState *st, uint32 term, const SkBeginning *b)
{
	const SkTerm *last = skhistory_last(&st->history);

	return last->term == term && b->term.term == term && last->start == b->term.start;
}

/* The new segments, durable; the old ones end below them. */
static void
put_head(SkTimeline *tl, const SkBeginning *b)
{
	XLogRecPtr	found;

	skwal_put_segments(tl, b->wal_start, b->data, b->len);
	if (!skreader_first_record(tl, b->wal_start, b->first_record, &found) ||
		found != b->first_record)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a peer sent an invalid beginning of its log"),
				 errdetail("The page at %X/%X is not valid.", LSN_FORMAT_ARGS(found))));
}

/* R10 of a compute whose boot record is not here: what the donor knows. */
static void
keep_boot(SkTimeline *tl, SkState *st, const SkBeginning *b)
{
	skwal_remember_boot(tl, st, b->wal_start);
	if (b->term.start >= b->wal_start || st->boot_term == b->term.term)
		return;
	st->boot_term = b->term.term;
	st->boot_id = b->boot_id;
}

static void
jump_locked(SkTimeline *tl, SkState *st, const SkBeginning *b)
{
	sk_op_begin(tl);
	skwal_truncate(tl, sk_flush_lsn(tl));
	keep_boot(tl, st, b);
	put_head(tl, b);
	st->wal_start = b->wal_start;
	st->commit_lsn = b->first_record;
	st->clean_end = InvalidXLogRecPtr;
	sk_persist(tl, st, "jump");
	SpinLockAcquire(&tl->shared->mutex);
	tl->shared->flush_lsn = tl->shared->written_lsn = b->first_record;
	SpinLockRelease(&tl->shared->mutex);
	sk_op_end(tl);
	skslot_invalidate(tl, b->wal_start);
	skwal_remove_files_below(tl, b->wal_start);
	NEON_TEST_POINT("jump-removed");
}

bool
sk_jump(SkTimeline *tl, uint32 term, const SkBeginning *b)
{
	SkState    *st = palloc(sizeof(SkState));
	XLogRecPtr	end;
	bool		wanted;

	check_beginning(tl, b);
	sk_lock(tl);
	if (sk_status(tl) == SK_UNOPENED)
		sk_open_from_disk(tl);
	sk_check_healthy(tl);
	sk_check_member(tl);
	sk_stop_writer(tl, 0);
	sk_get_state(tl, st);
	if (st->promised != term)
		ereport(ERROR,
				(errcode(ERRCODE_NS_SUPERSEDED),
				 errmsg("the promised term is %u, not %u", st->promised, term),
				 sk_errdetail_state(tl)));
	end = sk_flush_lsn(tl);
	wanted = end < b->wal_start && same_election(st, term, b);
	if (wanted)
		jump_locked(tl, st, b);
	sk_unlock(tl);
	pfree(st);
	if (!wanted)
		return false;
	ConditionVariableBroadcast(&tl->shared->commit_cv);
	ereport(LOG,
			(errmsg("the log begins anew at %X/%X, because nobody has the WAL from %X/%X on any more",
					LSN_FORMAT_ARGS(b->wal_start), LSN_FORMAT_ARGS(end)),
			 errdetail("This safekeeper was further behind than neon_safekeeper.max_retained of the others; what lies below is stored by the pageserver.")));
	return true;
}

/* ---- the worker ---- */

/* False if the answer is none. */
static bool
parse_beginning(ReceiverRows *rows, SkBeginning *b)
{
	const char *text[BEGINNING_COLUMNS];
	unsigned char *bytes;
	char	   *copy;

	if (receiver_nrows(rows) != 1)
		return false;
	for (int i = 0; i < BEGINNING_COLUMNS; i++)
	{
		text[i] = receiver_value(rows, 0, i);
		if (text[i] == NULL)
			return false;
	}
	if (!neon_lsn_parse(text[0], &b->wal_start) || !neon_lsn_parse(text[1], &b->first_record) ||
		!neon_lsn_parse(text[2], &b->commit_lsn) || !neon_lsn_parse(text[4], &b->term.start) ||
		!neon_id_parse(text[5], &b->boot_id))
		return false;
	b->term.term = strtoul(text[3], NULL, 10);
	bytes = PQunescapeBytea((const unsigned char *) text[6], &b->len);
	if (bytes == NULL)
		return false;
	b->data = copy = palloc(b->len + 1);
	memcpy(copy, bytes, b->len);
	PQfreemem(bytes);
	return true;
}

static bool
ask_beginning(Fetch *f, Donor *d, SkBeginning *b)
{
	ReceiverRows *rows = receiver_rows(d->receiver,
									   psprintf("SELECT wal_start, first_record, commit_lsn, term, term_start, boot_id, data"
												" FROM neon_safekeeper.log_beginning(%s, %u)",
												copy_ids_as_arguments(f), f->order.term),
									   ASK_MS, &f->problem);
	bool		ok;

	if (rows == NULL)
		return false;
	ok = parse_beginning(rows, b);
	if (!ok)
		f->problem = psprintf("peer \"%s\" sent an invalid beginning of its log", d->conninfo);
	receiver_free_rows(rows);
	return ok;
}

/* The lowest beginning of those that answer; false if there is none. */
static bool
find_beginning(Fetch *f, SkBeginning *best)
{
	PeerList   *list = copy_peers(f);
	bool		found = false;

	for (int i = 0; i < list->n && !fetch_interrupted(f); i++)
	{
		SkBeginning b;
		Donor		d;

		if (!copy_open_donor(f, list->conninfo[i], &d))
			continue;
		if (d.counts && d.promised == f->order.term && ask_beginning(f, &d, &b) &&
			(!found || b.wal_start < best->wal_start))
		{
			*best = b;
			found = true;
		}
		receiver_close(d.receiver);
	}
	return found;
}

bool
jump_to_peer(Fetch *f)
{
	SkPositions p;
	SkBeginning b;

	sk_get_positions(f->tl, &p);
	if (!p.member || p.promised != f->order.term || p.term != f->order.term ||
		!find_beginning(f, &b) || b.wal_start <= p.flush_lsn)
		return false;
	if (!sk_jump(f->tl, f->order.term, &b))
		return false;
	(void) sk_set_problem(f->tl,
						  psprintf("it was too far behind: its log began anew at %X/%X and is copied from a peer",
								   LSN_FORMAT_ARGS(b.wal_start)));
	f->progress = true;
	return true;
}
