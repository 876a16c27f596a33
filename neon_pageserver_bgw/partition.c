/*-------------------------------------------------------------------------
 *
 * partition.c
 *	  Partitions: ranges of keys with files of their own.
 *
 * Three kinds of job, each on one partition and with one edit of the manifest:
 *
 *	  pull		what wide files have of its keys, above its upto, goes into a
 *				file of its own; upto moves
 *	  fold		its delta files that follow each other in time become one
 *	  rebase	its files, and what wide files have up to the horizon, are
 *				rewritten at the horizon (rebase.c)
 *
 * A job that has written enough ends before the next key, and the partition is
 * divided there: the rest keeps the files that it had, so that a file may
 * belong to several partitions.  It goes when none of them names it.  A wide
 * file goes when no partition needs it any more.  A process that dies before
 * its edit has changed nothing.  Jobs on different partitions may run at once:
 * what goes is decided in the turn in which the edit is made (compactclaim.h).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compact_private.h"
#include "compactclaim.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "partition.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* ---- sizes ---- */

ForkSizes *
fork_sizes_begin(Timeline *tl, int n, const XLogRecPtr *lsns)
{
	ForkSizes  *sizes = palloc0(sizeof(ForkSizes));

	sizes->tl = tl;
	sizes->n = n;
	sizes->lsns = lsns;
	sizes->sizes = palloc0(n * sizeof(RelSize *));
	sizes->exists = palloc0(n * sizeof(bool));
	return sizes;
}

static void
forget_sizes(ForkSizes *sizes, const NeonKey *size_key)
{
	for (int i = 0; i < sizes->n; i++)
	{
		if (sizes->sizes[i])
			pfree(sizes->sizes[i]);
		sizes->sizes[i] = NULL;
	}
	sizes->key = *size_key;
}

bool
fork_sizes_alive(ForkSizes *sizes, const NeonKey *key, int i, XLogRecPtr lsn, XLogRecPtr *floor)
{
	NeonKey		size_key = neon_key(NEON_KEY_SIZE, key->spc, key->db, key->rel, key->fork, 0);

	*floor = InvalidXLogRecPtr;
	if (key->kind != NEON_KEY_PAGE)
		return true;
	if (neon_key_cmp(&sizes->key, &size_key) != 0)
		forget_sizes(sizes, &size_key);
	if (sizes->sizes[i] == NULL)
	{
		RelSize    *size = MemoryContextAlloc(GetMemoryChunkContext(sizes), sizeof(RelSize));

		sizes->exists[i] = store_size_at(sizes->tl, &size_key, sizes->lsns[i], size);
		sizes->sizes[i] = size;
	}
	*floor = relsize_floor(sizes->sizes[i], key->blk);
	return sizes->exists[i] && key->blk < sizes->sizes[i]->nblocks && lsn > *floor;
}

/* ---- a job ---- */

bool
partition_job_ends(PartitionJob *job, const NeonKey *key, uint64 keys)
{
	uint64		bytes = 0;
	ListCell   *lc;

	if (keys == 0)
		return false;
	foreach(lc, job->outputs)
		bytes += compact_output_bytes(lfirst(lc));
	if (keys < PARTITION_KEYS && bytes < (uint64) store_compaction_target_size * 1024)
		return false;
	neon_key_encode(key, job->end_key);
	return true;
}

static const MapPartition *
job_partition(const PartitionJob *job)
{
	return &job->map->partitions[job->partition];
}

static void
add_input(PartitionJob *job, int position, XLogRecPtr above, XLogRecPtr upto)
{
	const ManifestFile *file = &job->map->files[position];

	compact_input_add(job->input, list_make1(unconstify(ManifestFile *, file)), above, upto);
	job->bytes_in += file->bytes;
}

static CompactOutput *
add_output(PartitionJob *job, XLogRecPtr lsn_lo, XLogRecPtr lsn_hi)
{
	CompactOutput *out = palloc(sizeof(CompactOutput));

	compact_output_begin(out, job->tl, LAYER_DELTA, lsn_lo, lsn_hi, 0);
	job->outputs = lappend(job->outputs, out);
	return out;
}

