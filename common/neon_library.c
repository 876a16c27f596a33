/*-------------------------------------------------------------------------
 *
 * neon_library.c
 *	  Loading of a preloaded library: settings, shared memory, hooks and
 *	  workers of its parts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "neon_library.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

static const LibraryPart *parts = NULL;
static int	nparts = 0;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	for (int i = 0; i < nparts; i++)
	{
		if (parts[i].shmem_size)
			RequestAddinShmemSpace(MAXALIGN(parts[i].shmem_size()) + PG_CACHE_LINE_SIZE);
	}
}

static void
init_shmem(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < nparts; i++)
	{
		if (parts[i].shmem_init)
			parts[i].shmem_init();
	}
	LWLockRelease(AddinShmemInitLock);
}

void
library_check_preload(const char *name)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s must be loaded by shared_preload_libraries", name),
				 errhint("Add %s to shared_preload_libraries and restart the server.", name)));
}

void
library_init(const char *name, const LibraryPart *the_parts, int n)
{
	parts = the_parts;
	nparts = n;
	for (int i = 0; i < n; i++)
	{
		if (parts[i].define_gucs)
			parts[i].define_gucs();
		if (parts[i].install_hooks)
			parts[i].install_hooks();
		if (parts[i].register_workers)
			parts[i].register_workers();
	}
	MarkGUCPrefixReserved(name);

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = init_shmem;
}

void
library_worker(BackgroundWorker *worker, const char *library, const char *function,
			   const char *name)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = 1;
	strlcpy(worker->bgw_library_name, library, BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker->bgw_name, name, BGW_MAXLEN);
	strlcpy(worker->bgw_type, name, BGW_MAXLEN);
}

void
library_register_workers(const char *library, const char *function, const char *name, int n)
{
	for (int i = 0; i < n; i++)
	{
		BackgroundWorker worker;

		library_worker(&worker, library, function, name);
		snprintf(worker.bgw_name, BGW_MAXLEN, "%s %d", name, i + 1);
		RegisterBackgroundWorker(&worker);
	}
}
