/*-------------------------------------------------------------------------
 *
 * partitionplan.c
 *	  What is to be done next on a timeline's partitions.
 *
 * In this order: while wide files are so many that reads suffer, what lets those go
 * of which little is wanted; a rebase where most would go, if that is a whole file's
 * size and they are so many, as it takes a tenth of a pull's time
 * for each byte and would else wait for ever where the processors do not suffice;
 * a pull, if they are so many, or a rebase instead if that would make most of it go
 * again; a rebase where most would go, if that is much; a pull where wide files
 * have much of one partition, or where they are many and few partitions have what
 * is in them; a fold where delta files of a partition are of like size.  All of it
 * follows from sizes of files and from their directories.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compact_private.h"
#include "compactclaim.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "partition.h"
#include "port/pg_crc32c.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* A pull is worth it for this much of one partition. */
#define PULL_BYTES		(4 * 1024 * 1024)

/* Wide files are pulled rather than merged if a partition gets this much on average. */
#define PULL_AVERAGE	(64 * 1024)

/* What nobody wants of wide files is worth so many jobs, for a file's size of it. */
#define JOBS_PER_FILE_SIZE	128

/* Less is not worth a rewrite, unless it was asked for. */
#define REBASE_BYTES	(1024 * 1024)

#define FIRST_RETRY_MS	1000
#define LAST_RETRY_MS	(3600 * 1000)

typedef struct Planner
{
	Timeline   *tl;
	const LayerMap *map;
	XLogRecPtr	disk_consistent;
	const CompactDemand *demand;
	const RetentionSet *retention;
	XLogRecPtr	horizon;		/* of rewrites; 0: none */
	bool		ignore_claims;
	LayerFile **open;			/* by position, NULL: not opened */
	uint64	   *slices;			/* by partition: bytes that wide files have of it */
	uint64	   *old_slices;		/* those of them that lie below the horizon */
	int			runs;			/* of wide files */
	uint64		wide_bytes;		/* that these files take */
	uint64		wanted_bytes;	/* that slices have of them */
	int			nwanting;		/* slices that have some */
} Planner;

/* ---- partitions that failed ---- */

#define MAX_FAILED		64

typedef struct FailedPartition
{
	NeonId		timeline;
	uint8		first_key[NEON_KEY_ENCODED_SIZE];
	int			retry_ms;		/* 0: unused */
	TimestampTz retry_at;
} FailedPartition;

static FailedPartition failed[MAX_FAILED];

static FailedPartition *
find_failed(const Timeline *tl, const MapPartition *p)
{
	for (int i = 0; i < MAX_FAILED; i++)
	{
		if (failed[i].retry_ms > 0 && neon_id_equal(&failed[i].timeline, &tl->id.timeline) &&
			memcmp(failed[i].first_key, p->first_key, NEON_KEY_ENCODED_SIZE) == 0)
			return &failed[i];
	}
	return NULL;
}

static bool
must_wait(const Timeline *tl, const MapPartition *p)
{
	const FailedPartition *f = find_failed(tl, p);

	return f != NULL && neon_clock() < f->retry_at;
}

/* May it be worked on now? */
static bool
is_free(const Planner *planner, const MapPartition *p)
{
	return !must_wait(planner->tl, p) &&
		(planner->ignore_claims || !compactclaim_is_taken(planner->tl, p->first_key));
}

static void
note_failure(const Timeline *tl, const MapPartition *p)
{
	FailedPartition *f = find_failed(tl, p);

	for (int i = 0; i < MAX_FAILED && f == NULL; i++)
	{
		if (failed[i].retry_ms == 0)
			f = &failed[i];
	}
	if (f == NULL)
		f = &failed[p->first_key[NEON_KEY_ENCODED_SIZE - 1] % MAX_FAILED];
	f->retry_ms = f->retry_ms ? Min(f->retry_ms * 2, LAST_RETRY_MS) : FIRST_RETRY_MS;
	f->retry_at = TimestampTzPlusMilliseconds(neon_clock(), f->retry_ms);
	f->timeline = tl->id.timeline;
	memcpy(f->first_key, p->first_key, NEON_KEY_ENCODED_SIZE);
	compact_forgive_debt(tl->shared, f->retry_ms);
}

static void
note_success(const Timeline *tl, const MapPartition *p)
{
	FailedPartition *f = find_failed(tl, p);

	if (f)
		f->retry_ms = 0;
}

