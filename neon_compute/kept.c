/*-------------------------------------------------------------------------
 *
 * kept.c
 *	  Warm restarts: at a start, relation files of the life before.
 *
 * "neon endpoint start" has moved neon.kept and the directories of relation
 * files into the new data directory, and has put beside them which blocks
 * changed since, as the pageserver says.  Here all of that is checked, and
 * mapped; when a fork's files are created, its old ones are taken instead, and
 * blocks that are right become present.  What is wrong, damaged or missing
 * costs fetching again and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_control.h"
#include "catalog/pg_tablespace_d.h"
#include "funcapi.h"
#include "kept.h"
#include "localdisk.h"
#include "miscadmin.h"
#include "neon_durable.h"
#include "neon_testpoint.h"
#include "port/pg_bitutils.h"
#include "sql.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"

#define REASON_SIZE			256
#define CHUNK_WORDS			(MAP_CHUNK_BLOCKS / 64)

NEON_SQL_FUNCTION(neon_sql_warm_start);

typedef struct KeptShared
{
	XLogRecPtr	stopped_lsn;	/* of the life before; 0: not known */
	char		reason[REASON_SIZE];	/* why nothing is kept, or "" */
	pg_atomic_uint64 kept_blocks;
	pg_atomic_uint64 kept_chunks;
	pg_atomic_uint64 dropped_blocks;
	pg_atomic_uint64 dropped_chunks;
	pg_atomic_uint64 touched_files;
	pg_atomic_uint64 unfit_files;
	pg_atomic_uint64 taken_bytes;	/* of disk space */
	pg_atomic_uint32 finished;
} KeptShared;

/* In memory that children inherit; NULL: nothing is kept. */
static const NeonKeptHeader *kept = NULL;
static const NeonKeptFork *kept_forks;
static const uint64 *kept_words;
static const NeonChangedHeader *changed;
static const NeonChangedRange *changed_ranges;

static KeptShared *shared = NULL;

bool		neon_keep_local = true;
static char *warm_start_setting;	/* shown by show_warm_start() only */

/* For "neon endpoint start", which knows no database in which the view is. */
static const char *
show_warm_start(void)
{
	static char text[512];

	if (shared == NULL)
		return "";
	snprintf(text, sizeof(text),
			 "complete=%d kept_chunks=" UINT64_FORMAT " kept_bytes=" UINT64_FORMAT " dropped_chunks=" UINT64_FORMAT " dropped_bytes=" UINT64_FORMAT "%s%s",
			 pg_atomic_read_u32(&shared->finished) != 0,
			 pg_atomic_read_u64(&shared->kept_chunks),
			 pg_atomic_read_u64(&shared->kept_blocks) * BLCKSZ,
			 pg_atomic_read_u64(&shared->dropped_chunks),
			 pg_atomic_read_u64(&shared->dropped_blocks) * BLCKSZ,
			 shared->reason[0] ? " reason=" : "", shared->reason);
	return text;
}

void
kept_define_settings(void)
{
	DefineCustomStringVariable("neon.warm_start",
							   "Shows what this start has kept of the local pages of the life before.",
							   NULL, &warm_start_setting, "",
							   PGC_INTERNAL, GUC_NOT_IN_SAMPLE, NULL, NULL, show_warm_start);
	DefineCustomBoolVariable("neon.keep_local",
							 "Keeps local pages over a clean stop and the next start, where they are right.",
							 NULL, &neon_keep_local, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
}

void
kept_request_shmem(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(KeptShared)));
}

/* ---- checking ---- */

/* The whole file, read-only; NULL if there is none, or not that much. */
static const void *
map_whole_file(const char *path, uint64 min_size, uint64 *size)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC | PG_BINARY);
	struct stat st;
	void	   *mapping = MAP_FAILED;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && st.st_size >= min_size)
	{
		*size = st.st_size;
		mapping = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	}
	close(fd);
	return mapping == MAP_FAILED ? NULL : mapping;
}

static int
compare_keys(const uint32 *a, const uint32 *b, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (a[i] != b[i])
			return a[i] < b[i] ? -1 : 1;
	}
	return 0;
}

