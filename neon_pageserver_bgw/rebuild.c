/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *	  A damaged layer file is made again from its own data, or from stored WAL.
 *
 * If only what can be derived is damaged (layersalvage.c), that is all.  Else:
 *
 * A delta file has what the WAL of its LSN interval (lo, hi] changed of its
 * keys.  If all of that WAL is still stored, it is ingested once more, aside,
 * and written into a file with a new id, which takes the old one's place by one
 * edit of the manifest.  The new file has at least the versions of the old one:
 * also those that compaction had dropped there, but not the images that were
 * added to shorten chains.
 *
 * What must be so, or nothing is done:
 *
 *	  All WAL of (lo, hi] is there, without a gap: it is walked over from one end
 *	  to the other, with its CRCs and its links.
 *
 *	  Records build on the page before them, and what is put as a whole new state
 *	  (sizes, bounds, origins) on the state before.  So that must be readable at
 *	  lo: compaction has not rewritten those keys at a horizon above lo, which
 *	  takes away what is older but for images at the points that are kept.  Of a
 *	  wide file, what partitions have by now is left out: nobody looks for it
 *	  there.  One that a partition has taken a part of in the midst of the
 *	  interval is not rebuilt.
 *
 *	  What an import brought is in no WAL.  Its LSN is the beginning of a
 *	  timeline, below which there is no WAL, or the end of a record that copies a
 *	  database, which is not ingested aside.  Delta files have all of it but the
 *	  pages of forks.
 *
 * Image files have pages whose older versions are gone, so no WAL makes them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compact_private.h"
#include "compactclaim.h"
#include "controlat.h"
#include "flushtime.h"
#include "flushwrite.h"
#include "ingest.h"
#include "layersalvage.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_walindex.h"
#include "rebuild.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "walmend.h"
#include "walstore.h"

/* How long room in the pool of open indexes, or the claim of the files, is waited for. */
#define WAIT_STEP_MS	100
#define CLAIM_POLL_MS	10
#define WAIT_LIMIT_MS	60000

/* An index spans less. */
#define MAX_INTERVAL	(UINT64CONST(8) * 1024 * 1024 * 1024)

#define FIRST_RETRY_MS	(60 * 1000)
#define LAST_RETRY_MS	(3600 * 1000)

typedef struct Rebuild
{
	Timeline   *tl;
	const Manifest *m;
	const LayerMap *map;
	ManifestFile file;			/* the damaged one */
	bool		wide;
	bool		only_pages;		/* of forks: what depends on nothing but each record */
	XLogRecPtr	lo;				/* where the WAL that it was made of begins */
	ControlState control;		/* there, unless only pages are made; else 0 */
	bool		decoding;
	XLogReaderState *record;	/* at hand */
	OpenLayer	index;			/* what its WAL changed */
} Rebuild;

/* ---- may it be done? ---- */

/* "reason" is a sentence. */
static void pg_attribute_noreturn()
refuse(const char *reason)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("%s", reason)));
}

static bool
names_file(const ManifestPartition *p, uint64 id)
{
	for (uint32 i = 0; i < p->nfiles; i++)
	{
		if (p->files[i] == id)
			return true;
	}
	return false;
}

static void
check_partitions(const Rebuild *r)
{
	for (int i = 0; i < r->map->npartitions; i++)
	{
		const MapPartition *p = &r->map->partitions[i];

		if (!layermap_overlaps(&r->file, p))
			continue;
		if (r->wide && p->upto > r->lo && p->upto < r->file.lsn_hi)
			refuse("A part of what it has was moved on in the midst of its LSN interval.");
		if (!r->wide && p->base_lsn > r->lo)
			refuse("The state that its WAL begins with is gone: it was rewritten at the horizon of history.");
	}
}

static void
check_interval(const Rebuild *r)
{
	Timeline   *tl = r->tl;
	XLogRecPtr	oldest = walstore_oldest(tl);

	if (r->file.type != LAYER_DELTA)
		refuse("It is an image file: the records that its pages were made of are gone.");
	if (r->lo > r->file.lsn_lo && !r->only_pages)
		refuse("It has what the timeline was made of, which is in no WAL.");
	if (oldest == 0 || oldest > r->lo)
		refuse(psprintf("The WAL that it was made of, from %X/%X, is no longer stored.",
						LSN_FORMAT_ARGS(r->lo)));
	if (r->file.lsn_hi - r->lo >= MAX_INTERVAL)
		refuse("It was made of too much WAL.");
	check_partitions(r);
}

