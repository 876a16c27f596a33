/*-------------------------------------------------------------------------
 *
 * neon_layerformat.h
 *	  The layout of layer files, and decoding their parts from memory.
 *
 * docs/storage-format.md tells the layout to the byte.  Nothing here reads a
 * file or allocates: callers bring the bytes, which may be anything.  Functions
 * that check return NULL, or what is wrong as a sentence.  Also for frontend
 * programs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_LAYERFORMAT_H
#define NEON_LAYERFORMAT_H

#include "access/xlogdefs.h"
#include "neon_codec.h"
#include "neon_id.h"
#include "neon_key.h"
#include "port/pg_crc32c.h"

#define LAYER_MAGIC			0x31594C4E	/* "NLY1" */
#define LAYER_FOOTER_MAGIC	0x31464C4E	/* "NLF1" */
#define LAYER_END_MAGIC		0x4E4C4631	/* "1FLN" */
#define LAYER_VERSION		2

#define LAYER_HEADER		64
#define LAYER_FOOTER		256
#define LAYER_BLOCK_HEADER	16
#define LAYER_META_BLOCK	8192	/* of directory and fences */
#define LAYER_META_HEADER	16
#define LAYER_FENCE_HEADER	10
#define LAYER_FENCES		((LAYER_META_BLOCK - LAYER_FENCE_HEADER) / NEON_KEY_ENCODED_SIZE)
#define LAYER_GROUP			32
#define LAYER_GROUP_KEYS	64

/* Raw bytes after which a block of entries is closed. */
#define LAYER_BLOCK_TARGET	8192
/* Longer values are cut into blocks of their own, of at most LAYER_RAW_MAX. */
#define LAYER_LARGE			65536
#define LAYER_RAW_MAX		262144
#define LAYER_ENTRIES_MAX	(LAYER_BLOCK_TARGET + LAYER_LARGE + 64)
#define LAYER_PAGE_RAW		(8 + BLCKSZ)
/* A stored byte is at most so many raw ones: a block has a header. */
#define LAYER_MAX_RATIO		(LAYER_RAW_MAX / LAYER_BLOCK_HEADER)
/* So many further blocks of a key have their lengths in the directory. */
#define LAYER_LISTED_BLOCKS	255

typedef enum LayerType
{
	LAYER_DELTA = 1,
	LAYER_IMAGE = 2,
} LayerType;

typedef enum LayerBlockType
{
	LAYER_BLOCK_ENTRIES = 1,
	LAYER_BLOCK_PAGE = 2,
	LAYER_BLOCK_MORE = 3,		/* of a large value */
} LayerBlockType;

typedef enum LayerCodec
{
	LAYER_CODEC_NONE = 0,
	LAYER_CODEC_ZSTD = 2,
} LayerCodec;

/* tags of entries in data blocks */
#define LAYER_TAG_BASE		0x01
#define LAYER_TAG_OBJECT	0x02
#define LAYER_TAG_BLOCK		0x04
#define LAYER_TAG_KIND_SHIFT 3
#define LAYER_TAG_LARGE		0x40

/* tags of entries in the directory */
#define LAYER_DIR_BASE		0x01
#define LAYER_DIR_NEW_BLOCK	0x02
#define LAYER_DIR_MORE		0x04
#define LAYER_DIR_COUNT_SHIFT 3
#define LAYER_DIR_COUNT_MAX	31	/* a varint follows */

/* forms of a WAL record in a file */
typedef enum LayerWalForm
{
	LAYER_WAL_WHOLE = 0,
	LAYER_WAL_NO_BLOCK = 1,		/* the block number is cut out */
	LAYER_WAL_NO_TAG = 2,		/* RelFileNode and block number are */
} LayerWalForm;

typedef struct LayerHeader
{
	uint16		version;
	uint8		type;			/* LayerType */
	uint8		flags;
	uint64		system_identifier;
	NeonId		tenant;
	NeonId		timeline;
	uint64		file_id;
	uint32		generation;
} LayerHeader;

typedef struct LayerFooter
{
	uint16		version;
	uint8		type;
	uint8		flags;
	uint8		first_key[NEON_KEY_ENCODED_SIZE];
	uint8		last_key[NEON_KEY_ENCODED_SIZE];
	XLogRecPtr	lsn_lo;			/* delta: versions in (lo, hi]; image: [lo, hi] */
	XLogRecPtr	lsn_hi;
	uint64		directory_offset;
	uint32		directory_blocks;
	uint64		fence_offset;
	uint32		fence_blocks;
	uint64		keys;
	uint64		versions;
	uint64		images;
	uint64		raw_bytes;
	uint64		image_bytes;	/* stored, with block headers */
	uint32		file_crc;		/* of all before the footer */
} LayerFooter;

typedef struct LayerBlock
{
	uint32		stored;			/* payload */
	uint32		raw;
	uint8		codec;
	uint8		type;
} LayerBlock;

