/*-------------------------------------------------------------------------
 *
 * hydrate.c
 *	  Fetching absent blocks into the local files.
 *
 * A process that needs an absent block asks for a range of blocks that begins
 * with it, and if it reads forward, for the next range too, so that one is on
 * its way while the other is being read.  Requests that were sent and not yet
 * answered are kept in a queue; answers are installed in its order, whoever
 * waits for which of them.
 *
 * A range never crosses a chunk, so it is installed under one lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "coordinator.h"
#include "diskhold.h"
#include "fetchlog.h"
#include "files.h"
#include "hydrate.h"
#include "localstat.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "pageserver.h"
#include "reference.h"
#include "storage/fd.h"
#include "stream.h"
#include "utils/timestamp.h"

/* Requests that may be on their way; prefetches leave some for reads. */
#define QUEUE_SIZE			64
#define QUEUE_PREFETCH		48

/* Ranges of the largest size that prefetches, and hydrate_run(), may have on their way. */
#define QUEUE_RANGES		12

/* Prefetches that are sent together. */
#define PREFETCH_BATCH		8

/* Scans that are followed at the same time; forks share the slots by hash. */
#define SCAN_SLOTS			64

#define WINDOW_MAX			MAP_CHUNK_BLOCKS
#define WINDOW_READ_AHEAD	16	/* from here on the next range is asked for too */
#define WINDOW_NEIGHBOURS	8	/* joining a scan of others */
#define NEIGHBOURS			4

/* The range after may be so far away if others ask for what lies between. */
#define READ_AHEAD_REACH	(8 * MAP_CHUNK_BLOCKS)

/* So many of the largest ranges may be on their way before no more is read ahead. */
#define READ_AHEAD_RANGES	2

/* What another process has asked for is waited for so long, looking so often. */
#define OTHER_WAIT_US		5000
#define OTHER_POLL_US		100

#define BACKOFF_FIRST_MS	10
#define BACKOFF_MAX_MS		1000

typedef struct Range
{
	MapFork    *fork;
	RelFileNode rnode;			/* the fork's when it was asked for */
	BlockNumber start;
	uint16		nblocks;
	uint32		gen;			/* of the chunk when it was asked for */
	uint64		reqid;
} Range;

/* Where this process's last miss in a fork leads us to expect the next. */
typedef struct Scan
{
	MapFork    *fork;
	BlockNumber next;
	uint32		window;
} Scan;

static Range queue[QUEUE_SIZE];
static int	queue_first = 0;
static int	queue_count = 0;
static uint64 queue_generation = 0; /* of the stream that it was sent to */
static uint64 next_reqid = 1;

static Scan scans[SCAN_SLOTS];

/* Prefetches that are to be sent with the next request, or when they are enough. */
static Range prefetches[PREFETCH_BATCH];
static int	nprefetches = 0;

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
static void
check_queue(void)
{
	uint64		generation = stream_check();

	if (generation != queue_generation)
	{
		queue_generation = generation;
		queue_first = 0;
		queue_count = 0;
	}
}

static bool
has_block(const Range *range, const MapFork *fork, BlockNumber blkno)
{
	return range->fork == fork && blkno >= range->start &&
		blkno - range->start < range->nblocks;
}

/* The range that was asked for and has this block, or NULL. */
static const Range *
queued_range(const MapFork *fork, BlockNumber blkno)
{
	for (int i = 0; i < queue_count; i++)
	{
		const Range *range = &queue[(queue_first + i) % QUEUE_SIZE];

		if (has_block(range, fork, blkno))
			return range;
	}
	return NULL;
}

/* Is an answer on its way that has this block? */
static bool
is_queued(const MapFork *fork, BlockNumber blkno)
{
	return queued_range(fork, blkno) != NULL;
}