/* Does the job end where the partition does? */
static bool
job_is_whole(const PartitionJob *job)
{
	return memcmp(job->end_key, job_partition(job)->end_key, NEON_KEY_ENCODED_SIZE) == 0;
}

/* ---- the edit ---- */

/* The files of the partition after the job: outputs in the place of inputs first..last. */
static void
put_partition(StringInfo body, const PartitionJob *job, const PartitionPlan *plan)
{
	const MapPartition *p = job_partition(job);
	ManifestPartition mp = {0};
	ListCell   *lc;

	memcpy(mp.first_key, p->first_key, NEON_KEY_ENCODED_SIZE);
	mp.upto = plan->kind == PARTITION_FOLD ? p->upto : Max(p->upto, plan->upto);
	mp.base_lsn = plan->kind == PARTITION_REBASE ? job->horizon : p->base_lsn;
	mp.points = plan->kind == PARTITION_REBASE ? plan->points : p->points;
	mp.files = palloc((p->nfiles + list_length(job->outputs)) * sizeof(uint64));
	for (int i = 0; i <= p->nfiles; i++)
	{
		if (i == plan->first)
		{
			foreach(lc, job->outputs)
			{
				const CompactOutput *out = lfirst(lc);

				if (out->files != NIL)
					mp.files[mp.nfiles++] = ((ManifestFile *) linitial(out->files))->id;
			}
		}
		if (i < p->nfiles && (i < plan->first || i >= plan->first + plan->n))
			mp.files[mp.nfiles++] = job->map->files[p->files[i]].id;
	}
	manifest_op_partition(body, &mp);
}

/* What the job did not come to, as it was. */
static void
put_rest(StringInfo body, const PartitionJob *job)
{
	const MapPartition *p = job_partition(job);
	ManifestPartition mp = {0};

	memcpy(mp.first_key, job->end_key, NEON_KEY_ENCODED_SIZE);
	mp.upto = p->upto;
	mp.base_lsn = p->base_lsn;
	mp.points = p->points;
	mp.nfiles = p->nfiles;
	mp.files = palloc(Max(p->nfiles, 1) * sizeof(uint64));
	for (int i = 0; i < p->nfiles; i++)
		mp.files[i] = job->map->files[p->files[i]].id;
	manifest_op_partition(body, &mp);
}

/* Is the file one of another partition, or of what is left of this one? */
static bool
still_named(const PartitionJob *job, int position)
{
	if (!job_is_whole(job))
		return true;
	for (int i = 0; i < job->map->npartitions; i++)
	{
		const MapPartition *p = &job->map->partitions[i];

		for (int k = 0; k < p->nfiles && i != job->partition; k++)
		{
			if (p->files[k] == position)
				return true;
		}
	}
	return false;
}

/* Does any partition, after the job, need what a wide file has? */
static bool
still_wanted(const PartitionJob *job, int position, XLogRecPtr upto)
{
	const ManifestFile *file = &job->map->files[position];
	LayerFile  *layer = NULL;
	bool		wanted = false;

	for (int i = 0; i < job->map->npartitions && !wanted; i++)
	{
		const MapPartition *p = &job->map->partitions[i];
		bool		mine = i == job->partition;

		if (!layermap_overlaps(file, p) || p->upto >= file->lsn_hi ||
			(mine && job_is_whole(job) && upto >= file->lsn_hi))
			continue;
		if (layer == NULL && (layer = layer_open(job->tl, file)) == NULL)
			layer_missing(job->tl, file);
		wanted = layer_has_keys(layer, mine && upto >= file->lsn_hi ? job->end_key : p->first_key,
								p->end_key);
	}
	if (layer)
		layer_close(layer);
	return wanted;
}

static List *
files_to_drop(const PartitionJob *job, const PartitionPlan *plan)
{
	const MapPartition *p = job_partition(job);
	List	   *drop = NIL;

	for (int i = plan->first; i < plan->first + plan->n; i++)
	{
		if (!still_named(job, p->files[i]))
			drop = lappend(drop, &job->map->files[p->files[i]]);
	}
	for (int i = 0; i < job->map->nwide; i++)
	{
		const ManifestFile *file = &job->map->files[job->map->wide[i]];

		if (plan->kind != PARTITION_FOLD && file->lsn_hi <= plan->upto &&
			!still_wanted(job, job->map->wide[i], plan->upto))
			drop = lappend(drop, unconstify(ManifestFile *, file));
	}
	return drop;
}

