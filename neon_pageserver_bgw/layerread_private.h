/*-------------------------------------------------------------------------
 *
 * layerread_private.h
 *	  What layerread.c and layerscan.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_LAYERREAD_PRIVATE_H
#define NEON_PS_LAYERREAD_PRIVATE_H

#include "layerfile.h"
#include "storage/fd.h"

struct LayerFile
{
	Timeline   *tl;
	ManifestFile mf;
	File		file;
	LayerFooter footer;
	uint8	   *fences;			/* first keys of all directory blocks */
};

/* Notes the damage, so that a worker sees whether the file can be rebuilt, and reports. */
extern void layer_corrupted(LayerFile *layer, uint64 offset, const char *what) pg_attribute_noreturn();

/* A verified block of the directory; valid until the next call. */
extern const uint8 *layer_directory_at(LayerFile *layer, uint32 number);

/* The directory block that may have the key; -1 if it is before all of them. */
extern int64 layer_find_directory(const LayerFile *layer, const uint8 *key);

/*
 * A verified data block, raw; valid until the next call.  len is its stored
 * length with the header, 0 if that is to be taken from there; *len_found is
 * that length.
 */
extern const uint8 *layer_block_at(LayerFile *layer, uint64 offset, uint32 len, LayerBlock *b,
								   uint32 *len_found);

/* The bytes of a large value whose blocks begin at offset, palloc'd. */
extern char *layer_load_large(LayerFile *layer, uint64 offset, uint32 len);

#endif							/* NEON_PS_LAYERREAD_PRIVATE_H */