/* Are the entries in order, and their words there? */
static bool
forks_are_valid(const NeonKeptHeader *header, const NeonKeptFork *forks)
{
	uint64		word = 0;

	for (uint64 i = 0; i < header->nforks; i++)
	{
		if (i > 0 && compare_keys(&forks[i - 1].spc, &forks[i].spc, 4) >= 0)
			return false;
		if (!forks[i].has_words)
			continue;
		if (forks[i].first_word != word)
			return false;
		word += ((uint64) forks[i].watermark + 63) / 64;
	}
	return word == header->nwords;
}

/* What is wrong with neon.kept.last, or NULL. */
static const char *
check_kept(const NeonKeptHeader *header, uint64 size)
{
	const NeonKeptFork *forks = (const NeonKeptFork *) (header + 1);
	uint64		body;

	if (!neon_kept_header_is_valid(header))
		return "its list of blocks is damaged";
	if (header->nforks > size / sizeof(NeonKeptFork) || header->nwords > size / sizeof(uint64))
		return "its list of blocks is damaged";
	body = header->nforks * sizeof(NeonKeptFork) + header->nwords * sizeof(uint64);
	if (size != sizeof(*header) + body || codec_crc32c(forks, body) != header->body_crc ||
		!forks_are_valid(header, forks))
		return "its list of blocks is damaged";
	return NULL;
}

/* Is the old directory's pg_control the one with that checksum? */
static bool
control_is(uint32 control_crc)
{
	int			fd = open(NEON_KEPT_DIR "/global/pg_control", O_RDONLY | O_CLOEXEC | PG_BINARY);
	ControlFileData control;
	bool		is_read;
	pg_crc32c	crc;

	if (fd < 0)
		return false;
	is_read = durable_pread(fd, &control, sizeof(control), 0) == sizeof(control);
	close(fd);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, &control, offsetof(ControlFileData, crc));
	FIN_CRC32C(crc);
	return is_read && EQ_CRC32C(crc, control.crc) && control.crc == control_crc;
}

/* Is that life one of this timeline, and did no other server use its files since? */
static const char *
check_origin(const NeonKeptHeader *header)
{
	const char *problem = kept_place_problem(&header->place);

	if (!neon_id_equal(&header->tenant_id, &neon_boot.tenant_id) ||
		!neon_id_equal(&header->timeline_id, &neon_boot.timeline_id))
		return "it was of another branch";
	if (problem != NULL)
		return problem;
	if (access(NEON_KEPT_DIR "/global/pg_control", R_OK) != 0)
		return "its files are missing";
	if (!control_is(header->control_crc))
		return "its files were used by another server since";
	return NULL;
}

/* The pageserver's answer is about that life and this boot. */
static const char *
check_changed(const NeonChangedHeader *header, uint64 size, const NeonKeptHeader *of)
{
	const NeonChangedRange *ranges = (const NeonChangedRange *) (header + 1);

	if (!neon_changed_header_is_valid(header) || header->nranges > NEON_CHANGED_MAX ||
		size != sizeof(*header) + header->nranges * sizeof(NeonChangedRange) ||
		codec_crc32c(ranges, size - sizeof(*header)) != header->body_crc)
		return "the list of what changed since is damaged";
	for (uint64 i = 1; i < header->nranges; i++)
	{
		int			cmp = compare_keys(&ranges[i - 1].spc, &ranges[i].spc, 4);

		if (cmp > 0 || (cmp == 0 && (uint64) ranges[i - 1].first + ranges[i - 1].nblocks > ranges[i].first))
			return "the list of what changed since is damaged";
	}
	if (!neon_id_equal(&header->tenant_id, &of->tenant_id) ||
		!neon_id_equal(&header->timeline_id, &of->timeline_id) || header->term != of->term ||
		header->from_lsn != of->lsn || header->to_lsn != neon_boot.boot_lsn)
		return "the list of what changed since is of another start";
	if (memcmp(&header->end, &of->end, sizeof(of->end)) != 0 && !NEON_TEST_BUG("any_lineage"))
		return "the branch has other WAL there than it wrote";
	return NULL;
}