/* ---- bytes of a partition in a file ---- */

static LayerFile *
open_file(Planner *planner, int position)
{
	if (planner->open[position] == NULL)
		planner->open[position] = layer_open(planner->tl, &planner->map->files[position]);
	if (planner->open[position] == NULL)
		layer_missing(planner->tl, &planner->map->files[position]);
	return planner->open[position];
}

static uint64
bytes_in(Planner *planner, int position, const MapPartition *p)
{
	const ManifestFile *file = &planner->map->files[position];

	if (memcmp(file->first_key, p->first_key, NEON_KEY_ENCODED_SIZE) >= 0 &&
		memcmp(file->last_key, p->end_key, NEON_KEY_ENCODED_SIZE) < 0)
		return file->bytes;
	return layer_bytes_between(open_file(planner, position), p->first_key, p->end_key);
}

/* Bytes that wide files have for a partition; 0: no key of it. */
static uint64
slice_bytes(Planner *planner, const MapPartition *p, uint64 *old)
{
	const LayerMap *map = planner->map;
	uint64		bytes = 0;

	*old = 0;
	for (int i = 0; i < map->nwide; i++)
	{
		int			position = map->wide[i];
		const ManifestFile *file = &map->files[position];
		uint64		here;

		if (file->lsn_hi <= p->upto)
			break;
		if (file->lsn_hi > planner->disk_consistent || !layermap_overlaps(file, p) ||
			!layer_has_keys(open_file(planner, position), p->first_key, p->end_key))
			continue;
		here = bytes_in(planner, position, p);
		bytes += 1 + here;
		if (file->lsn_hi <= planner->horizon)
			*old += here;
	}
	return bytes;
}

/* ---- pull ---- */

/* Different LSN intervals of the wide files: so many may have a key. */
static int
wide_runs(const Planner *planner)
{
	const LayerMap *map = planner->map;
	XLogRecPtr	hi = InvalidXLogRecPtr;
	int			n = 0;

	for (int i = 0; i < map->nwide; i++)
	{
		const ManifestFile *file = &map->files[map->wide[i]];

		if (file->lsn_hi > planner->disk_consistent || file->lsn_hi == hi)
			continue;
		hi = file->lsn_hi;
		n++;
	}
	return n;
}

/* What wide files take that can be pulled. */
static uint64
wide_bytes(const Planner *planner)
{
	const LayerMap *map = planner->map;
	uint64		bytes = 0;

	for (int i = 0; i < map->nwide; i++)
	{
		const ManifestFile *file = &map->files[map->wide[i]];

		if (file->lsn_hi <= planner->disk_consistent)
			bytes += file->bytes;
	}
	return bytes;
}

static bool
plan_pull(Planner *planner, PartitionPlan *plan)
{
	uint64		total = 0;
	uint64		most = 0;
	int			touched = 0;

	for (int i = 0; i < planner->map->npartitions; i++)
	{
		uint64		bytes = planner->slices[i];

		if (bytes == 0)
			continue;
		total += bytes;
		touched++;
		if (bytes > most && is_free(planner, &planner->map->partitions[i]))
		{
			most = bytes;
			plan->partition = i;
		}
	}
	plan->kind = PARTITION_PULL;
	plan->upto = planner->disk_consistent;
	if (most == 0)
		return false;
	return most >= PULL_BYTES || planner->demand->forced ||
		(planner->runs >= store_compaction_threshold &&
		 (touched == 1 || total / touched >= PULL_AVERAGE));
}

/*
 * Of the partition that wide files have waited for longest, if most of what they
 * take is wanted by none any more: they go when the last partition has what it
 * wants, however little that is.
 */
static bool
plan_oldest(Planner *planner, PartitionPlan *plan)
{
	bool		found = false;

	if (planner->wide_bytes / 2 < planner->wanted_bytes ||
		planner->wide_bytes - planner->wanted_bytes < (uint64) store_compaction_target_size * 1024 ||
		(planner->wide_bytes - planner->wanted_bytes) / Max(planner->nwanting, 1) <
		(uint64) store_compaction_target_size * 1024 / JOBS_PER_FILE_SIZE)
		return false;
	for (int i = 0; i < planner->map->npartitions; i++)
	{
		const MapPartition *p = &planner->map->partitions[i];
		const MapPartition *best = &planner->map->partitions[plan->partition];

		/* it would keep them all the same */
		if (find_failed(planner->tl, p) != NULL)
			return false;
		if (planner->slices[i] == 0 || !is_free(planner, p) ||
			(found && (p->upto > best->upto ||
					   (p->upto == best->upto &&
						planner->slices[i] <= planner->slices[plan->partition]))))
			continue;
		found = true;
		plan->partition = i;
	}
	plan->kind = PARTITION_PULL;
	plan->upto = planner->disk_consistent;
	return found;
}

