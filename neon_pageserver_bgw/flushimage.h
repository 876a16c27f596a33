/*-------------------------------------------------------------------------
 *
 * flushimage.h
 *	  Page images that a flush adds so that chains of records stay short.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_FLUSHIMAGE_H
#define NEON_PS_FLUSHIMAGE_H

#include "openlayer.h"

typedef enum FlushImage
{
	FLUSH_NO_IMAGE,
	FLUSH_WANTS_IMAGE,			/* if there is time */
	FLUSH_NEEDS_IMAGE,
} FlushImage;

/* A key of the frozen index in a flush. */
typedef struct FlushKey
{
	NeonKey		key;
	uint32		image;			/* FlushImage */
	OpenKey    *open;
} FlushKey;

typedef struct FlushImages FlushImages;

/* Marks the keys (sorted) that want an image as of cut. */
extern FlushImages *flush_images_begin(Timeline *tl, const OpenLayer *frozen, FlushKey *keys,
									   uint32 nkeys, XLogRecPtr cut);

/* The page of a marked key, in ascending order; NULL if it could not be made, or there is no time for it. */
extern const char *flush_images_get(FlushImages *images, uint32 i);

/* How many pages were delivered. */
extern uint32 flush_images_made(FlushImages *images);

extern void flush_images_end(FlushImages *images);

#endif							/* NEON_PS_FLUSHIMAGE_H */
