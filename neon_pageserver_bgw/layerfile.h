/*-------------------------------------------------------------------------
 *
 * layerfile.h
 *	  Immutable files of versions, sorted by key and LSN; their layout is in
 *	  neon_layerformat.h and docs/storage-format.md.
 *
 * A delta file has versions of any kind, WAL records as walvalue.h makes them;
 * an image file has one page image per key.  Everything that is read is
 * verified by CRC; what is bad is an ereport(ERROR, ERRCODE_DATA_CORRUPTED)
 * that names file and offset; a worker tries to rebuild the file (rebuild.h).
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_LAYERFILE_H
#define NEON_PS_LAYERFILE_H

#include "manifest.h"
#include "neon_layerformat.h"
#include "openlayer.h"
#include "storage/fd.h"
#include "store.h"

/* ---- writing ---- */

typedef struct LayerWriter LayerWriter;

/*
 * Creates a file of a timeline, written in one pass from front to back.  The
 * versions of a delta file are in (lsn_lo, lsn_hi], those of an image file in
 * [lsn_lo, lsn_hi].
 */
extern LayerWriter *layer_writer_begin(const TimelineIdentity *id, LayerType type, uint64 file_id,
									   XLogRecPtr lsn_lo, XLogRecPtr lsn_hi);

/* Versions come sorted by key, then LSN; data of WAL is the stored form. */
extern void layer_writer_add(LayerWriter *w, const NeonKey *key, const StoreVersion *version);

/* Bytes so far. */
extern uint64 layer_writer_bytes(const LayerWriter *w);

/*
 * Makes the file and its directory entry durable and says what the manifest
 * needs to know.  False if a sync failed.  At least one version was added.
 */
extern bool layer_writer_finish(LayerWriter *w, ManifestFile *file);

/* Removes the file; also called when the writer's memory context goes away. */
extern void layer_writer_abort(LayerWriter *w);

/* ---- reading ---- */

typedef struct LayerFile LayerFile;

/* Plain bytes of any file, not verified; false unless all of them could be read. */
extern bool layer_read_range(File file, uint64 offset, void *buf, size_t len);

/* Opened in TopMemoryContext; NULL if there is no such file. */
extern LayerFile *layer_open(Timeline *tl, const ManifestFile *file);
extern void layer_close(LayerFile *layer);

/*
 * Appends versions of the key in the range, newest first, to the list; true if
 * the last one is a base.  The directory is asked first: of a file without the
 * key no data is read.
 */
extern bool layer_collect(LayerFile *layer, const NeonKey *key, VersionRange range,
						  VersionList *list);

/*
 * What the directory alone says of a key: the number of records newer than the
 * newest base in the file, or of all, and whether there is one.
 */
extern uint64 layer_count_newer(LayerFile *layer, const NeonKey *key, bool *base);

/* Does it have any key from first_key on, below end_key (both encoded)?  By the directory. */
extern bool layer_has_keys(LayerFile *layer, const uint8 *first_key, const uint8 *end_key);

/* About how many bytes of data the keys have, by the directory: to a block exact. */
extern uint64 layer_bytes_between(LayerFile *layer, const uint8 *first_key, const uint8 *end_key);

/*
 * Walk over the newest version <= upto of each key in [lo, hi], ascending.
 * Data is loaded by layer_scan_load only.
 */
typedef struct LayerScan LayerScan;

extern LayerScan *layer_scan_begin(LayerFile *layer, const NeonKey *lo, const NeonKey *hi,
								   XLogRecPtr upto);
extern bool layer_scan_next(LayerScan *scan, NeonKey *key, StoreVersion *version);

/*
 * Or over every version of the keys from first_key on, without end_key (both
 * encoded): the data is valid until the next call.
 */
extern LayerScan *layer_scan_begin_versions(LayerFile *layer, const uint8 *first_key,
											const uint8 *end_key);
extern bool layer_scan_version(LayerScan *scan, NeonKey *key, StoreVersion *version);
extern void layer_scan_load(LayerScan *scan, StoreVersion *version);
extern void layer_scan_end(LayerScan *scan);

/* A file that the manifest names is not there: the same error. */
extern void layer_missing(Timeline *tl, const ManifestFile *file) pg_attribute_noreturn();

/* MAXPGPATH bytes, relative to the data directory. */
extern void layer_path(const TimelineIdentity *id, const ManifestFile *file, char *path);

#endif							/* NEON_PS_LAYERFILE_H */
