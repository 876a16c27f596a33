/*-------------------------------------------------------------------------
 *
 * discard.c
 *	  Caches thrown away all the time, and floods of invalidations.
 *
 * The setting debug_discard_caches does this, in servers that are built for
 * it.  Here it is done by hooks: where a statement is analyzed, planned,
 * started and run, and before each utility command, whatever runs these.  That is
 * all of the relation, catalog and plan caches, and all open files.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "optimizer/planner.h"
#include "parser/analyze.h"
#include "storage/sinval.h"
#include "storage/smgr.h"
#include "tcop/utility.h"
#include "test_utils.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#define FLOOD_BATCH		64

PG_FUNCTION_INFO_V1(flood_invalidations);

static bool discard_caches = false;

static post_parse_analyze_hook_type prev_analyze = NULL;
static planner_hook_type prev_planner = NULL;
static ExecutorStart_hook_type prev_start = NULL;
static ExecutorRun_hook_type prev_run = NULL;
static ProcessUtility_hook_type prev_utility = NULL;

/* As when the queue of invalidations has overrun this process. */
static void
discard(void)
{
	if (!discard_caches || !IsTransactionState())
		return;
	InvalidateSystemCaches();
	smgrcloseall();
}

static void
discard_analyze(ParseState *pstate, Query *query, JumbleState *jstate)
{
	discard();
	if (prev_analyze)
		prev_analyze(pstate, query, jstate);
}

static PlannedStmt *
discard_planner(Query *parse, const char *text, int options, ParamListInfo params)
{
	discard();
	return prev_planner ? prev_planner(parse, text, options, params) :
		standard_planner(parse, text, options, params);
}

static void
discard_start(QueryDesc *desc, int eflags)
{
	discard();
	if (prev_start)
		prev_start(desc, eflags);
	else
		standard_ExecutorStart(desc, eflags);
	discard();
}

static void
discard_run(QueryDesc *desc, ScanDirection direction, uint64 count, bool execute_once)
{
	discard();
	if (prev_run)
		prev_run(desc, direction, count, execute_once);
	else
		standard_ExecutorRun(desc, direction, count, execute_once);
	discard();
}

static void
discard_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *env,
				DestReceiver *dest, QueryCompletion *completion)
{
	ProcessUtility_hook_type run = prev_utility ? prev_utility : standard_ProcessUtility;

	discard();
	run(pstmt, query, read_only_tree, context, params, env, dest, completion);
	discard();
}

void
discard_init(void)
{
	DefineCustomBoolVariable("neon_test_utils.discard_caches",
							 "Throws caches away before and after each step of a statement.",
							 NULL, &discard_caches, false, PGC_SUSET, 0, NULL, NULL, NULL);
	prev_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = discard_analyze;
	prev_planner = planner_hook;
	planner_hook = discard_planner;
	prev_start = ExecutorStart_hook;
	ExecutorStart_hook = discard_start;
	prev_run = ExecutorRun_hook;
	ExecutorRun_hook = discard_run;
	prev_utility = ProcessUtility_hook;
	ProcessUtility_hook = discard_utility;
}

/*
 * Tells all processes n times to close a relation's files, which is always
 * allowed; whoever does not keep up with that many has to throw all away.
 */
Datum
flood_invalidations(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	int			n = PG_GETARG_INT32(1);
	HeapTuple	tup = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class rel;
	SharedInvalidationMessage msg[FLOOD_BATCH];
	RelFileNode rnode;

	if (!HeapTupleIsValid(tup))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	rel = (Form_pg_class) GETSTRUCT(tup);
	rnode.spcNode = rel->reltablespace ? rel->reltablespace : MyDatabaseTableSpace;
	rnode.dbNode = rel->relisshared ? InvalidOid : MyDatabaseId;
	rnode.relNode = rel->relfilenode;
	ReleaseSysCache(tup);

	memset(msg, 0, sizeof(msg));
	for (int i = 0; i < FLOOD_BATCH; i++)
	{
		msg[i].sm.id = SHAREDINVALSMGR_ID;
		msg[i].sm.backend_hi = InvalidBackendId >> 16;
		msg[i].sm.backend_lo = InvalidBackendId & 0xffff;
		msg[i].sm.rnode = rnode;
	}
	while (n > 0)
	{
		CHECK_FOR_INTERRUPTS();
		SendSharedInvalidMessages(msg, Min(n, FLOOD_BATCH));
		n -= FLOOD_BATCH;
	}
	PG_RETURN_VOID();
}
