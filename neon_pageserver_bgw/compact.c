/*-------------------------------------------------------------------------
 *
 * compact.c
 *	  Merging delta files of a timeline, so that reads ask few of them.
 *
 * Files with the same LSN interval and different keys are a *run*.  Four or
 * more runs that follow each other in time, none of them larger than the rest
 * together, are merged into one: so each version is written again a logarithmic
 * number of times.  A merge reads and writes front to back, with memory for a
 * block of each file.  Its outputs take the place of its inputs by one manifest
 * edit; a process that dies before has changed nothing.
 *
 * What an import wrote stays as it is, and nothing is merged across its LSN:
 * its pages have no older versions, and a merged file is searched before it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "crashnote.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "nodes/pg_list.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "store_private.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Most runs that one merge takes: each has a file open. */
#define MAX_RUNS	32
#define PACE_BYTES	(256 * 1024)

static bool exit_registered = false;

/* ---- choosing ---- */

typedef struct Run
{
	XLogRecPtr	lo;
	XLogRecPtr	hi;
	uint64		bytes;
	bool		barrier;		/* an import's: never merged, and nothing across it */
	List	   *files;			/* ManifestFile, by key */
} Run;

static int
compare_by_lsn(const void *a, const void *b)
{
	const ManifestFile *x = a;
	const ManifestFile *y = b;

	if (x->lsn_hi != y->lsn_hi)
		return x->lsn_hi < y->lsn_hi ? -1 : 1;
	if (x->lsn_lo != y->lsn_lo)
		return x->lsn_lo < y->lsn_lo ? -1 : 1;
	return memcmp(x->first_key, y->first_key, NEON_KEY_ENCODED_SIZE);
}

/* An import has versions at one LSN only. */
static bool
is_import(const ManifestFile *file)
{
	return file->type == LAYER_IMAGE || file->lsn_hi - file->lsn_lo == 8;
}

/* The runs of a timeline, oldest first. */
static Run *
list_runs(const Manifest *m, int *n)
{
	Run		   *runs = palloc0(Max(m->nfiles, 1) * sizeof(Run));
	Run		   *run = NULL;

	qsort(m->files, m->nfiles, sizeof(ManifestFile), compare_by_lsn);
	*n = 0;
	for (int i = 0; i < m->nfiles; i++)
	{
		ManifestFile *file = &m->files[i];

		if (run == NULL || run->barrier || is_import(file) || run->lo != file->lsn_lo ||
			run->hi != file->lsn_hi)
		{
			run = &runs[(*n)++];
			run->lo = file->lsn_lo;
			run->hi = file->lsn_hi;
			run->barrier = is_import(file);
		}
		run->bytes += file->bytes;
		run->files = lappend(run->files, file);
	}
	return runs;
}

/*
 * May the run be merged with the one before it?  Between them there may be WAL
 * that changed nothing.
 */
static bool
follows(const Run *before, const Run *run)
{
	return !before->barrier && !run->barrier && before->hi <= run->lo;
}

/*
 * The merge that is cheapest per run that it takes away: n runs from *first on;
 * 0 if there is none.
 */
static int
choose_runs(const Run *runs, int nruns, int threshold, int *first)
{
	double		best_cost = 0;
	int			best = 0;

	for (int i = 0; i < nruns; i++)
	{
		uint64		total = runs[i].bytes;
		uint64		largest = runs[i].bytes;

		for (int n = 2; n <= MAX_RUNS && i + n <= nruns; n++)
		{
			const Run  *run = &runs[i + n - 1];
			double		cost;

			if (!follows(run - 1, run))
				break;
			total += run->bytes;
			largest = Max(largest, run->bytes);
			cost = (double) total / (n - 1);
			if (n < threshold || largest > total - largest || (best > 0 && cost >= best_cost))
				continue;
			best = n;
			best_cost = cost;
			*first = i;
		}
	}
	return best;
}

/* ---- reading the inputs ---- */

/* A run being read, one file after the other. */
typedef struct Source
{
	Timeline   *tl;
	ListCell   *next;			/* file */
	const List *files;
	LayerFile  *layer;
	LayerScan  *scan;
	NeonKey		key;			/* current */
	StoreVersion version;
} Source;

static void
open_next(Source *source)
{
	static const NeonKey lowest = {0};
	NeonKey		highest = neon_key(255, PG_UINT32_MAX, PG_UINT32_MAX, PG_UINT32_MAX, 255,
								   PG_UINT32_MAX);
	const ManifestFile *file = lfirst(source->next);

	source->layer = layer_open(source->tl, file);
	if (source->layer == NULL)
		layer_missing(source->tl, file);
	source->scan = layer_scan_begin(source->layer, &lowest, &highest, PG_UINT64_MAX);
	source->next = lnext(source->files, source->next);
}

