/*-------------------------------------------------------------------------
 *
 * reference.c
 *	  For tests: pages from a local data directory in place of a pageserver.
 *
 * neon.test_reference_dir names a data directory that nobody writes, with the
 * state at the boot LSN.  Requests are queued and answered in order, as those
 * of a stream are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "reference.h"

#ifdef NEON_TESTING

#include <fcntl.h>
#include <unistd.h>

#include "common/pg_prng.h"
#include "common/relpath.h"
#include "miscadmin.h"
#include "neon.h"
#include "storage/fd.h"
#include "utils/guc.h"

#define QUEUE_SIZE			64

char	   *neon_test_reference_dir = NULL;
static int	fetch_delay = 0;	/* microseconds */
static int	install_delay = 0;

static NeonRequest queue[QUEUE_SIZE];
static int	queue_first = 0;
static int	queue_count = 0;
static char *pages = NULL;

void
reference_define_gucs(void)
{
	DefineCustomStringVariable("neon.test_reference_dir",
							   "Data directory that pages are read from, for tests.",
							   NULL, &neon_test_reference_dir, "",
							   PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon.test_fetch_delay",
							"Microseconds that each answer of the test directory takes.",
							NULL, &fetch_delay, 0, 0, 10000000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon.test_install_delay",
							"Largest random pause in microseconds before fetched pages are written.",
							NULL, &install_delay, 0, 0, 10000000,
							PGC_USERSET, 0, NULL, NULL, NULL);
}

bool
reference_is_used(void)
{
	return neon_test_reference_dir[0] != '\0';
}

bool
reference_send(const NeonRequest *req)
{
	if (queue_count == QUEUE_SIZE)
		elog(FATAL, "too many requests to the reference directory");
	queue[(queue_first + queue_count) % QUEUE_SIZE] = *req;
	queue_count++;
	return true;
}

/* Reads one page; zeros beyond the end of the fork. */
static void
read_page(const NeonRequest *req, BlockNumber blkno, char *page)
{
	char	   *relpath = relpathperm(req->rnode, req->fork);
	BlockNumber segno = blkno / RELSEG_SIZE;
	char		path[MAXPGPATH];
	int			fd;
	ssize_t		n;

	if (segno == 0)
		snprintf(path, sizeof(path), "%s/%s", neon_test_reference_dir, relpath);
	else
		snprintf(path, sizeof(path), "%s/%s.%u", neon_test_reference_dir, relpath, segno);
	pfree(relpath);
	memset(page, 0, BLCKSZ);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	n = pg_pread(fd, page, BLCKSZ, (off_t) (blkno % RELSEG_SIZE) * BLCKSZ);
	CloseTransientFile(fd);
	if (n != 0 && n != BLCKSZ)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
}

bool
reference_receive(NeonResponse *resp)
{
	NeonRequest req;

	if (queue_count == 0)
		elog(FATAL, "no request to the reference directory");
	req = queue[queue_first];
	queue_first = (queue_first + 1) % QUEUE_SIZE;
	queue_count--;

	if (pages == NULL)
		pages = malloc(NEON_MAX_BLOCKS_PER_REQUEST * BLCKSZ);
	if (pages == NULL)
		elog(FATAL, "out of memory");
	if (fetch_delay > 0)
		pg_usleep(fetch_delay);
	for (int i = 0; i < req.nblocks; i++)
		read_page(&req, req.blkno + i, pages + (size_t) i * BLCKSZ);

	memset(resp, 0, sizeof(*resp));
	resp->tag = NEON_TAG_PAGES;
	resp->nblocks = req.nblocks;
	resp->reqid = req.reqid;
	resp->effective_lsn = neon_boot.boot_lsn;
	resp->pages = pages;
	return true;
}

void
reference_pause(void)
{
	if (install_delay > 0)
		pg_usleep(pg_prng_uint64_range(&pg_global_prng_state, 0, install_delay));
}

#endif							/* NEON_TESTING */