static void
log_job(const PartitionJob *job, const PartitionPlan *plan, uint64 bytes, TimestampTz start)
{
	static const char *const names[] = {"pull", "fold", "rebase"};
	char		hex[NEON_ID_HEXLEN + 1];
	uint64		versions = 0;
	ListCell   *lc;

	foreach(lc, job->outputs)
		versions += ((CompactOutput *) lfirst(lc))->versions;
	ereport(LOG,
			(errmsg("%s of partition %d of %d of timeline \"%s\"%s: " UINT64_FORMAT " versions, "
					UINT64_FORMAT " bytes in %ld ms",
					plan->kind == PARTITION_REBASE && plan->wide != NIL ? "pull and rebase" : names[plan->kind],
					job->partition + 1,
					job->map->npartitions, neon_id_format(&job->tl->id.timeline, hex),
					job_is_whole(job) ? "" : ", which is divided", versions, bytes,
					TimestampDifferenceMilliseconds(start, neon_clock()))));
}

/*
 * The files as they are now.  Other partitions may have changed, and wide files
 * may have come or gone, but nothing of this partition has.
 */
static void
renew_map(PartitionJob *job)
{
	const MapPartition *before = job_partition(job);
	const LayerMap *map = layermap_make(timeline_read_manifest(job->tl));
	const MapPartition *p = layermap_find(map, before->first_key);
	bool		same = p->nfiles == before->nfiles && p->upto == before->upto &&
	memcmp(p->first_key, before->first_key, NEON_KEY_ENCODED_SIZE) == 0 &&
	memcmp(p->end_key, before->end_key, NEON_KEY_ENCODED_SIZE) == 0;

	for (int i = 0; i < p->nfiles && same; i++)
		same = map->files[p->files[i]].id == job->map->files[before->files[i]].id;
	if (!same)
		elog(ERROR, "a partition was changed while it was worked on");
	job->map = map;
	job->partition = p - map->partitions;
}

/* One edit, then what it made useless goes. */
static void
finish_job(PartitionJob *job, const PartitionPlan *plan, TimestampTz start)
{
	List	   *drop;
	uint64		added = 0;
	uint64		dropped = 0;
	StringInfoData body;
	ListCell   *lc;

	NEON_TEST_POINT("partition-written");
	compactclaim_begin_turn(job->tl);
	renew_map(job);
	drop = files_to_drop(job, plan);
	initStringInfo(&body);
	foreach(lc, job->outputs)
	{
		const CompactOutput *out = lfirst(lc);

		if (out->files != NIL)
			manifest_op_add_file(&body, linitial(out->files));
		added += out->bytes;
	}
	put_partition(&body, job, plan);
	if (!job_is_whole(job))
		put_rest(&body, job);
	foreach(lc, drop)
	{
		manifest_op_drop_file(&body, ((ManifestFile *) lfirst(lc))->id);
		dropped += ((ManifestFile *) lfirst(lc))->bytes;
	}
	timeline_edit(job->tl, body.data, body.len);
	NEON_TEST_POINT("partition-in-manifest");
	store_announce_merge(job->tl, added, dropped);
	compactclaim_end_turn();
	compact_remove_files(job->tl, drop);
	log_job(job, plan, added, start);
}

/* ---- the three kinds ---- */

/* Returns where their LSN interval begins. */
static XLogRecPtr
add_wide_inputs(PartitionJob *job, const PartitionPlan *plan)
{
	const MapPartition *p = job_partition(job);
	XLogRecPtr	lo = plan->upto;
	ListCell   *lc;

	foreach(lc, plan->wide)
	{
		const ManifestFile *file = &job->map->files[lfirst_int(lc)];

		add_input(job, lfirst_int(lc), p->upto, plan->upto);
		lo = Min(lo, file->type == LAYER_IMAGE ? file->lsn_lo - 8 : file->lsn_lo);
	}
	return Max(lo, p->upto);
}

static void
write_pull(PartitionJob *job, const PartitionPlan *plan)
{
	XLogRecPtr	lo = add_wide_inputs(job, plan);

	compact_write_images(job, add_output(job, lo, plan->upto), plan->upto);
	compact_output_finish(linitial(job->outputs));
}