static void
close_source(Source *source)
{
	if (source->scan)
		layer_scan_end(source->scan);
	source->scan = NULL;
	if (source->layer)
		layer_close(source->layer);
	source->layer = NULL;
}

/* To the next version; false at the end. */
static bool
advance(Source *source)
{
	for (;;)
	{
		if (source->scan != NULL &&
			layer_scan_version(source->scan, &source->key, &source->version))
			return true;
		close_source(source);
		if (source->next == NULL)
			return false;
		open_next(source);
	}
}

/* binaryheap has the largest first. */
static int
compare_sources(Datum a, Datum b, void *arg)
{
	const Source *x = (const Source *) DatumGetPointer(a);
	const Source *y = (const Source *) DatumGetPointer(b);
	int			cmp = neon_key_cmp(&y->key, &x->key);

	if (cmp != 0)
		return cmp;
	return x->version.lsn == y->version.lsn ? 0 : (x->version.lsn < y->version.lsn ? 1 : -1);
}

/* ---- merging ---- */

typedef struct Merge
{
	Timeline   *tl;
	Run		   *runs;			/* adjacent, oldest first */
	int			nruns;
	uint64		bytes_in;
	uint64		bytes_out;
	Source	   *sources;
	LayerWriter *writer;
	List	   *outputs;		/* ManifestFile, written and synced */
	TimestampTz start;
	uint64		paced;			/* bytes when the pace was looked at last */
	uint64		versions;
} Merge;

static XLogRecPtr
merge_lo(const Merge *merge)
{
	return merge->runs[0].lo;
}

static XLogRecPtr
merge_hi(const Merge *merge)
{
	return merge->runs[merge->nruns - 1].hi;
}

/* Waits while more was written than neon_pageserver.maintenance_io_limit allows. */
static void
keep_pace(Merge *merge)
{
	uint64		bytes = merge->bytes_out + (merge->writer ? layer_writer_bytes(merge->writer) : 0);

	if (bytes - merge->paced < PACE_BYTES)
		return;
	merge->paced = bytes;
	for (;;)
	{
		long		elapsed = TimestampDifferenceMilliseconds(merge->start, neon_clock());
		long		due = store_maintenance_io_limit > 0 ?
		bytes / 1024 * 1000 / store_maintenance_io_limit : 0;

		CHECK_FOR_INTERRUPTS();
		timeline_check_writable(merge->tl);
		if (elapsed >= due)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(due - elapsed, 1000), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

static void
finish_output(Merge *merge)
{
	ManifestFile *file = palloc(sizeof(ManifestFile));
	LayerWriter *writer = merge->writer;

	merge->writer = NULL;
	if (!layer_writer_finish(writer, file))
		store_sync_failed(merge->tl, file);
	merge->bytes_out += file->bytes;
	merge->outputs = lappend(merge->outputs, file);
}

static void
add_version(Merge *merge, const NeonKey *last, const Source *source)
{
	bool		new_key = merge->versions == 0 || neon_key_cmp(last, &source->key) != 0;

	if (new_key)
	{
		CHECK_FOR_INTERRUPTS();
		crashnote_set(merge->tl, &source->key, source->version.lsn);
		if (merge->writer != NULL &&
			layer_writer_bytes(merge->writer) >= (uint64) store_compaction_target_size * 1024)
			finish_output(merge);
		keep_pace(merge);
	}
	if (merge->writer == NULL)
		merge->writer = layer_writer_begin(&merge->tl->id, LAYER_DELTA,
										   timeline_new_file_id(merge->tl), merge_lo(merge),
										   merge_hi(merge));
	layer_writer_add(merge->writer, &source->key, &source->version);
	merge->versions++;
}

static void
write_outputs(Merge *merge)
{
	binaryheap *heap = binaryheap_allocate(merge->nruns, compare_sources, NULL);
	NeonKey		last = {0};

	for (int i = 0; i < merge->nruns; i++)
	{
		Source	   *source = &merge->sources[i];

		if (advance(source))
			binaryheap_add_unordered(heap, PointerGetDatum(source));
	}
	binaryheap_build(heap);
	while (!binaryheap_empty(heap))
	{
		Source	   *source = (Source *) DatumGetPointer(binaryheap_first(heap));

		add_version(merge, &last, source);
		last = source->key;
		if (advance(source))
			binaryheap_replace_first(heap, PointerGetDatum(source));
		else
			(void) binaryheap_remove_first(heap);
	}
	finish_output(merge);
	binaryheap_free(heap);
}

static void
merge_edit(Merge *merge)
{
	StringInfoData body;
	ListCell   *lc;

	initStringInfo(&body);
	for (int i = 0; i < merge->nruns; i++)
	{
		foreach(lc, merge->runs[i].files)
			manifest_op_drop_file(&body, ((ManifestFile *) lfirst(lc))->id);
	}
	foreach(lc, merge->outputs)
		manifest_op_add_file(&body, lfirst(lc));
	timeline_edit(merge->tl, body.data, body.len);
	pfree(body.data);
}

static void
remove_files(Timeline *tl, const List *files)
{
	char		path[MAXPGPATH];
	ListCell   *lc;

	foreach(lc, files)
	{
		layer_path(&tl->id, lfirst(lc), path);
		if (unlink(path) < 0)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not remove file \"%s\": %m", path)));
	}
}

