/*-------------------------------------------------------------------------
 *
 * controlat.c
 *	  The control state at an LSN or a time of a timeline's history.
 *
 * A timeline's history is that of its ancestors up to the branch point, and its
 * own from there.  In each of them what lies at or below disk_consistent_lsn is
 * answered by time blocks.  A flush may move that position, and take away WAL
 * that is being read here: then the search begins anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "controlat.h"
#include "history.h"
#include "miscadmin.h"
#include "neon_walindex.h"
#include "store.h"
#include "timeblock.h"
#include "utils/memutils.h"
#include "walstore.h"

/* ---- levels of ancestry ---- */

/* Whose own history has lsn; *upto: where that part of it ends. */
static Timeline *
level_of(Timeline *tl, XLogRecPtr lsn, XLogRecPtr *upto)
{
	*upto = timeline_last_record_lsn(tl);
	while (tl->ancestor != NULL && lsn <= tl->id.start_lsn)
	{
		*upto = tl->id.start_lsn;
		tl = tl->ancestor;
	}
	return tl;
}

/* The first LSN of the whole history: where the root timeline starts. */
static XLogRecPtr
history_start(Timeline *tl)
{
	while (tl->ancestor)
		tl = tl->ancestor;
	return tl->id.start_lsn;
}

/* ---- flushed: time blocks ---- */

/* The block that covers lsn; false if there is none. */
static bool
find_block(Timeline *tl, XLogRecPtr lsn, TimeBlockReader *reader)
{
	NeonKey		key = timeblock_key(lsn);
	StoreChain	chain;

	store_get(tl, &key, 1, lsn, &chain);
	if (chain.found != STORE_FOUND || chain.nversions < 1 ||
		chain.versions[0].value_kind != NEON_VALUE_BLOB)
		return false;
	timeblock_open(reader, chain.versions[0].data, chain.versions[0].len);
	return lsn <= reader->end;
}

static bool
find_flushed(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	TimeBlockReader reader;

	if (!find_block(tl, lsn, &reader))
		return false;
	do
	{
		*state = reader.state;
	} while (timeblock_next(&reader) && reader.state.lsn <= lsn);
	return true;
}

/* ---- not flushed: stored WAL ---- */

/* The newest state above "above" that the ingest put at or below lsn. */
static bool
find_put(Timeline *tl, XLogRecPtr above, XLogRecPtr lsn, ControlState *state)
{
	NeonKey		key = control_key();
	StoreChain	chain;

	store_get(tl, &key, 1, lsn, &chain);
	if (chain.found != STORE_FOUND || chain.nversions < 1 ||
		chain.versions[0].value_kind != NEON_VALUE_BLOB || chain.versions[0].lsn <= above)
		return false;
	if (!control_decode(chain.versions[0].data, chain.versions[0].len, state))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("control state at %X/%X is malformed",
						LSN_FORMAT_ARGS(chain.versions[0].lsn))));
	return true;
}

static void
bad_wal(const ControlState *state, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("stored WAL is invalid behind %X/%X", LSN_FORMAT_ARGS(state->lsn)),
			 errdetail("%s", problem ? problem : "It ends there.")));
}

/*
 * Advances over the records that end at or below lsn.  False if the WAL ends
 * before, or is no longer stored.
 */
static bool
advance_to(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	WalCursor  *cursor;
	WalCursorResult result = WALCURSOR_RECORD;
	bool		passed = false;

	if (state->lsn >= lsn)
		return true;
	cursor = walstore_cursor(tl, state->lsn, state->prev, lsn);
	while (state->lsn < lsn && !passed &&
		   (result = walcursor_next(cursor)) == WALCURSOR_RECORD)
	{
		CHECK_FOR_INTERRUPTS();
		/* a WAL switch ends at the segment's end, which its bytes do not reach */
		passed = cursor->next > lsn;
		if (!passed)
			control_advance(state, cursor->reader);
	}
	if (result == WALCURSOR_INVALID)
		bad_wal(state, cursor->problem);
	walcursor_close(cursor);
	/* the rest of a record that goes beyond lsn looks like the end of the WAL */
	return result == WALCURSOR_RECORD;
}

/* ---- the state at an LSN ---- */

/* From the nearest state; in a context of its own. */
static bool
find_nearest(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	for (;;)
	{
		XLogRecPtr	upto;
		Timeline   *own = level_of(tl, lsn, &upto);
		XLogRecPtr	flushed = timeline_disk_consistent_lsn(own);

		CHECK_FOR_INTERRUPTS();
		if (lsn <= flushed)
		{
			if (!find_flushed(own, lsn, state))
				return false;
			(void) advance_to(own, lsn, state);
			return true;
		}
		if (!find_put(own, flushed, lsn, state) && !find_nearest(own, flushed, state))
			return false;
		(void) advance_to(own, lsn, state);
		if (state->lsn == lsn || timeline_disk_consistent_lsn(own) == flushed)
			return true;
	}
}

bool
control_find(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "control state",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		found = find_nearest(tl, lsn, state);

	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return found;
}

static void
find_or_error(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	if (!control_find(tl, lsn, state))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("LSN %X/%X lies before the history of the timeline",
						LSN_FORMAT_ARGS(lsn))));
}

/* Is the WAL there, so that the end of every record is known? */
static bool
is_stored(Timeline *tl, XLogRecPtr lsn)
{
	XLogRecPtr	upto;
	char		byte;

	return walstore_read(level_of(tl, lsn, &upto), lsn - 1, &byte, 1);
}

