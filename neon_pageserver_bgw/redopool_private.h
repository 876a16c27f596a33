/*-------------------------------------------------------------------------
 *
 * redopool_private.h
 *	  Between redopool.c (leases), redobatch.c (batches) and
 *	  redosupervisor.c (children).
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_REDOPOOL_PRIVATE_H
#define NEON_PS_REDOPOOL_PRIVATE_H

#include "datatype/timestamp.h"
#include "redopool.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

/* Below the instance's data directory, which is every process's cwd. */
#define REDO_DIR			"neon/redo"
#define REDO_SOCKET_NAME	"socket"

#define REDO_MAX_WORKERS	64

/*
 * EMPTY -> STARTING -> IDLE by the supervisor, IDLE -> LEASED by a backend,
 * which gives it back as IDLE or as RETIRED; RETIRED -> EMPTY by the
 * supervisor, when the child is gone.  A child that dies unasked takes its
 * slot from STARTING, IDLE or RETIRED to EMPTY; a lease stays until its holder
 * ends it.
 */
typedef enum RedoSlotState
{
	REDO_SLOT_EMPTY = 0,
	REDO_SLOT_STARTING,
	REDO_SLOT_IDLE,
	REDO_SLOT_LEASED,
	REDO_SLOT_RETIRED,
} RedoSlotState;

typedef struct RedoSlot
{
	RedoSlotState state;
	pid_t		child;			/* 0 if there is none */
	uint64		generation;		/* of the child; for messages and checks */
	bool		used;			/* it has served tenant, and only tenant */
	NeonId		tenant;
	int			holder;			/* pgprocno of the leaseholder, else -1 */
	pid_t		client;			/* the last leaseholder: the child may still have
								 * its connection */
	uint64		reserved;		/* ticket of the waiter it is for, else 0 */
	TimestampTz changed;		/* of state, in neon_clock() */
} RedoSlot;

/* A backend that waits for a child; indexed by pgprocno. */
typedef struct RedoWaiter
{
	uint64		ticket;			/* 0: does not wait */
	bool		has_reservation;
	TimestampTz since;
} RedoWaiter;

/*
 * lock protects everything but the condition variable.  It is held for a few
 * memory accesses only, and no other lock is taken under it.
 */
typedef struct RedoPool
{
	LWLock		lock;
	ConditionVariable changed;	/* broadcast when a slot becomes IDLE */
	PGPROC	   *supervisor;		/* NULL while there is none */
	int			nslots;
	int			nwaiting;
	uint64		last_ticket;
	uint64		last_generation;
	char		failure[256];	/* why the last start failed, "" if it did not */
	RedoPoolStats stats;
	RedoSlot	slots[REDO_MAX_WORKERS];
	RedoWaiter	waiters[FLEXIBLE_ARRAY_MEMBER];
} RedoPool;

extern RedoPool *redo_pool;

/* Settings. */
extern int	redo_workers;
extern int	redo_timeout;		/* ms */

/* Wakes the supervisor; the pool's lock is held. */
extern void redopool_wake_supervisor(void);

typedef struct RedoLease
{
	int			slot;
	uint64		generation;
	bool		again;			/* nobody else had it since we did */
} RedoLease;

/*
 * Leases a child for a batch of the tenant.  Waits at most redo_timeout, then
 * ereport(ERROR); interruptible.
 */
extern void redopool_lease(const NeonId *tenant, RedoLease *lease);

/* Ends this process's lease, if it has one. */
extern void redopool_release(bool broken);

extern void redopool_socket_path(int slot, char *path);	/* MAXPGPATH bytes */

/*
 * Sends requests[todo[0 .. ntodo - 1]] to the leased child and takes the
 * answers.  On return done[i] is set for every request i that has its result.
 * False if the child cannot be used again; then the first request without
 * result was in work when the child died, if *culprit is not negative its
 * index.
 */
extern bool redobatch_run(const RedoLease *lease, uint32 wal_segment_size, RedoRequest *requests,
						  const int *todo, int ntodo, bool *done, int *culprit);

/* Closes what an error left behind, and the connection. */
extern void redobatch_cleanup(void);

#endif							/* NEON_PS_REDOPOOL_PRIVATE_H */
