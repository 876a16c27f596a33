/*-------------------------------------------------------------------------
 *
 * openpressure.c
 *	  Sharing the memory of the open indexes among the timelines.
 *
 * There is one pool for all.  While most of it is free nobody is bothered.  From
 * PRESSURE on the index with the largest bytes x age is flushed, as long as it
 * is above the fair share, half of the pool divided by the indexes; so a busy
 * timeline is flushed often, and those that trickle are left alone.  From
 * HIGH on everybody above the share is asked.  When the pool is empty writers
 * wait (storeput.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "neon_clock.h"
#include "openpressure.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "timeline_shared.h"
#include "utils/timestamp.h"

#define PRESSURE_PERCENT	70
#define HIGH_PERCENT		90

static int
used_percent(void)
{
	uint64		total = openpool_total_bytes();

	return (int) ((total - openpool_free_bytes()) * 100 / total);
}

/* Read without locks: it is a matter of estimates. */
static bool
has_index(const TimelineShared *s)
{
	return pg_atomic_read_u32(&unconstify(TimelineShared *, s)->state) == TIMELINE_ACTIVE &&
		s->open.nblocks > 0;
}

static uint64
fair_share(void)
{
	int			n = 0;

	for (int i = 0; i < timeline_nslots(); i++)
	{
		if (has_index(timeline_slot(i)))
			n++;
	}
	return openpool_total_bytes() / (2 * Max(n, 1));
}

bool
openpressure_is_over(const TimelineShared *shared)
{
	return used_percent() >= PRESSURE_PERCENT && openlayer_bytes(&shared->open) > fair_share();
}

/* Who owns it does it at once; what nobody owns the supervisor flushes. */
static void
ask(TimelineShared *s)
{
	int			owner = s->owner_pid;

	pg_atomic_write_u32(&s->flush_wanted, 1);
	if (owner != 0)
		SetLatch(&ProcGlobal->allProcs[s->owner_procno].procLatch);
}

/* How much is won by a flush: 0 if nothing, as it is small, or already on its way. */
static double
weight(const TimelineShared *s, uint64 share, TimestampTz now)
{
	if (!has_index(s) || s->has_frozen || openlayer_bytes(&s->open) <= share || s->opened_at == 0)
		return 0;
	return (double) openlayer_bytes(&s->open) * (1 + Max(now - s->opened_at, 0));
}

bool
openpressure_relieve(void)
{
	int			used = used_percent();
	TimestampTz now = neon_clock();
	TimelineShared *heaviest = NULL;
	double		most = 0;
	uint64		share;

	if (used < PRESSURE_PERCENT)
		return false;
	share = fair_share();
	for (int i = 0; i < timeline_nslots(); i++)
	{
		TimelineShared *s = timeline_slot(i);
		double		w = weight(s, share, now);

		if (w > 0 && used >= HIGH_PERCENT)
			ask(s);
		if (w > most)
		{
			most = w;
			heaviest = s;
		}
	}
	if (heaviest != NULL)
		ask(heaviest);
	return true;
}
