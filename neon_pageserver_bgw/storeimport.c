/*-------------------------------------------------------------------------
 *
 * storeimport.c
 *	  Imports: many values at one LSN, as layer files.
 *
 * Values come in any order: they wait in a temporary file until all are there,
 * then go in the order of their keys into image files (pages) and one delta
 * file (all else).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "storage/buffile.h"
#include "store_private.h"
#include "utils/memutils.h"

/* Pages of one image file: 2 GB. */
#define PAGES_PER_FILE	(256 * 1024)

typedef struct ImportEntry
{
	NeonKey		key;
	uint8		value_kind;
	uint32		len;
	int			fileno;			/* in the temporary file */
	off_t		offset;
} ImportEntry;

struct StoreImport
{
	MemoryContext context;
	MemoryContextCallback on_reset;
	Timeline   *tl;
	XLogRecPtr	lsn;
	BufFile    *values;
	uint64		n;
	uint64		max;
	ImportEntry *entries;
	List	   *files;			/* ManifestFile, written */
};

static void
close_values(void *arg)
{
	StoreImport *imp = arg;

	if (imp->values)
		BufFileClose(imp->values);
}

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
	imp->on_reset.func = close_values;
	imp->on_reset.arg = imp;
	MemoryContextRegisterResetCallback(context, &imp->on_reset);
	imp->values = BufFileCreateTemp(true);
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
	e->key = *key;
	e->value_kind = value_kind;
	e->len = len;
	BufFileTell(imp->values, &e->fileno, &e->offset);
	if (len > 0)
		BufFileWrite(imp->values, unconstify(void *, data), len);
	if (imp->n % 64 == 0)
		store_tick();
	MemoryContextSwitchTo(old);
}

/* ---- writing the files ---- */

/* Pages after all else, each by key. */
static int
compare_entries(const void *a, const void *b)
{
	const ImportEntry *x = a;
	const ImportEntry *y = b;
	bool		x_page = x->value_kind == NEON_VALUE_IMAGE;
	bool		y_page = y->value_kind == NEON_VALUE_IMAGE;

	if (x_page != y_page)
		return x_page ? 1 : -1;
	return neon_key_cmp(&x->key, &y->key);
}

static void
load_value(StoreImport *imp, const ImportEntry *e, StringInfo buf)
{
	resetStringInfo(buf);
	if (e->len == 0)
		return;
	enlargeStringInfo(buf, e->len);
	if (BufFileSeek(imp->values, e->fileno, e->offset, SEEK_SET) != 0 ||
		BufFileRead(imp->values, buf->data, e->len) != e->len)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read the temporary file of an import: %m")));
	buf->len = e->len;
}

/* Entries from..to-1 into a file. */
static void
write_file(StoreImport *imp, uint64 from, uint64 to)
{
	bool		pages = imp->entries[from].value_kind == NEON_VALUE_IMAGE;
	ManifestFile *file = palloc(sizeof(ManifestFile));
	LayerWriter *w;
	StringInfoData buf;

	/* of a delta file the lower end is not in it, and LSNs are multiples of 8 */
	w = layer_writer_begin(&imp->tl->id, pages ? LAYER_IMAGE : LAYER_DELTA,
						   timeline_new_file_id(imp->tl), pages ? imp->lsn : imp->lsn - 8, imp->lsn);
	initStringInfo(&buf);
	for (uint64 i = from; i < to; i++)
	{
		const ImportEntry *e = &imp->entries[i];
		StoreVersion v = {0};

		if (i > 0 && compare_entries(e, e - 1) == 0)
			elog(ERROR, "a key is imported twice");
		load_value(imp, e, &buf);
		v.lsn = imp->lsn;
		v.value_kind = e->value_kind;
		v.base = true;
		v.len = e->len;
		v.data = buf.data;
		layer_writer_add(w, &e->key, &v);
		if (i % 64 == 0)
			store_tick();
	}
	pfree(buf.data);
	if (!layer_writer_finish(w, file))
		store_sync_failed(imp->tl, file);
	imp->files = lappend(imp->files, file);
}

static void
write_files(StoreImport *imp)
{
	uint64		from = 0;

	qsort(imp->entries, imp->n, sizeof(ImportEntry), compare_entries);
	for (uint64 i = 1; i <= imp->n; i++)
	{
		const ImportEntry *e = &imp->entries[i];

		if (i < imp->n && e->value_kind != NEON_VALUE_IMAGE)
			continue;
		if (i < imp->n && e[-1].value_kind == NEON_VALUE_IMAGE && i - from < PAGES_PER_FILE)
			continue;
		write_file(imp, from, i);
		from = i;
	}
}

void
store_import_finish(StoreImport *imp)
{
	Timeline   *tl = imp->tl;
	MemoryContext old = MemoryContextSwitchTo(imp->context);
	StringInfoData body;
	ListCell   *lc;

	if (imp->n > 0)
	{
		write_files(imp);
		initStringInfo(&body);
		foreach(lc, imp->files)
			manifest_op_add_file(&body, lfirst(lc));
		manifest_op_logical_size(&body, timeline_logical_size(tl));
		timeline_edit(tl, body.data, body.len);
		foreach(lc, imp->files)
			store_announce_file(tl, lfirst(lc), false);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(imp->context);
}
