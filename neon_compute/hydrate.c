/*-------------------------------------------------------------------------
 *
 * hydrate.c
 *	  Fetching absent blocks into the local files.
 *
 * A process that needs an absent block asks for a range of blocks that begins
 * with it, and if it reads forward, for the next range too, so that one is on
 * its way while the other is being read.  What is asked for and what is
 * answered goes through fetchqueue.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "diskhold.h"
#include "fetchlog.h"
#include "fetchqueue.h"
#include "hydrate.h"
#include "localstat.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "pageserver.h"
#include "stream.h"

/* Requests that may be on their way when one more is prefetched: some are left for reads. */
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

/* Where this process's last miss in a fork leads us to expect the next. */
typedef struct Scan
{
	MapFork    *fork;
	BlockNumber next;
	uint32		window;
} Scan;

static Scan scans[SCAN_SLOTS];

/* Prefetches that are to be sent with the next request, or when they are enough. */
static FetchRange prefetches[PREFETCH_BATCH];
static int	nprefetches = 0;

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
make_range(FetchRange *range, MapFork *fork, BlockNumber start, uint32 nblocks)
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
	if (queue_has_failed(fork, blkno))
		return 1;
	if (goes_forward(scan, fork, blkno, scan->window / 2))
		return larger_window(scan);
	if (left_neighbours_present(fork, blkno))
		return WINDOW_NEIGHBOURS;
	return 1;
}

/* Waits, if need be, until one more request may be on its way. */
static bool
make_place(const MapFork *fork, BlockNumber blkno, TimestampTz deadline)
{
	while (queue_length() == QUEUE_SIZE)
	{
		if (!queue_receive(fork, blkno, deadline))
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
	FetchRange	range;

	if (!make_range(&range, fork, blkno, window))
		return true;
	if (!make_place(fork, blkno, deadline) || !queue_send(&range, deadline))
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
		const FetchRange *mine;
		uint32		first_asked;
		uint32		end_asked;

		if (map_asked_by_other(chunk, &first_asked, &end_asked))
			start = (start / MAP_CHUNK_BLOCKS + 1) * MAP_CHUNK_BLOCKS;
		else if ((mine = queue_find(fork, start)) != NULL)
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
	FetchRange	range;

	if (scan->fork != fork || scan->window < WINDOW_READ_AHEAD ||
		queue_length() >= QUEUE_PREFETCH || queue_blocks() >= READ_AHEAD_RANGES * disk_max_range())
		return;
	start = next_absent(fork, Max(scan->next, blkno + 1),
						Min(map_watermark(fork), blkno + READ_AHEAD_REACH));
	if (start == InvalidBlockNumber ||
		!make_range(&range, fork, start, larger_window(scan)))
		return;
	/* if it fails, so does the read that waits for the range before */
	if (!queue_send(&range, deadline))
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
	if (!queue_flush(deadline))
		return false;
	while (map_absent(fork, map_chunk(fork, blkno), blkno) && map_block_asked_by_other(fork, blkno) &&
		   neon_clock() < end)
	{
		CHECK_FOR_INTERRUPTS();
		queue_check();
		if (queue_length() == 0 || !stream_has_answer())
		{
			local_wait_for(LOCAL_WAIT_FETCH);
			pg_usleep(OTHER_POLL_US);
			local_wait_for(LOCAL_WAIT_NONE);
		}
		else if (!queue_receive(fork, blkno, deadline))
			return false;
	}
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
	return queue_length() + more > QUEUE_PREFETCH ||
		queue_blocks() >= QUEUE_RANGES * disk_max_range();
}

/* Sends what was put aside; what came meanwhile is left out. */
static bool
send_prefetches(TimestampTz deadline)
{
	int			n = nprefetches;

	nprefetches = 0;
	for (int i = 0; i < n; i++)
	{
		FetchRange	range;

		if (!too_much_is_queued(1) && !disk_is_short() &&
			RelFileNodeEquals(prefetches[i].fork->rnode, prefetches[i].rnode) &&
			make_range(&range, prefetches[i].fork, prefetches[i].start, prefetches[i].nblocks) &&
			!queue_send(&range, deadline))
			return false;
	}
	return true;
}

/* Installs what has come, without waiting. */
static bool
receive_what_is_here(TimestampTz deadline)
{
	while (queue_length() > 0 && stream_has_answer())
	{
		if (!queue_receive(NULL, 0, deadline))
			return false;
	}
	return true;
}

static bool
make_place_for_prefetch(TimestampTz deadline)
{
	if (too_much_is_queued(nprefetches) && !receive_what_is_here(deadline))
		return false;
	return send_prefetches(deadline) && queue_flush(deadline);
}

/* Adds the block to the last range that was put aside, if it is the next one. */
static bool
extend_prefetch(const MapFork *fork, BlockNumber blkno)
{
	FetchRange *last;

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
		if (range_has(&prefetches[i], fork, blkno))
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

	queue_check();
	if (disk_is_short() || queue_has(fork, blkno) || map_block_asked_by_other(fork, blkno) ||
		is_put_aside(fork, blkno) || extend_prefetch(fork, blkno) ||
		!stream_open_if_easy(deadline))
		return;
	if (queue_length() == 0)
	{
		if (send_prefetches(deadline) && ask_for_block(fork, blkno, deadline))
			(void) queue_flush(deadline);
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
	queue_check();
	if (!queue_has(fork, blkno) && !ask_for_block(fork, blkno, deadline))
		return false;
	if (2 * nprefetches >= queue_length() && !send_prefetches(deadline))
		return false;
	read_ahead(fork, blkno, deadline);
	return queue_flush(deadline);
}

/* One attempt; false, with the problem noted, if the block was not got. */
static bool
try_block(MapFork *fork, BlockNumber blkno, TimestampTz deadline)
{
	queue_check();
	if (!queue_has(fork, blkno) && map_block_asked_by_other(fork, blkno) &&
		!wait_for_other(fork, blkno, deadline))
		return false;
	if (!map_absent(fork, map_chunk(fork, blkno), blkno))
		return true;
	if (!ask(fork, blkno, deadline))
		return false;
	queue_check();
	while (queue_has(fork, blkno))
	{
		if (!queue_receive(fork, blkno, deadline))
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
			 errdetail("Gave up after %d ms: %s", neon_fetch_timeout, queue_problem()),
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

	queue_forget_problem();
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
	queue_check();
	on_its_way = queue_has(fork, blkno);
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

	fetchlog_block(fork, blkno, neon_clock() - start, tries, queue_asked_since(),
				   queue_problem());
	return on_its_way;
}

void
hydrate_forward(MapFork *fork, BlockNumber blkno)
{
	queue_check();
	if (!queue_has(fork, blkno))
	{
		Scan	   *scan = scan_of(fork);

		scan->fork = fork;
		scan->next = blkno;
		scan->window = WINDOW_MAX;
	}
	disk_make_room(NULL);
	(void) hydrate_block(fork, blkno);
}

bool
hydrate_run(MapFork *fork, BlockNumber start, uint32 nblocks)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(),
													   neon_fetch_timeout);
	FetchRange	range;

	queue_check();
	if (queue_has(fork, start) || !make_range(&range, fork, start, nblocks))
		return true;
	while (queue_length() >= QUEUE_RANGES)
	{
		if (!queue_receive(NULL, 0, deadline))
			return false;
	}
	if (!queue_send(&range, deadline) || !queue_flush(deadline))
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

	queue_check();
	while (queue_length() > 0)
	{
		if (!queue_receive(NULL, 0, deadline))
			return false;
	}
	return true;
}