/*
 * Up to where wide files are pulled: the demand, but not inside of a file.  One
 * that reaches over it, of runs that were merged meanwhile, is pulled as a whole:
 * a partition's upto says that its own files have all versions at or below.
 */
static XLogRecPtr
end_of_pulls(const LayerMap *map, XLogRecPtr upto)
{
	bool		moved;

	do
	{
		moved = false;
		for (int i = 0; i < map->nwide; i++)
		{
			const ManifestFile *file = &map->files[map->wide[i]];

			if (file->lsn_hi > upto &&
				(file->type == LAYER_IMAGE ? file->lsn_lo <= upto : file->lsn_lo < upto))
			{
				upto = file->lsn_hi;
				moved = true;
			}
		}
	} while (moved);
	return upto;
}

/* ---- fold ---- */

/*
 * Delta files of a partition that follow each other, none larger than the
 * others together: the cheapest per file that goes.  Those below its base stay.
 */
static bool
plan_fold_of(Planner *planner, int partition, PartitionPlan *plan)
{
	const MapPartition *p = &planner->map->partitions[partition];
	double		best = 0;
	bool		found = false;

	for (int i = 0; i < p->nfiles; i++)
	{
		uint64		total = 0;
		uint64		largest = 0;

		for (int k = i; k < p->nfiles; k++)
		{
			const ManifestFile *file = &planner->map->files[p->files[k]];
			uint64		bytes;
			int			n = k - i + 1;

			if (file->type != LAYER_DELTA || file->lsn_hi <= p->base_lsn)
				break;
			bytes = bytes_in(planner, p->files[k], p);
			total += bytes;
			largest = Max(largest, bytes);
			if (n < Max(store_compaction_threshold, 2) || largest > total - largest ||
				(found && (double) total / (n - 1) >= best))
				continue;
			found = true;
			best = (double) total / (n - 1);
			plan->partition = partition;
			plan->first = i;
			plan->n = n;
		}
	}
	return found;
}

static bool
plan_fold(Planner *planner, PartitionPlan *plan)
{
	plan->kind = PARTITION_FOLD;
	for (int i = 0; i < planner->map->npartitions; i++)
	{
		if (planner->map->partitions[i].nfiles >= Max(store_compaction_threshold, 2) &&
			is_free(planner, &planner->map->partitions[i]) &&
			plan_fold_of(planner, i, plan))
			return true;
	}
	return false;
}

/* ---- rebase ---- */

/* What wide files have of a partition begins above this. */
static XLogRecPtr
own_upto(const Planner *planner, int partition)
{
	XLogRecPtr	upto = planner->map->partitions[partition].upto;

	return planner->slices[partition] == 0 ? Max(upto, planner->disk_consistent) : upto;
}

/* Of the points below an LSN. */
static uint32
checksum_points(const RetentionSet *retention, XLogRecPtr below)
{
	pg_crc32c	crc;
	int			n = 0;

	while (n < retention->npoints && retention->points[n] < below)
		n++;
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, retention->points, n * sizeof(XLogRecPtr));
	FIN_CRC32C(crc);
	return crc;
}

/* New points lie above the horizon of the last rewrite: one below it can only go. */
static bool
point_is_gone(const Planner *planner, const MapPartition *p)
{
	return p->base_lsn != InvalidXLogRecPtr &&
		checksum_points(planner->retention, p->base_lsn) != p->points;
}

/* Bytes that a rewrite at the horizon may make go, and those of pages that stay. */
static void
weigh(Planner *planner, const MapPartition *p, XLogRecPtr horizon, uint64 *newer, uint64 *base,
	  uint64 *kept)
{
	*newer = *base = *kept = 0;
	for (int i = 0; i < p->nfiles; i++)
	{
		const ManifestFile *file = &planner->map->files[p->files[i]];
		uint64		bytes = bytes_in(planner, p->files[i], p);
		XLogRecPtr	lo = Max(file->lsn_lo, p->base_lsn);

		if (file->type == LAYER_IMAGE)
			*base += bytes;
		else if (file->lsn_hi <= p->base_lsn)
			*kept += bytes;
		else if (lo < horizon)
			*newer += bytes * ((double) (Min(file->lsn_hi, horizon) - lo) /
							   (file->lsn_hi - file->lsn_lo));
	}
}

