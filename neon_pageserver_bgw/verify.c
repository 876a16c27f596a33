/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  timeline_verify(): reads all files of a timeline and reports what is
 *	  wrong with them.
 *
 * It changes nothing, also not the timeline's state, and works on one that is
 * refused as damaged; but if that is asked for, it has damaged layers rebuilt
 * (rebuild.h), the older ones first, and damaged WAL fetched again (walmend.h).
 * What ingest, flush and merge do meanwhile is no problem: files that are taken
 * away while they wait for their turn are left out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>

#include "access/xlog_internal.h"
#include "compact_private.h"
#include "controlat.h"
#include "fmgr.h"
#include "funcapi.h"
#include "layerfile.h"
#include "miscadmin.h"
#include "neon_layercheck.h"
#include "nodes/pg_list.h"
#include "rebuild.h"
#include "sqlutil.h"
#include "storage/fd.h"
#include "timeblock.h"
#include "timeline_shared.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "verifyhidden.h"
#include "walmend.h"
#include "walstore.h"

/* What is not valid behind the last record is looked at so often. */
#define UNINDEXED_LOOKS		3
#define UNINDEXED_WAIT_MS	200

typedef struct Verify
{
	Timeline   *tl;
	FunctionCallInfo fcinfo;
	bool		repair;
	List	   *damaged;		/* DamagedLayer */
} Verify;

/* file is relative to the data directory; offset < 0, remedy NULL: none. */
static void
report(Verify *v, const char *file, int64 offset, const char *problem, const char *remedy,
	   bool repaired)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = CStringGetTextDatum(file);
	values[1] = Int64GetDatum(offset);
	nulls[1] = offset < 0;
	values[2] = CStringGetTextDatum(problem);
	values[3] = remedy ? CStringGetTextDatum(remedy) : (Datum) 0;
	nulls[3] = remedy == NULL;
	values[4] = BoolGetDatum(repaired);
	sql_put_row(v->fcinfo, values, nulls);
}

/* ---- the manifest ---- */

static Manifest *
load_manifest(Timeline *tl)
{
	char		dir[MAXPGPATH];
	ManifestPos pos;
	Manifest   *m;

	timeline_path(&tl->id.tenant, &tl->id.timeline, NULL, dir);
	memset(&pos, 0, sizeof(pos));
	LWLockAcquire(&tl->shared->manifest_lock, LW_SHARED);
	m = manifest_load(dir, &pos);
	LWLockRelease(&tl->shared->manifest_lock);
	return m;
}

