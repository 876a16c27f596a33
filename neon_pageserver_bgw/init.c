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
#include "compactclaim.h"
#include "framecache.h"
#include "hotpages.h"
#include "init.h"
#include "neon_library.h"
#include "neon_testpoint.h"
#include "redopool.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

#ifdef NEON_TESTING
static void
define_testpoints(void)
{
	testpoint_define_gucs("neon_pageserver");
}
#endif

static const LibraryPart parts[] = {
	{"crashnote", NULL, NULL, crashnote_init, NULL, NULL},
	{"timeline", timeline_define_gucs, timeline_shmem_size, timeline_shmem_init, NULL, NULL},
	{"history", tenantsettings_define_gucs, history_shmem_size, history_shmem_init, historyworker_register_worker, NULL},
	{"openlayer", openlayer_define_gucs, openlayer_shmem_size, openlayer_shmem_init, NULL, NULL},
	{"wal", walremove_define_gucs, NULL, NULL, NULL, NULL},
	{"store", store_define_gucs, NULL, NULL, NULL, NULL},
	{"page cache", framecache_define_gucs, framecache_shmem_size, framecache_shmem_init, NULL, NULL},
	{"hot pages", NULL, hotpages_shmem_size, hotpages_shmem_init, hotpages_register_worker, NULL},
	{"flush", flushworker_define_gucs, flushworker_shmem_size, flushworker_shmem_init, flushworker_register_workers, NULL},
	{"compaction claims", NULL, compactclaim_shmem_size, compactclaim_shmem_init, NULL, NULL},
	{"compaction", compactworker_define_gucs, compactworker_shmem_size, compactworker_shmem_init, compactworker_register_workers, NULL},
#ifdef NEON_TESTING
	{"testpoint", define_testpoints, NULL, NULL, NULL, NULL},
#endif
	{"supervisor", NULL, NULL, NULL, supervisor_register_worker, NULL},
	{"ingest", ingest_define_gucs, ingest_shmem_size, ingest_shmem_init, ingest_register_worker, NULL},
	{"redopool", redopool_define_gucs, redopool_shmem_size, redopool_shmem_init, redopool_register_worker, NULL},
	{"service", service_define_gucs, service_shmem_size, service_shmem_init, NULL, NULL},
};

void
_PG_init(void)
{
	library_check_preload("neon_pageserver");
	library_init("neon_pageserver", parts, lengthof(parts));
}
