/*-------------------------------------------------------------------------
 *
 * init.c
 *	  Loading of the library: settings, shared memory, hooks and workers of
 *	  all parts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "init.h"
#include "miscadmin.h"
#include "neon_testpoint.h"
#include "node.h"
#include "receivers.h"
#include "retain.h"
#include "serve.h"
#include "slot.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

#ifdef NEON_TESTING
static void
define_testpoints(void)
{
	testpoint_define_gucs("neon_safekeeper");
}
#endif

static const SafekeeperPart parts[] = {
	{"table", sktable_define_gucs, sktable_shmem_size, sktable_shmem_init, NULL, NULL},
	{"wal", skwal_define_gucs, NULL, NULL, NULL, NULL},
	{"stream", skstream_define_gucs, skstream_shmem_size, skstream_shmem_init,
	skstream_register_workers, NULL},
	{"slot", skslot_define_gucs, skslot_shmem_size, skslot_shmem_init, NULL, NULL},
	{"serve", serve_define_gucs, readers_shmem_size, readers_shmem_init, NULL, serve_install_hooks},
	{"retain", retain_define_gucs, NULL, NULL, retain_register_worker, NULL},
#ifdef NEON_TESTING
	{"testpoint", define_testpoints, NULL, NULL, NULL, NULL},
#endif
};

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static void
safekeeper_shmem_request(void)
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
safekeeper_shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < lengthof(parts); i++)
	{
		if (parts[i].shmem_init)
			parts[i].shmem_init();
	}
	LWLockRelease(AddinShmemInitLock);
}

static void
init_parts(void)
{
	for (int i = 0; i < lengthof(parts); i++)
	{
		if (parts[i].define_gucs)
			parts[i].define_gucs();
		if (parts[i].install_hooks)
			parts[i].install_hooks();
		if (parts[i].register_workers)
			parts[i].register_workers();
	}
	MarkGUCPrefixReserved("neon_safekeeper");
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_safekeeper must be loaded by shared_preload_libraries"),
				 errhint("Add neon_safekeeper to shared_preload_libraries and restart the server.")));

	sknode_load();
	init_parts();

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = safekeeper_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = safekeeper_shmem_startup;
}
