/*-------------------------------------------------------------------------
 *
 * serveview.c
 *	  Which timeline each walsender of this instance serves: beside each slot
 *	  of pg_stat_replication, one here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "neon_sqlutil.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "serve.h"
#include "serve_private.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(neon_sk_readers);

#define READER_COLUMNS	3

/* pid is that of the walsender for which the ids hold; the stock slot's mutex protects it. */
typedef struct Reader
{
	pid_t		pid;
	NeonId		tenant;
	NeonId		timeline;
} Reader;

static Reader *readers = NULL;

Size
readers_shmem_size(void)
{
	return mul_size(max_wal_senders, sizeof(Reader));
}

void
readers_shmem_init(void)
{
	bool		found;

	readers = ShmemInitStruct("neon_safekeeper readers", Max(1, readers_shmem_size()), &found);
	if (!found)
		memset(readers, 0, readers_shmem_size());
}

void
readers_register(void)
{
	Reader	   *r = &readers[MyWalSnd - WalSndCtl->walsnds];

	SpinLockAcquire(&MyWalSnd->mutex);
	r->tenant = serve_session.tl->tenant;
	r->timeline = serve_session.tl->timeline;
	r->pid = MyProcPid;
	SpinLockRelease(&MyWalSnd->mutex);
}

/* readers(): pid, tenant_id, timeline_id of each walsender */
Datum
neon_sk_readers(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < max_wal_senders; i++)
	{
		WalSnd	   *walsnd = &WalSndCtl->walsnds[i];
		Datum		values[READER_COLUMNS];
		bool		nulls[READER_COLUMNS] = {false};
		Reader		r;
		pid_t		pid;

		SpinLockAcquire(&walsnd->mutex);
		pid = walsnd->pid;
		r = readers[i];
		SpinLockRelease(&walsnd->mutex);
		if (pid == 0 || pid != r.pid)
			continue;
		values[0] = Int32GetDatum(r.pid);
		values[1] = sql_id_datum(&r.tenant);
		values[2] = sql_id_datum(&r.timeline);
		sql_put_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}
