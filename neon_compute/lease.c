/*-------------------------------------------------------------------------
 *
 * lease.c
 *	  The read lease: how long this compute may answer without asking.
 *
 * A compute that another one took over from cannot commit, but it could go on
 * to answer reads from what it has.  So it answers only while a majority of
 * its safekeepers has confirmed it lately, and a launcher waits for what they
 * have granted.  The coordinator renews the lease; each session looks at its
 * own clock, so a coordinator that hangs fences this compute as well.
 *
 * Checked where a client's statement begins to run.  Sessions that wait for
 * the quorum go on waiting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "lease.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "port/atomics.h"
#include "quorum.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "tcop/utility.h"

/* In shared memory, in neon_boottime_ms(); 0: not granted yet. */
static pg_atomic_uint64 *lease_until = NULL;

static ExecutorRun_hook_type prev_executor_run = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

void
lease_request_shmem(void)
{
	if (quorum_mode())
		RequestAddinShmemSpace(MAXALIGN(sizeof(pg_atomic_uint64)));
}

void
lease_shmem_startup(void)
{
	bool		found;

	if (!quorum_mode())
		return;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	lease_until = ShmemInitStruct("neon lease", sizeof(pg_atomic_uint64), &found);
	if (!found)
		pg_atomic_init_u64(lease_until, 0);
	LWLockRelease(AddinShmemInitLock);
}

void
lease_set_until(uint64 until_ms)
{
	if (until_ms > pg_atomic_read_u64(lease_until))
		pg_atomic_write_u64(lease_until, until_ms);
}

bool
lease_held(void)
{
	return lease_until == NULL || neon_boottime_ms() < pg_atomic_read_u64(lease_until);
}

uint64
lease_until_ms(void)
{
	return lease_until ? pg_atomic_read_u64(lease_until) : 0;
}

int
lease_left_ms(void)
{
	uint64		until = lease_until ? pg_atomic_read_u64(lease_until) : 0;
	uint64		now = neon_boottime_ms();

	return until > now ? (int) (until - now) : 0;
}

static void
report_lost(int sqlstate)
{
	ereport(FATAL,
			(errcode(sqlstate),
			 errmsg("this endpoint has lost its lease"),
			 errdetail("No majority of its safekeepers has confirmed for %d ms that no other endpoint has taken over.",
					   neon_read_lease * NEON_LEASE_USED_PERCENT / 100),
			 errhint("Connect again: to this endpoint once it reaches its safekeepers, or to the one that took over.")));
}

void
lease_check_connection(void)
{
	if (!lease_held())
		report_lost(ERRCODE_CANNOT_CONNECT_NOW);
}

/* Only sessions of clients answer anybody, and a parallel worker's leader is one. */
static void
check_statement(void)
{
	if (MyBackendType == B_BACKEND && CritSectionCount == 0 && !lease_held())
		report_lost(ERRCODE_ADMIN_SHUTDOWN);
}

static void
leased_executor_run(QueryDesc *desc, ScanDirection direction, uint64 count, bool execute_once)
{
	check_statement();
	if (prev_executor_run)
		prev_executor_run(desc, direction, count, execute_once);
	else
		standard_ExecutorRun(desc, direction, count, execute_once);
}

static void
leased_process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
					   ProcessUtilityContext context, ParamListInfo params,
					   QueryEnvironment *env, DestReceiver *dest, QueryCompletion *completion)
{
	ProcessUtility_hook_type run = prev_process_utility ? prev_process_utility : standard_ProcessUtility;

	check_statement();
	run(pstmt, query, read_only_tree, context, params, env, dest, completion);
}

/* A function called by the protocol's function call runs no statement. */
static void
leased_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
	if (access == OAT_FUNCTION_EXECUTE && class_id == ProcedureRelationId)
		check_statement();
}

void
lease_install(void)
{
	if (!quorum_mode())
		return;
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = leased_executor_run;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = leased_process_utility;
	prev_object_access = object_access_hook;
	object_access_hook = leased_object_access;
}
