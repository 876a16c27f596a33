/*-------------------------------------------------------------------------
 *
 * bootlease.c
 *	  Keeps the history at the boot LSN in the storage while this server runs.
 *
 * A static or an ephemeral endpoint reads the pages that it does not have as of
 * its boot LSN for as long as it runs, and the storage keeps that of its past
 * only because of a lease.  The base backup made it, with the boot's id; a
 * worker renews it, and releases it when the server stops.  (A primary reads the
 * newest version of what it has not written, so it needs none.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "coordinator.h"
#include "miscadmin.h"
#include "neon.h"
#include "neon_library.h"
#include "pageserver.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

#define LEASE_LENGTH		"1 hour"
#define RENEW_MS			(20 * 60 * 1000)
#define RETRY_MS			10000
#define RENEW_TIMEOUT_MS	15000
#define RELEASE_TIMEOUT_MS	3000

extern PGDLLEXPORT void neon_bootlease_main(Datum arg);

void
bootlease_register_worker(void)
{
	BackgroundWorker worker;

	if (neon_boot.kind == NEON_PRIMARY)
		return;
#ifdef NEON_TESTING
	if (neon_test_reference_dir[0] != '\0')
		return;
#endif
	library_worker(&worker, "neon", "neon_bootlease_main", "neon lease");
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	RegisterBackgroundWorker(&worker);
}

/* While an answer is waited for; what is not released ends by itself. */
static void
stop_if_asked(void)
{
	if (ShutdownRequestPending)
		proc_exit(0);
}

/* An error is logged once, until it is another one. */
static void
report_failure(const PageserverError *error, char *told, size_t size)
{
	if (strncmp(told, error->message, size - 1) == 0)
		return;
	strlcpy(told, error->message, size);
	ereport(LOG,
			(errmsg("could not renew the lease of the history at %X/%X: %s",
					LSN_FORMAT_ARGS(neon_boot.boot_lsn), error->message),
			 error->detail ? errdetail("%s", error->detail) : 0,
			 errhint("When the lease has ended, pages that are not here may be refused: \"neon endpoint restart\" boots again.")));
}

/* True if the lease is there for another while. */
static bool
renew(char *told, size_t size)
{
	char		boot_id[NEON_ID_HEXLEN + 1];
	const char *params[4] = {neon_tenant_id_setting, neon_timeline_id_setting,
		psprintf("%X/%X", LSN_FORMAT_ARGS(neon_boot.boot_lsn)),
	neon_id_format(&neon_boot.boot_id, boot_id)};
	PageserverError error;
	List	   *rows;

	if (pageserver_query("neon_lease",
						 "SELECT neon_pageserver.lease_lsn($1, $2, $3::pg_catalog.pg_lsn, '"
						 LEASE_LENGTH "', $4)",
						 4, params, RENEW_TIMEOUT_MS, stop_if_asked, &rows, &error))
	{
		told[0] = '\0';
		return true;
	}
	report_failure(&error, told, size);
	return false;
}

/* If that fails the lease ends by itself. */
static void
release(void)
{
	char		boot_id[NEON_ID_HEXLEN + 1];
	const char *params[3] = {neon_tenant_id_setting, neon_timeline_id_setting,
	neon_id_format(&neon_boot.boot_id, boot_id)};
	PageserverError error;
	List	   *rows;

	(void) pageserver_query("neon_lease",
							"SELECT neon_pageserver.lease_release($1, $2, $3)",
							3, params, RELEASE_TIMEOUT_MS, NULL, &rows, &error);
}

void
neon_bootlease_main(Datum arg)
{
	char		told[256] = "";
	MemoryContext context;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	context = AllocSetContextCreate(TopMemoryContext, "neon lease", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	while (!ShutdownRequestPending)
	{
		bool		renewed;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			neon_hydration_reloaded();
		}
		renewed = renew(told, sizeof(told));
		MemoryContextReset(context);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 renewed ? RENEW_MS : RETRY_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	release();
	proc_exit(0);
}