/* One version in a block of entries. */
typedef struct LayerEntry
{
	uint8		key[NEON_KEY_ENCODED_SIZE];
	XLogRecPtr	lsn;
	XLogRecPtr	start;			/* of a WAL record; else InvalidXLogRecPtr */
	uint8		kind;			/* NeonValueKind */
	bool		base;
	uint32		len;
	const uint8 *bytes;			/* NULL: in the blocks that follow */
} LayerEntry;

/* Walk over a block of entries. */
typedef struct LayerEntries
{
	Cursor		c;
	XLogRecPtr	lsn_lo;
	XLogRecPtr	lsn_hi;
	XLogRecPtr	lsn;			/* of the entry before */
	bool		first;
	uint8		key[NEON_KEY_ENCODED_SIZE];
} LayerEntries;

/* What the directory says of a key. */
typedef struct LayerPlace
{
	uint8		key[NEON_KEY_ENCODED_SIZE];
	bool		base;			/* it has a version that needs nothing older */
	uint64		newer;			/* records newer than the newest of those */
	uint64		offset;			/* of the block where its versions begin */
	uint32		len;			/* stored, with header */
	uint32		more;			/* further blocks, right behind it */
	uint64		more_bytes;
	uint32		last_len;		/* of the last one of them */
	uint32		more_len[LAYER_LISTED_BLOCKS];	/* if more <= LAYER_LISTED_BLOCKS */
} LayerPlace;

/* Walk over a directory block. */
typedef struct LayerDirectory
{
	const uint8 *block;
	int			ngroups;
	int			group;			/* being read */
	int			left;			/* keys of it still to come */
	bool		first;			/* the next one is its first */
	Cursor		c;
	uint8		key[NEON_KEY_ENCODED_SIZE];
	uint64		offset;			/* of the block where the last key ended */
	uint32		len;
} LayerDirectory;

/* A WAL record as it is stored under a key. */
typedef struct LayerWal
{
	uint8		form;			/* LayerWalForm */
	uint32		cut;			/* where bytes were cut out of the body */
	uint32		xid;
	uint8		info;
	uint8		rmid;
	const uint8 *body;			/* what followed the record's header */
	uint32		body_len;
} LayerWal;

/* The block number of an encoded key. */
static inline uint32
layer_key_blk(const uint8 *key)
{
	const uint8 *p = key + NEON_OBJECT_ID_SIZE;

	return (uint32) p[0] << 24 | (uint32) p[1] << 16 | (uint32) p[2] << 8 | p[3];
}

/* CRC-32C of bytes that belong at an offset of a file. */
extern pg_crc32c layer_crc(uint64 file_id, uint64 offset, const void *data, size_t len);

/* The same for a data block: its header without the CRC, then its payload. */
extern pg_crc32c layer_block_crc(uint64 file_id, uint64 offset, const uint8 *header,
								 const void *payload, size_t len);

extern void layer_header_encode(const LayerHeader *h, uint8 *buf);

/* The version is filled in even if it is one that cannot be read, but not if the CRC is wrong. */
extern const char *layer_header_decode(const uint8 *buf, LayerHeader *h);

extern void layer_footer_encode(const LayerFooter *f, uint64 file_id, uint64 offset, uint8 *buf);
extern const char *layer_footer_decode(const uint8 *buf, uint64 file_id, uint64 offset,
									   LayerFooter *f);

/* The header of a data block: lengths within bounds, known codec and type. */
extern const char *layer_block_decode(const uint8 *buf, LayerBlock *b);

/* Verifies a whole data block of len bytes and unpacks it to raw (LAYER_RAW_MAX bytes). */
extern const char *layer_block_unpack(uint64 file_id, uint64 offset, const uint8 *buf, size_t len,
									  LayerBlock *b, uint8 *raw);

extern void layer_entries_begin(LayerEntries *it, const LayerFooter *f, const uint8 *raw,
								uint32 len);

/* False at the end, or with *problem set. */
extern bool layer_entries_next(LayerEntries *it, LayerEntry *e, const char **problem);

/* A block of the directory or of fences: its CRC, its number and its counts. */
extern const char *layer_directory_check(const uint8 *buf, uint64 file_id, uint64 offset,
										 uint32 number);
extern const char *layer_fences_check(const uint8 *buf, uint64 file_id, uint64 offset,
									  uint32 number, uint32 *count);

static inline const uint8 *
layer_fence(const uint8 *buf, uint32 i)
{
	return buf + LAYER_FENCE_HEADER + i * NEON_KEY_ENCODED_SIZE;
}

/*
 * Begins a walk at the last group whose first key is <= key (or the first
 * group); the block has passed layer_directory_check.
 */
extern void layer_directory_seek(LayerDirectory *it, const uint8 *buf, const uint8 *key);
extern bool layer_directory_next(LayerDirectory *it, LayerPlace *place, const char **problem);

/* NULL if the value is a WAL record in a form that is known. */
extern const char *layer_wal_decode(const uint8 *bytes, uint32 len, LayerWal *wal);

#endif							/* NEON_LAYERFORMAT_H */
