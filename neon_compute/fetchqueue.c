/*-------------------------------------------------------------------------
 *
 * fetchqueue.c
 *	  This process's requests for absent blocks, and what is answered.
 *
 * Requests that were sent and not yet answered are kept in a queue; answers
 * are installed in its order, whoever waits for which of them.  A range never
 * crosses a chunk, so it is installed under one lock.  What to ask for is
 * decided in hydrate.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "coordinator.h"
#include "diskhold.h"
#include "fetchqueue.h"
#include "files.h"
#include "localstat.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "pageserver.h"
#include "reference.h"
#include "storage/fd.h"
#include "stream.h"

static FetchRange queue[QUEUE_SIZE];
static int	queue_first = 0;
static int	queue_count = 0;
static uint64 queue_generation = 0; /* of the stream that it was sent to */
static uint64 next_reqid = 1;

/*
 * A block that was wanted from a range for which an error was answered.  One
 * bad page spoils the answer of its range, so this block is asked for alone.
 */
static const MapFork *single_fork = NULL;
static BlockNumber single_blkno = 0;

/* Why the last attempt failed, an error answer or that of the stream; or "". */
static char problem[1024];

/* What the last request of a primary may not be older than. */
static XLogRecPtr asked_since = InvalidXLogRecPtr;

/* Blocks that this process has written to files. */
static uint64 installed_blocks = 0;

/* The deadline itself, which comes at last, is not worth noting. */
static void
note_problem(const char *text, TimestampTz deadline)
{
	if (problem[0] == '\0' || neon_clock() < deadline)
		strlcpy(problem, text, sizeof(problem));
}

/* ----------
 * The queue
 * ----------
 */

/* Forgets what will not be answered any more. */
void
queue_check(void)
{
	uint64		generation = stream_check();

	if (generation != queue_generation)
	{
		queue_generation = generation;
		queue_first = 0;
		queue_count = 0;
	}
}

/* The range that was asked for and has this block, or NULL. */
const FetchRange *
queue_find(const MapFork *fork, BlockNumber blkno)
{
	for (int i = 0; i < queue_count; i++)
	{
		const FetchRange *range = &queue[(queue_first + i) % QUEUE_SIZE];

		if (range_has(range, fork, blkno))
			return range;
	}
	return NULL;
}

/* Is an answer on its way that has this block? */
bool
queue_has(const MapFork *fork, BlockNumber blkno)
{
	return queue_find(fork, blkno) != NULL;
}

int
queue_length(void)
{
	return queue_count;
}

uint32
queue_blocks(void)
{
	uint32		nblocks = 0;

	for (int i = 0; i < queue_count; i++)
		nblocks += queue[(queue_first + i) % QUEUE_SIZE].nblocks;
	return nblocks;
}

/*
 * A primary has not modified the blocks that it does not hold since they were
 * dropped, if they were, so the newest version within its term is the right
 * one.  The generation is read first: what is dropped later is not installed.
 */
bool
queue_send(FetchRange *range, TimestampTz deadline)
{
	NeonRequest req;

	Assert(queue_count < QUEUE_SIZE);
	range->rnode = range->fork->rnode;
	range->gen = map_generation(map_chunk(range->fork, range->start));
	range->reqid = next_reqid++;
	pg_read_barrier();

	memset(&req, 0, sizeof(req));
	req.reqid = range->reqid;
	req.not_modified_since = asked_since = disk_request_lsn();
	req.lsn = neon_boot.kind == NEON_PRIMARY ? NEON_LSN_MAX : neon_boot.boot_lsn;
	req.term = neon_boot.kind == NEON_PRIMARY ? neon_boot.term : 0;
	req.rnode = range->fork->rnode;
	req.fork = range->fork->forknum;
	req.blkno = range->start;
	req.nblocks = range->nblocks;
	if (!stream_put(&req, deadline))
	{
		note_problem(stream_last_error(), deadline);
		return false;
	}
	map_note_asked(map_chunk(range->fork, range->start), range->start, range->nblocks);

	/* connecting makes a new generation, of which this is the first request */
	queue_check();
	queue[(queue_first + queue_count) % QUEUE_SIZE] = *range;
	queue_count++;
	return true;
}

/* ----------
 * Installing
 * ----------
 */

/* Was the block written, or fetched by somebody else, since it was asked for? */
static bool
is_here(const MapChunk *chunk, BlockNumber blkno)
{
	return map_present(chunk, blkno) && !NEON_TEST_BUG("no_recheck");
}

static void
set_present_run(MapChunk *chunk, BlockNumber start, BlockNumber end)
{
	for (BlockNumber blkno = start; blkno < end; blkno++)
		map_set_present(chunk, blkno);
}

/*
 * Writes the fetched blocks that are still absent.  The chunk lock keeps out
 * writers of absent blocks, and truncation passes through it after lowering
 * the watermark.  Bits are set after the data is there.
 */