/* Bytes that a rewrite at the horizon may make go, old ones of wide files too; 0 if it is not worth it. */
static uint64
rebase_gain(Planner *planner, const MapPartition *p, uint64 old, XLogRecPtr horizon)
{
	uint64		newer;
	uint64		base;
	uint64		kept;

	weigh(planner, p, horizon, &newer, &base, &kept);
	newer += old;
	if (!point_is_gone(planner, p))
		kept = 0;				/* all of it is still wanted */
	if (!planner->demand->forced && newer + kept < Max(base / 2, REBASE_BYTES))
		return 0;
	return newer + kept;
}

/* Files from the first one that reaches below the horizon. */
static void
set_rebase(Planner *planner, int partition, XLogRecPtr upto, XLogRecPtr horizon,
		   PartitionPlan *plan)
{
	const MapPartition *p = &planner->map->partitions[partition];

	plan->kind = PARTITION_REBASE;
	plan->partition = partition;
	plan->upto = upto;
	plan->horizon = horizon;
	plan->points = checksum_points(planner->retention, horizon);
	plan->first = 0;
	while (plan->first < p->nfiles)
	{
		const ManifestFile *file = &planner->map->files[p->files[plan->first]];

		if (file->type == LAYER_IMAGE || file->lsn_lo < horizon)
			break;
		plan->first++;
	}
	plan->n = p->nfiles - plan->first;
}

/*
 * Most of what would be pulled of the partition is so old that the next rebase
 * would take it away again: that is planned at once, up to the horizon.
 */
static bool
rebase_instead(Planner *planner, int partition, PartitionPlan *plan)
{
	const MapPartition *p = &planner->map->partitions[partition];
	XLogRecPtr	upto;

	if (planner->old_slices[partition] <= planner->slices[partition] / 2 || p->nfiles == 0 ||
		planner->horizon <= Max(p->upto, p->base_lsn) ||
		rebase_gain(planner, p, planner->old_slices[partition], planner->horizon) == 0)
		return false;
	upto = end_of_pulls(planner->map, planner->horizon);
	if (upto > planner->disk_consistent)
		return false;
	set_rebase(planner, partition, upto, planner->horizon, plan);
	return true;
}

/* Of the partition where most, and at least so much, would go: the first one might always be due. */
static bool
plan_rebase(Planner *planner, uint64 least, PartitionPlan *plan)
{
	XLogRecPtr	horizon = planner->horizon;
	XLogRecPtr	upto;
	uint64		most = 0;
	int			best = 0;

	for (int i = 0; i < planner->map->npartitions && horizon != InvalidXLogRecPtr; i++)
	{
		const MapPartition *p = &planner->map->partitions[i];
		uint64		gain;

		CHECK_FOR_INTERRUPTS();
		if (p->nfiles == 0 || horizon < p->base_lsn || !is_free(planner, p) ||
			(horizon == p->base_lsn && !point_is_gone(planner, p)))
			continue;
		gain = rebase_gain(planner, p, planner->old_slices[i], horizon);
		if (gain <= most)
			continue;
		most = gain;
		best = i;
	}
	if (most == 0 || most < least)
		return false;
	if (own_upto(planner, best) >= horizon)
		set_rebase(planner, best, own_upto(planner, best), horizon, plan);
	else if ((upto = end_of_pulls(planner->map, horizon)) <= planner->disk_consistent)
	{
		/* together with what wide files have up to the horizon, which so is never written again */
		set_rebase(planner, best, upto, horizon, plan);
	}
	else
	{
		/* what is at the horizon must be there first */
		plan->kind = PARTITION_PULL;
		plan->partition = best;
		plan->upto = planner->disk_consistent;
	}
	return true;
}

/* ---- pages that are gone ---- */

/* Bytes of base images that a truncation or drop below the horizon made useless. */
typedef struct CutBytes
{
	Planner    *planner;
	uint64	   *bytes;			/* by partition */
} CutBytes;