static void
write_fold(PartitionJob *job, const PartitionPlan *plan)
{
	const MapPartition *p = job_partition(job);
	XLogRecPtr	lo = PG_UINT64_MAX;
	XLogRecPtr	hi = InvalidXLogRecPtr;
	CompactOutput *out;
	NeonKey		key;
	NeonKey		last = {0};
	StoreVersion v;
	uint64		keys = 0;

	for (int i = plan->first; i < plan->first + plan->n; i++)
	{
		const ManifestFile *file = &job->map->files[p->files[i]];

		add_input(job, p->files[i], InvalidXLogRecPtr, PG_UINT64_MAX);
		lo = Min(lo, file->lsn_lo);
		hi = Max(hi, file->lsn_hi);
	}
	out = add_output(job, lo, hi);
	while (compact_input_next(job->input, &key, &v))
	{
		if (keys == 0 || neon_key_cmp(&key, &last) != 0)
		{
			if (partition_job_ends(job, &key, keys))
				break;
			keys++;
			last = key;
		}
		compact_output_add(out, &key, &v);
	}
	compact_output_finish(out);
}

static void
remove_outputs(PartitionJob *job)
{
	ListCell   *lc;

	foreach(lc, job->outputs)
		compact_remove_files(job->tl, ((CompactOutput *) lfirst(lc))->files);
	job->outputs = NIL;
}

static void
begin_input(PartitionJob *job)
{
	const MapPartition *p = job_partition(job);

	memcpy(job->end_key, p->end_key, NEON_KEY_ENCODED_SIZE);
	job->input = compact_input_begin(job->tl, p->first_key, p->end_key);
	job->bytes_in = 0;
}

/* The keys whose pages could not be made: see rebase_write. */
static List *
try_rebase(PartitionJob *job, const PartitionPlan *plan, List *whole)
{
	const MapPartition *p = job_partition(job);
	XLogRecPtr	lo = PG_UINT64_MAX;
	XLogRecPtr	hi = InvalidXLogRecPtr;

	for (int i = plan->first; i < plan->first + plan->n; i++)
	{
		const ManifestFile *file = &job->map->files[p->files[i]];

		add_input(job, p->files[i], InvalidXLogRecPtr, PG_UINT64_MAX);
		lo = Min(lo, file->type == LAYER_IMAGE ? file->lsn_lo - 8 : file->lsn_lo);
		hi = Max(hi, file->lsn_hi);
	}
	if (plan->wide != NIL)
	{
		lo = Min(lo, add_wide_inputs(job, plan));
		hi = Max(hi, plan->upto);
	}
	return rebase_write(job, lo, hi, whole);
}

/*
 * Pages that cannot be made are known when their keys have passed, and what is
 * stored of them with these: it is begun anew then, and they stay as they are.
 */
static void
write_rebase(PartitionJob *job, const PartitionPlan *plan)
{
	List	   *whole = NIL;
	List	   *failed;

	while ((failed = try_rebase(job, plan, whole)) != NIL)
	{
		whole = list_concat(whole, failed);
		compact_input_end(job->input);
		remove_outputs(job);
		begin_input(job);
	}
}

void
partition_run(Timeline *tl, const LayerMap *map, const PartitionPlan *plan)
{
	PartitionJob *job = palloc0(sizeof(PartitionJob));
	TimestampTz start = neon_clock();
	volatile bool done = false;

	job->tl = tl;
	job->map = map;
	job->partition = plan->partition;
	job->horizon = plan->horizon;
	job->retention = plan->retention;
	begin_input(job);
	PG_TRY();
	{
		if (plan->kind == PARTITION_PULL)
			write_pull(job, plan);
		else if (plan->kind == PARTITION_FOLD)
			write_fold(job, plan);
		else
			write_rebase(job, plan);
		compact_input_end(job->input);
		finish_job(job, plan, start);
		done = true;
	}
	PG_FINALLY();
	{
		compact_input_end(job->input);
		/* After a failed sync the edit may be on disk all the same. */
		if (!done && timeline_state(tl) == TIMELINE_ACTIVE)
			remove_outputs(job);
	}
	PG_END_TRY();
}
