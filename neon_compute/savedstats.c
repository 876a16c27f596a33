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
#include "utils/pgstat_internal.h"

/* A block of the body: both lengths, then the bytes, compressed if that made them less. */
typedef struct StatsBlock
{
	uint32		raw_len;
	uint32		len;
} StatsBlock;

#define BLOCK_BYTES		(32 * 1024)

/* Some 800,000 tables. */
#define RAW_MAX			(256 * 1024 * 1024)

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
		fits = raw->len < RAW_MAX;
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

static void
put_block(StringInfo out, const char *raw, uint32 len)
{
	char		packed[PGLZ_MAX_OUTPUT(BLOCK_BYTES)];
	int32		n = pglz_compress(raw, len, packed, PGLZ_strategy_always);
	StatsBlock	block = {len, n > 0 && (uint32) n < len ? n : len};

	appendBinaryStringInfo(out, (const char *) &block, sizeof(block));
	appendBinaryStringInfo(out, block.len < len ? packed : raw, block.len);
}

bool
savedstats_collect(StringInfo out)
{
	StringInfoData raw;
	bool		fits;

	initStringInfo(&raw);
	pgstat_clear_snapshot();
	fits = put_all(&raw);
	for (int done = 0; fits && done < raw.len; done += BLOCK_BYTES)
	{
		put_block(out, raw.data + done, Min(BLOCK_BYTES, raw.len - done));
		fits = out->len <= NEON_SAVED_MAX;
	}
	pfree(raw.data);
	return fits;
}

/* ---- giving them back ---- */

/* The next block's bytes into raw[BLOCK_BYTES]; their number, or -1. */
static int
take_block(const char **p, const char *end, char *raw)
{
	StatsBlock	block;

	if (end - *p < (ptrdiff_t) sizeof(block))
		return -1;
	memcpy(&block, *p, sizeof(block));
	*p += sizeof(block);
	if (block.raw_len == 0 || block.raw_len > BLOCK_BYTES || block.len > block.raw_len ||
		(uint64) (end - *p) < block.len)
		return -1;
	if (block.len == block.raw_len)
		memcpy(raw, *p, block.len);
	else if (pglz_decompress(*p, block.len, raw, block.raw_len, true) != (int32) block.raw_len)
		return -1;
	*p += block.len;
	return block.raw_len;
}

static bool
unpack(int fd, const char *body, uint32 len)
{
	char	   *raw = palloc(BLOCK_BYTES);
	const char *p = body;
	off_t		done = 0;
	bool		ok = true;

	while (ok && p < body + len)
	{
		int			n = take_block(&p, body + len, raw);

		ok = n > 0 && done + n <= RAW_MAX && durable_pwrite(fd, raw, n, done);
		done += n;
	}
	pfree(raw);
	return ok;
}

/* The file is of this start only, so it need not be durable. */
bool
savedstats_restore(const char *body, uint32 len)
{
	int			fd = BasicOpenFile(PGSTAT_STAT_PERMANENT_FILENAME, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	bool		ok;

	if (fd < 0)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", PGSTAT_STAT_PERMANENT_FILENAME)));
		return false;
	}
	ok = unpack(fd, body, len);
	if (close(fd) != 0)
		ok = false;
	if (!ok)
	{
		(void) unlink(PGSTAT_STAT_PERMANENT_FILENAME);
		ereport(LOG,
				(errmsg("saved statistics of the last life could not be unpacked")));
	}
	return ok;
}