static uint32
queued_blocks(void)
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
static bool
send_range(Range *range, TimestampTz deadline)
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
	check_queue();
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
install_absent_blocks(int fd, const Range *range, MapChunk *chunk, const char *pages)
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
install(const Range *range, const char *pages)
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
report_final(const Range *range, const NeonResponse *resp)
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
handle_error(const Range *range, const NeonResponse *resp, const MapFork *fork, BlockNumber blkno)
{
	bool		wanted = has_block(range, fork, blkno);

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
static bool
receive_range(const MapFork *fork, BlockNumber blkno, TimestampTz deadline)
{
	NeonResponse resp;
	Range		range = queue[queue_first];

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

/* ----------
 * What to ask for
 * ----------
 */

static Scan *
scan_of(const MapFork *fork)
{
	return &scans[((uintptr_t) fork / sizeof(MapFork)) % SCAN_SLOTS];
}

/*
 * Are the blocks to the left present?  So they are if another process, of a
 * parallel scan for instance, is reading forward here.
 */
static bool
left_neighbours_present(const MapFork *fork, BlockNumber blkno)
{
	const MapChunk *chunk = map_chunk(fork, blkno);

	if (blkno % MAP_CHUNK_BLOCKS < NEIGHBOURS)
		return false;
	for (BlockNumber b = blkno - NEIGHBOURS; b < blkno; b++)
		if (!map_present(chunk, b))
			return false;
	return true;
}

/* The range's blocks that are within the fork's chunk and asked for by nobody else. */
static BlockNumber
range_end(const MapFork *fork, BlockNumber start, uint32 nblocks)
{
	BlockNumber chunk_start = start - start % MAP_CHUNK_BLOCKS;
	BlockNumber end = Min(map_watermark(fork), start + Min(nblocks, disk_max_range()));
	uint32		first_asked;
	uint32		end_asked;

	if (map_asked_by_other(map_chunk(fork, start), &first_asked, &end_asked) &&
		start < chunk_start + first_asked)
		end = Min(end, chunk_start + first_asked);
	return Min(end, chunk_start + MAP_CHUNK_BLOCKS);
}

/*
 * The blocks from start on, at most nblocks, less those at the end that are
 * present; few blocks end at the first one that is.  False if none is left.
 */
static bool
make_range(Range *range, MapFork *fork, BlockNumber start, uint32 nblocks)
{
	const MapChunk *chunk;
	BlockNumber end;

	if (start >= map_watermark(fork))
		return false;
	chunk = map_chunk(fork, start);
	end = range_end(fork, start, nblocks);
	while (end > start && map_present(chunk, end - 1))
		end--;
	if (end - start <= WINDOW_NEIGHBOURS)
	{
		BlockNumber absent = start;

		while (absent < end && !map_present(chunk, absent))
			absent++;
		end = absent;
	}
	range->fork = fork;
	range->start = start;
	range->nblocks = end - start;
	return end > start;
}

/* Is the block where the scan is expected to go on, or not far from there? */
static bool
goes_forward(const Scan *scan, const MapFork *fork, BlockNumber blkno, uint32 reach)
{
	return scan->fork == fork && blkno >= scan->next && blkno - scan->next <= reach;
}

/* The window grows while misses go forward, each near where the last range ended. */
static uint32
larger_window(const Scan *scan)
{
	return Min(scan->window * 4, WINDOW_MAX);
}

static uint32
next_window(const Scan *scan, const MapFork *fork, BlockNumber blkno)
{
	if (fork == single_fork && blkno == single_blkno)
		return 1;
	if (goes_forward(scan, fork, blkno, scan->window / 2))
		return larger_window(scan);
	if (left_neighbours_present(fork, blkno))
		return WINDOW_NEIGHBOURS;
	return 1;
}

static bool
flush_requests(TimestampTz deadline)
{
	if (stream_flush(deadline))
		return true;
	note_problem(stream_last_error(), deadline);
	return false;
}

/* Waits, if need be, until one more request may be on its way. */
static bool
make_place(const MapFork *fork, BlockNumber blkno, TimestampTz deadline)
{
	while (queue_count == QUEUE_SIZE)
	{
		if (!receive_range(fork, blkno, deadline))
			return false;
	}
	return true;
}

/* Puts the range that begins with the block; true if it need not be asked for. */
static bool
ask_for_block(MapFork *fork, BlockNumber blkno, TimestampTz deadline)
{
	Scan	   *scan = scan_of(fork);
	uint32		window = next_window(scan, fork, blkno);
	Range		range;

	if (!make_range(&range, fork, blkno, window))
		return true;
	if (!make_place(fork, blkno, deadline) || !send_range(&range, deadline))
		return false;
	scan->fork = fork;
	scan->window = window;
	scan->next = range.start + range.nblocks;
	return true;
}

/*
 * The next block in the range that is absent and asked for neither by us nor,
 * as part of many, by another process; or InvalidBlockNumber.
 */
static BlockNumber
next_absent(const MapFork *fork, BlockNumber start, BlockNumber end)
{
	while (start < end)
	{
		const MapChunk *chunk = map_chunk(fork, start);
		const Range *mine;
		uint32		first_asked;
		uint32		end_asked;

		if (map_asked_by_other(chunk, &first_asked, &end_asked))
			start = (start / MAP_CHUNK_BLOCKS + 1) * MAP_CHUNK_BLOCKS;
		else if ((mine = queued_range(fork, start)) != NULL)
			start = mine->start + mine->nblocks;
		else if (map_present(chunk, start))
			start++;
		else
			return start;
	}
	return InvalidBlockNumber;
}

/* If a scan is under way, which is at the block, asks for the range after the last one, too. */
static void
read_ahead(MapFork *fork, BlockNumber blkno, TimestampTz deadline)
{
	Scan	   *scan = scan_of(fork);
	BlockNumber start;
	Range		range;

	if (scan->fork != fork || scan->window < WINDOW_READ_AHEAD ||
		queue_count >= QUEUE_PREFETCH || queued_blocks() >= READ_AHEAD_RANGES * disk_max_range())
		return;
	start = next_absent(fork, Max(scan->next, blkno + 1),
						Min(map_watermark(fork), blkno + READ_AHEAD_REACH));
	if (start == InvalidBlockNumber ||
		!make_range(&range, fork, start, larger_window(scan)))
		return;
	/* if it fails, so does the read that waits for the range before */
	if (!send_range(&range, deadline))
		return;
	scan->window = larger_window(scan);
	scan->next = range.start + range.nblocks;
}

/* ----------
 * What others asked for
 * ----------
 */

/*
 * Another process has asked for many blocks, this one among them.  It installs
 * them when it needs one, which may be never, so this is waited for only a
 * moment; meanwhile, what we have asked for is installed, as others may wait
 * for that.  If we are reading forward here, we go on elsewhere.
 */
static bool
wait_for_other(MapFork *fork, BlockNumber blkno, TimestampTz deadline)
{
	Scan	   *scan = scan_of(fork);
	TimestampTz end = neon_clock() + OTHER_WAIT_US;

	if (goes_forward(scan, fork, blkno, READ_AHEAD_REACH))
	{
		scan->window = larger_window(scan);
		scan->next = blkno + 1;
	}
	read_ahead(fork, blkno, deadline);
	if (!flush_requests(deadline))
		return false;
	local_wait_for(LOCAL_WAIT_FETCH);
	while (map_absent(fork, map_chunk(fork, blkno), blkno) && map_block_asked_by_other(fork, blkno) &&
		   neon_clock() < end)
	{
		CHECK_FOR_INTERRUPTS();
		check_queue();
		if (queue_count == 0 || !stream_has_answer())
			pg_usleep(OTHER_POLL_US);
		else if (!receive_range(fork, blkno, deadline))
			return false;
	}
	local_wait_for(LOCAL_WAIT_NONE);
	return true;
}

/* ----------
 * Prefetching
 * ----------
 */

/* Would so many more be too much for prefetches? */
static bool
too_much_is_queued(int more)
{
	return queue_count + more > QUEUE_PREFETCH ||
		queued_blocks() >= QUEUE_RANGES * disk_max_range();
}

/* Sends what was put aside; what came meanwhile is left out. */
static bool
send_prefetches(TimestampTz deadline)
{
	int			n = nprefetches;

	nprefetches = 0;
	for (int i = 0; i < n; i++)
	{
		Range		range;

		if (!too_much_is_queued(1) && !disk_is_short() &&
			RelFileNodeEquals(prefetches[i].fork->rnode, prefetches[i].rnode) &&
			make_range(&range, prefetches[i].fork, prefetches[i].start, prefetches[i].nblocks) &&
			!send_range(&range, deadline))
			return false;
	}
	return true;
}

/* Installs what has come, without waiting. */
static bool
receive_what_is_here(TimestampTz deadline)
{
	while (queue_count > 0 && stream_has_answer())
	{
		if (!receive_range(NULL, 0, deadline))
			return false;
	}
	return true;
}

static bool
make_place_for_prefetch(TimestampTz deadline)
{
	if (too_much_is_queued(nprefetches) && !receive_what_is_here(deadline))
		return false;
	return send_prefetches(deadline) && flush_requests(deadline);
}

/* Adds the block to the last range that was put aside, if it is the next one. */
static bool
extend_prefetch(const MapFork *fork, BlockNumber blkno)
{
	Range	   *last;

	if (nprefetches == 0)
		return false;
	last = &prefetches[nprefetches - 1];
	if (last->fork != fork || blkno != last->start + last->nblocks ||
		blkno % MAP_CHUNK_BLOCKS == 0 || last->nblocks >= disk_max_range())
		return false;
	last->nblocks++;
	return true;
}

static bool
is_put_aside(const MapFork *fork, BlockNumber blkno)
{
	for (int i = 0; i < nprefetches; i++)
	{
		if (has_block(&prefetches[i], fork, blkno))
			return true;
	}
	return false;
}

/*
 * If nothing is on its way this is sent at once, as a read would ask; else
 * some are put aside and sent together.
 */
void
hydrate_prefetch(MapFork *fork, BlockNumber blkno)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(),
													   neon_fetch_timeout);

	check_queue();
	if (disk_is_short() || is_queued(fork, blkno) || map_block_asked_by_other(fork, blkno) ||
		is_put_aside(fork, blkno) || extend_prefetch(fork, blkno) ||
		!stream_open_if_easy(deadline))
		return;
	if (queue_count == 0)
	{
		if (send_prefetches(deadline) && ask_for_block(fork, blkno, deadline))
			(void) flush_requests(deadline);
		return;
	}
	if (nprefetches == PREFETCH_BATCH && !make_place_for_prefetch(deadline))
		return;
	prefetches[nprefetches].fork = fork;
	prefetches[nprefetches].rnode = fork->rnode;
	prefetches[nprefetches].start = blkno;
	prefetches[nprefetches].nblocks = 1;
	nprefetches++;
}

