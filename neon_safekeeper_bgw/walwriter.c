/*-------------------------------------------------------------------------
 *
 * walwriter.c
 *	  WAL that arrives becomes durable whole records (R2, R11).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "neon_clock.h"
#include "neon_testpoint.h"
#include "walwriter.h"

#define REFRESH_MS	1000

void
walwriter_begin(WalWriter *w, SkTimeline *tl, uint32 term, const char *source)
{
	memset(w, 0, sizeof(*w));
	w->tl = tl;
	sk_begin_write(tl, term, source);
	w->flushed = sk_flush_lsn(tl);
	w->received = w->flushed;
	w->synced = w->flushed;
	w->refreshed = w->flushed;
	w->last_refresh = neon_boottime_ms();
	w->reader = skreader_open(tl, w->flushed);
}

bool
walwriter_take(WalWriter *w, XLogRecPtr start, const char *data, size_t len, char **problem)
{
	if (start != w->received)
	{
		*problem = psprintf("the source sent WAL from %X/%X, expected %X/%X",
							LSN_FORMAT_ARGS(start), LSN_FORMAT_ARGS(w->received));
		return false;
	}
	if (!NEON_TEST_FAILS("early-flush"))
		skwal_write(w->tl, start, data, len);
	w->received += len;
	return true;
}

void
walwriter_refresh(WalWriter *w)
{
	uint32		segsize = w->tl->wal_segment_size;
	uint64		now = neon_boottime_ms();

	if (w->refreshed / segsize == w->flushed / segsize &&
		now - w->last_refresh < REFRESH_MS)
		return;
	w->last_refresh = now;
	w->refreshed = w->flushed;
	sk_refresh(w->tl);
}

bool
walwriter_settle(WalWriter *w, char **problem)
{
	const char *invalid;
	XLogRecPtr	end = skreader_follow(w->reader, w->received, &invalid);

	if (NEON_TEST_FAILS("early-flush"))
	{
		end = w->received;
		invalid = NULL;
	}

	if (w->synced < w->received && !NEON_TEST_BUG("acknowledge-before-sync"))
	{
		NEON_TEST_POINT("before-wal-sync");
		skwal_sync(w->tl);
		NEON_TEST_POINT("after-wal-sync");
		w->synced = w->received;
	}
	if (end > w->flushed)
	{
		if (!sk_advance_flush(w->tl, end))
			sk_check_write(w->tl);	/* says why */
		w->flushed = end;
	}
	if (invalid == NULL)
		return true;
	*problem = psprintf("invalid WAL behind %X/%X: %s", LSN_FORMAT_ARGS(end), invalid);
	return false;
}

void
walwriter_end(WalWriter *w)
{
	if (w->reader)
		skreader_close(w->reader);
	w->reader = NULL;
	if (w->tl)
		sk_end_write(w->tl);
	w->tl = NULL;
}
