/*-------------------------------------------------------------------------
 *
 * fetchlog.c
 *	  Logs pages that were waited for long, and statements that waited long for
 *	  pages, with what they fetched.
 *
 * Counted is what this process does between the begin and the end of the
 * execution of a statement that no other one runs.  Workers of a parallel
 * query are processes of their own and log their own lines.  What the
 * planner reads comes before that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "executor/executor.h"
#include "fetchlog.h"
#include "localstat.h"
#include "tcop/utility.h"
#include "utils/guc.h"

typedef struct Fetched
{
	uint64		misses;
	uint64		pages;
	uint64		retries;
	uint64		wait_us;
} Fetched;

/* Milliseconds; -1 is off. */
static int	log_statement_fetches = -1;
static int	log_slow_fetch = -1;

/* A statement is being executed: those that it runs are part of it. */
static bool executing = false;

static ExecutorRun_hook_type prev_executor_run = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

void
fetchlog_define_settings(void)
{
	DefineCustomIntVariable("neon.log_statement_fetches",
							"Time from which on the waits of a statement for pages from the pageserver are logged.",
							"-1 turns this off, 0 logs each statement that waited.",
							&log_statement_fetches, -1, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("neon.log_slow_fetch",
							"Time from which on the wait for a page from the pageserver is logged.",
							"-1 turns this off, 0 logs each.",
							&log_slow_fetch, -1, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
}

/* The LSN that pages are asked for: the newest of a primary's term, else that of the boot. */
static const char *
describe_lsn(XLogRecPtr since, char *buf, size_t size)
{
	if (neon_boot.kind == NEON_PRIMARY)
		snprintf(buf, size, "newest, at least %X/%X", LSN_FORMAT_ARGS(since));
	else
		snprintf(buf, size, "%X/%X", LSN_FORMAT_ARGS(neon_boot.boot_lsn));
	return buf;
}

void
fetchlog_block(const MapFork *fork, BlockNumber blkno, uint64 us, int tries, XLogRecPtr since,
			   const char *problem)
{
	char		lsn[64];

	if (log_slow_fetch < 0 || us < (uint64) log_slow_fetch * 1000)
		return;
	ereport(LOG,
			(errmsg("slow fetch of block %u of relation %s: %.3f ms",
					blkno, relpathperm(fork->rnode, fork->forknum), us / 1000.0),
			 errdetail("Asked for LSN: %s; tries: %d%s%s", describe_lsn(since, lsn, sizeof(lsn)), tries,
					   problem[0] ? "; last problem: " : "", problem)));
}

static bool
begins_here(void)
{
	return log_statement_fetches >= 0 && !executing;
}

static void
begin_statement(Fetched *now)
{
	now->misses = local_mine(LOCAL_MISSES);
	now->pages = local_mine(LOCAL_FETCHED_PAGES);
	now->retries = local_mine(LOCAL_RETRIES);
	now->wait_us = local_mine(LOCAL_WAIT_US);
	executing = true;
}

static void
end_statement(const Fetched *begin, const char *text)
{
	uint64		us = local_mine(LOCAL_WAIT_US) - begin->wait_us;

	executing = false;
	if (us == 0 || log_statement_fetches < 0 || us < (uint64) log_statement_fetches * 1000)
		return;
	ereport(LOG,
			(errmsg("waited for pages: %.3f ms  misses: %llu  fetched: %llu  retries: %llu  statement: %s",
					us / 1000.0, (unsigned long long) (local_mine(LOCAL_MISSES) - begin->misses),
					(unsigned long long) (local_mine(LOCAL_FETCHED_PAGES) - begin->pages),
					(unsigned long long) (local_mine(LOCAL_RETRIES) - begin->retries),
					text ? text : ""),
			 errhidestmt(true)));
}

static void
run_executor(QueryDesc *desc, ScanDirection direction, uint64 count, bool execute_once)
{
	if (prev_executor_run)
		prev_executor_run(desc, direction, count, execute_once);
	else
		standard_ExecutorRun(desc, direction, count, execute_once);
}

/* Statements that end with an error are logged, too. */
static void
fetchlog_executor_run(QueryDesc *desc, ScanDirection direction, uint64 count, bool execute_once)
{
	Fetched		begin;

	if (!begins_here())
	{
		run_executor(desc, direction, count, execute_once);
		return;
	}
	begin_statement(&begin);
	PG_TRY();
	{
		run_executor(desc, direction, count, execute_once);
	}
	PG_FINALLY();
	{
		end_statement(&begin, desc->sourceText);
	}
	PG_END_TRY();
}

static void
fetchlog_process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
						 ProcessUtilityContext context, ParamListInfo params,
						 QueryEnvironment *env, DestReceiver *dest, QueryCompletion *completion)
{
	ProcessUtility_hook_type run = prev_process_utility ? prev_process_utility : standard_ProcessUtility;
	Fetched		begin;

	if (!begins_here())
	{
		run(pstmt, query, read_only_tree, context, params, env, dest, completion);
		return;
	}
	begin_statement(&begin);
	PG_TRY();
	{
		run(pstmt, query, read_only_tree, context, params, env, dest, completion);
	}
	PG_FINALLY();
	{
		end_statement(&begin, query);
	}
	PG_END_TRY();
}

void
fetchlog_install(void)
{
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = fetchlog_executor_run;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = fetchlog_process_utility;
}
