/*-------------------------------------------------------------------------
 *
 * compact_private.h
 *	  What the files of compaction share: compact*.c, partition.c, rebase.c.
 *
 * All memory is that of one job, whose context goes with it; what is open is
 * closed by compact_input_end and by the writers' own callbacks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_COMPACT_PRIVATE_H
#define NEON_PS_COMPACT_PRIVATE_H

#include "history.h"
#include "nodes/pg_list.h"
#include "read.h"
#include "store_private.h"

/* A partition whose job has written this many keys ends before the next one. */
#define PARTITION_KEYS	65536

/* ---- input: versions of files, by key, then LSN (compactinput.c) ---- */

typedef struct CompactInput CompactInput;

/* Of keys from first_key on, without end_key (encoded). */
extern CompactInput *compact_input_begin(Timeline *tl, const uint8 *first_key,
										 const uint8 *end_key);

/* Versions in (above, upto] of files (ManifestFile) with one LSN interval, sorted by key. */
extern void compact_input_add(CompactInput *input, const List *files, XLogRecPtr above,
							  XLogRecPtr upto);

/* The next version: its data is valid until the next call.  False at the end. */
extern bool compact_input_next(CompactInput *input, NeonKey *key, StoreVersion *version);
extern void compact_input_end(CompactInput *input);

/* ---- output: one sequence of files (compactoutput.c) ---- */

typedef struct CompactOutput
{
	Timeline   *tl;
	LayerType	type;
	XLogRecPtr	lsn_lo;
	XLogRecPtr	lsn_hi;
	uint64		target;			/* bytes, after which another file begins; 0: never */
	LayerWriter *writer;
	NeonKey		last_key;
	List	   *files;			/* ManifestFile, written and synced */
	uint64		bytes;			/* of them */
	uint64		paced;			/* bytes that the limit of I/O knows of */
	uint64		versions;
	MemoryContext context;		/* of the job */
	List	   *failed;			/* NeonKey: pages that are wanted and cannot be made */
	MemoryContext queue_context;
	List	   *queue;			/* QueuedVersion: what waits for pages to be made */
	int			npages;			/* of them not made yet */
	Size		queued;			/* bytes */
} CompactOutput;

extern void compact_output_begin(CompactOutput *out, Timeline *tl, LayerType type,
								 XLogRecPtr lsn_lo, XLogRecPtr lsn_hi, uint64 target);
extern void compact_output_add(CompactOutput *out, const NeonKey *key,
							   const StoreVersion *version);

/*
 * The page as it is at read_lsn, as an image with LSN lsn.  One that redo cannot
 * make is left out and logged, and noted as failed if it is not optional; that
 * none can be made at this time is an error then.
 */
extern void compact_output_page(CompactOutput *out, const NeonKey *key, XLogRecPtr lsn,
								XLogRecPtr read_lsn, bool optional);

/* Bytes so far. */
extern uint64 compact_output_bytes(const CompactOutput *out);

/* Everything is written and synced; files says what (nothing, if nothing was added). */
extern void compact_output_finish(CompactOutput *out);

/* ---- pages (compactoutput.c) ---- */

/* How pages are made from records; a test of the store has records of its own. */
typedef struct CompactPages
{
	void		(*read) (Timeline *tl, const NeonKey *keys, int n, XLogRecPtr lsn, char *pages,
						 PageResult *results);

	/* applies records of one key, oldest first, to a page (NULL: zeros) */
	bool		(*apply) (Timeline *tl, const NeonKey *key, const char *base,
						  const StoreVersion *records, int n, char *page);
} CompactPages;

extern PGDLLEXPORT CompactPages compact_pages;

/* A copy with its data. */
extern StoreVersion *compact_copy_version(const StoreVersion *version);

/* ---- sizes (partition.c) ---- */

/* Sizes of one fork at some LSNs. */
typedef struct ForkSizes
{
	Timeline   *tl;
	NeonKey		key;			/* of the size; kind 0: none yet */
	int			n;
	const XLogRecPtr *lsns;
	RelSize   **sizes;			/* NULL: not asked for yet */
	bool	   *exists;
} ForkSizes;

extern ForkSizes *fork_sizes_begin(Timeline *tl, int n, const XLogRecPtr *lsns);

/*
 * Is the version at lsn of a page what it is at the i-th LSN, or older than
 * *floor, or was it cut away?  SLRU pages have no sizes: always true.
 */
extern bool fork_sizes_alive(ForkSizes *sizes, const NeonKey *key, int i, XLogRecPtr lsn,
							 XLogRecPtr *floor);

/* ---- jobs ---- */

/* What is to be done on a timeline's files. */
typedef struct CompactDemand
{
	bool		forced;			/* also what would not be worth it yet, but only: */
	XLogRecPtr	upto;			/* what wide files have up to here */
	XLogRecPtr	horizon;		/* rewrites at a horizon up to here */
} CompactDemand;

typedef enum CompactResult
{
	COMPACT_NOTHING,			/* nothing is due */
	COMPACT_BUSY,				/* others are at what is due */
	COMPACT_DONE,				/* a piece of work */
} CompactResult;

/* Of so many runs of wide files reads suffer. */
#define COMPACT_MANY_RUNS	8

/* What a job does with one partition's keys, from its first one on. */
typedef struct PartitionJob
{
	Timeline   *tl;
	const LayerMap *map;
	int			partition;		/* its position */
	CompactInput *input;
	XLogRecPtr	horizon;		/* below it only the points are read; 0: none */
	const RetentionSet *retention;
	uint8		end_key[NEON_KEY_ENCODED_SIZE]; /* where the job ended */
	uint64		bytes_in;
	List	   *outputs;		/* CompactOutput, in the order of searching */
} PartitionJob;

/* Ends before this key?  Then the partition is divided there. */
extern bool partition_job_ends(PartitionJob *job, const NeonKey *key, uint64 keys);

/*
 * Writes what a rewrite at the horizon leaves of the input: rebase.c.  Of the
 * keys in whole (NeonKey; it gets sorted) all versions are left.  Returns those
 * whose pages redo could not make: of them the outputs lack something, so if
 * there are any, nothing that was written may be used.
 */
extern List *rebase_write(PartitionJob *job, XLogRecPtr lsn_lo, XLogRecPtr lsn_hi,
						  List *whole);

/* Bytes of records inside a chain after which there is an image; a test takes fewer. */
extern PGDLLEXPORT int compact_history_bytes;

/* Writes the input with images where chains are long: compactimage.c. */
extern void compact_write_images(PartitionJob *job, CompactOutput *out, XLogRecPtr read_lsn);

/* ---- one piece of work on a timeline (compact.c) ---- */

extern CompactResult compact_step(Timeline *tl, const CompactDemand *demand);

/* Everything, as far as the timeline is in files now. */
extern CompactDemand compact_all_there_is(Timeline *tl);

/* ---- partitions (partition.c) ---- */

/* One piece of work on the timeline's partitions, claimed here; the caller gives the claim back. */
extern CompactResult partition_work(Timeline *tl, const CompactDemand *demand);

/* Waits while more is written than neon_pageserver.maintenance_io_limit allows. */
extern void compact_pace(Timeline *tl, uint64 bytes);

/* Sleeps, interruptibly. */
extern void compact_wait(int timeout_ms);

/* A job failed and is tried again after so long: what it leaves is no fault of writers. */
extern void compact_forgive_debt(TimelineShared *s, int retry_ms);

extern void compact_remove_files(Timeline *tl, const List *files);

#endif							/* NEON_PS_COMPACT_PRIVATE_H */