/* Finds everything and checks it; the reason why it is of no use, or NULL. */
static const char *
load(void)
{
	const NeonKeptHeader *header;
	const NeonChangedHeader *answer;
	const char *problem;
	uint64		size;

	if (!neon_keep_local)
		return "neon.keep_local is off";
	header = map_whole_file(NEON_KEPT_LAST_FILE, sizeof(*header), &size);
	if (header == NULL)
		return "the life before, if any, was not stopped cleanly here, on this branch and with neon.keep_local";
	problem = check_kept(header, size);
	if (problem == NULL)
		problem = check_origin(header);
	if (problem != NULL)
		return problem;
	shared->stopped_lsn = header->lsn;
	answer = map_whole_file(NEON_CHANGED_FILE, sizeof(*answer), &size);
	if (answer == NULL)
		return "what changed since is not known";
	problem = check_changed(answer, size, header);
	if (problem != NULL)
		return problem;

	kept = header;
	kept_forks = (const NeonKeptFork *) (header + 1);
	kept_words = (const uint64 *) (kept_forks + header->nforks);
	changed = answer;
	changed_ranges = (const NeonChangedRange *) (answer + 1);
	return NULL;
}

void
kept_startup(void)
{
	const char *problem;
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon kept", sizeof(KeptShared), &found);
	LWLockRelease(AddinShmemInitLock);
	if (found)
		return;
	memset(shared, 0, sizeof(KeptShared));
	pg_atomic_init_u64(&shared->kept_blocks, 0);
	pg_atomic_init_u64(&shared->kept_chunks, 0);
	pg_atomic_init_u64(&shared->dropped_blocks, 0);
	pg_atomic_init_u64(&shared->dropped_chunks, 0);
	pg_atomic_init_u64(&shared->touched_files, 0);
	pg_atomic_init_u64(&shared->unfit_files, 0);
	pg_atomic_init_u64(&shared->taken_bytes, 0);
	pg_atomic_init_u32(&shared->finished, 0);
	problem = neon_boot.kind == NEON_PRIMARY ? load() : "this is no primary";
	if (problem != NULL)
		strlcpy(shared->reason, problem, sizeof(shared->reason));
	if (problem != NULL && durable_exists(NEON_KEPT_LAST_FILE))
		ereport(LOG,
				(errmsg("nothing is kept of the local pages of the life before: %s", problem)));
	/* what is mapped stays; no later start sees them */
	(void) unlink(NEON_KEPT_LAST_FILE);
	(void) unlink(NEON_CHANGED_FILE);
}

/* ---- taking over ---- */

/*
 * Of a file that somebody changed, copied or put back after the stop nobody
 * knows what is in it.  Who renames its directory leaves its time alone.
 */
static bool
is_untouched(const struct stat *st)
{
	if (kept_time(&st->st_ctim) <= kept->written_at || NEON_TEST_BUG("any_file"))
		return true;
	pg_atomic_fetch_add_u64(&shared->touched_files, 1);
	return false;
}

/*
 * Is there space for it below the limit?  That may be lower than in the life
 * before, and it takes its time to drop what is above it.
 */
static bool
fits(const struct stat *st)
{
	uint64		bytes = (uint64) st->st_blocks * 512;
	uint64		limit = (uint64) neon_local_size_limit * 1024;

	if (pg_atomic_add_fetch_u64(&shared->taken_bytes, bytes) <= limit || limit == 0)
		return true;
	pg_atomic_fetch_sub_u64(&shared->taken_bytes, bytes);
	pg_atomic_fetch_add_u64(&shared->unfit_files, 1);
	return false;
}

/* Where the life before had what is to be at path, in old[MAXPGPATH]. */
static bool
find_old(const MapFork *fork, const char *path, char *old, struct stat *st)
{
	if (kept == NULL)
		return false;
	/* the directory of a user's tablespace is his */
	if (fork->rnode.spcNode != DEFAULTTABLESPACE_OID && fork->rnode.spcNode != GLOBALTABLESPACE_OID)
	{
		snprintf(old, MAXPGPATH, "%s/pg_tblspc/%u", NEON_KEPT_DIR, fork->rnode.spcNode);
		if (lstat(old, st) != 0 || !S_ISDIR(st->st_mode))
			return false;
	}
	snprintf(old, MAXPGPATH, "%s/%s", NEON_KEPT_DIR, path);
	return lstat(old, st) == 0 && S_ISREG(st->st_mode);
}

bool
kept_has_file(const MapFork *fork, const char *path)
{
	char		old[MAXPGPATH];
	struct stat st;

	return find_old(fork, path, old, &st);
}

