/*-------------------------------------------------------------------------
 *
 * slru.h
 *	  Pages of pg_xact, pg_multixact and pg_commit_ts at an LSN.
 *
 * A record that changes SLRU pages is indexed under each page's key; reading
 * applies the records to the page in this process, without redo.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_SLRU_H
#define NEON_PS_SLRU_H

#include "access/xlogreader.h"
#include "neon_key.h"
#include "store.h"

/* Directory of an SLRU in a data directory ("pg_xact" ...). */
extern const char *slru_dir(NeonSlru slru);

/* Calls emit for each SLRU page that the record changes; base: it is zeroed or set whole. */
typedef void (*SlruEmit) (NeonSlru slru, BlockNumber page, bool base, void *arg);
extern void slru_pages_of_record(XLogReaderState *record, bool commit_ts, SlruEmit emit, void *arg);

/* Applies to buf what the record changes in this page. */
extern void slru_apply(XLogReaderState *record, NeonSlru slru, BlockNumber page, char *buf);

/* Pages whose files exist, of one SLRU. */
typedef struct SlruBounds
{
	BlockNumber oldest;
	BlockNumber latest;
	bool		exists;
} SlruBounds;

/*
 * Moves bounds[NEON_NUM_SLRUS] as the record does (new page, truncation, commit
 * timestamps switched on or off); next_xid is that before the record.  True if
 * any changed.
 */
extern bool slru_move_bounds(XLogReaderState *record, TransactionId next_xid,
							 SlruBounds *bounds);

extern NeonKey slru_page_key(NeonSlru slru, BlockNumber page);
extern NeonKey slru_bounds_key(NeonSlru slru);

/* Oldest and latest page of an SLRU at lsn; false if it has none. */
extern bool slru_bounds_at(Timeline *tl, NeonSlru slru, XLogRecPtr lsn,
						   BlockNumber *oldest, BlockNumber *latest);

/* The page at lsn (zeros if it has no version). */
extern void slru_page_at(Timeline *tl, NeonSlru slru, BlockNumber page, XLogRecPtr lsn, char *buf);

#endif							/* NEON_PS_SLRU_H */
