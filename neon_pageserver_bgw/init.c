/*-------------------------------------------------------------------------
 *
 * init.c
 *	  Loading of the library: settings, shared memory and workers of all parts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "crashnote.h"
#include "fmgr.h"
#include "init.h"
#include "miscadmin.h"
#include "redopool.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "neon_testpoint.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

#ifdef NEON_TESTING
static void
define_testpoints(void)
{
	testpoint_define_gucs("neon_pageserver");
}
#endif

static const PageserverPart parts[] = {
	{"timeline", timeline_define_gucs, timeline_shmem_size, timeline_shmem_init, NULL},
	{"openlayer", openlayer_define_gucs, openlayer_shmem_size, openlayer_shmem_init, NULL},
	{"store", store_define_gucs, NULL, NULL, NULL},
	{"flush", flushworker_define_gucs, flushworker_shmem_size, flushworker_shmem_init, flushworker_register_workers},
#ifdef NEON_TESTING
	{"testpoint", define_testpoints, NULL, NULL, NULL},
#endif
	{"supervisor", NULL, NULL, NULL, supervisor_register_worker},
	{"ingest", ingest_define_gucs, ingest_shmem_size, ingest_shmem_init, ingest_register_worker},
	{"redopool", redopool_define_gucs, redopool_shmem_size, redopool_shmem_init, redopool_register_worker},
	{"service", service_define_gucs, service_shmem_size, service_shmem_init, NULL},
};

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void
pageserver_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	for (int i = 0; i < lengthof(parts); i++)
	{
		if (parts[i].shmem_size)
			RequestAddinShmemSpace(MAXALIGN(parts[i].shmem_size()) + PG_CACHE_LINE_SIZE);
	}
}

static void
pageserver_shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	crashnote_init();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < lengthof(parts); i++)
	{
		if (parts[i].shmem_init)
			parts[i].shmem_init();
	}
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_pageserver must be loaded by shared_preload_libraries"),
				 errhint("Add neon_pageserver to shared_preload_libraries and restart the server.")));

	for (int i = 0; i < lengthof(parts); i++)
	{
		if (parts[i].define_gucs)
			parts[i].define_gucs();
	}
	MarkGUCPrefixReserved("neon_pageserver");

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = pageserver_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = pageserver_shmem_startup;

	for (int i = 0; i < lengthof(parts); i++)
	{
		if (parts[i].register_workers)
			parts[i].register_workers();
	}
}
