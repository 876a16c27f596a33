/*-------------------------------------------------------------------------
 *
 * compactclaim.c
 *	  Who works on which of a timeline's layer files.
 *
 * The turn of a timeline is in its slot; claims are in one small table for all
 * timelines, as there are no more of them than processes that compact.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compactclaim.h"
#include "init.h"
#include "miscadmin.h"
#include "neon_key.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "timeline_shared.h"

#define MAX_CLAIMS		128

/* How often a process that waits for its turn looks whether the timeline is still there. */
#define TURN_POLL_MS	1000

typedef struct Claim
{
	int			pid;			/* 0: unused */
	const TimelineShared *slot;
	uint64		incarnation;	/* of the slot */
	bool		whole;			/* all files; else one partition */
	uint8		first_key[NEON_KEY_ENCODED_SIZE];
} Claim;

typedef struct ClaimTable
{
	slock_t		mutex;
	Claim		claims[MAX_CLAIMS];
} ClaimTable;

static ClaimTable *table = NULL;
static TimelineShared *my_turn = NULL;
static bool have_claim = false;

Size
compactclaim_shmem_size(void)
{
	return sizeof(ClaimTable);
}

void
compactclaim_shmem_init(void)
{
	bool		found;

	table = ShmemInitStruct("neon compaction claims", sizeof(ClaimTable), &found);
	if (!found)
	{
		memset(table, 0, sizeof(ClaimTable));
		SpinLockInit(&table->mutex);
	}
}

static void
let_go_at_exit(int code, Datum arg)
{
	compactclaim_end_turn();
	compactclaim_release();
}

static void
register_exit(void)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(let_go_at_exit, 0);
	registered = true;
}

/* ---- the turn ---- */

static bool
try_turn(TimelineShared *s)
{
	bool		got;

	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	got = s->compact_turn_pid == 0;
	if (got)
	{
		s->compact_turn_pid = MyProcPid;
		my_turn = s;
	}
	LWLockRelease(&s->lock);
	return got;
}

void
compactclaim_begin_turn(Timeline *tl)
{
	TimelineShared *s = tl->shared;

	register_exit();
	if (my_turn != NULL)
		elog(ERROR, "the turn of a timeline was not given back");
	ConditionVariablePrepareToSleep(&s->compact_turn_cv);
	while (timeline_check(tl), !try_turn(s))
		(void) ConditionVariableTimedSleep(&s->compact_turn_cv, TURN_POLL_MS, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}

void
compactclaim_end_turn(void)
{
	TimelineShared *s = my_turn;

	if (s == NULL)
		return;
	LWLockAcquire(&s->lock, LW_EXCLUSIVE);
	/* the slot may be another timeline's by now */
	if (s->compact_turn_pid == MyProcPid)
		s->compact_turn_pid = 0;
	my_turn = NULL;
	LWLockRelease(&s->lock);
	ConditionVariableBroadcast(&s->compact_turn_cv);
}

/* ---- claims ---- */

/* Does a claim of another process meet this one? */
static bool
meets(const Claim *claim, const Timeline *tl, const uint8 *first_key)
{
	if (claim->pid == 0 || claim->pid == MyProcPid || claim->slot != tl->shared ||
		claim->incarnation != tl->incarnation)
		return false;
	return claim->whole || first_key == NULL ||
		memcmp(claim->first_key, first_key, NEON_KEY_ENCODED_SIZE) == 0;
}

bool
compactclaim_is_taken(Timeline *tl, const uint8 *first_key)
{
	bool		taken = false;

	SpinLockAcquire(&table->mutex);
	for (int i = 0; i < MAX_CLAIMS && !taken; i++)
		taken = meets(&table->claims[i], tl, first_key);
	SpinLockRelease(&table->mutex);
	return taken;
}

bool
compactclaim_take(Timeline *tl, const uint8 *first_key)
{
	Claim	   *place = NULL;
	bool		met = false;

	register_exit();
	SpinLockAcquire(&table->mutex);
	for (int i = 0; i < MAX_CLAIMS && !met; i++)
	{
		met = meets(&table->claims[i], tl, first_key);
		if (place == NULL && table->claims[i].pid == 0)
			place = &table->claims[i];
	}
	if (!met && place != NULL)
	{
		place->pid = MyProcPid;
		place->slot = tl->shared;
		place->incarnation = tl->incarnation;
		place->whole = first_key == NULL;
		if (first_key)
			memcpy(place->first_key, first_key, NEON_KEY_ENCODED_SIZE);
		have_claim = true;
	}
	SpinLockRelease(&table->mutex);
	return !met && place != NULL;
}

void
compactclaim_release(void)
{
	if (!have_claim)
		return;
	SpinLockAcquire(&table->mutex);
	for (int i = 0; i < MAX_CLAIMS; i++)
	{
		if (table->claims[i].pid == MyProcPid)
			table->claims[i].pid = 0;
	}
	have_claim = false;
	SpinLockRelease(&table->mutex);
}

int
compactclaim_count(void)
{
	int			n = 0;

	SpinLockAcquire(&table->mutex);
	for (int i = 0; i < MAX_CLAIMS; i++)
		n += table->claims[i].pid != 0;
	SpinLockRelease(&table->mutex);
	return n;
}
