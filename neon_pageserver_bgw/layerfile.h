/*-------------------------------------------------------------------------
 *
 * layerfile.h
 *	  Immutable files of versions, sorted by key and LSN.
 *
 * Versions that are WAL records are references into stored WAL; all others
 * have their bytes in the file.  Everything that is read is verified by CRC;
 * what is bad is an ereport(ERROR, ERRCODE_DATA_CORRUPTED).
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_LAYERFILE_H
#define NEON_PS_LAYERFILE_H

#include "manifest.h"
#include "openlayer.h"
#include "store.h"

/* ---- writing ---- */

typedef struct LayerWriter LayerWriter;

/* Creates the file of a timeline. */
extern LayerWriter *layer_writer_begin(const TimelineIdentity *id, uint64 file_id,
									   XLogRecPtr lsn_lo, XLogRecPtr lsn_hi);

/* A value that was written to the file before its entry comes. */
typedef struct LayerValue
{
	uint64		offset;
	uint32		crc;
} LayerValue;

/* Values longer than this should be written first. */
#define LAYER_INLINE_MAX	256

extern LayerValue layer_writer_value(LayerWriter *w, const void *data, uint32 len);

/*
 * Versions come sorted by key, then LSN; data of WAL records is not looked at.
 * stored is NULL if the data is in the version.
 */
extern void layer_writer_add(LayerWriter *w, const NeonKey *key, const StoreVersion *version,
							 const LayerValue *stored);

/*
 * Makes the file and its directory entry durable and says what the manifest
 * needs to know.  False if a sync failed.
 */
extern bool layer_writer_finish(LayerWriter *w, ManifestFile *file);

/* Removes the file; also called when the writer's memory context goes away. */
extern void layer_writer_abort(LayerWriter *w);

/* ---- reading ---- */

typedef struct LayerFile LayerFile;

/* Opened in TopMemoryContext. */
extern LayerFile *layer_open(Timeline *tl, const ManifestFile *file);
extern void layer_close(LayerFile *layer);

/*
 * Appends versions of the key in the range, newest first, to the list; true if
 * the last one is a base.
 */
extern bool layer_collect(LayerFile *layer, const NeonKey *key, VersionRange range,
						  VersionList *list);

/*
 * Walk over the newest version <= upto of each key in [lo, hi], ascending.
 * Data is loaded by layer_scan_load only.
 */
typedef struct LayerScan LayerScan;

extern LayerScan *layer_scan_begin(LayerFile *layer, const NeonKey *lo, const NeonKey *hi,
								   XLogRecPtr upto);
extern bool layer_scan_next(LayerScan *scan, NeonKey *key, StoreVersion *version);
extern void layer_scan_load(LayerScan *scan, StoreVersion *version);
extern void layer_scan_end(LayerScan *scan);

extern void layer_path(const TimelineIdentity *id, uint64 file_id, char *path);

#endif							/* NEON_PS_LAYERFILE_H */