/* The manifest's state now; NULL if it cannot be read, which is reported if v is given. */
static Manifest *
try_manifest(Timeline *tl, Verify *v)
{
	MemoryContext context = CurrentMemoryContext;
	Manifest   *volatile m = NULL;

	PG_TRY();
	{
		m = load_manifest(tl);
	}
	PG_CATCH();
	{
		ErrorData  *edata;
		char		dir[MAXPGPATH];
		bool		placed;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(edata->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
		LWLockReleaseAll();
		timeline_path(&tl->id.tenant, &tl->id.timeline, NULL, dir);
		placed = edata->sqlerrcode == ERRCODE_DATA_CORRUPTED &&
			strncmp(manifest_damage()->file, dir, strlen(dir)) == 0;
		if (v)
			report(v, placed ? manifest_damage()->file : dir,
				   placed ? manifest_damage()->offset : -1, edata->detail ? psprintf("%s: %s", edata->message, edata->detail) :
				   edata->message, NULL, false);
	}
	PG_END_TRY();
	return m;
}

/* ---- partitions ---- */

static const ManifestFile *
find_file(const Manifest *m, uint64 id)
{
	for (int i = 0; i < m->nfiles; i++)
	{
		if (m->files[i].id == id)
			return &m->files[i];
	}
	return NULL;
}

/* What is wrong with the order of a partition's files, or NULL: what is searched first is newer. */
static const char *
check_partition_files(const Manifest *m, const ManifestPartition *p)
{
	XLogRecPtr	lo = PG_UINT64_MAX;

	for (uint32 i = 0; i < p->nfiles; i++)
	{
		const ManifestFile *file = find_file(m, p->files[i]);

		if (file == NULL)
			return psprintf("A partition names file " UINT64_FORMAT ", which does not exist.",
							p->files[i]);
		if (file->lsn_hi > p->upto && p->upto != InvalidXLogRecPtr)
			return psprintf("File " UINT64_FORMAT " of a partition is newer than what it has.",
							p->files[i]);
		/* pages of an import at X are as old as its other values, in (X-8, X] */
		if (file->lsn_hi - (file->type == LAYER_IMAGE ? 8 : 0) > lo)
			return psprintf("File " UINT64_FORMAT " of a partition is searched too late.",
							p->files[i]);
		/* of an image file the upper end alone counts: what is older may lie below it */
		lo = file->type == LAYER_IMAGE ? file->lsn_hi : file->lsn_lo;
	}
	return NULL;
}

static void
verify_partitions(Verify *v, const Manifest *m)
{
	static const uint8 lowest[NEON_KEY_ENCODED_SIZE];
	char		dir[MAXPGPATH];

	timeline_path(&v->tl->id.tenant, &v->tl->id.timeline, NULL, dir);
	for (int i = 0; i < m->npartitions; i++)
	{
		const ManifestPartition *p = &m->partitions[i];
		const char *problem = check_partition_files(m, p);

		if (i == 0 && memcmp(p->first_key, lowest, NEON_KEY_ENCODED_SIZE) != 0)
			problem = "The first partition does not begin with the first key.";
		if (p->upto > m->disk_consistent_lsn || p->base_lsn > p->upto)
			problem = "A partition has what was not written yet.";
		if (problem)
			report(v, dir, -1, problem, NULL, false);
	}
}

/* ---- layers ---- */

/* A file and the first thing that is wrong with it. */
typedef struct DamagedLayer
{
	ManifestFile file;
	char	   *path;
	int64		offset;
	char	   *problem;
} DamagedLayer;

static void
note_damaged(Verify *v, const ManifestFile *mf, const char *path, int64 offset,
			 const char *problem)
{
	DamagedLayer *d = palloc(sizeof(DamagedLayer));

	d->file = *mf;
	d->path = pstrdup(path);
	d->offset = offset;
	d->problem = pstrdup(problem);
	v->damaged = lappend(v->damaged, d);
}

static int
compare_damaged(const ListCell *a, const ListCell *b)
{
	const ManifestFile *x = &((DamagedLayer *) lfirst(a))->file;
	const ManifestFile *y = &((DamagedLayer *) lfirst(b))->file;

	return x->lsn_lo < y->lsn_lo ? -1 : (x->lsn_lo > y->lsn_lo ? 1 : 0);
}

/* One is rebuilt from WAL and from the state before, which older ones may have. */
static void
report_damaged(Verify *v)
{
	ListCell   *lc;

	list_sort(v->damaged, compare_damaged);
	foreach(lc, v->damaged)
	{
		DamagedLayer *d = lfirst(lc);
		char	   *remedy = NULL;
		bool		possible = false;

		CHECK_FOR_INTERRUPTS();
		if (timeline_state(v->tl) == TIMELINE_ACTIVE)
			possible = rebuild_layer(v->tl, d->file.id, !v->repair, &remedy);
		report(v, d->path, d->offset, d->problem, remedy, v->repair && possible);
	}
}

static bool
read_layer(void *arg, uint64 offset, void *buf, size_t len)
{
	return layer_read_range(*(File *) arg, offset, buf, len);
}

typedef struct LayerClaims
{
	Verify	   *v;
	const ManifestFile *mf;
	const char *wrong;			/* NULL: nothing */
	uint64		offset;
} LayerClaims;

/* Are header and footer those that the manifest tells of? */
static void
compare_claims(const LayerHeader *h, const LayerFooter *f, void *arg)
{
	LayerClaims *c = arg;
	const ManifestFile *mf = c->mf;
	const TimelineIdentity *id = &c->v->tl->id;

	if (h->file_id != mf->id || h->generation != mf->generation || h->type != mf->type ||
		!neon_id_equal(&h->tenant, &id->tenant) || !neon_id_equal(&h->timeline, &id->timeline))
		c->wrong = "The header is another file's.";
	else if (f->lsn_lo != mf->lsn_lo || f->lsn_hi != mf->lsn_hi || f->versions != mf->entries ||
			 memcmp(f->first_key, mf->first_key, NEON_KEY_ENCODED_SIZE) != 0 ||
			 memcmp(f->last_key, mf->last_key, NEON_KEY_ENCODED_SIZE) != 0)
	{
		c->wrong = "The footer contradicts the manifest.";
		c->offset = mf->bytes - LAYER_FOOTER;
	}
}

static bool
still_named(Timeline *tl, uint64 file_id)
{
	Manifest   *m = try_manifest(tl, NULL);

	for (int i = 0; m != NULL && i < m->nfiles; i++)
	{
		if (m->files[i].id == file_id)
			return true;
	}
	return m == NULL;
}

static void
verify_open_layer(Verify *v, const ManifestFile *mf, const char *path, File file)
{
	LayerSource source = {read_layer, &file, mf->bytes};
	LayerClaims claims = {v, mf};
	LayerVisitor visitor = {.begin = compare_claims, .arg = &claims};
	LayerProblem problem;

	if (FileSize(file) != (off_t) mf->bytes)
		note_damaged(v, mf, path, Min(FileSize(file), (off_t) mf->bytes),
					 psprintf("The file has " INT64_FORMAT " bytes, and the manifest says " UINT64_FORMAT ".",
							  (int64) FileSize(file), mf->bytes));
	else if (!layer_check(&source, &visitor, &problem))
		note_damaged(v, mf, path, problem.offset, problem.what);
	else if (claims.wrong != NULL)
		note_damaged(v, mf, path, claims.offset, claims.wrong);
}

static void
verify_layer(Verify *v, const ManifestFile *mf)
{
	char		path[MAXPGPATH];
	File		file;

	layer_path(&v->tl->id, mf, path);
	file = PathNameOpenFile(path, O_RDONLY | PG_BINARY);
	if (file < 0)
	{
		int			save_errno = errno;

		if (save_errno != ENOENT || still_named(v->tl, mf->id))
			note_damaged(v, mf, path, -1,
						 psprintf("The file cannot be opened: %s.", strerror(save_errno)));
		return;
	}
	PG_TRY();
	{
		verify_open_layer(v, mf, path, file);
	}
	PG_FINALLY();
	{
		FileClose(file);
	}
	PG_END_TRY();
}

/* ---- what readers do not find ---- */

static void
report_hidden(void *arg, const char *problem)
{
	Verify	   *v = arg;
	char		dir[MAXPGPATH];

	timeline_path(&v->tl->id.tenant, &v->tl->id.timeline, NULL, dir);
	report(v, dir, -1, problem, NULL, false);
}

/* Only of files that can be read: the others are reported, and what they have is not known. */
static void
verify_readable(Verify *v)
{
	if (v->damaged == NIL && timeline_state(v->tl) == TIMELINE_ACTIVE)
		verify_hidden(v->tl, report_hidden, v);
}

/* ---- stored WAL ---- */

/* What can be done about WAL that is not valid, unless it is done now. */
static const char *
remedy_of_wal(const Verify *v, XLogRecPtr lsn)
{
	if (lsn < timeline_disk_consistent_lsn(v->tl))
		return "It is in layer files too, and needed only to rebuild these.";
	return "It is in no layer file yet. It can be fetched again from where the WAL comes from, if that still has it.";
}

/* Fetched again, if that is asked for, as is all else up to end that is not valid. */
static void
report_wal(Verify *v, const WalCursor *cursor, XLogRecPtr end, const char *problem)
{
	XLogRecPtr	lsn = cursor->next;
	char		name[MAXFNAMELEN];
	char		below[MAXFNAMELEN + 8];
	char		path[MAXPGPATH];
	XLogSegNo	segno;
	char	   *remedy = NULL;
	const char *told;
	bool		mended = false;

	XLByteToSeg(lsn, segno, v->tl->id.wal_segment_size);
	XLogFileName(name, 1, segno, v->tl->id.wal_segment_size);
	snprintf(below, sizeof(below), "wal/%s", name);
	timeline_path(&v->tl->id.tenant, &v->tl->id.timeline, below, path);
	if (v->repair && timeline_state(v->tl) == TIMELINE_ACTIVE)
		mended = walmend(v->tl, lsn, cursor->prev, end, &remedy);
	/* what hinders is of no matter if nothing is lost */
	told = remedy == NULL ? remedy_of_wal(v, lsn) :
		mended || lsn >= timeline_disk_consistent_lsn(v->tl) ? remedy :
		psprintf("%s %s", remedy_of_wal(v, lsn), remedy);
	report(v, path, XLogSegmentOffset(lsn, v->tl->id.wal_segment_size), problem, told, mended);
}

/* Time blocks are in layers, which may be damaged: then false. */
static bool
try_control(Timeline *tl, XLogRecPtr lsn, ControlState *state)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool found = false;

	PG_TRY();
	{
		found = control_find(tl, lsn, state);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
		LWLockReleaseAll();
	}
	PG_END_TRY();
	return found;
}