/* ----------
 * Fetching
 * ----------
 */

/*
 * Has the block asked for, and what is worth to be asked for with it.  What was
 * put aside can wait as long as more than twice as much is on its way.
 */
static bool
ask(MapFork *fork, BlockNumber blkno, TimestampTz deadline)
{
	if (is_put_aside(fork, blkno) && !send_prefetches(deadline))
		return false;
	check_queue();
	if (!is_queued(fork, blkno) && !ask_for_block(fork, blkno, deadline))
		return false;
	if (2 * nprefetches >= queue_count && !send_prefetches(deadline))
		return false;
	read_ahead(fork, blkno, deadline);
	return flush_requests(deadline);
}

/* One attempt; false, with the problem noted, if the block was not got. */
static bool
try_block(MapFork *fork, BlockNumber blkno, TimestampTz deadline)
{
	check_queue();
	if (!is_queued(fork, blkno) && map_block_asked_by_other(fork, blkno) &&
		!wait_for_other(fork, blkno, deadline))
		return false;
	if (!map_absent(fork, map_chunk(fork, blkno), blkno))
		return true;
	if (!ask(fork, blkno, deadline))
		return false;
	check_queue();
	while (is_queued(fork, blkno))
	{
		if (!receive_range(fork, blkno, deadline))
			return false;
	}
	return !map_absent(fork, map_chunk(fork, blkno), blkno);
}

