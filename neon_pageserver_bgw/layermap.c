/*-------------------------------------------------------------------------
 *
 * layermap.c
 *	  Which files of a timeline are searched for a key, and in which order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "layerfile.h"
#include "layermap.h"

static int
newest_first(const void *a, const void *b)
{
	const ManifestFile *x = a;
	const ManifestFile *y = b;

	if (x->lsn_hi != y->lsn_hi)
		return x->lsn_hi > y->lsn_hi ? -1 : 1;
	/* An import's files are newer than what ended at its LSN. */
	if (x->lsn_lo != y->lsn_lo)
		return x->lsn_lo > y->lsn_lo ? -1 : 1;
	return x->id > y->id ? -1 : (x->id < y->id ? 1 : 0);
}

typedef struct FilePlace
{
	uint64		id;
	int			position;
	bool		named;			/* by a partition */
} FilePlace;

static int
compare_places(const void *a, const void *b)
{
	const FilePlace *x = a;
	const FilePlace *y = b;

	return x->id < y->id ? -1 : (x->id > y->id ? 1 : 0);
}

static FilePlace *
places_by_id(const LayerMap *map)
{
	FilePlace  *places = MemoryContextAllocHuge(CurrentMemoryContext,
												Max(map->nfiles, 1) * sizeof(FilePlace));

	for (int i = 0; i < map->nfiles; i++)
	{
		places[i].id = map->files[i].id;
		places[i].position = i;
		places[i].named = false;
	}
	qsort(places, map->nfiles, sizeof(FilePlace), compare_places);
	return places;
}

static void
set_partition(LayerMap *map, MapPartition *p, const ManifestPartition *from, FilePlace *places)
{
	memcpy(p->first_key, from->first_key, NEON_KEY_ENCODED_SIZE);
	p->upto = from->upto;
	p->base_lsn = from->base_lsn;
	p->points = from->points;
	p->nfiles = from->nfiles;
	p->files = palloc(Max(p->nfiles, 1) * sizeof(int));
	for (int i = 0; i < p->nfiles; i++)
	{
		FilePlace	wanted = {from->files[i]};
		FilePlace  *place = bsearch(&wanted, places, map->nfiles, sizeof(FilePlace),
									compare_places);

		if (place == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a partition names layer file " UINT64_FORMAT ", which the manifest does not have",
							from->files[i])));
		place->named = true;
		p->files[i] = place->position;
	}
}

/*
 * The one partition of a manifest without any: it has the pages that the
 * timeline began with, which are older than all else.
 */
static void
set_only_partition(const Manifest *m, LayerMap *map, FilePlace *places)
{
	MapPartition *p = &map->partitions[0];

	p->files = palloc(Max(map->nfiles, 1) * sizeof(int));
	for (int i = 0; i < map->nfiles; i++)
	{
		FilePlace	wanted = {map->files[i].id};

		if (map->files[i].type != LAYER_IMAGE || map->files[i].lsn_hi != m->identity.start_lsn)
			continue;
		p->files[p->nfiles++] = i;
		((FilePlace *) bsearch(&wanted, places, map->nfiles, sizeof(FilePlace),
							   compare_places))->named = true;
	}
}

static void
set_ends(LayerMap *map)
{
	for (int i = 0; i < map->npartitions; i++)
	{
		if (i + 1 < map->npartitions)
			memcpy(map->partitions[i].end_key, map->partitions[i + 1].first_key,
				   NEON_KEY_ENCODED_SIZE);
		else
			memset(map->partitions[i].end_key, 0xFF, NEON_KEY_ENCODED_SIZE);
	}
}

static void
list_wide(LayerMap *map, const FilePlace *places)
{
	bool	   *named = MemoryContextAllocZero(CurrentMemoryContext, Max(map->nfiles, 1));

	for (int i = 0; i < map->nfiles; i++)
		named[places[i].position] = places[i].named;
	map->wide = palloc(Max(map->nfiles, 1) * sizeof(int));
	for (int i = 0; i < map->nfiles; i++)
	{
		if (!named[i])
			map->wide[map->nwide++] = i;
	}
	pfree(named);
}

LayerMap *
layermap_make(const Manifest *m)
{
	LayerMap   *map = palloc0(sizeof(LayerMap));
	FilePlace  *places;

	map->nfiles = m->nfiles;
	map->files = MemoryContextAllocHuge(CurrentMemoryContext,
										Max(m->nfiles, 1) * sizeof(ManifestFile));
	if (m->nfiles > 0)
		memcpy(map->files, m->files, m->nfiles * sizeof(ManifestFile));
	qsort(map->files, map->nfiles, sizeof(ManifestFile), newest_first);
	places = places_by_id(map);
	map->npartitions = Max(m->npartitions, 1);
	map->partitions = MemoryContextAllocZero(CurrentMemoryContext,
											 map->npartitions * sizeof(MapPartition));
	for (int i = 0; i < m->npartitions; i++)
		set_partition(map, &map->partitions[i], &m->partitions[i], places);
	if (m->npartitions == 0)
		set_only_partition(m, map, places);
	set_ends(map);
	list_wide(map, places);
	pfree(places);
	return map;
}

const MapPartition *
layermap_find(const LayerMap *map, const uint8 *key)
{
	int			lo = 0;
	int			hi = map->npartitions - 1;

	while (lo < hi)
	{
		int			mid = (lo + hi + 1) / 2;

		if (memcmp(map->partitions[mid].first_key, key, NEON_KEY_ENCODED_SIZE) <= 0)
			lo = mid;
		else
			hi = mid - 1;
	}
	return &map->partitions[lo];
}