/*
 * The first record's place in what is stored.  Where the beginning has been
 * removed and the timeline, or its layers, cannot be asked, that is where the
 * layers end.
 */
static void
first_stored_record(Timeline *tl, const Manifest *m, XLogRecPtr *start, XLogRecPtr *prev)
{
	XLogRecPtr	stored = walstore_oldest(tl);
	XLogRecPtr	lsn = stored;
	ControlState state;

	*start = tl->id.start_lsn;
	*prev = tl->id.start_prev;
	if (stored != 0 && stored <= tl->id.start_lsn)
		return;
	*start = m->disk_consistent_lsn;
	*prev = m->prev_record_lsn;
	/* all of it is in layer files, and the next segment has not begun */
	if (stored == 0)
		return;
	while (timeline_state(tl) == TIMELINE_ACTIVE && (lsn += TIMEBLOCK_SPAN) < *start)
	{
		if (try_control(tl, lsn, &state) && state.lsn >= stored)
		{
			*start = state.lsn;
			*prev = state.prev;
			break;
		}
	}
}

/* Of what is not indexed yet: a walk from the last record, and where WAL goes on behind its end; 0: nowhere. */
static WalCursor *
walk_unindexed(Timeline *tl, XLogRecPtr *goes_on)
{
	TimelineWriter writer;
	WalCursor  *cursor;
	WalCursorResult result;

	timeline_get_writer(tl, &writer);
	cursor = walstore_cursor(tl, timeline_last_record_lsn(tl), timeline_prev_record_lsn(tl),
							 writer.term != 0 && !XLogRecPtrIsInvalid(writer.drained_lsn) ?
							 writer.drained_lsn : PG_UINT64_MAX);
	do
	{
		CHECK_FOR_INTERRUPTS();
		result = walcursor_next(cursor);
	} while (result == WALCURSOR_RECORD);
	*goes_on = cursor->next < cursor->limit ?
		walmend_goes_on(tl, cursor->next, cursor->limit) : 0;
	return cursor;
}