static void
report_timeout(const MapFork *fork, BlockNumber blkno)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not fetch block %u of relation %s from pageserver %s",
					blkno, relpathperm(fork->rnode, fork->forknum), pageserver_address()),
			 errdetail("Gave up after %d ms: %s", neon_fetch_timeout, problem),
			 errhint("Check that the pageserver runs and can be reached. How long to try is set by \"neon.fetch_timeout\".")));
}

/* Returns how often it was tried. */
static int
fetch_block(MapFork *fork, BlockNumber blkno)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(),
													   neon_fetch_timeout);
	const MapChunk *chunk = map_chunk(fork, blkno);
	long		backoff = BACKOFF_FIRST_MS;
	int			tries = 0;

	problem[0] = '\0';
	while (map_absent(fork, chunk, blkno))
	{
		long		left;

		tries++;
		if (try_block(fork, blkno, deadline))
			continue;
		local_count(LOCAL_RETRIES, 1);
		left = TimestampDifferenceMilliseconds(neon_clock(), deadline);
		if (left <= 0)
			report_timeout(fork, blkno);
		/* when to connect again is decided for all processes together */
		if (!stream_is_open())
			continue;
		stream_sleep(Min(backoff, left));
		backoff = Min(backoff * 2, BACKOFF_MAX_MS);
	}
	return tries;
}

