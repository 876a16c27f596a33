/*-------------------------------------------------------------------------
 *
 * compactoutput.c
 *	  What compaction writes: files of one kind and LSN interval, and the
 *	  pages in them that must be made first.
 *
 * Pages are made in batches.  What comes behind one in the file waits with it,
 * so that the order stays.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compact_private.h"
#include "crashnote.h"
#include "miscadmin.h"
#include "redopool.h"
#include "slru.h"
#include "utils/memutils.h"

#define PAGES_PER_BATCH	32
#define QUEUE_BYTES		(1024 * 1024)
#define PACE_BYTES		(256 * 1024)

typedef struct QueuedVersion
{
	NeonKey		key;
	StoreVersion version;		/* data: NULL, the page is still to be made */
	XLogRecPtr	read_lsn;		/* of that */
	bool		optional;
	bool		failed;
} QueuedVersion;

/* ---- making pages ---- */

static void
read_pages_of_any_kind(Timeline *tl, const NeonKey *keys, int n, XLogRecPtr lsn, char *pages,
					   PageResult *results)
{
	for (int i = 0; i < n;)
	{
		int			same = 1;

		if (keys[i].kind == NEON_KEY_SLRU)
		{
			slru_page_at(tl, keys[i].spc, keys[i].blk, lsn, pages + (Size) i * BLCKSZ);
			results[i].ok = true;
			i++;
			continue;
		}
		while (i + same < n && keys[i + same].kind == NEON_KEY_PAGE)
			same++;
		read_pages(tl, &keys[i], same, lsn, pages + (Size) i * BLCKSZ, &results[i]);
		i += same;
	}
}

typedef struct ApplyArg
{
	const NeonKey *key;
	const StoreVersion *records;
} ApplyArg;

static XLogRecord *
fetch_record(void *arg, int i, XLogRecPtr *start, XLogRecPtr *end)
{
	const ApplyArg *a = arg;

	*start = a->records[i].start;
	*end = a->records[i].lsn;
	return store_record(a->key, &a->records[i]);
}

static bool
apply_records(Timeline *tl, const NeonKey *key, const char *base, const StoreVersion *records,
			  int n, char *page)
{
	ApplyArg	arg = {key, records};
	RedoRequest request = {0};

	request.key = *key;
	request.base = base;
	request.nrecords = n;
	request.fetch = fetch_record;
	request.arg = &arg;
	request.page = page;
	redo_apply(&tl->id.tenant, tl->id.wal_segment_size, &request, 1);
	return request.ok;
}

CompactPages compact_pages = {read_pages_of_any_kind, apply_records};

StoreVersion *
compact_copy_version(const StoreVersion *version)
{
	StoreVersion *copy = palloc(sizeof(StoreVersion));

	*copy = *version;
	copy->data = NULL;
	if (version->data)
	{
		char	   *data = palloc(version->len + 1);

		memcpy(data, version->data, version->len);
		data[version->len] = '\0';
		copy->data = data;
	}
	return copy;
}

/* ---- files ---- */

void
compact_output_begin(CompactOutput *out, Timeline *tl, LayerType type, XLogRecPtr lsn_lo,
					 XLogRecPtr lsn_hi, uint64 target)
{
	memset(out, 0, sizeof(*out));
	out->tl = tl;
	out->type = type;
	out->lsn_lo = lsn_lo;
	out->lsn_hi = lsn_hi;
	out->target = target;
	out->context = CurrentMemoryContext;
	out->queue_context = AllocSetContextCreate(CurrentMemoryContext, "neon compaction queue",
											   ALLOCSET_DEFAULT_SIZES);
}

uint64
compact_output_bytes(const CompactOutput *out)
{
	return out->bytes + (out->writer ? layer_writer_bytes(out->writer) : 0);
}

static void
finish_file(CompactOutput *out)
{
	ManifestFile *file = palloc(sizeof(ManifestFile));
	LayerWriter *writer = out->writer;

	out->writer = NULL;
	if (!layer_writer_finish(writer, file))
		store_sync_failed(out->tl, file);
	out->bytes += file->bytes;
	out->files = lappend(out->files, file);
}

static void
keep_pace(CompactOutput *out)
{
	uint64		bytes = compact_output_bytes(out);

	if (bytes - out->paced < PACE_BYTES)
		return;
	compact_pace(out->tl, bytes - out->paced);
	out->paced = bytes;
}

static void
write_version(CompactOutput *out, const NeonKey *key, const StoreVersion *version)
{
	if (out->versions == 0 || neon_key_cmp(&out->last_key, key) != 0)
	{
		CHECK_FOR_INTERRUPTS();
		crashnote_set(out->tl, key, version->lsn);
		if (out->writer != NULL && out->target > 0 &&
			layer_writer_bytes(out->writer) >= out->target)
			finish_file(out);
		keep_pace(out);
		out->last_key = *key;
	}
	if (out->writer == NULL)
		out->writer = layer_writer_begin(&out->tl->id, out->type, timeline_new_file_id(out->tl),
										 out->lsn_lo, out->lsn_hi);
	layer_writer_add(out->writer, key, version);
	out->versions++;
}

