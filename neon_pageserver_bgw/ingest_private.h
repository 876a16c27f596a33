/*-------------------------------------------------------------------------
 *
 * ingest_private.h
 *	  What the files of the ingest share: its state in the owner's memory, and
 *	  the table of sources in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_INGEST_PRIVATE_H
#define NEON_PS_INGEST_PRIVATE_H

#include "control.h"
#include "ingest.h"
#include "neon_key.h"
#include "size.h"
#include "slru.h"
#include "store.h"
#include "utils/hsearch.h"

/* ---- state of the owner ---- */

/* Latest pages of an SLRU, so that a chain of references ends in an image now and then. */
#define SLRU_HOT_PAGES		4
#define SLRU_IMAGE_INTERVAL 512		/* references of a page between two images */

typedef struct HotPage
{
	bool		valid;
	BlockNumber page;
	uint32		nrefs;			/* since the last image */
	uint64		used;			/* for replacement */
	char		data[BLCKSZ];
} HotPage;

struct SizeEntry;

/* Forks whose sizes are found without a hash table; a power of two. */
#define SIZES_RECENT	64

struct Ingest
{
	Timeline   *tl;
	const IngestAside *aside;	/* where puts go; NULL: to the store */
	MemoryContext context;		/* lives as long as the Ingest */
	MemoryContext record_context;	/* reset after each record */

	ControlState control;		/* behind the last record put */
	XLogRecPtr	control_put;	/* LSN of the last stored control state */
	uint64		nrecords;
	XLogRecPtr	goes_on;		/* see ingest_goes_on() */

	/* puts of the record at hand */
	XLogReaderState *record;
	StorePut   *puts;
	int			nputs;
	int			max_puts;

	/* sizes.c */
	HTAB	   *sizes;
	struct SizeEntry *recent_sizes[SIZES_RECENT];	/* of them, NULL: none */
	struct SizeEntry **changed; /* entries that the record at hand changed */
	int			nchanged;
	int			max_changed;
	uint64		logical_size;	/* of all forks, bytes */

	/* slrucache.c */
	SlruBounds	bounds[NEON_NUM_SLRUS];
	HotPage    *hot;			/* [NEON_NUM_SLRUS][SLRU_HOT_PAGES] */
	uint64		hot_clock;

	HTAB	   *origins;
};

/* ingest.c */
extern void ingest_put(Ingest *ingest, NeonKey key, uint8 value_kind, bool base,
					   const void *data, uint32 len);
extern void ingest_publish_before(Ingest *ingest);

/* Up to here the store knows what the ingest has put. */
extern XLogRecPtr ingest_known_lsn(const Ingest *ingest);

/* ingestsizes.c: sizes of forks */
extern void sizes_load(Ingest *ingest);
extern void sizes_extend(Ingest *ingest, NeonKey key, BlockNumber nblocks);
extern void sizes_truncate(Ingest *ingest, NeonKey key, BlockNumber nblocks);
extern void sizes_drop(Ingest *ingest, NeonKey key);
extern void sizes_drop_database(Ingest *ingest, Oid spc, Oid db);
extern void sizes_put_changed(Ingest *ingest);
extern void sizes_trim(Ingest *ingest);
extern void sizes_import(Ingest *ingest, NeonKey key, BlockNumber nblocks, RelSize *size);

/* ingestslru.c: references, images and bounds of SLRU pages */
extern void slrucache_load(Ingest *ingest);
extern void slrucache_record(Ingest *ingest, XLogReaderState *record);

/* dbcopy.c: a database made by copying files */
extern void dbcopy_run(Ingest *ingest, Oid spc, Oid db, Oid src_spc, Oid src_db);

/* source.c */
extern void ingest_mark_recovered(Timeline *tl);
extern bool ingest_is_recovered(Timeline *tl);

#endif							/* NEON_PS_INGEST_PRIVATE_H */
