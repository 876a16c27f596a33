/*-------------------------------------------------------------------------
 *
 * init.c
 *	  Settings, hooks and the worker, if the library is preloaded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "test_utils.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	discard_init();
	worker_init();
	MarkGUCPrefixReserved("neon_test_utils");
}
