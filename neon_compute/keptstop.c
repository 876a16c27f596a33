/*-------------------------------------------------------------------------
 *
 * keptstop.c
 *	  Writes neon.kept, the last act of a primary that was stopped cleanly.
 *
 * The postmaster does it, when all other processes are gone and pg_control
 * says that the shutdown checkpoint is complete: so all that was changed is in
 * the files, and nobody changes them any more.  A failure is logged; the next
 * start then keeps nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "common/file_perm.h"
#include "files.h"
#include "kept.h"
#include "miscadmin.h"
#include "neon_durable.h"
#include "neon_walend.h"
#include "storage/ipc.h"

#define KEPT_TMP_FILE	NEON_KEPT_FILE ".tmp"

/* The longest that a checkpoint record is, with headers of pages in it. */
#define CHECKPOINT_RECORD_MAX	512

#define OUT_SIZE		(64 * 1024)

/* The file that is being written; the checksum is of what follows its header. */
typedef struct Out
{
	int			fd;
	off_t		offset;
	pg_crc32c	crc;
	bool		failed;			/* errno says why */
	size_t		used;
	char		buf[OUT_SIZE];
} Out;

/* ---- the file ---- */

static void
flush_out(Out *out)
{
	if (!out->failed && !durable_pwrite(out->fd, out->buf, out->used, out->offset))
		out->failed = true;
	out->offset += out->used;
	out->used = 0;
}

static void
put(Out *out, const void *data, size_t len)
{
	if (out->used + len > OUT_SIZE)
		flush_out(out);
	memcpy(out->buf + out->used, data, len);
	out->used += len;
	COMP_CRC32C(out->crc, data, len);
}

static uint64
fork_words(const MapFork *fork)
{
	return ((uint64) map_watermark(fork) + 63) / 64;
}

static uint64
word_at(const MapFork *fork, uint64 word)
{
	MapChunk   *chunk = map_chunk(fork, word * 64);

	return pg_atomic_read_u64(&chunk->present[word % lengthof(chunk->present)]);
}

/* Has it blocks, in files?  If not, its words need not be written. */
static bool
has_words(const MapFork *fork)
{
	if (files_missing(fork))
		return false;
	for (uint64 word = 0; word < fork_words(fork); word++)
		if (word_at(fork, word) != 0)
			return true;
	return false;
}

static int
compare_forks(const void *x, const void *y)
{
	const MapFork *a = *(MapFork *const *) x;
	const MapFork *b = *(MapFork *const *) y;

	int			cmp = map_compare_rnode(&a->rnode, &b->rnode);

	return cmp != 0 ? cmp : (int) a->forknum - (int) b->forknum;
}

/* All forks of the map but those that were given up, sorted; malloc'd, or NULL. */
static MapFork **
sorted_forks(uint64 *nforks)
{
	MapFork   **forks = malloc(Max(map_nforks(), 1) * sizeof(MapFork *));

	*nforks = 0;
	if (forks == NULL)
		return NULL;
	for (uint64 i = 0; i < map_nforks(); i++)
	{
		MapFork    *fork = map_fork_at(i);

		if (OidIsValid(fork->rnode.relNode))
			forks[(*nforks)++] = fork;
	}
	qsort(forks, *nforks, sizeof(MapFork *), compare_forks);
	return forks;
}

static void
put_forks(Out *out, MapFork *const *forks, NeonKeptHeader *header)
{
	for (uint64 i = 0; i < header->nforks; i++)
	{
		const MapFork *fork = forks[i];
		NeonKeptFork entry = {
			.spc = fork->rnode.spcNode,.db = fork->rnode.dbNode,.rel = fork->rnode.relNode,
			.fork = fork->forknum,.watermark = map_watermark(fork),
			.has_words = has_words(fork),.first_word = header->nwords
		};

		if (entry.has_words)
			header->nwords += fork_words(fork);
		put(out, &entry, sizeof(entry));
	}
	for (uint64 i = 0; i < header->nforks; i++)
	{
		if (!has_words(forks[i]))
			continue;
		for (uint64 word = 0; word < fork_words(forks[i]); word++)
		{
			uint64		bits = word_at(forks[i], word);

			put(out, &bits, sizeof(bits));
		}
	}
}

/* False with errno. */
static bool
write_contents(Out *out, NeonKeptHeader *header)
{
	MapFork   **forks = sorted_forks(&header->nforks);
	struct stat st;

	if (forks == NULL)
		return false;
	INIT_CRC32C(out->crc);
	out->offset = sizeof(*header);
	put_forks(out, forks, header);
	free(forks);
	flush_out(out);
	FIN_CRC32C(out->crc);
	header->body_crc = out->crc;
	/* when that was written, by the clock that files are dated by */
	if (out->failed || fstat(out->fd, &st) != 0)
		return false;
	header->written_at = kept_time(&st.st_mtim);
	header->crc = codec_crc32c(header, offsetof(NeonKeptHeader, crc));
	return durable_pwrite(out->fd, header, sizeof(*header), 0) &&
		fsync(out->fd) == 0;
}

/* False with errno; the file appears whole, or not at all. */
static bool
write_file(NeonKeptHeader *header)
{
	static Out	out;
	bool		written;
	int			save_errno;

	out.fd = open(KEPT_TMP_FILE, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | PG_BINARY,
				  pg_file_create_mode);
	if (out.fd < 0)
		return false;
	written = write_contents(&out, header);
	save_errno = errno;
	if (close(out.fd) != 0 && written)
		return false;
	if (!written)
	{
		errno = save_errno;
		return false;
	}
	return rename(KEPT_TMP_FILE, NEON_KEPT_FILE) == 0 && durable_try_sync_dir(".");
}

/* ---- the stop ---- */

/*
 * Does pg_control say that the shutdown checkpoint of this life is complete,
 * and is it the last record?
 */
static bool
stopped_cleanly(NeonKeptHeader *header)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);

	header->lsn = neon_end_of_wal();
	header->control_crc = control->crc;
	header->end.record = control->checkPoint;
	header->end.next_xid = U64FromFullTransactionId(control->checkPointCopy.nextXid);
	header->end.time = control->checkPointCopy.time;
	return crc_ok && control->state == DB_SHUTDOWNED &&
		control->checkPoint >= neon_boot.boot_record_end &&
		header->lsn > control->checkPoint &&
		header->lsn - control->checkPoint < CHECKPOINT_RECORD_MAX;
}

static void
write_at_stop(int code, Datum arg)
{
	NeonKeptHeader header;

	/* shared memory is still there, and nobody else uses it */
	if (MyProcPid != PostmasterPid || code != 0 || !neon_keep_local || !map_exists())
		return;
	memset(&header, 0, sizeof(header));
	memcpy(header.magic, NEON_KEPT_MAGIC, sizeof(header.magic));
	header.term = neon_boot.term;
	header.tenant_id = neon_boot.tenant_id;
	header.timeline_id = neon_boot.timeline_id;
	if (!kept_place(&header.place) || !stopped_cleanly(&header))
		return;
	if (!write_file(&header))
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", NEON_KEPT_FILE),
				 errdetail("The next start fetches again what it needs.")));
		(void) unlink(KEPT_TMP_FILE);
		(void) unlink(NEON_KEPT_FILE);
	}
}

void
keptstop_register(void)
{
	if (neon_boot.kind == NEON_PRIMARY)
		on_shmem_exit(write_at_stop, (Datum) 0);
}
