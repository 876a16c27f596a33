/*-------------------------------------------------------------------------
 *
 * compact.c
 *	  Compaction of a timeline: who does it, and merges of wide files.
 *
 * Wide files have keys of many partitions.  What they have goes into the
 * partitions (partition.c); while there is too little of it for each, they are
 * merged among themselves, so that reads ask few of them.  Files with the same
 * LSN interval and different keys are a *run*.  Four or more runs that follow
 * each other in time, none of them larger than the rest together, are merged
 * into one: so each version is written again a logarithmic number of times.  A
 * merge reads and writes front to back, with memory for a block of each file.
 * Its outputs take the place of its inputs by one manifest edit; a process that
 * dies before has changed nothing.  While files are merged nobody else works on
 * the timeline's files; on its partitions several processes may (compactclaim.h).
 *
 * What an import wrote is not merged, and nothing is merged across its LSN:
 * its pages have no older versions, and a merged file is searched before it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "compact_private.h"
#include "compactclaim.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Most runs that one merge takes: each has a file open. */
#define MAX_RUNS	32

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
	const ManifestFile *x = *(ManifestFile *const *) a;
	const ManifestFile *y = *(ManifestFile *const *) b;

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

/* The runs of wide files, oldest first. */
static Run *
list_runs(const LayerMap *map, int *n)
{
	ManifestFile **files = palloc(Max(map->nwide, 1) * sizeof(ManifestFile *));
	Run		   *runs = palloc0(Max(map->nwide, 1) * sizeof(Run));
	Run		   *run = NULL;

	for (int i = 0; i < map->nwide; i++)
		files[i] = &map->files[map->wide[i]];
	qsort(files, map->nwide, sizeof(ManifestFile *), compare_by_lsn);
	*n = 0;
	for (int i = 0; i < map->nwide; i++)
	{
		if (run == NULL || run->barrier || is_import(files[i]) || run->lo != files[i]->lsn_lo ||
			run->hi != files[i]->lsn_hi)
		{
			run = &runs[(*n)++];
			run->lo = files[i]->lsn_lo;
			run->hi = files[i]->lsn_hi;
			run->barrier = is_import(files[i]);
		}
		run->bytes += files[i]->bytes;
		run->files = lappend(run->files, files[i]);
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

/* ---- merging ---- */

typedef struct Merge
{
	Timeline   *tl;
	Run		   *runs;			/* adjacent, oldest first */
	int			nruns;
	uint64		bytes_in;
	CompactInput *input;
	CompactOutput output;
	TimestampTz start;
} Merge;

static void
write_outputs(Merge *merge)
{
	static const uint8 first_key[NEON_KEY_ENCODED_SIZE];
	uint8		end_key[NEON_KEY_ENCODED_SIZE];
	NeonKey		key;
	StoreVersion version;

	memset(end_key, 0xFF, sizeof(end_key));
	merge->input = compact_input_begin(merge->tl, first_key, end_key);
	for (int i = 0; i < merge->nruns; i++)
	{
		compact_input_add(merge->input, merge->runs[i].files, InvalidXLogRecPtr, PG_UINT64_MAX);
		merge->bytes_in += merge->runs[i].bytes;
	}
	compact_output_begin(&merge->output, merge->tl, LAYER_DELTA, merge->runs[0].lo,
						 merge->runs[merge->nruns - 1].hi,
						 (uint64) store_compaction_target_size * 1024);
	while (compact_input_next(merge->input, &key, &version))
		compact_output_add(&merge->output, &key, &version);
	compact_output_finish(&merge->output);
	compact_input_end(merge->input);
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
	foreach(lc, merge->output.files)
		manifest_op_add_file(&body, lfirst(lc));
	timeline_edit(merge->tl, body.data, body.len);
	pfree(body.data);
}

void
compact_remove_files(Timeline *tl, const List *files)
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
					neon_id_format(&merge->tl->id.timeline, hex),
					LSN_FORMAT_ARGS(merge->output.lsn_lo), LSN_FORMAT_ARGS(merge->output.lsn_hi),
					merge->nruns, merge->bytes_in, list_length(merge->output.files),
					merge->output.versions, merge->output.bytes,
					TimestampDifferenceMilliseconds(merge->start, neon_clock()))));
}

/* The outputs take the inputs' place. */
static void
replace_files(Merge *merge)
{
	NEON_TEST_POINT("merge-written");
	merge_edit(merge);
	NEON_TEST_POINT("merge-in-manifest");
	store_announce_merge(merge->tl, merge->output.bytes, merge->bytes_in);
	for (int i = 0; i < merge->nruns; i++)
		compact_remove_files(merge->tl, merge->runs[i].files);
	log_merge(merge);
}

static void
run_merge(Merge *merge)
{
	volatile bool done = false;

	merge->start = neon_clock();
	PG_TRY();
	{
		write_outputs(merge);
		replace_files(merge);
		done = true;
	}
	PG_FINALLY();
	{
		if (merge->input)
			compact_input_end(merge->input);
		/* After a failed sync the edit may be on disk all the same. */
		if (!done && timeline_state(merge->tl) == TIMELINE_ACTIVE)
			compact_remove_files(merge->tl, merge->output.files);
	}
	PG_END_TRY();
}

/* Wide files that follow each other, if that is due; the caller has the turn. */
static CompactResult
plan_merge(Timeline *tl, Merge *merge)
{
	LayerMap   *map = layermap_make(timeline_read_manifest(tl));
	Run		   *runs;
	int			nruns;
	int			first = 0;

	runs = list_runs(map, &nruns);
	merge->nruns = choose_runs(runs, nruns, store_compaction_threshold, &first);
	if (merge->nruns == 0)
		return COMPACT_NOTHING;
	merge->tl = tl;
	merge->runs = &runs[first];
	/* partitions take from wide files */
	return compactclaim_take(tl, NULL) ? COMPACT_DONE : COMPACT_BUSY;
}

static CompactResult
merge_wide(Timeline *tl)
{
	Merge		merge = {0};
	CompactResult result;

	compactclaim_begin_turn(tl);
	result = plan_merge(tl, &merge);
	compactclaim_end_turn();
	if (result == COMPACT_DONE)
		run_merge(&merge);
	return result;
}

/* ---- one piece of work ---- */

CompactResult
compact_step(Timeline *tl, const CompactDemand *demand)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	volatile CompactResult result = COMPACT_NOTHING;

	timeline_check_writable(tl);
	if (store_compaction_threshold == 0)
		return COMPACT_NOTHING;
	context = AllocSetContextCreate(caller, "neon merge", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		result = partition_work(tl, demand);
		if (result == COMPACT_NOTHING)
			result = merge_wide(tl);
	}
	PG_FINALLY();
	{
		compactclaim_end_turn();
		compactclaim_release();
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
	if (result == COMPACT_DONE)
	{
		pg_atomic_fetch_add_u32(&tl->shared->compact_jobs, 1);
		/* what the job was in the way of may be done now */
		compactworker_wake();
	}
	return result;
}

CompactDemand
compact_all_there_is(Timeline *tl)
{
	CompactDemand demand = {.forced = true};
	RetentionSet *retention = history_retention(tl);

	/* asked for later, so that the horizon is not above it */
	demand.upto = timeline_disk_consistent_lsn(tl);
	demand.horizon = retention->horizon;
	pfree(retention);
	return demand;
}

bool
store_compact_once(Timeline *tl, bool forced)
{
	CompactDemand demand = {false, PG_UINT64_MAX, PG_UINT64_MAX};

	if (forced)
		demand = compact_all_there_is(tl);
	return compact_step(tl, &demand) == COMPACT_DONE;
}
