/*-------------------------------------------------------------------------
 *
 * wal.c
 *	  Flushing WAL and using up transaction ids.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "neon_walend.h"
#include "utils/pg_lsn.h"

PG_FUNCTION_INFO_V1(xlogflush);
PG_FUNCTION_INFO_V1(consume_xids);

Datum
xlogflush(PG_FUNCTION_ARGS)
{
	XLogRecPtr	lsn;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("recovery is in progress"),
				 errhint("WAL is flushed on a primary only.")));
	lsn = PG_ARGISNULL(0) ? neon_end_of_wal() : PG_GETARG_LSN(0);
	if (lsn > neon_end_of_wal())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("LSN %X/%X is beyond the insert position %X/%X",
						LSN_FORMAT_ARGS(lsn),
						LSN_FORMAT_ARGS(neon_end_of_wal()))));
	XLogFlush(lsn);
	PG_RETURN_LSN(GetFlushRecPtr(NULL));
}

/*
 * All but the first are subtransaction ids that never commit, so they count
 * as aborted.
 */
Datum
consume_xids(PG_FUNCTION_ARGS)
{
	int32		n = PG_GETARG_INT32(0);
	FullTransactionId last;
	int32		i;

	if (n < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of transaction ids must be at least 1")));
	last = GetTopFullTransactionId();
	for (i = 1; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		last = GetNewTransactionId(true);
	}
	PG_RETURN_TRANSACTIONID(XidFromFullTransactionId(last));
}
