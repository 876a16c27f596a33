/*-------------------------------------------------------------------------
 *
 * layerdirectory.h
 *	  The key directory of a layer file, while the file is written.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_LAYERDIRECTORY_H
#define NEON_PS_LAYERDIRECTORY_H

#include "neon_layerformat.h"

/* A key and where its versions are; lengths are stored ones with headers. */
typedef struct LayerKey
{
	uint8		key[NEON_KEY_ENCODED_SIZE];
	bool		base;
	uint64		newer;			/* records newer than the newest base, or all */
	uint64		offset;			/* of the first block */
	uint32		len;			/* of it; 0: not written yet */
	uint32		more;			/* further blocks, right behind it */
	uint64		more_bytes;
	uint32		last_len;
	uint32	   *more_len;		/* LAYER_LISTED_BLOCKS; NULL if there are none */
} LayerKey;

typedef struct LayerDirectoryWriter LayerDirectoryWriter;

/* In CurrentMemoryContext, which the calls below must find again. */
extern LayerDirectoryWriter *layer_directory_begin(void);

/* Keys come in order, and so do their blocks. */
extern void layer_directory_add(LayerDirectoryWriter *d, const LayerKey *key);

/* No more keys. */
extern void layer_directory_finish(LayerDirectoryWriter *d);

extern uint32 layer_directory_blocks(const LayerDirectoryWriter *d);

/* The i-th block, and the i-th block of fences, for that place in the file. */
extern void layer_directory_block(const LayerDirectoryWriter *d, uint32 i, uint64 file_id,
								  uint64 offset, uint8 *block);
extern void layer_directory_fences(const LayerDirectoryWriter *d, uint32 i, uint64 file_id,
								   uint64 offset, uint8 *block);

#endif							/* NEON_PS_LAYERDIRECTORY_H */