/* ---- the queue ---- */

static void
take_page(CompactOutput *out, QueuedVersion *q, const PageResult *result, char *page)
{
	if (result->ok)
	{
		q->version.data = page;
		return;
	}
	if (!q->optional && !read_never_works(result))
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(result->sqlstate[0], result->sqlstate[1],
									   result->sqlstate[2], result->sqlstate[3],
									   result->sqlstate[4])),
				 errmsg("could not make block %u of relation %u/%u/%u fork %u at %X/%X: %s",
						q->key.blk, q->key.spc, q->key.db, q->key.rel, q->key.fork,
						LSN_FORMAT_ARGS(q->read_lsn), result->message)));
	q->failed = true;
	read_log_unmakeable(out->tl, &q->key, q->read_lsn, result);
	if (!q->optional)
	{
		MemoryContext old = MemoryContextSwitchTo(out->context);
		NeonKey    *key = palloc(sizeof(NeonKey));

		*key = q->key;
		out->failed = lappend(out->failed, key);
		MemoryContextSwitchTo(old);
	}
}

/* Makes all pages of the queue that are read at one LSN. */
static void
make_pages(CompactOutput *out, XLogRecPtr lsn)
{
	QueuedVersion **wanted = palloc(out->npages * sizeof(QueuedVersion *));
	NeonKey    *keys = palloc(out->npages * sizeof(NeonKey));
	PageResult *results = palloc0(out->npages * sizeof(PageResult));
	char	   *pages;
	int			n = 0;
	ListCell   *lc;

	foreach(lc, out->queue)
	{
		QueuedVersion *q = lfirst(lc);

		if (q->version.data != NULL || q->failed || q->version.value_kind != NEON_VALUE_IMAGE ||
			q->read_lsn != lsn)
			continue;
		keys[n] = q->key;
		wanted[n++] = q;
	}
	pages = palloc((Size) n * BLCKSZ);
	compact_pages.read(out->tl, keys, n, lsn, pages, results);
	for (int i = 0; i < n; i++)
		take_page(out, wanted[i], &results[i], pages + (Size) i * BLCKSZ);
	out->npages -= n;
}

static void
write_queue(CompactOutput *out)
{
	MemoryContext old = MemoryContextSwitchTo(out->queue_context);
	ListCell   *lc;

	foreach(lc, out->queue)
	{
		QueuedVersion *q = lfirst(lc);

		if (q->version.value_kind == NEON_VALUE_IMAGE && q->version.data == NULL && !q->failed)
			make_pages(out, q->read_lsn);
	}
	MemoryContextSwitchTo(old);
	foreach(lc, out->queue)
	{
		QueuedVersion *q = lfirst(lc);

		if (!q->failed)
			write_version(out, &q->key, &q->version);
	}
	out->queue = NIL;
	out->npages = 0;
	out->queued = 0;
	MemoryContextReset(out->queue_context);
}

static QueuedVersion *
put_into_queue(CompactOutput *out, const NeonKey *key, const StoreVersion *version)
{
	MemoryContext old = MemoryContextSwitchTo(out->queue_context);
	QueuedVersion *q = palloc0(sizeof(QueuedVersion));

	q->key = *key;
	q->version = *compact_copy_version(version);
	out->queue = lappend(out->queue, q);
	out->queued += sizeof(QueuedVersion) + (version->data ? version->len : BLCKSZ);
	MemoryContextSwitchTo(old);
	return q;
}

void
compact_output_add(CompactOutput *out, const NeonKey *key, const StoreVersion *version)
{
	if (out->queue == NIL)
		write_version(out, key, version);
	else
	{
		(void) put_into_queue(out, key, version);
		if (out->queued >= QUEUE_BYTES)
			write_queue(out);
	}
}

void
compact_output_page(CompactOutput *out, const NeonKey *key, XLogRecPtr lsn, XLogRecPtr read_lsn,
					bool optional)
{
	StoreVersion version = {0};
	QueuedVersion *q;

	version.lsn = lsn;
	version.value_kind = NEON_VALUE_IMAGE;
	version.base = true;
	version.len = BLCKSZ;
	version.timeline = out->tl;
	q = put_into_queue(out, key, &version);
	q->read_lsn = read_lsn;
	q->optional = optional;
	if (++out->npages >= PAGES_PER_BATCH || out->queued >= QUEUE_BYTES)
		write_queue(out);
}

void
compact_output_finish(CompactOutput *out)
{
	write_queue(out);
	if (out->writer != NULL)
		finish_file(out);
}