static void
count_cut(CutBytes *cut, const NeonKey *size_key, const SizeCut *c)
{
	const LayerMap *map = cut->planner->map;
	NeonKey		from = neon_key(NEON_KEY_PAGE, size_key->spc, size_key->db, size_key->rel,
								size_key->fork, c->blocks);
	NeonKey		to = from;
	uint8		first_key[NEON_KEY_ENCODED_SIZE];
	uint8		end_key[NEON_KEY_ENCODED_SIZE];

	to.blk = InvalidBlockNumber;
	neon_key_encode(&from, first_key);
	neon_key_encode(&to, end_key);
	for (int i = layermap_find(map, first_key) - map->partitions; i < map->npartitions &&
		 memcmp(map->partitions[i].first_key, end_key, NEON_KEY_ENCODED_SIZE) < 0; i++)
	{
		const MapPartition *p = &map->partitions[i];

		for (int k = 0; k < p->nfiles && c->lsn > p->base_lsn; k++)
		{
			const ManifestFile *file = &map->files[p->files[k]];

			if (file->type == LAYER_IMAGE && layermap_overlaps(file, p))
				cut->bytes[i] += layer_bytes_between(open_file(cut->planner, p->files[k]),
													 first_key, end_key);
		}
	}
}

static bool
count_cuts(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	CutBytes   *cut = arg;
	RelSize		size;

	if (newest->value_kind == NEON_VALUE_SIZE && relsize_decode(newest->data, newest->len, &size))
	{
		/* the lowest one of those that may count says it all */
		for (int i = 0; i < size.ncuts; i++)
			count_cut(cut, key, &size.cuts[i]);
	}
	return true;
}

static bool
plan_rebase_of_gone(Planner *planner, PartitionPlan *plan)
{
	CutBytes	cut = {planner};
	NeonKey		lo = neon_key(NEON_KEY_SIZE, 0, 0, 0, 0, 0);
	NeonKey		hi = neon_key(NEON_KEY_SIZE, PG_UINT32_MAX, PG_UINT32_MAX, PG_UINT32_MAX,
							  MAX_FORKNUM, PG_UINT32_MAX);

	if (planner->horizon == InvalidXLogRecPtr)
		return false;
	cut.bytes = palloc0(planner->map->npartitions * sizeof(uint64));
	store_scan(planner->tl, &lo, &hi, planner->horizon, count_cuts, &cut);
	for (int i = 0; i < planner->map->npartitions; i++)
	{
		const MapPartition *p = &planner->map->partitions[i];
		uint64		newer;
		uint64		base;
		uint64		kept;
		XLogRecPtr	upto;

		if (cut.bytes[i] == 0 || !is_free(planner, p))
			continue;
		upto = own_upto(planner, i);
		weigh(planner, p, upto, &newer, &base, &kept);
		if (upto < planner->horizon || planner->horizon <= p->base_lsn ||
			(!planner->demand->forced && cut.bytes[i] < Max(base / 2, REBASE_BYTES)))
			continue;
		set_rebase(planner, i, upto, planner->horizon, plan);
		return true;
	}
	return false;
}

/* ---- the choice ---- */

/*
 * What is there and would not be, if all were done that is due: what nobody wants
 * of wide files, and what rewrites take away.
 */
static uint64
count_debt(Planner *planner)
{
	uint64		bytes = planner->wide_bytes - Min(planner->wanted_bytes, planner->wide_bytes);

	for (int i = 0; i < planner->map->npartitions; i++)
	{
		const MapPartition *p = &planner->map->partitions[i];

		if (p->nfiles > 0 && planner->horizon > p->base_lsn)
			bytes += rebase_gain(planner, p, 0, planner->horizon);
	}
	return bytes;
}

/* What the choice between timelines goes by, and the pace of writers. */
static void
publish_debt(Planner *planner)
{
	TimelineShared *s = planner->tl->shared;

	pg_atomic_write_u32(&s->wide_runs, planner->runs);
	pg_atomic_write_u64(&s->wide_bytes, planner->wanted_bytes);
	pg_atomic_write_u64(&s->compaction_debt, count_debt(planner));
}

