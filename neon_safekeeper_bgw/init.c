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
#include "neon_library.h"
#include "neon_testpoint.h"
#include "node.h"
#include "receivers.h"
#include "retain.h"
#include "serve.h"
#include "slot.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

#ifdef NEON_TESTING
static void
define_testpoints(void)
{
	testpoint_define_gucs("neon_safekeeper");
}

void
sk_set_testpoint_hook(void (*hook) (const char *name))
{
	testpoint_hook = hook;
}
#endif

static const LibraryPart parts[] = {
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

void
_PG_init(void)
{
	library_check_preload("neon_safekeeper");
	sknode_load();
	library_init("neon_safekeeper", parts, lengthof(parts));
}
