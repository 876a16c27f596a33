/*-------------------------------------------------------------------------
 *
 * changed.c
 *	  SQL function changed_blocks: which blocks of a timeline are not the same
 *	  at two of its LSNs, for a compute that kept its local files.
 *
 * A page at an LSN is made of the versions at or below it, as far as its
 * fork's size and cuts there show them.  So a block is the same at both if it
 * has no version in between, was within its fork at the first LSN, and was not
 * cut off since.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/relpath.h"
#include "controlat.h"
#include "fmgr.h"
#include "history.h"
#include "ingest.h"
#include "neon_kept.h"
#include "neon_testpoint.h"
#include "service.h"
#include "sqlutil.h"
#include "store.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

PG_FUNCTION_INFO_V1(neon_changed_blocks);

typedef struct Changed
{
	Timeline   *tl;
	XLogRecPtr	from;
	XLogRecPtr	to;
	NeonKeptEnd end;			/* what the history has at from */
	NeonChangedRange *ranges;
	uint64		nranges;
	uint64		max;
	bool		too_many;
} Changed;

static void
add_range(Changed *changed, const NeonKey *key, BlockNumber first, BlockNumber nblocks)
{
	NeonChangedRange *last = changed->nranges > 0 ? &changed->ranges[changed->nranges - 1] : NULL;

	if (last != NULL && last->spc == key->spc && last->db == key->db && last->rel == key->rel &&
		last->fork == key->fork && last->first + last->nblocks == first)
	{
		last->nblocks += nblocks;
		return;
	}
	if (changed->nranges == NEON_CHANGED_MAX)
	{
		changed->too_many = true;
		return;
	}
	if (changed->nranges == changed->max)
	{
		changed->max = Max(256, changed->max * 2);
		changed->ranges = changed->ranges == NULL ?
			palloc(changed->max * sizeof(NeonChangedRange)) :
			repalloc(changed->ranges, changed->max * sizeof(NeonChangedRange));
	}
	changed->ranges[changed->nranges++] = (NeonChangedRange)
	{
		.spc = key->spc,.db = key->db,.rel = key->rel,.fork = key->fork,
			.first = first,.nblocks = nblocks
	};
}

static inline bool
is_kept_fork(const NeonKey *key)
{
	return key->fork == MAIN_FORKNUM || key->fork == VISIBILITYMAP_FORKNUM;
}

static bool
on_page(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	Changed    *changed = arg;

	if (is_kept_fork(key))
		add_range(changed, key, key->blk, 1);
	return !changed->too_many;
}

/*
 * Blocks below the result were in the fork at the first LSN and in it ever
 * since.  An unlogged relation is none of those that are kept.
 */
static BlockNumber
untouched_blocks(const Changed *changed, const NeonKey *key, const RelSize *after)
{
	NeonKey		init = *key;
	RelSize		before;
	RelSize		other;
	BlockNumber blocks;

	init.fork = INIT_FORKNUM;
	if (!store_size_at(changed->tl, key, changed->from, &before) ||
		store_size_at(changed->tl, &init, changed->from, &other))
		return 0;
	blocks = before.nblocks;
	for (int i = 0; i < after->ncuts; i++)
	{
		if (after->cuts[i].lsn <= changed->from)
			continue;
		/* of a full list a cut may have been forgotten */
		return after->ncuts == SIZE_MAX_CUTS ? 0 : Min(blocks, after->cuts[i].blocks);
	}
	return blocks;
}

static bool
on_size(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	Changed    *changed = arg;
	RelSize		after;
	BlockNumber untouched;

	if (!is_kept_fork(key) || !store_size_at(changed->tl, key, changed->to, &after))
		return true;
	untouched = untouched_blocks(changed, key, &after);
	if (untouched < after.nblocks)
		add_range(changed, key, untouched, after.nblocks - untouched);
	return !changed->too_many;
}

static void
scan_kind(Changed *changed, NeonKeyKind kind, StoreScanCallback cb)
{
	NeonKey		lo = neon_key(kind, 0, 0, 0, 0, 0);
	NeonKey		hi = neon_key(kind, PG_UINT32_MAX, PG_UINT32_MAX, PG_UINT32_MAX, MAX_FORKNUM,
							  PG_UINT32_MAX);

	store_scan_changed(changed->tl, &lo, &hi, changed->from, changed->to, cb, changed);
}

