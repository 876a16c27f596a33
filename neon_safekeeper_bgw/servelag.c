/*-------------------------------------------------------------------------
 *
 * servelag.c
 *	  How long a client of the replication service needs to write, flush and
 *	  apply what is sent to it: the lag columns of pg_stat_replication.
 *
 * The end of each message is noted with the time when it was sent.  A report
 * that passes it gives the time that it took.  Three readers (written, flushed,
 * applied) follow one ring; when it is full the newest note moves on instead,
 * so that the oldest, which is being waited for, stays.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "serve_private.h"
#include "utils/memutils.h"

#define NOTES	1024			/* a power of two */

typedef enum LagKind
{
	LAG_WRITE,
	LAG_FLUSH,
	LAG_APPLY,
	LAG_KINDS
} LagKind;

typedef struct Note
{
	XLogRecPtr	lsn;
	int64		at_us;
} Note;

static Note *notes = NULL;
static uint64 next_note;		/* counts on; the ring's place is the remainder */
static uint64 read_note[LAG_KINDS];
static bool idle_before;		/* the last report found all applied */

static int64
monotonic_us(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
		elog(ERROR, "could not read the clock: %m");
	return (int64) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void
servelag_begin(void)
{
	if (notes == NULL)
		notes = MemoryContextAlloc(TopMemoryContext, NOTES * sizeof(Note));
	next_note = 0;
	memset(read_note, 0, sizeof(read_note));
	idle_before = false;
}

static bool
ring_full(void)
{
	for (int kind = 0; kind < LAG_KINDS; kind++)
	{
		if (next_note - read_note[kind] >= NOTES)
			return true;
	}
	return false;
}

void
servelag_sent(XLogRecPtr lsn)
{
	Note	   *note = &notes[(ring_full() ? next_note - 1 : next_note++) % NOTES];

	note->lsn = lsn;
	note->at_us = monotonic_us();
}

/* Microseconds since the last note that lsn has reached was sent; -1: none was new. */
static TimeOffset
take_lag(LagKind kind, XLogRecPtr lsn, int64 now_us)
{
	TimeOffset	lag = -1;

	while (read_note[kind] < next_note && notes[read_note[kind] % NOTES].lsn <= lsn)
		lag = now_us - notes[read_note[kind]++ % NOTES].at_us;
	return lag;
}

static void
show_lag(TimeOffset *shown, TimeOffset lag, bool idle)
{
	if (lag >= 0 || idle)
		*shown = lag;
}

/* Two reports in a row that find nothing open: the old figures mean nothing any more. */
void
servelag_reply(XLogRecPtr written, XLogRecPtr flushed, XLogRecPtr applied)
{
	int64		now = monotonic_us();
	TimeOffset	write_lag = take_lag(LAG_WRITE, written, now);
	TimeOffset	flush_lag = take_lag(LAG_FLUSH, flushed, now);
	TimeOffset	apply_lag = take_lag(LAG_APPLY, applied, now);
	bool		all_applied = read_note[LAG_APPLY] == next_note;
	bool		idle = all_applied && idle_before;

	idle_before = all_applied;
	SpinLockAcquire(&MyWalSnd->mutex);
	show_lag(&MyWalSnd->writeLag, write_lag, idle);
	show_lag(&MyWalSnd->flushLag, flush_lag, idle);
	show_lag(&MyWalSnd->applyLag, apply_lag, idle);
	SpinLockRelease(&MyWalSnd->mutex);
}