static void
end_wait(TimestampTz start, bool ok)
{
	local_wait_end();
	local_count(LOCAL_WAIT_US, neon_clock() - start);
	if (!ok)
	{
		local_count(LOCAL_FAILURES, 1);
		stream_give_up();
	}
}

bool
hydrate_block(MapFork *fork, BlockNumber blkno)
{
	TimestampTz start;
	volatile int tries = -1;
	bool		on_its_way;

	start = neon_clock();
	check_queue();
	on_its_way = is_queued(fork, blkno);
	local_wait_begin(fork->rnode, fork->forknum, blkno);
	PG_TRY();
	{
		tries = fetch_block(fork, blkno);
	}
	PG_FINALLY();
	{
		end_wait(start, tries >= 0);
	}
	PG_END_TRY();

	fetchlog_block(fork, blkno, neon_clock() - start, tries, asked_since, problem);
	return on_its_way;
}

void
hydrate_forward(MapFork *fork, BlockNumber blkno)
{
	check_queue();
	if (!is_queued(fork, blkno))
	{
		Scan	   *scan = scan_of(fork);

		scan->fork = fork;
		scan->next = blkno;
		scan->window = WINDOW_MAX;
	}
	disk_make_room();
	(void) hydrate_block(fork, blkno);
}

bool
hydrate_run(MapFork *fork, BlockNumber start, uint32 nblocks)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(),
													   neon_fetch_timeout);
	Range		range;

	check_queue();
	if (is_queued(fork, start) || !make_range(&range, fork, start, nblocks))
		return true;
	while (queue_count >= QUEUE_RANGES)
	{
		if (!receive_range(NULL, 0, deadline))
			return false;
	}
	if (!send_range(&range, deadline) || !flush_requests(deadline))
		return false;
	/* it is installed when place is needed: nobody is to wait for that */
	map_forget_asked(map_chunk(fork, range.start));
	return true;
}

bool
hydrate_finish(void)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(),
													   neon_fetch_timeout);

	check_queue();
	while (queue_count > 0)
	{
		if (!receive_range(NULL, 0, deadline))
			return false;
	}
	return true;
}

uint64
hydrate_installed(void)
{
	return installed_blocks;
}
