/*-------------------------------------------------------------------------
 *
 * hotpages.h
 *	  Pages that are made before anybody asks for them.
 *
 * A page that gets record after record would be slow for its first reader.  So
 * the ingest tells of each HOT_PAGE_RECORDS records of a page, and a worker makes
 * it into the page cache: then a reader needs only the records since.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_HOTPAGES_H
#define NEON_PS_HOTPAGES_H

#include "neon_key.h"
#include "timeline.h"

#define HOT_PAGE_RECORDS	2048

/* The page has so many records more, up to lsn.  Never blocks; forgotten if too many wait. */
extern void hotpages_note(Timeline *tl, const NeonKey *key, XLogRecPtr lsn);

/* Pages that were noted and are not made yet. */
extern int	hotpages_waiting(void);

/* Called from the library's init files. */
extern Size hotpages_shmem_size(void);
extern void hotpages_shmem_init(void);
extern void hotpages_register_worker(void);

#endif							/* NEON_PS_HOTPAGES_H */
