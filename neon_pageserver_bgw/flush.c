/*-------------------------------------------------------------------------
 *
 * flush.c
 *	  From the open index to a layer file; imports; history points.
 *
 * Order: stored WAL synced, file synced, directory synced, manifest edit
 * synced, then the open index is replaced and the new file list announced in
 * one moment under index_lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "flushimage.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "store_private.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "walstore.h"

/* ---- announcing ---- */

static void
sync_failed(Timeline *tl, const ManifestFile *file)
{
	char		path[MAXPGPATH];
	char		why[TIMELINE_DETAIL_MAX];

	layer_path(&tl->id, file->id, path);
	snprintf(why, sizeof(why), "File \"%s\" could not be synchronized to disk.", path);
	timeline_set_readonly(tl, why);
	ereport(ERROR,
			(errcode(ERRCODE_IO_ERROR),
			 errmsg("could not synchronize file \"%s\"", path)));
}

/* The new list of files is visible from here on. */
static void
announce_file(Timeline *tl, const ManifestFile *file, const OpenLayer *fresh)
{
	TimelineShared *s = tl->shared;
	OpenLayer	old;

	LWLockAcquire(&s->index_lock, LW_EXCLUSIVE);
	if (fresh)
	{
		old = s->open;
		s->open = *fresh;
	}
	pg_atomic_fetch_add_u32(&s->map_version, 1);
	LWLockRelease(&s->index_lock);
	if (fresh)
		openlayer_free(&old);
	if (file)
		pg_atomic_fetch_add_u64(&s->layer_bytes, file->bytes);
}

/* ---- flush ---- */

static int
compare_flush_keys(const void *a, const void *b)
{
	return neon_key_cmp(&((const FlushKey *) a)->key, &((const FlushKey *) b)->key);
}

/* All keys of the open index, sorted. */
static FlushKey *
sorted_keys(const OpenLayer *open, uint32 *n)
{
	FlushKey   *keys = MemoryContextAllocHuge(CurrentMemoryContext,
											  (Size) Max(open->nkeys, 1) * sizeof(FlushKey));

	*n = 0;
	for (int pages = 0; pages < 2; pages++)
	{
		for (OpenKey *k = openlayer_first(open, pages); k != NULL; k = openlayer_next(k))
		{
			keys[*n].key = k->key;
			keys[*n].open = k;
			keys[*n].image = FLUSH_NO_IMAGE;
			(*n)++;
		}
	}
	qsort(keys, *n, sizeof(FlushKey), compare_flush_keys);
	return keys;
}

typedef struct FlushState
{
	Timeline   *tl;
	XLogRecPtr	cut;			/* versions up to here are flushed */
	LayerWriter *writer;
	const FlushKey *key;		/* being written */
	XLogRecPtr	last_lsn;		/* of its last version written */
	uint32		nimages;
	List	   *kept;			/* of KeptVersion: those above the cut */
} FlushState;

/* A version that was put but not published. */
typedef struct KeptVersion
{
	StorePut	put;
	XLogRecPtr	start;
	XLogRecPtr	end;
} KeptVersion;

/* A version that goes into the next open index. */
static void
keep_ref(FlushState *state, const OpenLayer *open, uint64 ref)
{
	KeptVersion *kept = palloc(sizeof(KeptVersion));
	StoreVersion v;

	openlayer_decode(open, ref, true, &v);
	kept->put.key = state->key->key;
	kept->put.value_kind = v.value_kind;
	kept->put.base = v.base;
	kept->put.data = v.data;
	kept->put.len = v.len;
	kept->start = v.start;
	kept->end = v.lsn;
	state->kept = lappend(state->kept, kept);
}

static void
write_ref(const OpenLayer *open, uint64 ref, void *arg)
{
	FlushState *state = arg;
	StoreVersion v;

	openlayer_decode(open, ref, false, &v);
	if (v.lsn > state->cut)
	{
		keep_ref(state, open, ref);
		return;
	}
	if (v.value_kind != NEON_VALUE_WAL)
		openlayer_decode(open, ref, true, &v);
	layer_writer_add(state->writer, &state->key->key, &v, NULL);
	state->last_lsn = v.lsn;
	if (v.data)
		pfree(unconstify(char *, v.data));
}

static void
write_image(FlushState *state, const char *page)
{
	StoreVersion v = {0};

	v.lsn = state->last_lsn;
	v.value_kind = NEON_VALUE_IMAGE;
	v.base = true;
	v.len = BLCKSZ;
	v.data = page;
	layer_writer_add(state->writer, &state->key->key, &v, NULL);
}

static void
write_keys(FlushState *state, FlushKey *keys, uint32 n)
{
	FlushImages *images = flush_images_begin(state->tl, keys, n, state->cut);

	for (uint32 i = 0; i < n; i++)
	{
		const char *page;

		state->key = &keys[i];
		state->last_lsn = InvalidXLogRecPtr;
		openlayer_visit(&state->tl->shared->open, keys[i].open, write_ref, state);
		if (keys[i].image == FLUSH_WANTS_IMAGE &&
			(page = flush_images_get(images, i)) != NULL)
			write_image(state, page);
		if (i % 64 == 0)
			store_tick();
	}
	state->nimages = flush_images_made(images);
	flush_images_end(images);
}