/*
 * A start stops before stored WAL that is not valid, and its branch stands still
 * there.  What is just being written looks so for a moment only.
 */
static void
verify_unindexed(Verify *v)
{
	XLogRecPtr	before = InvalidXLogRecPtr;
	XLogRecPtr	goes_on;
	WalCursor  *cursor;

	for (int looks = 0; looks < UNINDEXED_LOOKS; looks++)
	{
		cursor = walk_unindexed(v->tl, &goes_on);
		if (goes_on == 0 || (looks > 0 && cursor->next != before))
		{
			walcursor_close(cursor);
			return;
		}
		before = cursor->next;
		if (looks == UNINDEXED_LOOKS - 1)
			report_wal(v, cursor, goes_on,
					   psprintf("Nothing behind %X/%X can be used: %s. It goes on up to %X/%X.",
								LSN_FORMAT_ARGS(cursor->next),
								cursor->problem ? cursor->problem : "it is not stored",
								LSN_FORMAT_ARGS(goes_on)));
		else
			compact_wait(UNINDEXED_WAIT_MS);
		walcursor_close(cursor);
	}
}

/* Every stored record up to the last one that is indexed, and what stands behind it. */
static void
verify_wal(Verify *v, const Manifest *m)
{
	Timeline   *tl = v->tl;
	XLogRecPtr	end = timeline_last_record_lsn(tl);
	WalCursor  *cursor;
	WalCursorResult result = WALCURSOR_RECORD;
	XLogRecPtr	start;
	XLogRecPtr	prev;

	first_stored_record(tl, m, &start, &prev);
	cursor = walstore_cursor(tl, start, prev, end);

	while (cursor->next < end && result == WALCURSOR_RECORD)
	{
		CHECK_FOR_INTERRUPTS();
		result = walcursor_next(cursor);
	}
	if (result == WALCURSOR_INVALID)
		report_wal(v, cursor, end, psprintf("The record at %X/%X is not valid: %s",
											LSN_FORMAT_ARGS(cursor->next), cursor->problem));
	else if (result == WALCURSOR_MORE)
		report_wal(v, cursor, end, psprintf("The WAL ends at %X/%X, and %X/%X is indexed.",
											LSN_FORMAT_ARGS(cursor->next), LSN_FORMAT_ARGS(end)));
	walcursor_close(cursor);
	if (timeline_state(tl) == TIMELINE_ACTIVE)
		verify_unindexed(v);
}

