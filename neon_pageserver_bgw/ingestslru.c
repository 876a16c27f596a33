/*-------------------------------------------------------------------------
 *
 * ingestslru.c
 *	  SLRU pages in the ingest: references to records, an image now and then,
 *	  and which pages exist.
 *
 * A page of pg_xact takes tens of thousands of records.  The latest pages are
 * kept here, so that a reader never has to apply more than a few hundred.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "blobs.h"
#include "ingest_private.h"
#include "utils/memutils.h"

static HotPage *
hot_pages(Ingest *ingest, NeonSlru slru)
{
	return ingest->hot + (int) slru * SLRU_HOT_PAGES;
}

static HotPage *
find_hot(Ingest *ingest, NeonSlru slru, BlockNumber page)
{
	HotPage    *hot = hot_pages(ingest, slru);
	int			i;

	for (i = 0; i < SLRU_HOT_PAGES; i++)
	{
		if (hot[i].valid && hot[i].page == page)
			return &hot[i];
	}
	return NULL;
}

/* An unused place, or that of the page that was used longest ago. */
static HotPage *
claim_hot(Ingest *ingest, NeonSlru slru, BlockNumber page)
{
	HotPage    *hot = hot_pages(ingest, slru);
	HotPage    *best = &hot[0];
	int			i;

	for (i = 0; i < SLRU_HOT_PAGES; i++)
	{
		if (!hot[i].valid)
		{
			best = &hot[i];
			break;
		}
		if (hot[i].used < best->used)
			best = &hot[i];
	}
	best->valid = true;
	best->page = page;
	best->nrefs = 0;
	return best;
}

/* The page as it is before the record at hand; a page that the record begins is empty. */
static HotPage *
get_hot(Ingest *ingest, NeonSlru slru, BlockNumber page, bool begins)
{
	HotPage    *hot = find_hot(ingest, slru, page);

	if (hot == NULL)
	{
		if (!begins)
			ingest_publish_before(ingest);
		hot = claim_hot(ingest, slru, page);
		if (begins)
			memset(hot->data, 0, BLCKSZ);
		else
		{
			hot->valid = false; /* until it is read */
			slru_page_at(ingest->tl, slru, page, timeline_last_record_lsn(ingest->tl), hot->data);
			hot->valid = true;
		}
	}
	hot->used = ++ingest->hot_clock;
	return hot;
}

static void
on_slru_page(NeonSlru slru, BlockNumber page, bool base, void *arg)
{
	Ingest	   *ingest = arg;
	HotPage    *hot;

	/* aside, a page that was changed meanwhile can be read nowhere */
	if (ingest->aside)
	{
		ingest_put(ingest, slru_page_key(slru, page), NEON_VALUE_WAL, base, NULL, 0);
		return;
	}
	hot = get_hot(ingest, slru, page, base);
	slru_apply(ingest->record, slru, page, hot->data);
	if (++hot->nrefs >= SLRU_IMAGE_INTERVAL)
	{
		hot->nrefs = 0;
		ingest_put(ingest, slru_page_key(slru, page), NEON_VALUE_IMAGE, true, hot->data, BLCKSZ);
	}
	else
		ingest_put(ingest, slru_page_key(slru, page), NEON_VALUE_WAL, base, NULL, 0);
}

/* ---- bounds ---- */

static void
put_bounds(Ingest *ingest, NeonSlru slru)
{
	const SlruBounds *b = &ingest->bounds[slru];
	StringInfoData buf;

	if (!b->exists)
	{
		ingest_put(ingest, slru_bounds_key(slru), NEON_VALUE_TOMBSTONE, true, NULL, 0);
		return;
	}
	initStringInfo(&buf);
	blob_put_slru_bounds(&buf, b->oldest, b->latest);
	ingest_put(ingest, slru_bounds_key(slru), NEON_VALUE_BLOB, true, buf.data, buf.len);
}

/*
 * Commit timestamps were switched on: their first page is empty, whatever an
 * earlier time left in it.  No record says so.
 */
static void
begin_commit_ts(Ingest *ingest, BlockNumber page)
{
	char	   *zeros = palloc0(BLCKSZ);
	HotPage    *hot = find_hot(ingest, NEON_SLRU_COMMIT_TS, page);

	if (hot)
		memset(hot->data, 0, BLCKSZ);
	ingest_put(ingest, slru_page_key(NEON_SLRU_COMMIT_TS, page), NEON_VALUE_IMAGE, true,
			   zeros, BLCKSZ);
}

static void
move_bounds(Ingest *ingest, XLogReaderState *record)
{
	SlruBounds	before[NEON_NUM_SLRUS];
	TransactionId next = XidFromFullTransactionId(ingest->control.checkpoint.nextXid);
	int			s;

	memcpy(before, ingest->bounds, sizeof(before));
	if (!slru_move_bounds(record, next, ingest->bounds))
		return;
	for (s = 0; s < NEON_NUM_SLRUS; s++)
	{
		const SlruBounds *b = &ingest->bounds[s];

		if (memcmp(&before[s], b, sizeof(*b)) == 0)
			continue;
		put_bounds(ingest, s);
		if (s == NEON_SLRU_COMMIT_TS && b->exists && !before[s].exists &&
			XLogRecGetRmid(record) == RM_XLOG_ID)
			begin_commit_ts(ingest, b->latest);
	}
}

/* Called before control state is advanced over the record. */
void
slrucache_record(Ingest *ingest, XLogReaderState *record)
{
	move_bounds(ingest, record);
	slru_pages_of_record(record, ingest->control.parameters.track_commit_timestamp, on_slru_page, ingest);
}

void
slrucache_load(Ingest *ingest)
{
	XLogRecPtr	lsn = ingest_known_lsn(ingest);
	int			s;

	ingest->hot = MemoryContextAllocZero(ingest->context,
										 NEON_NUM_SLRUS * SLRU_HOT_PAGES * sizeof(HotPage));
	memset(ingest->bounds, 0, sizeof(ingest->bounds));
	for (s = 0; s < NEON_NUM_SLRUS; s++)
		ingest->bounds[s].exists = slru_bounds_at(ingest->tl, s, lsn, &ingest->bounds[s].oldest,
												  &ingest->bounds[s].latest);
}