/* Positions that become durable with a flush up to cut. */
static void
flush_edit(Timeline *tl, const ManifestFile *file, XLogRecPtr cut, XLogRecPtr prev)
{
	StringInfoData body;
	XLogRecPtr	boot_record_end;
	uint32		term = timeline_term(tl, &boot_record_end);

	initStringInfo(&body);
	if (file)
		manifest_op_add_file(&body, file);
	manifest_op_lsns(&body, cut, prev);
	manifest_op_logical_size(&body, timeline_logical_size(tl));
	if (boot_record_end <= cut)
		manifest_op_term(&body, term, boot_record_end);
	timeline_edit(tl, body.data, body.len);
	pfree(body.data);
}

static void
remove_layer(Timeline *tl, const ManifestFile *file)
{
	char		path[MAXPGPATH];

	layer_path(&tl->id, file->id, path);
	unlink(path);
}

static void
log_layer(const FlushState *state, const ManifestFile *file, uint32 nkeys, TimestampTz start)
{
	char		hex[NEON_ID_HEXLEN + 1];

	ereport(LOG,
			(errmsg("layer of timeline \"%s\" up to %X/%X written: %u keys, " UINT64_FORMAT
					" versions, %u images, " UINT64_FORMAT " bytes in %ld ms",
					neon_id_format(&state->tl->id.timeline, hex), LSN_FORMAT_ARGS(state->cut),
					nkeys, file->entries, state->nimages, file->bytes,
					TimestampDifferenceMilliseconds(start, GetCurrentTimestamp()))));
}

/* Writes what is in the open index up to cut and puts an empty one in its place. */
static void
write_layer(FlushState *state, XLogRecPtr prev)
{
	Timeline   *tl = state->tl;
	OpenLayer	fresh;
	ManifestFile file;
	FlushKey   *keys;
	TimestampTz start = GetCurrentTimestamp();
	uint32		n;

	keys = sorted_keys(&tl->shared->open, &n);
	state->writer = layer_writer_begin(&tl->id, timeline_new_file_id(tl),
									   timeline_disk_consistent_lsn(tl), state->cut);
	write_keys(state, keys, n);
	if (!layer_writer_finish(state->writer, &file))
		sync_failed(tl, &file);
	PG_TRY();
	{
		flush_edit(tl, &file, state->cut, prev);
	}
	PG_CATCH();
	{
		/* After a failed sync the edit may be on disk all the same. */
		if (timeline_state(tl) != TIMELINE_READONLY)
			remove_layer(tl, &file);
		PG_RE_THROW();
	}
	PG_END_TRY();
	openlayer_init(&fresh, state->cut);
	announce_file(tl, &file, &fresh);
	log_layer(state, &file, n, start);
}

static int
compare_kept(const ListCell *a, const ListCell *b)
{
	const KeptVersion *x = lfirst(a);
	const KeptVersion *y = lfirst(b);

	return x->end == y->end ? 0 : (x->end < y->end ? -1 : 1);
}

/* Nobody can have read these yet, so it does no harm that they were away. */
static void
put_kept_versions(FlushState *state)
{
	ListCell   *lc;

	list_sort(state->kept, compare_kept);
	foreach(lc, state->kept)
	{
		KeptVersion *kept = lfirst(lc);

		store_put_more(state->tl, kept->start, kept->end, &kept->put, 1);
	}
}

void
store_flush(Timeline *tl)
{
	TimelineShared *s = tl->shared;
	XLogRecPtr	cut = timeline_last_record_lsn(tl);
	XLogRecPtr	prev = timeline_prev_record_lsn(tl);
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;

	timeline_check_writable(tl);
	if (!timeline_is_owner(tl))
		elog(ERROR, "store_flush without ownership of the timeline");
	if (cut == timeline_disk_consistent_lsn(tl))
	{
		pg_atomic_write_u32(&s->flush_wanted, 0);
		return;
	}
	walstore_sync(tl);
	if (timeline_flush_lsn(tl) < cut)
		timeline_set_flush_lsn(tl, cut);

	context = AllocSetContextCreate(caller, "neon flush", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		FlushState	state = {0};

		state.tl = tl;
		state.cut = cut;
		if (s->open.nkeys > 0)
			write_layer(&state, prev);
		else
		{
			flush_edit(tl, NULL, cut, prev);
			s->open.base_lsn = cut;
		}
		pg_atomic_write_u64(&s->disk_consistent_lsn, cut);
		pg_atomic_write_u32(&s->flush_wanted, 0);
		s->opened_at = 0;
		put_kept_versions(&state);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(context);
	}
	PG_END_TRY();
}

/* ---- import ---- */

typedef struct ImportEntry
{
	NeonKey		key;
	uint8		value_kind;
	bool		stored;			/* in the file; else data */
	uint32		len;
	LayerValue	value;
	char	   *data;
} ImportEntry;