static void
log_merge(const Merge *merge)
{
	char		hex[NEON_ID_HEXLEN + 1];

	ereport(LOG,
			(errmsg("layers of timeline \"%s\" from %X/%X to %X/%X merged: %d runs, " UINT64_FORMAT
					" bytes into %d files, " UINT64_FORMAT " versions, " UINT64_FORMAT " bytes in %ld ms",
					neon_id_format(&merge->tl->id.timeline, hex), LSN_FORMAT_ARGS(merge_lo(merge)),
					LSN_FORMAT_ARGS(merge_hi(merge)), merge->nruns, merge->bytes_in,
					list_length(merge->outputs), merge->versions, merge->bytes_out,
					TimestampDifferenceMilliseconds(merge->start, neon_clock()))));
}

/* The outputs take the inputs' place. */
static void
replace_files(Merge *merge)
{
	NEON_TEST_POINT("merge-written");
	merge_edit(merge);
	NEON_TEST_POINT("merge-in-manifest");
	store_announce_merge(merge->tl, merge->bytes_out, merge->bytes_in);
	for (int i = 0; i < merge->nruns; i++)
		remove_files(merge->tl, merge->runs[i].files);
	log_merge(merge);
}

static void
run_merge(Merge *merge)
{
	volatile bool done = false;

	merge->start = neon_clock();
	merge->sources = palloc0(merge->nruns * sizeof(Source));
	for (int i = 0; i < merge->nruns; i++)
	{
		merge->bytes_in += merge->runs[i].bytes;
		merge->sources[i].tl = merge->tl;
		merge->sources[i].files = merge->runs[i].files;
		merge->sources[i].next = list_head(merge->runs[i].files);
	}
	PG_TRY();
	{
		write_outputs(merge);
		replace_files(merge);
		done = true;
	}
	PG_FINALLY();
	{
		for (int i = 0; i < merge->nruns; i++)
			close_source(&merge->sources[i]);
		/* After a failed sync the edit may be on disk all the same. */
		if (!done && timeline_state(merge->tl) == TIMELINE_ACTIVE)
			remove_files(merge->tl, merge->outputs);
	}
	PG_END_TRY();
}

/* ---- claims ---- */

static void
release_claim(TimelineShared *s)
{
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	if (s->compactor_pid == MyProcPid)
		s->compactor_pid = 0;
	LWLockRelease(&s->lock);
}

static void
release_claims_at_exit(int code, Datum arg)
{
	for (int i = 0; i < timeline_nslots(); i++)
	{
		if (timeline_slot(i)->compactor_pid == MyProcPid)
			release_claim(timeline_slot(i));
	}
}

static bool
claim(TimelineShared *s)
{
	bool		got;

	if (!exit_registered)
	{
		before_shmem_exit(release_claims_at_exit, 0);
		exit_registered = true;
	}
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	got = s->compactor_pid == 0;
	if (got)
		s->compactor_pid = MyProcPid;
	LWLockRelease(&s->lock);
	return got;
}

/* The caller has the claim: nobody else takes files away. */
static bool
compact_claimed(Timeline *tl)
{
	Merge		merge = {0};
	Manifest   *m = timeline_read_manifest(tl);
	Run		   *runs;
	int			nruns;
	int			first = 0;

	runs = list_runs(m, &nruns);
	merge.nruns = choose_runs(runs, nruns, store_compaction_threshold, &first);
	if (merge.nruns == 0)
		return false;
	merge.tl = tl;
	merge.runs = &runs[first];
	run_merge(&merge);
	return true;
}

bool
store_is_compacting(Timeline *tl)
{
	timeline_check(tl);
	return tl->shared->compactor_pid != 0;
}

bool
store_compact_once(Timeline *tl)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	volatile bool merged = false;

	timeline_check_writable(tl);
	if (store_compaction_threshold == 0 || !claim(tl->shared))
		return false;
	context = AllocSetContextCreate(caller, "neon merge", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		merged = compact_claimed(tl);
	}
	PG_FINALLY();
	{
		release_claim(tl->shared);
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
	return merged;
}
