/*-------------------------------------------------------------------------
 *
 * neon_kept.h
 *	  What a warm restart of a compute is made of: the files by which a life
 *	  that was stopped cleanly leaves its local pages to the next one.
 *
 * neon.kept says which blocks the relation files have, as of the end of the
 * WAL that the life wrote.  neon.changed is the pageserver's answer, which
 * blocks are not the same at the LSN of the next boot.  Both live on one
 * machine, in one boot of it; numbers are in its byte order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_KEPT_H
#define NEON_KEPT_H

#include "neon_codec.h"
#include "neon_id.h"

/* Written into the data directory by the last act of a clean stop. */
#define NEON_KEPT_FILE		"neon.kept"

/* Where the next data directory has it, and the old one's relation files. */
#define NEON_KEPT_LAST_FILE "neon.kept.last"
#define NEON_KEPT_DIR		"neon.kept.files"

/* The pageserver's answer, in the next data directory. */
#define NEON_CHANGED_FILE	"neon.changed"

#define NEON_KEPT_MAGIC		"NKP3"
#define NEON_CHANGED_MAGIC	"NCH2"

/* A machine's boot id, as text with a zero behind it. */
#define NEON_MACHINE_BOOT_SIZE	40

/*
 * The shutdown checkpoint that a life's WAL ends with.  Terms, and ends of
 * records, may be the same in two histories (of a pageserver that was restored
 * from a copy, say), but hardly these, too.
 */
typedef struct NeonKeptEnd
{
	uint64		record;			/* where it starts */
	uint64		next_xid;
	int64		time;			/* in seconds */
} NeonKeptEnd;

/* Where a life left its files, and by which clock. */
typedef struct NeonKeptPlace
{
	char		machine_boot[NEON_MACHINE_BOOT_SIZE];
	uint64		device;			/* number of the file system */
	uint64		disk;			/* of its disk, another one at each attachment; 0: not known */
	int64		clock;			/* time of day less time since the machine's boot, in ns */
} NeonKeptPlace;

typedef struct NeonKeptHeader
{
	char		magic[4];
	uint32		term;			/* of the life */
	NeonId		tenant_id;
	NeonId		timeline_id;
	NeonKeptPlace place;
	uint64		lsn;			/* where its WAL ends */
	NeonKeptEnd end;
	int64		written_at;		/* nanoseconds, by the file system's clock */
	uint64		nforks;
	uint64		nwords;
	uint32		control_crc;	/* that of its pg_control */
	uint32		body_crc;		/* CRC-32C of forks and words */
	uint32		crc;			/* CRC-32C of this header before it */
	uint32		pad;
} NeonKeptHeader;

/*
 * A fork of the map, followed by the others, sorted, and by the words of all
 * of them: one bit a block below the watermark.  What lies at or beyond it, and
 * a fork that is not named, is local as far as the files go.
 */
typedef struct NeonKeptFork
{
	uint32		spc;
	uint32		db;
	uint32		rel;
	uint32		fork;
	uint32		watermark;
	uint32		has_words;		/* 0: no bit is set, or there are no files */
	uint64		first_word;
} NeonKeptFork;

typedef struct NeonChangedHeader
{
	char		magic[4];
	uint32		term;			/* the life that wrote the WAL below from_lsn */
	NeonId		tenant_id;
	NeonId		timeline_id;
	uint64		from_lsn;
	uint64		to_lsn;
	NeonKeptEnd end;			/* of the history at from_lsn */
	uint64		nranges;
	uint32		body_crc;		/* CRC-32C of the ranges */
	uint32		crc;			/* CRC-32C of this header before it */
} NeonChangedHeader;

/* Blocks of a fork that may differ; sorted, and no two overlap. */
typedef struct NeonChangedRange
{
	uint32		spc;
	uint32		db;
	uint32		rel;
	uint32		fork;
	uint32		first;
	uint32		nblocks;
} NeonChangedRange;

/* More ranges than that are not told: then nothing is kept. */
#define NEON_CHANGED_MAX	1000000

static inline bool
neon_kept_header_is_valid(const NeonKeptHeader *header)
{
	return memcmp(header->magic, NEON_KEPT_MAGIC, sizeof(header->magic)) == 0 &&
		header->crc == codec_crc32c(header, offsetof(NeonKeptHeader, crc)) &&
		header->place.machine_boot[NEON_MACHINE_BOOT_SIZE - 1] == '\0';
}

static inline bool
neon_changed_header_is_valid(const NeonChangedHeader *header)
{
	return memcmp(header->magic, NEON_CHANGED_MAGIC, sizeof(header->magic)) == 0 &&
		header->crc == codec_crc32c(header, offsetof(NeonChangedHeader, crc));
}

#endif							/* NEON_KEPT_H */
