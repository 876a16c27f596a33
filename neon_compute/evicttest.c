/*-------------------------------------------------------------------------
 *
 * evicttest.c
 *	  For tests of the rules of dropping: places in the server itself where a
 *	  process can be made to wait, and single pages that are written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "evict.h"

#ifdef NEON_TESTING

#include "access/relation.h"
#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "neon_testpoint.h"
#include "port/pg_crc32c.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(neon_test_flush);
extern PGDLLEXPORT Datum neon_test_flush(PG_FUNCTION_ARGS);

#if defined(USE_SSE42_CRC32C_WITH_RUNTIME_CHECK) || defined(USE_ARMV8_CRC32C_WITH_RUNTIME_CHECK)
static pg_crc32c (*real_crc32c) (pg_crc32c crc, const void *data, size_t len);

/* A WAL record gets its checksum when its pages are changed and it has no place yet. */
static pg_crc32c
crc32c(pg_crc32c crc, const void *data, size_t len)
{
	if (CritSectionCount > 0)
		NEON_TEST_POINT("record_made");
	return real_crc32c(crc, data, len);
}

static void
hook_records(void)
{
	real_crc32c = pg_comp_crc32c;
	pg_comp_crc32c = crc32c;
}
#else
static void
hook_records(void)
{
}
#endif

/* The transaction runs no more. */
static void
reach_committed(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT)
		NEON_TEST_POINT("committed");
}

void
evict_install_test_points(void)
{
	RegisterXactCallback(reach_committed, NULL);
	hook_records();
}

/* (relation, fork number, block): writes the page if it is dirty, whoever has it pinned. */
Datum
neon_test_flush(PG_FUNCTION_ARGS)
{
	Relation	rel = relation_open(PG_GETARG_OID(0), AccessShareLock);
	Buffer		buffer = ReadBufferExtended(rel, PG_GETARG_INT32(1), PG_GETARG_INT32(2),
											RBM_NORMAL, NULL);

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	FlushOneBuffer(buffer);
	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	PG_RETURN_VOID();
}

#else
void
evict_install_test_points(void)
{
}

#endif							/* NEON_TESTING */