static int
compare_ranges(const void *x, const void *y)
{
	const uint32 *a = x;
	const uint32 *b = y;

	StaticAssertStmt(offsetof(NeonChangedRange, nblocks) == 5 * sizeof(uint32),
					 "a range begins with what it is sorted by");
	for (int i = 0; i < 5; i++)
	{
		if (a[i] != b[i])
			return a[i] < b[i] ? -1 : 1;
	}
	return 0;
}

static void
sort_ranges(Changed *changed)
{
	NeonChangedRange *ranges = changed->ranges;
	uint64		last = 0;

	if (changed->nranges == 0)
		return;
	qsort(ranges, changed->nranges, sizeof(NeonChangedRange), compare_ranges);
	for (uint64 i = 1; i < changed->nranges; i++)
	{
		NeonChangedRange *a = &ranges[last];
		NeonChangedRange *b = &ranges[i];

		if (memcmp(a, b, offsetof(NeonChangedRange, first)) == 0 &&
			b->first <= (uint64) a->first + a->nblocks)
			a->nblocks = Max(a->nblocks, b->first + b->nblocks - a->first);
		else
			ranges[++last] = *b;
	}
	changed->nranges = last + 1;
}

/*
 * What lies below from_lsn is what the life of that term wrote, and nothing
 * else: its boot record is the last one there, and a record ends there.  Whether
 * that is the one that the life ended with is for the asker to see, from *end.
 */
static void
check_lineage(Timeline *tl, XLogRecPtr from, XLogRecPtr to, uint32 term, NeonKeptEnd *end)
{
	ControlState state;

	if (from > to || to > timeline_last_record_lsn(tl) || from < tl->id.start_lsn)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%X/%X and %X/%X are not in the timeline's own history, in this order",
						LSN_FORMAT_ARGS(from), LSN_FORMAT_ARGS(to))));
	if (NEON_TEST_BUG("any_lineage"))
		return;
	control_at(tl, from, &state);
	if (state.term != term)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the WAL at %X/%X was written in term %u and not in term %u",
						LSN_FORMAT_ARGS(from), state.term, term)));
	end->record = state.prev;
	end->next_xid = U64FromFullTransactionId(state.checkpoint.nextXid);
	end->time = state.checkpoint.time;
}

static bytea *
make_answer(const Changed *changed, uint32 term)
{
	Size		body = changed->nranges * sizeof(NeonChangedRange);
	bytea	   *answer = palloc(VARHDRSZ + sizeof(NeonChangedHeader) + body);
	NeonChangedHeader *header = (NeonChangedHeader *) VARDATA(answer);

	SET_VARSIZE(answer, VARHDRSZ + sizeof(NeonChangedHeader) + body);
	memset(header, 0, sizeof(*header));
	memcpy(header->magic, NEON_CHANGED_MAGIC, sizeof(header->magic));
	header->term = term;
	header->tenant_id = changed->tl->id.tenant;
	header->timeline_id = changed->tl->id.timeline;
	header->from_lsn = changed->from;
	header->to_lsn = changed->to;
	header->end = changed->end;
	header->nranges = changed->nranges;
	if (body > 0)
		memcpy(header + 1, changed->ranges, body);
	header->body_crc = codec_crc32c(header + 1, body);
	header->crc = codec_crc32c(header, offsetof(NeonChangedHeader, crc));
	return answer;
}

/* NULL if they are too many. */
Datum
neon_changed_blocks(PG_FUNCTION_ARGS)
{
	Changed		changed = {.tl = sql_open_timeline(fcinfo, 0, 1)};
	uint32		term = (uint32) PG_GETARG_INT32(2);

	changed.from = PG_GETARG_LSN(3);
	changed.to = PG_GETARG_LSN(4);
	timeline_check_readable(changed.tl);
	ingest_catch_up(changed.tl);
	check_lineage(changed.tl, changed.from, changed.to, term, &changed.end);
	if (changed.from < changed.to)
	{
		/* what both are made of is still there */
		history_read_begin_at(changed.tl, changed.from);
		scan_kind(&changed, NEON_KEY_PAGE, on_page);
		if (!changed.too_many)
			scan_kind(&changed, NEON_KEY_SIZE, on_size);
		history_read_end();
	}
	if (changed.too_many)
		PG_RETURN_NULL();
	sort_ranges(&changed);
	PG_RETURN_BYTEA_P(make_answer(&changed, term));
}