/* False if the manifest has no such file any more. */
static bool
begin(Rebuild *r, Timeline *tl, uint64 file_id)
{
	bool		found = false;

	memset(r, 0, sizeof(*r));
	r->tl = tl;
	r->wide = true;
	r->m = timeline_read_manifest(tl);
	r->map = layermap_make(r->m);
	for (int i = 0; i < r->m->nfiles && !found; i++)
	{
		if (r->m->files[i].id == file_id)
		{
			r->file = r->m->files[i];
			r->lo = Max(r->file.lsn_lo, tl->id.start_lsn);
			r->only_pages = r->file.first_key[0] == NEON_KEY_PAGE &&
				r->file.last_key[0] == NEON_KEY_PAGE;
			found = true;
		}
	}
	for (int i = 0; i < r->m->npartitions; i++)
	{
		if (names_file(&r->m->partitions[i], file_id))
			r->wide = false;
	}
	return found;
}

/* ---- what its WAL changed ---- */

static bool
is_wanted(void *arg, const NeonKey *key)
{
	const Rebuild *r = arg;
	uint8		encoded[NEON_KEY_ENCODED_SIZE];

	neon_key_encode(key, encoded);
	if (memcmp(encoded, r->file.first_key, NEON_KEY_ENCODED_SIZE) < 0 ||
		memcmp(encoded, r->file.last_key, NEON_KEY_ENCODED_SIZE) > 0)
		return false;
	return !r->wide || layermap_find(r->map, encoded)->upto < r->file.lsn_hi;
}

static void
wait_for_room(Rebuild *r, const StorePut *put)
{
	TimestampTz end = TimestampTzPlusMilliseconds(neon_clock(), WAIT_LIMIT_MS);

	while (!openlayer_reserve(&r->index, put, 1, 0))
	{
		CHECK_FOR_INTERRUPTS();
		if (neon_clock() > end)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("no memory is left for the index of its WAL"),
					 errhint("Increase neon_pageserver.open_layer_memory.")));
		openpool_wait_for_room(WAIT_STEP_MS);
	}
}

static void
put_aside(void *arg, XLogRecPtr start, XLogRecPtr end, const StorePut *puts, int nputs)
{
	Rebuild    *r = arg;

	for (int i = 0; i < nputs; i++)
	{
		if (!is_wanted(r, &puts[i].key))
			continue;
		wait_for_room(r, &puts[i]);
		openlayer_add(&r->index, start, end, &puts[i]);
	}
}

static void
put_page(void *arg, const NeonKey *key, bool base, bool implicit)
{
	Rebuild    *r = arg;
	StorePut	put = {*key, NEON_VALUE_WAL, base};

	put_aside(r, r->record->ReadRecPtr, r->record->EndRecPtr, &put, 1);
}

/* ---- its WAL ---- */

/* The record is ingested, or only its pages are looked at, or nothing but that it is there. */
static void
take_record(Rebuild *r, Ingest *ingest, XLogReaderState *record)
{
	static const WalIndexSink pages = {.page = put_page};

	r->record = record;
	if (ingest)
		ingest_record(ingest, record);
	else if (r->decoding)
		walindex_record(record, &pages, r);
}

/* All of it, in order.  Damage is mended if the caller says so, and the source has it still. */
static void
walk(Rebuild *r, Ingest *ingest, bool mend)
{
	char	   *why = NULL;
	WalCursor  *cursor = walstore_cursor(r->tl, r->lo, r->control.prev, r->file.lsn_hi);
	XLogRecPtr	end = r->lo;

	while (end < r->file.lsn_hi && walcursor_next(cursor) == WALCURSOR_RECORD)
	{
		CHECK_FOR_INTERRUPTS();
		end = cursor->reader->EndRecPtr;
		take_record(r, ingest, cursor->reader);
	}
	if (end != r->file.lsn_hi &&
		(!mend || !walmend(r->tl, cursor->next, cursor->prev, r->file.lsn_hi, &why)))
		refuse(psprintf("Its WAL is not stored as a whole: behind %X/%X, %s.%s%s",
						LSN_FORMAT_ARGS(end), cursor->problem ? cursor->problem : "it ends",
						why ? " " : "", why ? why : ""));
	walcursor_close(cursor);
}

