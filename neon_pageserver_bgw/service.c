/*-------------------------------------------------------------------------
 *
 * service.c
 *	  Settings and counters of the serving half.
 *
 * The counters are in shared memory and begin at zero with each start of the
 * instance.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "init.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "service.h"
#include "storage/shmem.h"
#include "utils/guc.h"

typedef struct ServeShared
{
	pg_atomic_uint64 counters[SERVE_NUM_COUNTERS];
} ServeShared;

static const char *const counter_names[SERVE_NUM_COUNTERS] = {
	[SERVE_STREAMS] = "streams",
	[SERVE_REQUESTS] = "requests",
	[SERVE_PAGES_IMAGE] = "pages_image",
	[SERVE_PAGES_ZERO] = "pages_zero",
	[SERVE_PAGES_REDO] = "pages_redo",
	[SERVE_REDO_RECORDS] = "redo_records",
	[SERVE_PAGES_AHEAD] = "pages_ahead",
	[SERVE_ERRORS] = "errors",
	[SERVE_SUPERSEDED] = "superseded",
	[SERVE_WAIT_TIMEOUTS] = "wait_timeouts",
	[SERVE_BYTES_SENT] = "bytes_sent",
	[SERVE_BASEBACKUPS] = "basebackups",
};

static ServeShared *shared = NULL;

int			service_wait_lsn_timeout = 5000;
int			service_basebackup_timeout = 60000;

void
service_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.wait_lsn_timeout",
							"Sets how long a page request waits for WAL that has not arrived.",
							"After it the compute is told to try again.",
							&service_wait_lsn_timeout,
							5000, 1, 600000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("neon_pageserver.basebackup_timeout",
							"Sets how long a base backup waits for a client that does not take 64 kB.",
							"After it the connection is closed. Zero waits for ever.",
							&service_basebackup_timeout,
							60000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
}

Size
service_shmem_size(void)
{
	return sizeof(ServeShared);
}

void
service_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("neon serve counters", sizeof(ServeShared), &found);
	if (!found)
		for (int i = 0; i < SERVE_NUM_COUNTERS; i++)
			pg_atomic_init_u64(&shared->counters[i], 0);
}

void
service_count(ServeCounter counter, uint64 n)
{
	if (shared)
		pg_atomic_fetch_add_u64(&shared->counters[counter], n);
}

const char *
service_counter_name(ServeCounter counter)
{
	return counter_names[counter];
}

uint64
service_counter_value(ServeCounter counter)
{
	return shared ? pg_atomic_read_u64(&shared->counters[counter]) : 0;
}
