/*-------------------------------------------------------------------------
 *
 * neon_savedfile.c
 *	  Making the files of what is saved between the lives of a compute.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_lzcompress.h"
#include "neon_codec.h"
#include "neon_savedfile.h"
#include "utils/timestamp.h"

void
saved_begin(StringInfo buf)
{
	resetStringInfo(buf);
	enlargeStringInfo(buf, sizeof(SavedHeader));
	memset(buf->data, 0, sizeof(SavedHeader));
	buf->len = sizeof(SavedHeader);
}

void
saved_end(StringInfo buf, NeonSavedKind kind, const NeonId *timeline,
		  uint64 system_identifier, XLogRecPtr lsn)
{
	SavedHeader header = {{0}};

	memcpy(header.magic, SAVED_MAGIC, sizeof(header.magic));
	header.version = SAVED_VERSION;
	header.kind = kind;
	header.server_version_num = PG_VERSION_NUM;
	header.timeline_id = *timeline;
	header.system_identifier = system_identifier;
	header.lsn = lsn;
	header.saved_at = GetCurrentTimestamp();
	header.len = buf->len - sizeof(header);
	header.crc = codec_crc32c(buf->data + sizeof(header), header.len);
	memcpy(buf->data, &header, sizeof(header));
}

static void
put_block(StringInfo out, const char *raw, uint32 len)
{
	char		packed[PGLZ_MAX_OUTPUT(STATS_BLOCK_BYTES)];
	int32		n = pglz_compress(raw, len, packed, PGLZ_strategy_always);
	StatsBlock	block = {len, n > 0 && (uint32) n < len ? n : len};

	appendBinaryStringInfo(out, (const char *) &block, sizeof(block));
	appendBinaryStringInfo(out, block.len < len ? packed : raw, block.len);
}

bool
saved_put_statistics(StringInfo out, const char *raw, uint64 len)
{
	bool		fits = true;

	for (uint64 done = 0; fits && done < len; done += STATS_BLOCK_BYTES)
	{
		put_block(out, raw + done, Min(STATS_BLOCK_BYTES, len - done));
		fits = out->len <= NEON_SAVED_MAX;
	}
	return fits;
}
