/*-------------------------------------------------------------------------
 *
 * framecache.h
 *	  Pages that redo made, in shared memory, for the next reader.
 *
 * A frame is a page as its version at some LSN left it.  History does not
 * change, so a frame is never wrong: a reader at a later LSN needs the newer
 * versions only, whatever was flushed, compacted or collected meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_FRAMECACHE_H
#define NEON_PS_FRAMECACHE_H

#include "neon_key.h"
#include "timeline.h"

/*
 * Copies a page of the timeline whose version is in (above, upto] to page
 * (BLCKSZ bytes) and tells the version's LSN; false if there is none.
 */
extern bool framecache_get(Timeline *tl, const NeonKey *key, XLogRecPtr above, XLogRecPtr upto,
						   char *page, XLogRecPtr *lsn);

/* The page as the version at lsn left it.  A newer one that is there stays. */
extern void framecache_put(Timeline *tl, const NeonKey *key, XLogRecPtr lsn, const char *page);

/* Is there any memory for it? */
extern bool framecache_is_used(void);

/* Called from the library's init files. */
extern void framecache_define_gucs(void);
extern Size framecache_shmem_size(void);
extern void framecache_shmem_init(void);

#endif							/* NEON_PS_FRAMECACHE_H */