static void
check_wal(Rebuild *r, bool mend)
{
	if (!r->only_pages)
		control_at(r->tl, r->lo, &r->control);
	walk(r, NULL, mend);
}

static void
decode(Rebuild *r)
{
	IngestAside aside = {r->lo, put_aside, r};
	Ingest	   *ingest = r->only_pages ? NULL : ingest_begin_aside(r->tl, &aside);

	r->decoding = true;
	walk(r, ingest, false);
	if (ingest)
		ingest_end(ingest);
}

/* ---- the new file ---- */

/* False if there is nothing that anybody wants of it. */
static bool
write_file(Rebuild *r, ManifestFile *file)
{
	IndexWrite	write = {.tl = r->tl, .index = &r->index, .cut = r->file.lsn_hi};
	uint32		nkeys = 0;

	write.writer = layer_writer_begin(&r->tl->id, LAYER_DELTA, timeline_new_file_id(r->tl),
									  r->file.lsn_lo, r->file.lsn_hi);
	flush_write_index(&write);
	if (!r->only_pages)
		nkeys = flush_time_blocks(r->tl, write.writer, r->lo, r->file.lsn_hi, is_wanted, r);
	if (nkeys + write.nkeys == 0)
	{
		layer_writer_abort(write.writer);
		return false;
	}
	if (!layer_writer_finish(write.writer, file))
		store_sync_failed(r->tl, file);
	return true;
}

/* The partition with the new file (0: none) in the place of the old one. */
static void
put_partition(StringInfo body, const ManifestPartition *p, uint64 old_id, uint64 new_id)
{
	ManifestPartition mp = *p;

	mp.files = palloc(Max(p->nfiles, 1) * sizeof(uint64));
	mp.nfiles = 0;
	for (uint32 i = 0; i < p->nfiles; i++)
	{
		if (p->files[i] != old_id)
			mp.files[mp.nfiles++] = p->files[i];
		else if (new_id != 0)
			mp.files[mp.nfiles++] = new_id;
	}
	manifest_op_partition(body, &mp);
}

/* One edit; file: NULL if nothing takes the old one's place. */
static void
replace_file(Rebuild *r, ManifestFile *file)
{
	StringInfoData body;

	initStringInfo(&body);
	if (file)
		manifest_op_add_file(&body, file);
	for (int i = 0; i < r->m->npartitions; i++)
	{
		if (names_file(&r->m->partitions[i], r->file.id))
			put_partition(&body, &r->m->partitions[i], r->file.id, file ? file->id : 0);
	}
	manifest_op_drop_file(&body, r->file.id);
	NEON_TEST_POINT("rebuild-written");
	PG_TRY();
	{
		timeline_edit(r->tl, body.data, body.len);
	}
	PG_CATCH();
	{
		/* After a failed sync the edit may be on disk all the same. */
		if (file && timeline_state(r->tl) == TIMELINE_ACTIVE)
			compact_remove_files(r->tl, list_make1(file));
		PG_RE_THROW();
	}
	PG_END_TRY();
	NEON_TEST_POINT("rebuild-in-manifest");
	store_announce_merge(r->tl, file ? file->bytes : 0, r->file.bytes);
	compact_remove_files(r->tl, list_make1(&r->file));
}

static void
free_index(int code, Datum arg)
{
	openlayer_free(&((Rebuild *) DatumGetPointer(arg))->index);
}

static void
make_again(Rebuild *r, ManifestFile *file, bool *needed)
{
	timeline_check_writable(r->tl);
	openlayer_init(&r->index, r->lo);
	PG_ENSURE_ERROR_CLEANUP(free_index, PointerGetDatum(r));
	{
		decode(r);
		*needed = write_file(r, file);
		replace_file(r, *needed ? file : NULL);
	}
	PG_END_ENSURE_ERROR_CLEANUP(free_index, PointerGetDatum(r));
	free_index(0, PointerGetDatum(r));
}