struct StoreImport
{
	MemoryContext context;
	Timeline   *tl;
	XLogRecPtr	lsn;
	LayerWriter *writer;
	uint64		n;
	uint64		max;
	ImportEntry *entries;
};

StoreImport *
store_import_begin(Timeline *tl, XLogRecPtr lsn)
{
	MemoryContext context;
	MemoryContext old;
	StoreImport *imp;

	timeline_check_writable(tl);
	if (!timeline_is_owner(tl))
		elog(ERROR, "store_import_begin without ownership of the timeline");
	/* So that no layer has versions on both sides of the import. */
	store_publish_put(tl);
	store_flush(tl);

	context = AllocSetContextCreate(CurrentMemoryContext, "neon import", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	imp = palloc0(sizeof(StoreImport));
	imp->context = context;
	imp->tl = tl;
	imp->lsn = lsn;
	imp->writer = layer_writer_begin(&tl->id, timeline_new_file_id(tl), lsn, lsn);
	MemoryContextSwitchTo(old);
	return imp;
}

void
store_import_put(StoreImport *imp, const NeonKey *key, uint8 value_kind, const void *data,
				 uint32 len)
{
	MemoryContext old = MemoryContextSwitchTo(imp->context);
	ImportEntry *e;

	if (value_kind == NEON_VALUE_WAL)
		elog(ERROR, "a WAL record cannot be imported");
	if (imp->n == imp->max)
	{
		imp->max = Max(1024, imp->max * 2);
		imp->entries = imp->entries ?
			repalloc_huge(imp->entries, imp->max * sizeof(ImportEntry)) :
			MemoryContextAllocHuge(imp->context, imp->max * sizeof(ImportEntry));
	}
	e = &imp->entries[imp->n++];
	memset(e, 0, sizeof(*e));
	e->key = *key;
	e->value_kind = value_kind;
	e->len = len;
	e->stored = len > LAYER_INLINE_MAX;
	if (e->stored)
		e->value = layer_writer_value(imp->writer, data, len);
	else if (len > 0)
	{
		e->data = palloc(len);
		memcpy(e->data, data, len);
	}
	if (imp->n % 64 == 0)
		store_tick();
	MemoryContextSwitchTo(old);
}

static int
compare_import_entries(const void *a, const void *b)
{
	return neon_key_cmp(&((const ImportEntry *) a)->key, &((const ImportEntry *) b)->key);
}

static void
import_entries(StoreImport *imp)
{
	qsort(imp->entries, imp->n, sizeof(ImportEntry), compare_import_entries);
	for (uint64 i = 0; i < imp->n; i++)
	{
		ImportEntry *e = &imp->entries[i];
		StoreVersion v = {0};

		if (i > 0 && compare_import_entries(e, e - 1) == 0)
			elog(ERROR, "a key is imported twice");
		v.lsn = imp->lsn;
		v.value_kind = e->value_kind;
		v.base = true;
		v.len = e->len;
		v.data = e->data;
		layer_writer_add(imp->writer, &e->key, &v, e->stored ? &e->value : NULL);
	}
}

void
store_import_finish(StoreImport *imp)
{
	Timeline   *tl = imp->tl;
	StringInfoData body;
	ManifestFile file;

	if (imp->n > 0)
	{
		import_entries(imp);
		if (!layer_writer_finish(imp->writer, &file))
			sync_failed(tl, &file);
		initStringInfo(&body);
		manifest_op_add_file(&body, &file);
		manifest_op_logical_size(&body, timeline_logical_size(tl));
		timeline_edit(tl, body.data, body.len);
		pfree(body.data);
		announce_file(tl, &file, NULL);
	}
	MemoryContextDelete(imp->context);
}

/* ---- history points ---- */

/* Leases that ended are dropped together with the next change of one. */
static void
drop_expired_leases(Timeline *tl, StringInfo body)
{
	Manifest   *m = timeline_read_manifest(tl);
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < m->npoints; i++)
	{
		const ManifestPoint *p = &m->points[i];

		if (p->kind == HISTORY_LEASE && p->expires != 0 && p->expires < now)
			manifest_op_drop_point(body, p->kind, &p->id);
	}
	manifest_free(m);
}

void
store_add_history_point(Timeline *tl, HistoryPointKind kind, const NeonId *id, XLogRecPtr lsn,
						TimestampTz expires)
{
	ManifestPoint point = {(uint8) kind, *id, lsn, expires};
	StringInfoData body;

	initStringInfo(&body);
	if (kind == HISTORY_LEASE)
		drop_expired_leases(tl, &body);
	manifest_op_add_point(&body, &point);
	timeline_edit(tl, body.data, body.len);
	pfree(body.data);
}

void
store_drop_history_point(Timeline *tl, HistoryPointKind kind, const NeonId *id)
{
	StringInfoData body;

	initStringInfo(&body);
	manifest_op_drop_point(&body, (uint8) kind, id);
	timeline_edit(tl, body.data, body.len);
	pfree(body.data);
}