/* Pages that were not changed since the branch point are read from ancestors. */
static void
verify_ancestors(Verify *v)
{
	for (Timeline *tl = v->tl->ancestor; tl != NULL; tl = tl->ancestor)
	{
		char		dir[MAXPGPATH];

		if (timeline_state(tl) != TIMELINE_DAMAGED)
			continue;
		timeline_path(&tl->id.tenant, &tl->id.timeline, NULL, dir);
		report(v, dir, -1, "The branch that this one comes from is damaged.",
			   "Verify that branch.", false);
	}
}

/* ---- SQL ---- */

PG_FUNCTION_INFO_V1(neon_timeline_verify);

/*
 * timeline_verify(tenant, timeline, repair bool) returns table(file text,
 * byte_offset bigint, problem text, remedy text, repaired bool)
 */
Datum
neon_timeline_verify(PG_FUNCTION_ARGS)
{
	Verify		v = {0};
	Manifest   *m;

	check_superuser("timeline_verify");
	v.repair = PG_GETARG_BOOL(2);
	if (v.repair)
		sql_refuse_transaction_block("timeline_verify with repair");
	InitMaterializedSRF(fcinfo, 0);
	v.tl = sql_open_timeline(fcinfo, 0, 1);
	v.fcinfo = fcinfo;
	m = try_manifest(v.tl, &v);
	if (m == NULL)
		return (Datum) 0;
	verify_ancestors(&v);
	verify_partitions(&v, m);
	for (int i = 0; i < m->nfiles; i++)
	{
		CHECK_FOR_INTERRUPTS();
		verify_layer(&v, &m->files[i]);
	}
	report_damaged(&v);
	verify_readable(&v);
	verify_wal(&v, m);
	return (Datum) 0;
}