/* The fork's entry; NULL: it was no fork of the map. */
static const NeonKeptFork *
find_fork(const uint32 *key)
{
	uint64		low = 0;
	uint64		high = kept->nforks;

	while (low < high)
	{
		uint64		mid = low + (high - low) / 2;
		int			cmp = compare_keys(&kept_forks[mid].spc, key, 4);

		if (cmp == 0)
			return &kept_forks[mid];
		if (cmp < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* The first range of the fork that ends behind the block, or a later fork's. */
static uint64
find_range(const uint32 *key, BlockNumber blkno)
{
	uint64		low = 0;
	uint64		high = changed->nranges;

	while (low < high)
	{
		uint64		mid = low + (high - low) / 2;
		const NeonChangedRange *r = &changed_ranges[mid];
		int			cmp = compare_keys(&r->spc, key, 4);

		if (cmp < 0 || (cmp == 0 && (uint64) r->first + r->nblocks <= blkno))
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Bits of the blocks from first on, below end. */
static uint64
bits_between(uint64 word, uint64 first, uint64 end)
{
	uint64		begin = word * 64;
	uint64		bits = PG_UINT64_MAX;

	if (first >= begin + 64 || end <= begin)
		return 0;
	if (first > begin)
		bits &= PG_UINT64_MAX << (first - begin);
	if (end < begin + 64)
		bits &= (UINT64CONST(1) << (end - begin)) - 1;
	return bits;
}

/* Which of 64 blocks the life before had in its files. */
static uint64
local_bits(const NeonKeptFork *entry, uint64 word, uint64 end)
{
	uint64		bits;

	if (entry == NULL)
		return bits_between(word, 0, end);
	bits = bits_between(word, entry->watermark, end);
	if (entry->has_words && word < ((uint64) entry->watermark + 63) / 64)
		bits |= kept_words[entry->first_word + word] & bits_between(word, 0, Min(entry->watermark, end));
	return bits;
}

/* A file is not taken: all that it has is dropped. */
static void
drop_segment(const MapFork *fork, BlockNumber segno, BlockNumber nblocks)
{
	uint32		key[4] = {fork->rnode.spcNode, fork->rnode.dbNode, fork->rnode.relNode, fork->forknum};
	const NeonKeptFork *entry = find_fork(key);
	uint64		begin = (uint64) segno * RELSEG_SIZE;
	uint64		end = begin + nblocks;

	for (uint64 start = begin; start < end; start += MAP_CHUNK_BLOCKS)
	{
		int			go = 0;

		for (int w = 0; w < CHUNK_WORDS; w++)
			go += pg_popcount64(local_bits(entry, start / 64 + w, end));
		pg_atomic_fetch_add_u64(&shared->dropped_blocks, go);
		pg_atomic_fetch_add_u64(&shared->dropped_chunks, go > 0);
	}
}

BlockNumber
kept_take_segment(const MapFork *fork, BlockNumber segno, const char *path)
{
	char		old[MAXPGPATH];
	struct stat st;
	BlockNumber nblocks;

	if (!find_old(fork, path, old, &st))
		return 0;
	nblocks = (BlockNumber) Min(st.st_size / BLCKSZ, RELSEG_SIZE);
	if (is_untouched(&st) && fits(&st) && rename(old, path) == 0)
		return nblocks;
	drop_segment(fork, segno, nblocks);
	return 0;
}

/* Which of 64 blocks changed; *range moves on. */
static uint64
changed_bits(const uint32 *key, uint64 word, uint64 *range)
{
	uint64		bits = 0;

	for (; *range < changed->nranges; (*range)++)
	{
		const NeonChangedRange *r = &changed_ranges[*range];
		uint64		end = (uint64) r->first + r->nblocks;

		if (r->first >= (word + 1) * 64 || compare_keys(&r->spc, key, 4) != 0)
			break;
		bits |= bits_between(word, r->first, end);
		if (end > (word + 1) * 64)
			break;
	}
	return NEON_TEST_BUG("keep_changed") ? 0 : bits;
}

/*
 * The space of chunks of which nothing stays.  What a file has of absent blocks
 * elsewhere is written over when they are fetched; to give it back, too, would be
 * a call for each of them, in a start.
 */
static void
give_back(int fd, BlockNumber segno, uint64 first, uint64 end)
{
	if (first < end)
		(void) fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
						 (off_t) (first - (uint64) segno * RELSEG_SIZE) * BLCKSZ,
						 (off_t) (end - first) * BLCKSZ);
}

/*
 * Bits are set under no chunk lock: until the files are done nobody reads or
 * writes the fork, and the evictor leaves it alone.
 */
void
kept_set_present(MapFork *fork, BlockNumber segno, BlockNumber nblocks, int fd)
{
	uint32		key[4] = {fork->rnode.spcNode, fork->rnode.dbNode, fork->rnode.relNode, fork->forknum};
	uint64		begin = (uint64) segno * RELSEG_SIZE;
	uint64		end = begin + nblocks;
	const NeonKeptFork *entry = find_fork(key);
	uint64		range = find_range(key, begin);
	uint64		empty = begin;	/* chunks from here on have nothing that stays */

	for (uint64 start = begin; start < end; start += MAP_CHUNK_BLOCKS)
	{
		MapChunk   *chunk = map_chunk(fork, start);
		int			stay = 0;
		int			go = 0;

		for (int w = 0; w < CHUNK_WORDS; w++)
		{
			uint64		word = start / 64 + w;
			uint64		local = local_bits(entry, word, end);
			uint64		gone = local & changed_bits(key, word, &range);

			map_set_present_word(chunk, w, local & ~gone);
			stay += pg_popcount64(local & ~gone);
			go += pg_popcount64(gone);
		}
		if (stay > 0)
		{
			give_back(fd, segno, empty, start);
			empty = start + MAP_CHUNK_BLOCKS;
		}
		pg_atomic_fetch_add_u64(&shared->kept_blocks, stay);
		pg_atomic_fetch_add_u64(&shared->dropped_blocks, go);
		pg_atomic_fetch_add_u64(&shared->kept_chunks, stay > 0);
		pg_atomic_fetch_add_u64(&shared->dropped_chunks, stay == 0 && go > 0);
	}
	give_back(fd, segno, empty, end);
}

void
kept_finish(void)
{
	if (pg_atomic_exchange_u32(&shared->finished, 1) != 0)
		return;
	if (kept != NULL)
		ereport(LOG,
				(errmsg("kept %llu chunks (%llu MB) of local pages of the life before, dropped %llu chunks",
						(unsigned long long) pg_atomic_read_u64(&shared->kept_chunks),
						(unsigned long long) (pg_atomic_read_u64(&shared->kept_blocks) / (1024 * 1024 / BLCKSZ)),
						(unsigned long long) pg_atomic_read_u64(&shared->dropped_chunks)),
				 errdetail("It was stopped at %X/%X; this boot is at %X/%X, and %llu pages are dropped.",
						   LSN_FORMAT_ARGS(shared->stopped_lsn), LSN_FORMAT_ARGS(neon_boot.boot_lsn),
						   (unsigned long long) pg_atomic_read_u64(&shared->dropped_blocks))));
	if (pg_atomic_read_u64(&shared->unfit_files) > 0)
		ereport(LOG,
				(errmsg("%llu relation files of the life before are not kept, as they do not fit below neon.local_size_limit",
						(unsigned long long) pg_atomic_read_u64(&shared->unfit_files))));
	if (pg_atomic_read_u64(&shared->touched_files) > 0)
		ereport(LOG,
				(errmsg("%llu relation files of the life before are not kept, as they were changed after it had ended",
						(unsigned long long) pg_atomic_read_u64(&shared->touched_files))));
	/* a stop does not wait until many files are removed */
	do
	{
		CHECK_FOR_INTERRUPTS();
		durable_remove_tree_until(NEON_KEPT_DIR, &InterruptPending);
	} while (InterruptPending);
}

/* ---- the view ---- */

Datum
neon_sql_warm_start(PG_FUNCTION_ARGS)
{
	Datum		values[8];
	bool		nulls[8] = {false};

	values[0] = LSNGetDatum(shared->stopped_lsn);
	nulls[0] = shared->stopped_lsn == InvalidXLogRecPtr;
	values[1] = LSNGetDatum(neon_boot.boot_lsn);
	values[2] = BoolGetDatum(pg_atomic_read_u32(&shared->finished) != 0);
	values[3] = Int64GetDatum((int64) pg_atomic_read_u64(&shared->kept_chunks));
	values[4] = Int64GetDatum((int64) pg_atomic_read_u64(&shared->dropped_chunks));
	values[5] = Int64GetDatum((int64) pg_atomic_read_u64(&shared->kept_blocks) * BLCKSZ);
	values[6] = Int64GetDatum((int64) pg_atomic_read_u64(&shared->dropped_blocks) * BLCKSZ);
	values[7] = CStringGetTextDatum(shared->reason);
	nulls[7] = shared->reason[0] == '\0';
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(result_row_type(fcinfo), values, nulls)));
}
