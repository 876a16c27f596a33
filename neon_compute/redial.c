/*-------------------------------------------------------------------------
 *
 * redial.c
 *	  When the processes of this server may try to connect to the pageserver.
 *
 * Each connection that a starting pageserver refuses costs it a process and a
 * line in its log, and many sessions may need pages from it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "neon_clock.h"
#include "port/atomics.h"
#include "redial.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#define DELAY_FIRST_MS		10

/* Of a pageserver that is there and refuses. */
#define DELAY_MAX_MS		500

/* If nothing is at its address a try costs nobody anything. */
#define DELAY_MAX_NOBODY_MS	80

#define TURN_MS				1000

/* A connection that breaks so soon after one was made is as good as none. */
#define FLAP_US				1000000

typedef struct RedialShared
{
	pg_atomic_uint32 down;		/* read without the lock, too */
	slock_t		mutex;			/* over all that follows */
	TimestampTz next_try;		/* neon_clock() */
	int			delay_ms;		/* before that try */
	bool		reached;		/* by the last one */
	uint64		turn;			/* number of the last turn that was given */
	TimestampTz last_success;	/* neon_clock(), or 0 */
	char		problem[256];
} RedialShared;

static RedialShared *shared = NULL;

/* The turn that this process has; 0: none. */
static uint64 my_turn = 0;

void
redial_request_shmem(void)
{
	RequestAddinShmemSpace(sizeof(RedialShared));
}

void
redial_shmem_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon redial", sizeof(RedialShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(*shared));
		pg_atomic_init_u32(&shared->down, 0);
		SpinLockInit(&shared->mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

bool
redial_is_needed(void)
{
	return pg_atomic_read_u32(&shared->down) != 0;
}

long
redial_ask(void)
{
	TimestampTz now = neon_clock();
	long		wait = 0;

	my_turn = 0;
	if (pg_atomic_read_u32(&shared->down) == 0)
		return 0;
	SpinLockAcquire(&shared->mutex);
	if (shared->next_try > now)
		wait = (shared->next_try - now) / 1000 + 1;
	else
	{
		shared->next_try = TimestampTzPlusMilliseconds(now, TURN_MS);
		my_turn = ++shared->turn;
	}
	SpinLockRelease(&shared->mutex);
	return wait;
}

void
redial_succeeded(void)
{
	TimestampTz now = neon_clock();

	my_turn = 0;
	SpinLockAcquire(&shared->mutex);
	shared->last_success = now;
	pg_atomic_write_u32(&shared->down, 0);
	SpinLockRelease(&shared->mutex);
}

/* Up to a quarter more or less than said, so that computes do not keep step. */
static TimestampTz
next_try_after(int delay_ms)
{
	double		factor = 0.75 + 0.5 * pg_prng_double(&pg_global_prng_state);

	return neon_clock() + (int64) (delay_ms * 1000 * factor);
}

/* The lock is held. */
static void
set_delay(int delay_ms, bool reached, const char *problem)
{
	shared->delay_ms = delay_ms;
	shared->next_try = next_try_after(delay_ms);
	shared->reached = reached;
	strlcpy(shared->problem, problem, sizeof(shared->problem));
}

/* After another failure; the lock is held. */
static int
longer_delay(int longest)
{
	return shared->delay_ms == 0 ? DELAY_FIRST_MS : Min(shared->delay_ms * 2, longest);
}

/* Failures of those who tried at the same moment, and of turns that were over, count once. */
void
redial_failed(const char *problem, bool reached)
{
	int			longest = reached ? DELAY_MAX_MS : DELAY_MAX_NOBODY_MS;

	SpinLockAcquire(&shared->mutex);
	if (pg_atomic_read_u32(&shared->down) == 0)
	{
		set_delay(DELAY_FIRST_MS, reached, problem);
		pg_atomic_write_u32(&shared->down, 1);
	}
	else if (my_turn != 0 && my_turn == shared->turn)
	{
		set_delay(reached == shared->reached ? longer_delay(longest) : DELAY_FIRST_MS, reached, problem);
	}
	SpinLockRelease(&shared->mutex);
	my_turn = 0;
}

void
redial_give_up(void)
{
	if (my_turn == 0)
		return;
	SpinLockAcquire(&shared->mutex);
	if (my_turn == shared->turn)
		shared->next_try = neon_clock();
	SpinLockRelease(&shared->mutex);
	my_turn = 0;
}

/* One process tries at once, and the others wait for what comes of it. */
void
redial_lost(const char *problem)
{
	TimestampTz now = neon_clock();

	SpinLockAcquire(&shared->mutex);
	if (pg_atomic_read_u32(&shared->down) == 0)
	{
		bool		flaps = now - shared->last_success < FLAP_US;

		set_delay(flaps ? longer_delay(DELAY_MAX_MS) : 0, true, problem);
		pg_atomic_write_u32(&shared->down, 1);
	}
	SpinLockRelease(&shared->mutex);
}

void
redial_now(void)
{
	if (shared == NULL || pg_atomic_read_u32(&shared->down) == 0)
		return;
	SpinLockAcquire(&shared->mutex);
	shared->delay_ms = 0;
	shared->next_try = Min(shared->next_try, neon_clock());
	SpinLockRelease(&shared->mutex);
}

void
redial_problem(char *buf, size_t size)
{
	SpinLockAcquire(&shared->mutex);
	if (shared->problem[0] != '\0')
		strlcpy(buf, shared->problem, size);
	SpinLockRelease(&shared->mutex);
}