void
control_at(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	find_or_error(tl, lsn, state);
	if (state->lsn == lsn)
		return;
	if (is_stored(tl, lsn))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("LSN %X/%X is not the end of a WAL record",
						LSN_FORMAT_ARGS(lsn)),
				 errhint("The nearest end of a record below it is %X/%X.",
						 LSN_FORMAT_ARGS(state->lsn))));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("LSN %X/%X is not the end of a transaction", LSN_FORMAT_ARGS(lsn)),
			 errdetail("WAL of that age is no longer stored; what is known of it is where transactions ended."),
			 errhint("The nearest such place below it is %X/%X.", LSN_FORMAT_ARGS(state->lsn))));
}

void
control_round_to_commit(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	XLogRecPtr	target;

	find_or_error(tl, lsn, state);
	target = state->last_commit_end;
	/* the start of a timeline is as good as a commit */
	if (target < tl->id.start_lsn && tl->id.start_lsn <= lsn)
		target = tl->id.start_lsn;
	target = Max(target, history_start(tl));
	if (state->lsn != target)
		control_at(tl, target, state);
}

/* ---- times ---- */

/* A state at or below lsn and not far from it, without reading WAL. */
static bool
probe(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	XLogRecPtr	upto;
	Timeline   *own = level_of(tl, lsn, &upto);
	XLogRecPtr	flushed = timeline_disk_consistent_lsn(own);

	if (lsn > flushed)
		return find_put(own, flushed, lsn, state) || find_nearest(own, flushed, state);
	return find_flushed(own, lsn, state);
}

/*
 * A state whose max_commit_time is not above when, as near to the first later
 * one as probes come: found by halving, as that time only grows.  False if even
 * the oldest state is later.
 */
static bool
state_before(Timeline *tl, TimestampTz when, XLogRecPtr low, XLogRecPtr high,
			 ControlState *state)
{
	if (!find_nearest(tl, low, state) || state->max_commit_time > when)
		return false;
	while (high - low > TIMEBLOCK_SPAN / 4)
	{
		XLogRecPtr	middle = low + (high - low) / 2;
		ControlState there;

		CHECK_FOR_INTERRUPTS();
		middle -= middle % MAXIMUM_ALIGNOF;
		if (!probe(tl, middle, &there))
			return false;
		if (there.max_commit_time > when)
			high = middle;
		else
		{
			*state = there;
			low = middle;
		}
	}
	return true;
}

/*
 * Through the block behind *pos; true if a commit later than when is there, and
 * the state is that before it.  *pos moves to the block's end.
 */
static bool
later_in_block(Timeline *own, TimestampTz when, XLogRecPtr upto, XLogRecPtr *pos,
			   ControlState *state)
{
	TimeBlockReader reader;

	if (!find_block(own, *pos + MAXIMUM_ALIGNOF, &reader))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("no time block is stored for LSN %X/%X",
						LSN_FORMAT_ARGS(*pos + MAXIMUM_ALIGNOF))));
	while (timeblock_next(&reader) && reader.state.lsn <= upto)
	{
		if (reader.state.lsn <= *pos)
			continue;
		if (timeblock_entry_kind(&reader.state) == TIME_COMMIT && reader.state.commit_time > when)
			return true;
		*state = reader.state;
	}
	*pos = Min(reader.end, upto);
	return false;
}

/*
 * The same through the WAL behind the state, which is at *pos; *pos stays where
 * it is if that WAL has been flushed and removed meanwhile.
 */
static bool
later_in_wal(Timeline *own, TimestampTz when, XLogRecPtr upto, XLogRecPtr *pos,
			 ControlState *state)
{
	XLogRecPtr	flushed = timeline_disk_consistent_lsn(own);
	WalCursor  *cursor = walstore_cursor(own, state->lsn, state->prev, upto);
	bool		later = false;

	while (!later && state->lsn < upto && walcursor_next(cursor) == WALCURSOR_RECORD &&
		   cursor->next <= upto)
	{
		WalXact		xact;

		CHECK_FOR_INTERRUPTS();
		later = walindex_parse_xact(cursor->reader, &xact) && xact.commit && xact.time > when;
		if (!later)
			control_advance(state, cursor->reader);
	}
	if (!later && state->lsn < upto && timeline_disk_consistent_lsn(own) == flushed)
		bad_wal(state, cursor->problem);
	walcursor_close(cursor);
	*pos = state->lsn;
	return later;
}

/* Moves the state to the last one before the first commit later than when; true if there is one. */
static bool
advance_until_time(Timeline *tl, TimestampTz when, XLogRecPtr end, ControlState *state)
{
	XLogRecPtr	pos = state->lsn;

	while (pos < end)
	{
		XLogRecPtr	upto;
		Timeline   *own = level_of(tl, pos + MAXIMUM_ALIGNOF, &upto);
		bool		later;

		CHECK_FOR_INTERRUPTS();
		upto = Min(upto, end);
		if (pos < timeline_disk_consistent_lsn(own))
			later = later_in_block(own, when,
								   Min(upto, timeline_disk_consistent_lsn(own)), &pos, state);
		else
		{
			if (state->lsn != pos && !find_nearest(tl, pos, state))
				bad_wal(state, NULL);
			later = later_in_wal(own, when, upto, &pos, state);
		}
		if (later)
			return true;
	}
	return false;
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

	found = state_before(tl, when, history_oldest(tl), end, &state);
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
