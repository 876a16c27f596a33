/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  Background workers as a scheduler like pg_cron has them: each connects
 *	  to a database and runs a SQL text again and again.
 *
 * One is registered when the library is preloaded and
 * neon_test_utils.worker_sql is set; it starts as soon as the server is
 * consistent.  Others are started by launch_worker().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "test_utils.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(launch_worker);

/* What a worker that is launched is given. */
typedef struct WorkerArgs
{
	Oid			db;
	Oid			role;
	int			interval_ms;
	char		sql[BGW_EXTRALEN - 12];
} WorkerArgs;

StaticAssertDecl(sizeof(WorkerArgs) <= BGW_EXTRALEN, "WorkerArgs is larger than bgw_extra");

static char *worker_sql = NULL;
static char *worker_database = NULL;
static int	worker_interval = 100;

PGDLLEXPORT void neon_test_worker_main(Datum arg);

/* A transaction of its own; an error ends the worker, as it does the ones that people write. */
static void
run_once(const char *sql)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, sql);
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", sql);
	(void) SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	(void) pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

static void
run_forever(const char *sql, int interval_ms)
{
	for (;;)
	{
		run_once(sql);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 interval_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

void
neon_test_worker_main(Datum arg)
{
	WorkerArgs	args;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	if (OidIsValid(args.db))
	{
		BackgroundWorkerInitializeConnectionByOid(args.db, args.role, 0);
		run_forever(args.sql, args.interval_ms);
	}
	BackgroundWorkerInitializeConnection(worker_database, NULL, 0);
	run_forever(worker_sql, worker_interval);
}

static void
describe_worker(BackgroundWorker *worker, BgWorkerStartTime start_time, int restart)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = start_time;
	worker->bgw_restart_time = restart;
	strlcpy(worker->bgw_library_name, "neon_test_utils", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, "neon_test_worker_main", BGW_MAXLEN);
	strlcpy(worker->bgw_type, "neon test worker", BGW_MAXLEN);
	strlcpy(worker->bgw_name, "neon test worker", BGW_MAXLEN);
}

void
worker_init(void)
{
	BackgroundWorker worker;

	DefineCustomStringVariable("neon_test_utils.worker_sql",
							   "What the worker runs that starts with the server; empty is no worker.",
							   NULL, &worker_sql, "", PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("neon_test_utils.worker_database",
							   "The database that it connects to.",
							   NULL, &worker_database, "postgres", PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon_test_utils.worker_interval",
							"Time that it waits after each run.",
							NULL, &worker_interval, 100, 1, 60000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	if (worker_sql[0] == '\0')
		return;
	describe_worker(&worker, BgWorkerStart_ConsistentState, 1);
	RegisterBackgroundWorker(&worker);
}

/* Returns the process id of a worker that does the same for this database and role. */
Datum
launch_worker(PG_FUNCTION_ARGS)
{
	char	   *sql = text_to_cstring(PG_GETARG_TEXT_PP(0));
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;
	WorkerArgs	args;
	pid_t		pid;

	memset(&args, 0, sizeof(args));
	args.db = MyDatabaseId;
	args.role = GetUserId();
	args.interval_ms = PG_GETARG_INT32(1);
	if (args.interval_ms < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the interval must be positive")));
	if (strlcpy(args.sql, sql, sizeof(args.sql)) >= sizeof(args.sql))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the text is longer than %zu bytes", sizeof(args.sql) - 1)));
	describe_worker(&worker, BgWorkerStart_ConsistentState, BGW_NEVER_RESTART);
	memcpy(worker.bgw_extra, &args, sizeof(args));
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no slot for a background worker is free"),
				 errhint("Increase \"max_worker_processes\".")));
	if (WaitForBackgroundWorkerStartup(handle, &pid) != BGWH_STARTED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("the worker did not start")));
	PG_RETURN_INT32(pid);
}
