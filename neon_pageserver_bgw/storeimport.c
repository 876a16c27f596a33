/*-------------------------------------------------------------------------
 *
 * storeimport.c
 *	  Imports: many values at one LSN, as one layer file.
 *
 * Values go into the file as they come; the entries are sorted at the end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store_private.h"
#include "utils/memutils.h"

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
			store_sync_failed(tl, &file);
		initStringInfo(&body);
		manifest_op_add_file(&body, &file);
		manifest_op_logical_size(&body, timeline_logical_size(tl));
		timeline_edit(tl, body.data, body.len);
		pfree(body.data);
		store_announce_file(tl, &file, false);
	}
	MemoryContextDelete(imp->context);
}
