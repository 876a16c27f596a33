/*-------------------------------------------------------------------------
 *
 * savedstats.c
 *	  Cumulative statistics from one life of a compute to the next.
 *
 * The server writes them to pg_stat/pgstat.stat when it has stopped cleanly,
 * and reads that file when it starts without recovery, as a compute always
 * does.  Here they are taken from shared memory while it runs, in the very
 * format of that file, and at the next start they are put in its place; so
 * the server's own code reads and checks them.  Those of replication slots are
 * left out, as the slots do not come along.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/pg_lzcompress.h"
#include "lib/dshash.h"
#include "neon_durable.h"
#include "pgstat.h"
#include "saved.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/pgstat_internal.h"

/* ---- taking them ---- */

/* An entry as the server's file has it: its key, and the part without locks. */
static void
put_entry(StringInfo raw, const PgStatShared_HashEntry *entry)
{
	PgStatShared_Common *shared = dsa_get_address(pgStatLocal.dsa, entry->body);

	appendStringInfoCharMacro(raw, 'S');
	appendBinaryStringInfo(raw, (const char *) &entry->key, sizeof(entry->key));
	LWLockAcquire(&shared->lock, LW_SHARED);
	appendBinaryStringInfo(raw, pgstat_get_entry_data(entry->key.kind, shared),
						   pgstat_get_entry_len(entry->key.kind));
	LWLockRelease(&shared->lock);
}

/* The entries' partitions are locked one after the other, as by a snapshot. */
static bool
put_entries(StringInfo raw)
{
	dshash_seq_status scan;
	PgStatShared_HashEntry *entry;
	bool		fits = true;

	dshash_seq_init(&scan, pgStatLocal.shared_hash, false);
	while (fits && (entry = dshash_seq_next(&scan)) != NULL)
	{
		if (entry->dropped || pgstat_get_kind_info(entry->key.kind)->named_on_disk)
			continue;
		put_entry(raw, entry);
		fits = raw->len < STATS_RAW_MAX;
	}
	dshash_seq_term(&scan);
	return fits;
}

static bool
put_all(StringInfo raw)
{
	int32		format = PGSTAT_FILE_FORMAT_ID;

	appendBinaryStringInfo(raw, (const char *) &format, sizeof(format));
	appendBinaryStringInfo(raw, (const char *) pgstat_fetch_stat_archiver(), sizeof(PgStat_ArchiverStats));
	appendBinaryStringInfo(raw, (const char *) pgstat_fetch_stat_bgwriter(), sizeof(PgStat_BgWriterStats));
	appendBinaryStringInfo(raw, (const char *) pgstat_fetch_stat_checkpointer(),
						   sizeof(PgStat_CheckpointerStats));
	appendBinaryStringInfo(raw, (const char *) pgstat_fetch_slru(),
						   sizeof(PgStat_SLRUStats) * SLRU_NUM_ELEMENTS);
	appendBinaryStringInfo(raw, (const char *) pgstat_fetch_stat_wal(), sizeof(PgStat_WalStats));
	if (!put_entries(raw))
		return false;
	appendStringInfoCharMacro(raw, 'E');
	return true;
}

bool
savedstats_collect(StringInfo out)
{
	StringInfoData raw;
	bool		fits;

	initStringInfo(&raw);
	pgstat_clear_snapshot();
	fits = put_all(&raw);
	fits = fits && saved_put_statistics(out, raw.data, raw.len);
	pfree(raw.data);
	return fits;
}

/* ---- giving them back ---- */

/* The bytes before the entries: the format's number and what there is once. */
#define FIXED_BYTES (sizeof(int32) + sizeof(PgStat_ArchiverStats) + sizeof(PgStat_BgWriterStats) + \
					 sizeof(PgStat_CheckpointerStats) + sizeof(PgStat_SLRUStats) * SLRU_NUM_ELEMENTS + \
					 sizeof(PgStat_WalStats))

/* The head of the block at p, checked; false if there is none. */
static bool
block_at(const char *p, const char *end, StatsBlock *block)
{
	if (end - p < (ptrdiff_t) sizeof(*block))
		return false;
	memcpy(block, p, sizeof(*block));
	return block->raw_len > 0 && block->raw_len <= STATS_BLOCK_BYTES && block->len <= block->raw_len &&
		(uint64) (end - p) - sizeof(*block) >= block->len;
}

/* Bytes of all blocks, unpacked; 0 if that is not what the body is. */
static uint64
raw_length(const char *body, const char *end)
{
	StatsBlock	block;
	uint64		total = 0;

	for (const char *p = body; p < end; p += sizeof(block) + block.len)
	{
		if (!block_at(p, end, &block))
			return 0;
		total += block.raw_len;
	}
	return total <= STATS_RAW_MAX ? total : 0;
}

/* Into raw, which has room for raw_length(). */
static bool
unpack(const char *body, const char *end, char *raw)
{
	StatsBlock	block;

	for (const char *p = body; p < end; p += block.len)
	{
		(void) block_at(p, end, &block);
		p += sizeof(block);
		if (block.len == block.raw_len)
			memcpy(raw, p, block.len);
		else if (pglz_decompress(p, block.len, raw, block.raw_len, true) != (int32) block.raw_len)
			return false;
		raw += block.raw_len;
	}
	return true;
}

/* The server trusts that file as its own: each entry has to be one that it would have written. */
static bool
is_valid(const char *raw, const char *end)
{
	const int32 format = PGSTAT_FILE_FORMAT_ID;
	const char *p = raw + FIXED_BYTES;

	if ((uint64) (end - raw) <= FIXED_BYTES || memcmp(raw, &format, sizeof(format)) != 0)
		return false;
	while (end - p > (ptrdiff_t) sizeof(PgStat_HashKey) && *p == 'S')
	{
		PgStat_HashKey key;
		const PgStat_KindInfo *info;

		memcpy(&key, p + 1, sizeof(key));
		p += 1 + sizeof(key);
		if (key.kind < PGSTAT_KIND_FIRST_VALID || key.kind > PGSTAT_KIND_LAST)
			return false;
		info = pgstat_get_kind_info(key.kind);
		if (info->fixed_amount || info->named_on_disk || (uint64) (end - p) < info->shared_data_len)
			return false;
		p += info->shared_data_len;
	}
	return end - p == 1 && *p == 'E';
}

/* The file is of this start only, so it need not be durable. */
static bool
write_file(const char *raw, uint64 len)
{
	int			fd = BasicOpenFile(PGSTAT_STAT_PERMANENT_FILENAME, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	bool		ok = fd >= 0 && durable_pwrite(fd, raw, len, 0);

	if (fd >= 0 && close(fd) != 0)
		ok = false;
	if (!ok)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", PGSTAT_STAT_PERMANENT_FILENAME)));
		(void) unlink(PGSTAT_STAT_PERMANENT_FILENAME);
	}
	return ok;
}

bool
savedstats_restore(const char *body, uint32 len)
{
	uint64		raw_len = raw_length(body, body + len);
	char	   *raw = MemoryContextAllocHuge(CurrentMemoryContext, Max(raw_len, 1));
	bool		ok = raw_len > 0 && unpack(body, body + len, raw) && is_valid(raw, raw + raw_len);

	if (!ok)
		ereport(LOG,
				(errmsg("saved statistics of the last life are not used: they are damaged")));
	ok = ok && write_file(raw, raw_len);
	pfree(raw);
	return ok;
}