/* ---- from its own data ---- */

/* False if they are not whole. */
static bool
salvage(Rebuild *r, bool dry_run, ManifestFile *file)
{
	LayerWriter *writer;

	if (!layer_salvage(r->tl, &r->file, NULL))
		return false;
	if (dry_run)
		return true;
	timeline_check_writable(r->tl);
	writer = layer_writer_begin(&r->tl->id, r->file.type, timeline_new_file_id(r->tl),
								r->file.lsn_lo, r->file.lsn_hi);
	if (!layer_salvage(r->tl, &r->file, writer))
		refuse("It cannot be read twice.");
	if (!layer_writer_finish(writer, file))
		store_sync_failed(r->tl, file);
	replace_file(r, file);
	return true;
}

static char *
describe_salvage(bool dry_run, const ManifestFile *file)
{
	if (dry_run)
		return pstrdup("Its data are whole: it can be rebuilt from them.");
	return psprintf("It was rebuilt as file " UINT64_FORMAT ", with " UINT64_FORMAT
					" versions, from its own data, which are whole.", file->id, file->entries);
}

/* ---- one file ---- */

static char *
describe(const Rebuild *r, bool dry_run, const ManifestFile *file, bool needed)
{
	if (dry_run)
		return psprintf("It can be rebuilt from the stored WAL from %X/%X to %X/%X.",
						LSN_FORMAT_ARGS(r->lo), LSN_FORMAT_ARGS(r->file.lsn_hi));
	if (!needed)
		return pstrdup("All that it has is in other files too: it was removed.");
	return psprintf("It was rebuilt as file " UINT64_FORMAT ", with " UINT64_FORMAT
					" versions, from the stored WAL from %X/%X to %X/%X.", file->id, file->entries,
					LSN_FORMAT_ARGS(r->lo), LSN_FORMAT_ARGS(r->file.lsn_hi));
}

static char *
rebuild_claimed(Timeline *tl, uint64 file_id, bool dry_run)
{
	Rebuild    *r = palloc(sizeof(Rebuild));
	ManifestFile file = {0};
	bool		needed = false;

	if (!begin(r, tl, file_id))
		return pstrdup("Another file has taken its place meanwhile.");
	if (salvage(r, dry_run, &file))
		return describe_salvage(dry_run, &file);
	check_interval(r);
	check_wal(r, !dry_run);
	if (!dry_run)
		make_again(r, &file, &needed);
	return describe(r, dry_run, &file, needed);
}

/* All of them, with the turn. */
static bool
try_claim_files(Timeline *tl)
{
	bool		got;

	compactclaim_begin_turn(tl);
	got = compactclaim_take(tl, NULL);
	compactclaim_end_turn();
	return got;
}

/* Others that work on the timeline's files end their job first. */
static void
claim_files(Timeline *tl)
{
	TimestampTz end = TimestampTzPlusMilliseconds(neon_clock(), WAIT_LIMIT_MS);

	while (!try_claim_files(tl))
	{
		if (neon_clock() > end)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("compaction is at work on the files of the timeline")));
		compact_wait(CLAIM_POLL_MS);
	}
}

/* Why not, by the error at hand; one that ends the statement goes on. */
static char *
reason_why_not(MemoryContext context)
{
	ErrorData  *edata;

	MemoryContextSwitchTo(context);
	edata = CopyErrorData();
	if (ERRCODE_TO_CATEGORY(edata->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
		PG_RE_THROW();
	FlushErrorState();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	if (edata->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
		return psprintf("It cannot be rebuilt. %s", edata->message);
	return psprintf("It cannot be rebuilt yet: %s%s%s", edata->message,
					edata->detail ? ": " : "", edata->detail ? edata->detail : "");
}

bool
rebuild_layer(Timeline *tl, uint64 file_id, bool dry_run, char **text)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "neon rebuild", ALLOCSET_DEFAULT_SIZES);
	volatile bool done = false;
	char	   *volatile said = NULL;

	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		if (!dry_run)
			claim_files(tl);
		said = MemoryContextStrdup(caller, rebuild_claimed(tl, file_id, dry_run));
		done = true;
	}
	PG_CATCH();
	{
		compactclaim_end_turn();
		compactclaim_release();
		said = reason_why_not(caller);
	}
	PG_END_TRY();
	compactclaim_release();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	*text = said;
	return done;
}

