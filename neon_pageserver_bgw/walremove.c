/*-------------------------------------------------------------------------
 *
 * walremove.c
 *	  Stored WAL that nobody needs any more.
 *
 * Layers have the versions of flushed WAL, time blocks in them where it can be
 * booted.  What reads stored WAL below that position is prepared not to find
 * it: it looks again at what is flushed by then.  A segment is unlinked and never
 * cut, so that who has it open or mapped reads on.  A crash between two
 * segments leaves what the next flush removes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "init.h"
#include "neon_testpoint.h"
#include "store_private.h"
#include "timeline_shared.h"
#include "utils/guc.h"
#include "walremove.h"
#include "walstore_private.h"

/* Without a setting: so much, and the WAL of the newest layer file. */
#define LEAST_KEPT	((XLogRecPtr) 64 * 1024 * 1024)

static int	wal_keep = -1;		/* MB; -1: see first_kept() */

void
walremove_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.wal_keep",
							"Stored WAL that is kept although it is in layer files.",
							"-1 is that of the newest layer file of each timeline, and at least 64 MB.",
							&wal_keep, -1, -1, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
}

/*
 * Segments below this one may go.  By default the WAL of the last flush stays
 * until the next one, so that the file which it wrote can be made again; but not
 * more than an ingest lets come together (store_flush_backlog).
 */
static XLogSegNo
first_kept(Timeline *tl, XLogRecPtr flushed_before)
{
	XLogRecPtr	flushed = timeline_disk_consistent_lsn(tl);
	XLogRecPtr	most = (XLogRecPtr) store_checkpoint_distance * 2 * 1024 * 1024;
	XLogRecPtr	keep = (XLogRecPtr) Max(wal_keep, 0) * 1024 * 1024;

	if (wal_keep < 0)
		keep = Max(LEAST_KEPT, Min(flushed - flushed_before, most));

	return flushed > keep ? (flushed - keep) / tl->id.wal_segment_size : 0;
}

void
walremove_flushed(Timeline *tl, XLogRecPtr flushed_before)
{
	XLogSegNo	keep = first_kept(tl, flushed_before);
	List	   *segments = walstore_segments(tl);
	int			removed = 0;

	/* the oldest first: what is there has no gap, also after a crash */
	for (int i = list_length(segments) - 1; i >= 0; i--)
	{
		XLogSegNo	segno = *(XLogSegNo *) list_nth(segments, i);
		char		path[MAXPGPATH];

		if (segno >= keep)
			break;
		if (!walstore_unlink(tl, segno))
		{
			walstore_segment_path(tl, segno, path);
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not remove file \"%s\": %m", path)));
			break;
		}
		removed++;
		NEON_TEST_POINT("wal-removed");
	}
	if (removed > 0)
		pg_atomic_fetch_add_u32(&tl->shared->wal_epoch, 1);
	list_free_deep(segments);
}
