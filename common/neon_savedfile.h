/*-------------------------------------------------------------------------
 *
 * neon_savedfile.h
 *	  What is saved between the lives of a compute: its header, and how
 *	  cumulative statistics are packed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SAVEDFILE_H
#define NEON_SAVEDFILE_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "neon_id.h"
#include "neon_saved.h"

#define SAVED_MAGIC		"NSC1"
#define SAVED_VERSION	1

/* What begins what is saved of either kind. */
typedef struct SavedHeader
{
	char		magic[4];
	uint32		version;
	uint32		kind;			/* NeonSavedKind */
	uint32		server_version_num;
	NeonId		timeline_id;	/* of the compute that saved it */
	uint64		system_identifier;
	XLogRecPtr	lsn;			/* insert position then */
	TimestampTz saved_at;
	uint32		len;			/* of the body, which follows */
	uint32		crc;			/* CRC-32C of the body */
} SavedHeader;

StaticAssertDecl(sizeof(SavedHeader) == 64, "the header has no padding");

/* Puts the header before the body that buf has behind room for it. */
extern void saved_begin(StringInfo buf);
extern void saved_end(StringInfo buf, NeonSavedKind kind, const NeonId *timeline,
					  uint64 system_identifier, XLogRecPtr lsn);

/* A block of statistics: both lengths, then the bytes, compressed if that made them less. */
typedef struct StatsBlock
{
	uint32		raw_len;
	uint32		len;
} StatsBlock;

#define STATS_BLOCK_BYTES	(32 * 1024)

/* Statistics before they are packed: some 800,000 tables. */
#define STATS_RAW_MAX		(256 * 1024 * 1024)

/* Appends the body that has these bytes of the server's own file; false if it is too large. */
extern bool saved_put_statistics(StringInfo out, const char *raw, uint64 len);

#endif							/* NEON_SAVEDFILE_H */