/* ---- by itself ---- */

#define MAX_TRIED	64

/* In the place of a file's id, which is never 0: all stored WAL of the timeline. */
#define STORED_WAL	0

/* Files that this process could not rebuild. */
typedef struct TriedFile
{
	NeonId		timeline;
	uint64		id;
	int			retry_ms;		/* 0: unused */
	TimestampTz retry_at;
} TriedFile;

static TriedFile tried[MAX_TRIED];

static TriedFile *
find_tried(const Timeline *tl, uint64 id)
{
	TriedFile  *unused = NULL;

	for (int i = 0; i < MAX_TRIED; i++)
	{
		if (tried[i].retry_ms == 0)
			unused = &tried[i];
		else if (tried[i].id == id && neon_id_equal(&tried[i].timeline, &tl->id.timeline))
			return &tried[i];
	}
	if (unused == NULL)
		unused = &tried[id % MAX_TRIED];
	memset(unused, 0, sizeof(*unused));
	unused->timeline = tl->id.timeline;
	unused->id = id;
	return unused;
}

/* What failed may have failed for lack of the one that is there by now. */
static void
forget_tried(const Timeline *tl)
{
	for (int i = 0; i < MAX_TRIED; i++)
	{
		if (neon_id_equal(&tried[i].timeline, &tl->id.timeline))
			tried[i].retry_ms = 0;
	}
}

void
rebuild_note_damage(Timeline *tl, uint64 file_id)
{
	pg_atomic_write_u64(&tl->shared->damaged_file, file_id);
	compactworker_wake();
}

void
rebuild_note_wal(Timeline *tl, XLogRecPtr start)
{
	while (tl->ancestor != NULL && start < tl->id.start_lsn)
		tl = tl->ancestor;
	/* what is in layers may just have been removed */
	if (start < timeline_disk_consistent_lsn(tl))
		return;
	pg_atomic_write_u64(&tl->shared->damaged_wal, start);
	compactworker_wake();
}

/* A try of this process, if it is time for one. */
static bool
is_due(const Timeline *tl, uint64 id)
{
	TriedFile  *t = find_tried(tl, id);

	if (t->retry_ms > 0 && neon_clock() < t->retry_at)
		return false;
	t->retry_ms = t->retry_ms ? Min(t->retry_ms * 2, LAST_RETRY_MS) : FIRST_RETRY_MS;
	t->retry_at = TimestampTzPlusMilliseconds(neon_clock(), t->retry_ms);
	return true;
}

static void
mend_noted_wal(Timeline *tl)
{
	XLogRecPtr	start = pg_atomic_exchange_u64(&tl->shared->damaged_wal, 0);
	char		hex[NEON_ID_HEXLEN + 1];
	char	   *text;

	if (start == 0 || !is_due(tl, STORED_WAL))
		return;
	if (walmend_unflushed(tl, &text))
		forget_tried(tl);
	ereport(LOG,
			(errmsg("stored WAL of timeline \"%s\" with a damaged record at %X/%X: %s",
					neon_id_format(&tl->id.timeline, hex), LSN_FORMAT_ARGS(start), text)));
}

void
rebuild_noted(Timeline *tl)
{
	uint64		id = pg_atomic_exchange_u64(&tl->shared->damaged_file, 0);
	char		hex[NEON_ID_HEXLEN + 1];
	char	   *text;

	mend_noted_wal(tl);
	if (id == 0 || !is_due(tl, id))
		return;
	if (rebuild_layer(tl, id, false, &text))
		forget_tried(tl);
	ereport(LOG,
			(errmsg("damaged file " UINT64_FORMAT " of timeline \"%s\": %s", id,
					neon_id_format(&tl->id.timeline, hex), text)));
}
