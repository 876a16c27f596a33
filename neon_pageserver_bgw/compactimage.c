/*-------------------------------------------------------------------------
 *
 * compactimage.c
 *	  Page images that compaction adds so that chains of records stay short.
 *
 * The newest version of a page gets one when its chain, older files of the
 * partition included, is long.  Inside a chain there is one for every
 * HISTORY_RECORDS records or compact_history_bytes of them, made from the one before:
 * the records in between wait in memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compact_private.h"
#include "utils/memutils.h"

#define HISTORY_RECORDS	256

int			compact_history_bytes = 16 * 1024;

/* The key being written. */
typedef struct ChainState
{
	PartitionJob *job;
	CompactOutput *out;
	ForkSizes  *sizes;			/* at read_lsn */
	XLogRecPtr	read_lsn;
	List	   *files;			/* LayerFile of the partition's delta files, newest first */

	NeonKey		key;
	XLogRecPtr	last_lsn;
	bool		based;			/* the chain has a base in the input */
	bool		ends_in_image;
	uint32		chain;			/* records since the last base */

	/* records since the last state that is known; in context */
	MemoryContext context;
	char	   *state;			/* that page; NULL: zeros, or unknown */
	bool		known;
	bool		hopeless;		/* the state cannot be had */
	XLogRecPtr	state_lsn;
	int			n;
	Size		bytes;
	StoreVersion records[HISTORY_RECORDS];
} ChainState;

static void
forget_records(ChainState *s)
{
	MemoryContextReset(s->context);
	s->state = NULL;
	s->n = 0;
	s->bytes = 0;
}

/* The page as it was before the first record that waits. */
static void
learn_state(ChainState *s)
{
	const MapPartition *p = &s->job->map->partitions[s->job->partition];
	PageResult	result = {0};
	char	   *page;

	/* Below the horizon the size may be gone that says what exists. */
	if (p->upto == InvalidXLogRecPtr || p->upto < s->job->horizon)
	{
		s->hopeless = true;
		return;
	}
	page = palloc(BLCKSZ);
	compact_pages.read(s->job->tl, &s->key, 1, p->upto, page, &result);
	s->hopeless = !result.ok;
	s->known = result.ok;
	s->state = page;
	s->state_lsn = p->upto;
}

/* Records that a truncation took away leave zeros; false if the page does not exist now. */
static bool
obey_cut(ChainState *s, XLogRecPtr lsn)
{
	ForkSizes  *sizes = fork_sizes_begin(s->job->tl, 1, &lsn);
	XLogRecPtr	floor;
	int			first = 0;

	if (!fork_sizes_alive(sizes, &s->key, 0, lsn, &floor))
		return false;
	if (floor > s->state_lsn)
	{
		s->state = NULL;
		s->known = true;
	}
	while (first < s->n && s->records[first].lsn <= floor)
		first++;
	s->n -= first;
	memmove(s->records, s->records + first, s->n * sizeof(StoreVersion));
	return s->n > 0;
}

static void
write_image(ChainState *s, XLogRecPtr lsn, char *page)
{
	StoreVersion v = {0};

	v.lsn = lsn;
	v.value_kind = NEON_VALUE_IMAGE;
	v.base = true;
	v.len = BLCKSZ;
	v.data = page;
	v.timeline = s->job->tl;
	compact_output_add(s->out, &s->key, &v);
}

/* An image behind the last record, if it can be made; the records are forgotten. */
static void
image_inside(ChainState *s)
{
	MemoryContext old = MemoryContextSwitchTo(s->context);
	char	   *page = palloc(BLCKSZ);
	bool		made = false;

	if (!s->known && !s->hopeless)
		learn_state(s);
	if (s->last_lsn >= s->job->horizon && !s->hopeless && obey_cut(s, s->last_lsn) && s->known)
		made = compact_pages.apply(s->job->tl, &s->key, s->state, s->records, s->n, page);
	if (made)
		write_image(s, s->last_lsn, page);
	MemoryContextSwitchTo(old);
	if (made)
	{
		char		copy[BLCKSZ];

		memcpy(copy, page, BLCKSZ);
		forget_records(s);
		s->state = MemoryContextAlloc(s->context, BLCKSZ);
		memcpy(s->state, copy, BLCKSZ);
		s->chain = 0;
		s->based = true;
		s->ends_in_image = true;
	}
	else
	{
		forget_records(s);
		s->hopeless = true;
	}
	s->known = made;
	s->state_lsn = s->last_lsn;
}