static void
install_absent_blocks(int fd, const FetchRange *range, MapChunk *chunk, const char *pages)
{
	BlockNumber end = Min(range->start + range->nblocks, map_watermark(range->fork));
	BlockNumber blkno = range->start;

	while (blkno < end)
	{
		BlockNumber run = blkno;

		while (run < end && !is_here(chunk, run))
			run++;
		if (run > blkno)
		{
			if (NEON_TEST_BUG("bits_first"))
				set_present_run(chunk, blkno, run);
			MAP_TEST_POINT(range->rnode, "install_writes");
			files_write(fd, range->fork, blkno,
						pages + (size_t) (blkno - range->start) * BLCKSZ, run - blkno);
			installed_blocks += run - blkno;
			disk_note_allocated((uint64) (run - blkno) * BLCKSZ);
		}
		set_present_run(chunk, blkno, run);
		blkno = run;
		while (blkno < end && is_here(chunk, blkno))
			blkno++;
	}
}

static void
install(const FetchRange *range, const char *pages)
{
	MapChunk   *chunk = map_chunk(range->fork, range->start);
	LWLock	   *lock = map_chunk_lock(range->fork, range->start);
	int			fd;

	reference_pause();
	MAP_TEST_POINT(range->rnode, "install_received");
	fd = files_open_segment(range->fork, range->start);
	if (fd < 0)
	{
		/* a relation that is gone needs no pages */
		strlcpy(problem, "the relation's file is missing", sizeof(problem));
		return;
	}
	LWLockAcquire(lock, LW_EXCLUSIVE);
	/* dropped since we asked: we may hold an older version than was dropped */
	if ((map_generation(chunk) == range->gen || NEON_TEST_BUG("no_generation")) &&
		RelFileNodeEquals(range->fork->rnode, range->rnode))
		install_absent_blocks(fd, range, chunk, pages);
	map_forget_asked(chunk);
	LWLockRelease(lock);
	CloseTransientFile(fd);
}

/* ----------
 * Answers
 * ----------
 */

static void
report_superseded(const NeonResponse *resp)
{
	unsigned int term = 0;

	(void) sscanf(resp->message, "superseded by term %u", &term);
	neon_superseded(term);
	ereport(FATAL,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg_internal("%s", resp->message),
			 errdetail("Another compute writes this timeline now."),
			 resp->hint[0] ? errhint("%s", resp->hint) : 0));
}

/* An answer that trying again would not change, to a request that mattered. */
static void
report_final(const FetchRange *range, const NeonResponse *resp)
{
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(resp->sqlstate[0], resp->sqlstate[1], resp->sqlstate[2],
								   resp->sqlstate[3], resp->sqlstate[4])),
			 errmsg("could not fetch block %u of relation %s from pageserver %s",
					range->start, relpathperm(range->fork->rnode, range->fork->forknum),
					pageserver_address()),
			 resp->detail[0] ? errdetail("%s (%s)", resp->message, resp->detail) :
			 errdetail("%s", resp->message),
			 resp->hint[0] ? errhint("%s", resp->hint) : 0));
}

/* fork and blkno: the block that is waited for. */
static void
handle_error(const FetchRange *range, const NeonResponse *resp, const MapFork *fork, BlockNumber blkno)
{
	bool		wanted = range_has(range, fork, blkno);

	strlcpy(problem, resp->message, sizeof(problem));
	if (resp->error_class == NEON_ERROR_SUPERSEDED)
		report_superseded(resp);
	if (wanted && resp->error_class == NEON_ERROR_FINAL)
	{
		if (range->nblocks == 1)
			report_final(range, resp);
		single_fork = fork;
		single_blkno = blkno;
	}
}

/*
 * Takes the next answer.  False if the stream broke.  An error answer is
 * remembered as the problem; what it means for blocks that nobody waits for
 * is found out when somebody does.
 */
bool
queue_receive(const MapFork *fork, BlockNumber blkno, TimestampTz deadline)
{
	NeonResponse resp;
	FetchRange	range = queue[queue_first];

	Assert(queue_count > 0);
	if (!stream_flush(deadline) || !stream_receive(&resp, deadline))
	{
		note_problem(stream_last_error(), deadline);
		return false;
	}
	if (resp.reqid != range.reqid ||
		(resp.tag == NEON_TAG_PAGES && resp.nblocks != range.nblocks))
	{
		stream_fail("it is not the answer to the oldest request");
		note_problem(stream_last_error(), deadline);
		return false;
	}
	queue_first = (queue_first + 1) % QUEUE_SIZE;
	queue_count--;

	if (resp.tag == NEON_TAG_PAGES)
	{
		local_count(LOCAL_FETCHES, 1);
		local_count(LOCAL_FETCHED_PAGES, resp.nblocks);
		local_count(LOCAL_FETCHED_BYTES, NEON_RESPONSE_SIZE + (uint64) resp.nblocks * BLCKSZ);
		install(&range, resp.pages);
	}
	else
		handle_error(&range, &resp, fork, blkno);
	return true;
}

bool
queue_flush(TimestampTz deadline)
{
	if (stream_flush(deadline))
		return true;
	note_problem(stream_last_error(), deadline);
	return false;
}

/* ----------
 * What came of it
 * ----------
 */

bool
queue_has_failed(const MapFork *fork, BlockNumber blkno)
{
	return fork == single_fork && blkno == single_blkno;
}

const char *
queue_problem(void)
{
	return problem;
}

void
queue_forget_problem(void)
{
	problem[0] = '\0';
}

XLogRecPtr
queue_asked_since(void)
{
	return asked_since;
}

uint64
queue_installed(void)
{
	return installed_blocks;
}