static void
count_slices(Planner *planner)
{
	planner->runs = wide_runs(planner);
	planner->wide_bytes = wide_bytes(planner);
	planner->slices = palloc0(planner->map->npartitions * sizeof(uint64));
	planner->old_slices = palloc0(planner->map->npartitions * sizeof(uint64));
	for (int i = 0; i < planner->map->npartitions && planner->runs > 0; i++)
	{
		CHECK_FOR_INTERRUPTS();
		planner->slices[i] = slice_bytes(planner, &planner->map->partitions[i],
										 &planner->old_slices[i]);
		planner->wanted_bytes += planner->slices[i];
		planner->nwanting += planner->slices[i] > 0;
	}
	if (!planner->demand->forced)
		publish_debt(planner);
}

static bool
choose(Planner *planner, PartitionPlan *plan)
{
	memset(plan, 0, sizeof(*plan));
	plan->retention = planner->retention;
	plan->horizon = planner->horizon;
	if (planner->runs >= COMPACT_MANY_RUNS)
	{
		bool		oldest = plan_oldest(planner, plan);

		if (!oldest && plan_rebase(planner, (uint64) store_compaction_target_size * 1024, plan))
			return true;
		if (oldest || plan_pull(planner, plan))
		{
			(void) rebase_instead(planner, plan->partition, plan);
			return true;
		}
	}
	return plan_rebase(planner, 0, plan) || plan_pull(planner, plan) || plan_fold(planner, plan) ||
		plan_rebase_of_gone(planner, plan);
}

/* What a pull or a rebase reads of them: files without keys of the partition may go meanwhile. */
static void
list_wide(Planner *planner, PartitionPlan *plan)
{
	const MapPartition *p = &planner->map->partitions[plan->partition];

	for (int i = 0; i < planner->map->nwide; i++)
	{
		int			position = planner->map->wide[i];
		const ManifestFile *file = &planner->map->files[position];

		if (file->lsn_hi > p->upto && file->lsn_hi <= plan->upto && layermap_overlaps(file, p) &&
			layer_has_keys(open_file(planner, position), p->first_key, p->end_key))
			plan->wide = lappend_int(plan->wide, position);
	}
}

static CompactResult
plan_work(Planner *planner, PartitionPlan *plan)
{
	count_slices(planner);
	if (!choose(planner, plan))
	{
		if (!compactclaim_is_taken(planner->tl, NULL))
			return COMPACT_NOTHING;
		/* is it due what others have claimed? */
		planner->ignore_claims = true;
		return choose(planner, plan) ? COMPACT_BUSY : COMPACT_NOTHING;
	}
	if (plan->kind != PARTITION_FOLD)
		list_wide(planner, plan);
	return compactclaim_take(planner->tl, planner->map->partitions[plan->partition].first_key) ?
		COMPACT_DONE : COMPACT_BUSY;
}

static void
close_files(Planner *planner)
{
	for (int i = 0; i < planner->map->nfiles; i++)
	{
		if (planner->open[i])
			layer_close(planner->open[i]);
		planner->open[i] = NULL;
	}
}

/* In a turn: with all that others have done. */
static CompactResult
plan_in_turn(Planner *planner, PartitionPlan *plan)
{
	volatile CompactResult result = COMPACT_NOTHING;
	Manifest   *m;

	compactclaim_begin_turn(planner->tl);
	m = timeline_read_manifest(planner->tl);
	planner->map = layermap_make(m);
	planner->disk_consistent = end_of_pulls(planner->map,
											Min(m->disk_consistent_lsn, planner->demand->upto));
	planner->open = palloc0(Max(planner->map->nfiles, 1) * sizeof(LayerFile *));
	PG_TRY();
	{
		result = plan_work(planner, plan);
	}
	PG_FINALLY();
	{
		close_files(planner);
		compactclaim_end_turn();
	}
	PG_END_TRY();
	return result;
}

CompactResult
partition_work(Timeline *tl, const CompactDemand *demand)
{
	Planner		planner = {.tl = tl, .demand = demand};
	PartitionPlan plan;
	CompactResult result;

	planner.retention = history_retention(tl);
	planner.horizon = Min(planner.retention->horizon, demand->horizon);
	result = plan_in_turn(&planner, &plan);
	if (result != COMPACT_DONE)
		return result;
	PG_TRY();
	{
		partition_run(tl, planner.map, &plan);
	}
	PG_CATCH();
	{
		note_failure(tl, &planner.map->partitions[plan.partition]);
		PG_RE_THROW();
	}
	PG_END_TRY();
	note_success(tl, &planner.map->partitions[plan.partition]);
	return COMPACT_DONE;
}