/* From here on the key's state is known. */
static void
know_state(ChainState *s, XLogRecPtr lsn)
{
	s->known = true;
	s->hopeless = store_compaction_image_chain == 0;
	s->state_lsn = lsn;
}

static void
add_record(ChainState *s, const StoreVersion *v)
{
	MemoryContext old;

	s->chain = v->base ? 1 : s->chain + 1;
	s->based |= v->base;
	s->ends_in_image = false;
	if (s->key.kind != NEON_KEY_PAGE)
		return;
	if (v->base)
	{
		forget_records(s);
		know_state(s, v->lsn - 1);
	}
	if (s->hopeless)
		return;
	old = MemoryContextSwitchTo(s->context);
	s->records[s->n++] = *compact_copy_version(v);
	MemoryContextSwitchTo(old);
	s->bytes += v->len;
	if (s->n == HISTORY_RECORDS || s->bytes >= (Size) compact_history_bytes)
		image_inside(s);
}

static void
add_image(ChainState *s, const StoreVersion *v)
{
	s->chain = 0;
	s->based = true;
	s->ends_in_image = true;
	if (s->key.kind != NEON_KEY_PAGE)
		return;
	forget_records(s);
	s->state = MemoryContextAlloc(s->context, BLCKSZ);
	memcpy(s->state, v->data, BLCKSZ);
	know_state(s, v->lsn);
}

/* Records of the key in older files of the partition, down to a base. */
static uint64
count_older(const ChainState *s)
{
	uint64		n = 0;
	ListCell   *lc;

	foreach(lc, s->files)
	{
		bool		base;

		n += layer_count_newer(lfirst(lc), &s->key, &base);
		if (base)
			break;
	}
	return n;
}

static void
end_key(ChainState *s)
{
	uint64		chain = s->chain;
	XLogRecPtr	floor;

	if ((s->key.kind != NEON_KEY_PAGE && s->key.kind != NEON_KEY_SLRU) || s->ends_in_image ||
		store_compaction_image_chain == 0)
		return;
	if (!s->based)
		chain += count_older(s);
	if (chain >= store_compaction_image_chain &&
		fork_sizes_alive(s->sizes, &s->key, 0, s->last_lsn, &floor))
		compact_output_page(s->out, &s->key, s->last_lsn, s->read_lsn, true);
}

static void
begin_key(ChainState *s, const NeonKey *key)
{
	s->key = *key;
	s->based = false;
	s->ends_in_image = false;
	s->chain = 0;
	s->known = false;
	s->hopeless = store_compaction_image_chain == 0;
	s->state_lsn = InvalidXLogRecPtr;
	forget_records(s);
}

static void
open_older(ChainState *s)
{
	const PartitionJob *job = s->job;
	const MapPartition *p = &job->map->partitions[job->partition];

	for (int i = 0; i < p->nfiles; i++)
	{
		const ManifestFile *mf = &job->map->files[p->files[i]];
		LayerFile  *layer = layer_open(job->tl, mf);

		if (layer == NULL)
			layer_missing(job->tl, mf);
		s->files = lappend(s->files, layer);
	}
}

static void
write_keys(ChainState *s)
{
	PartitionJob *job = s->job;
	NeonKey		key;
	StoreVersion v;
	uint64		keys = 0;

	while (compact_input_next(job->input, &key, &v))
	{
		if (keys == 0 || neon_key_cmp(&key, &s->key) != 0)
		{
			if (keys > 0)
				end_key(s);
			if (partition_job_ends(job, &key, keys))
				return;
			begin_key(s, &key);
			keys++;
		}
		compact_output_add(s->out, &key, &v);
		s->last_lsn = v.lsn;
		if (v.value_kind == NEON_VALUE_WAL)
			add_record(s, &v);
		else if (v.value_kind == NEON_VALUE_IMAGE)
			add_image(s, &v);
	}
	if (keys > 0)
		end_key(s);
}

void
compact_write_images(PartitionJob *job, CompactOutput *out, XLogRecPtr read_lsn)
{
	ChainState *s = palloc0(sizeof(ChainState));
	ListCell   *lc;

	s->job = job;
	s->out = out;
	s->read_lsn = read_lsn;
	s->sizes = fork_sizes_begin(job->tl, 1, &read_lsn);
	s->context = AllocSetContextCreate(CurrentMemoryContext, "neon chain", ALLOCSET_DEFAULT_SIZES);
	PG_TRY();
	{
		open_older(s);
		write_keys(s);
	}
	PG_FINALLY();
	{
		foreach(lc, s->files)
			layer_close(lfirst(lc));
	}
	PG_END_TRY();
}
