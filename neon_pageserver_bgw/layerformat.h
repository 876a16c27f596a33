/*-------------------------------------------------------------------------
 *
 * layerformat.h
 *	  Layout of a layer file, shared by its writer and its reader.
 *
 *	  header 64 | entry blocks and values, mixed | index | footer 128
 *
 * Numbers are little-endian, keys as in neon_key.h.  Every CRC covers, besides
 * the bytes, the file's id and the offset where they belong, so bytes that are
 * intact but in the wrong place are found too.
 *
 * Entry block: u32 crc | u32 payload length | u16 entries | u16 restarts |
 * u32 0 | payload: entries, then the restarts' offsets (u16 each).
 * Entry: tag, [key: 18 bytes, or varint of the block number's growth],
 * varint LSN (of a new key from the file's lsn_lo, else from the entry
 * before), then
 *	  WAL record: varint end - start
 *	  others: varint length, and the bytes or { varint offset, u32 crc }
 * Every LAYER_RESTART entries, and at the start of a block, an entry has a
 * whole key and LSN: a restart.
 *
 * Index: per entry block { u64 offset, u32 payload length, first key 18, u64
 * first LSN }.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_LAYERFORMAT_H
#define NEON_PS_LAYERFORMAT_H

#include "neon_key.h"
#include "port/pg_crc32c.h"

#define LAYER_MAGIC			0x31594C4E	/* "NLY1" */
#define LAYER_FOOTER_MAGIC	0x31464C4E	/* "NLF1" */
#define LAYER_VERSION		1

#define LAYER_HEADER		64
#define LAYER_FOOTER		128
#define LAYER_BLOCK_HEADER	16
#define LAYER_BLOCK_TARGET	8192	/* payload after which a block is closed */
#define LAYER_BLOCK_MAX		16384
#define LAYER_INDEX_ENTRY	(8 + 4 + NEON_KEY_ENCODED_SIZE + 8)
#define LAYER_RESTART		32

#define LAYER_TAG_BASE		0x01
#define LAYER_TAG_KEY		0x02	/* another key than the entry before */
#define LAYER_TAG_SAME_OBJECT 0x04	/* ... of the same object: only the block number */
#define LAYER_TAG_KIND_SHIFT 3
#define LAYER_TAG_INLINE	0x40

extern pg_crc32c layer_crc(uint64 file_id, uint64 offset, const void *data, size_t len);

#endif							/* NEON_PS_LAYERFORMAT_H */
