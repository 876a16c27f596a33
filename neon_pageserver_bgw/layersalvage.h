/*-------------------------------------------------------------------------
 *
 * layersalvage.h
 *	  A layer file whose data are whole is made again from them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_LAYERSALVAGE_H
#define NEON_PS_LAYERSALVAGE_H

#include "layerfile.h"

/*
 * Copies all versions of the damaged file into the writer (NULL: only finds out
 * whether that can be done).  False if data are missing or damaged; what the
 * writer has then is of no use.  ereport(ERROR) only for what concerns the
 * writer.  No lock is needed: files do not change.
 */
extern bool layer_salvage(Timeline *tl, const ManifestFile *mf, LayerWriter *writer);

#endif							/* NEON_PS_LAYERSALVAGE_H */
