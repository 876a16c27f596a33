/*-------------------------------------------------------------------------
 *
 * blobs.h
 *	  Values of kind NEON_VALUE_BLOB: their bytes, in one place.
 *
 * Every blob starts with a version byte.  Numbers are little-endian, as all
 * files are.  The decoders trust no length.  Control state is in control.h,
 * sizes are in size.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_BLOBS_H
#define NEON_PS_BLOBS_H

#include "access/xlogdefs.h"
#include "lib/stringinfo.h"
#include "neon_key.h"

#define BLOB_RELMAP_MAX		1024
#define BLOB_PATH_MAX		1024

/*
 * NEON_KEY_DATABASE (spc, db): a database's directory in its default
 * tablespace, the one with PG_VERSION and the relation map.  The shared
 * relation map has spc = GLOBALTABLESPACE_OID, db = 0.  A database that was
 * copied file by file may name where its pages come from.
 */
typedef struct DatabaseBlob
{
	Oid			alias_spc;		/* 0: no alias */
	Oid			alias_db;
	XLogRecPtr	alias_lsn;
	uint32		relmap_len;		/* 0: not known yet */
	char		relmap[BLOB_RELMAP_MAX];
} DatabaseBlob;

extern void blob_put_database(StringInfo buf, const DatabaseBlob *blob);
extern bool blob_get_database(const char *data, uint32 len, DatabaseBlob *blob);

/* NEON_KEY_TABLESPACE (spc): the location that its creator gave. */
extern void blob_put_tablespace(StringInfo buf, const char *location);
extern bool blob_get_tablespace(const char *data, uint32 len, char *location);	/* BLOB_PATH_MAX */

/* NEON_KEY_SLRU_BOUNDS (spc = NeonSlru): oldest and latest page that exist. */
extern void blob_put_slru_bounds(StringInfo buf, BlockNumber oldest, BlockNumber latest);
extern bool blob_get_slru_bounds(const char *data, uint32 len,
								 BlockNumber *oldest, BlockNumber *latest);

/*
 * NEON_KEY_TWOPHASE (rel = epoch, blk = xid): the main data of the
 * XLOG_XACT_PREPARE record, that is the state file without its CRC.
 */
extern void blob_put_twophase(StringInfo buf, const char *state, uint32 len);
extern bool blob_get_twophase(const char *data, uint32 len,
							  const char **state, uint32 *statelen);	/* points into data */

/* NEON_KEY_ORIGIN (rel = origin): remote LSN up to which it was applied. */
extern void blob_put_origin(StringInfo buf, XLogRecPtr remote_lsn);
extern bool blob_get_origin(const char *data, uint32 len, XLogRecPtr *remote_lsn);

/*
 * NEON_KEY_FILE: a small file of the data directory, path relative to it.  The
 * key is a 96-bit hash of the path, the blob repeats the path.
 */
extern NeonKey blob_file_key(const char *path);
extern void blob_put_file(StringInfo buf, const char *path, const char *bytes, uint32 len);
extern bool blob_get_file(const char *data, uint32 len, char *path, /* BLOB_PATH_MAX */
						  const char **bytes, uint32 *nbytes);	/* points into data */

#endif							/* NEON_PS_BLOBS_H */
