/*-------------------------------------------------------------------------
 *
 * layermap.h
 *	  Which files of a timeline are searched for a key, and in which order.
 *
 * Every version of a key is in the open or the frozen index, in a wide file
 * with an LSN above its partition's upto, or in a file of its partition.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_LAYERMAP_H
#define NEON_PS_LAYERMAP_H

#include "manifest.h"

/* Keys from first_key on, up to but without end_key. */
typedef struct MapPartition
{
	uint8		first_key[NEON_KEY_ENCODED_SIZE];
	uint8		end_key[NEON_KEY_ENCODED_SIZE]; /* of the last one above all keys */
	XLogRecPtr	upto;			/* its files have all versions up to here */
	XLogRecPtr	base_lsn;		/* horizon of the last rewrite; 0: none */
	uint32		points;			/* checksum of the history points below it then */
	int			nfiles;
	int		   *files;			/* positions, in the order of searching */
} MapPartition;

typedef struct LayerMap
{
	int			nfiles;
	ManifestFile *files;		/* newest first */
	int			nwide;
	int		   *wide;			/* positions of files that no partition names, newest first */
	int			npartitions;	/* at least one */
	MapPartition *partitions;	/* by key */
} LayerMap;

/* In CurrentMemoryContext; needs nothing of the manifest afterwards. */
extern LayerMap *layermap_make(const Manifest *m);

/* The partition that has an encoded key. */
extern const MapPartition *layermap_find(const LayerMap *map, const uint8 *key);

/* Does a file have keys in the partition's range? */
static inline bool
layermap_overlaps(const ManifestFile *file, const MapPartition *p)
{
	return memcmp(file->last_key, p->first_key, NEON_KEY_ENCODED_SIZE) >= 0 &&
		memcmp(file->first_key, p->end_key, NEON_KEY_ENCODED_SIZE) < 0;
}

#endif							/* NEON_PS_LAYERMAP_H */
