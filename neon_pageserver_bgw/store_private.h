/*-------------------------------------------------------------------------
 *
 * store_private.h
 *	  What storeget.c, storescan.c and storeput.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_STORE_PRIVATE_H
#define NEON_PS_STORE_PRIVATE_H

#include "layerfile.h"
#include "layermap.h"
#include "neon_testpoint.h"
#include "timeline_shared.h"

typedef struct StoreFile
{
	ManifestFile mf;
	LayerFile  *open;			/* NULL: not opened yet */
} StoreFile;

/* A process's view of a timeline's layer files. */
typedef struct StoreFiles
{
	uint32		version;		/* of the slot's map_version */
	MemoryContext context;		/* of files and map; NULL: not loaded */
	int			nfiles;
	StoreFile  *files;			/* as in the map, newest first */
	LayerMap   *map;

	/* of the owner: the last record that was put, to publish it if need be */
	XLogRecPtr	put_start;
	XLogRecPtr	put_end;
} StoreFiles;

/* The files as of now or later; stays valid until the next call. */
extern StoreFiles *store_files(Timeline *tl);

/* May the file have versions <= upto? */
extern bool store_file_reaches(const StoreFile *file, XLogRecPtr upto);

/* NULL if it is gone, as the list is no longer the newest one. */
extern LayerFile *store_file_open(Timeline *tl, StoreFile *file);

/* Around a walk over open files in which others may be opened. */
extern void store_scan_begins(void);
extern void store_scan_ends(void);

/*
 * Appends the versions of one key in the range, newest first, ancestors
 * included, to the list; true if the last one is a base.
 */
extern bool store_collect(Timeline *tl, const NeonKey *key, VersionRange range,
						  VersionList *list);

/*
 * How many records a key's chain has in files, ancestors included, down to its
 * newest base: by the directories alone where a file ends at or below upto.
 */
extern uint64 store_count_in_files(Timeline *tl, const NeonKey *key, XLogRecPtr upto);

extern StoreFiles *store_private(Timeline *tl);

/* Puts without ever flushing this timeline. */
extern void store_put_more(Timeline *tl, XLogRecPtr start, XLogRecPtr end,
						   const StorePut *puts, int nputs);

/* Publishes all records that were put. */
extern void store_publish_put(Timeline *tl);

/* Interrupts, and the function of store_set_tick if it is time. */
extern void store_tick(void);

/* Is the open index so large that its owner has to wait for the frozen one? */
extern bool store_flush_backlog(Timeline *tl);

/* Is the open index half full already, while the frozen one is still being written? */
extern bool store_flush_lags(Timeline *tl);

/* False if somebody still writes the frozen index. */
extern bool store_wait_for_flusher(TimelineShared *shared, int timeout_ms);

extern void flushworker_wake(void);

/* In a worker outside transactions: logs the error and lets go of what it held. */
extern void store_recover_from_error(MemoryContext context);

extern void store_sync_failed(Timeline *tl, const ManifestFile *file) pg_attribute_noreturn();

/* The new list of files (file may be NULL) is visible from here on. */
extern void store_announce_file(Timeline *tl, const ManifestFile *file, bool replaces_frozen);

/* Others were written in the place of files, and these are gone from here on. */
extern void store_announce_merge(Timeline *tl, uint64 bytes_added, uint64 bytes_dropped);

/* ---- compaction ---- */

/*
 * Does one piece of work on the files of the timeline, if one is due; forced:
 * also what is not worth it yet.  False if there is none, or others are at it.
 */
extern bool store_compact_once(Timeline *tl, bool forced);

extern void compactworker_wake(void);

/*
 * Does all of the timeline that can be done when it is called, or waits for the
 * workers that are at it; the number of pieces of work of its own.
 */
extern int	compactworker_run(Timeline *tl);

/* Settings. */
extern int	store_checkpoint_distance;
extern int	store_checkpoint_records;
extern int	store_checkpoint_timeout;
extern int	store_image_chain;
extern int	store_compaction_threshold;
extern int	store_compaction_target_size;
extern int	store_compaction_image_chain;
extern int	store_maintenance_io_limit;

#endif							/* NEON_PS_STORE_PRIVATE_H */
