/*-------------------------------------------------------------------------
 *
 * redopool.h
 *	  The pool of sandboxed redo children, and the batches sent to them.
 *
 * A supervisor worker owns the children (neon_walredo); a backend leases one
 * for a batch.  Any failure is an error of the page concerned, and the child
 * is replaced.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_REDOPOOL_H
#define NEON_PS_REDOPOOL_H

#include "access/xlogrecord.h"
#include "neon_id.h"
#include "neon_key.h"

/*
 * Supplies the i-th record (oldest first) of a page, with the LSNs of its start
 * and end.  Called in a context that is reset before the next call.  An error
 * becomes the page's error, except one of class 57 (cancel, shutdown).  Must
 * not call redo_apply and not return with a lock held.
 */
typedef XLogRecord *(*RedoFetchRecord) (void *arg, int i, XLogRecPtr *start, XLogRecPtr *end);

typedef struct RedoRequest
{
	NeonKey		key;			/* kind PAGE */
	const char *base;			/* 8 kB, or NULL for a zero page */
	int			nrecords;
	RedoFetchRecord fetch;
	void	   *arg;
	/* result */
	char	   *page;			/* 8 kB supplied by the caller */
	bool		ok;
	char	   *error;			/* palloc'd in CurrentMemoryContext when !ok */

	/*
	 * When !ok: ERRCODE_DATA_CORRUPTED if the records do not fit the page, what
	 * the fetch function reported, or ERRCODE_INSUFFICIENT_RESOURCES if it may
	 * succeed another time (timeout, death of the process).
	 */
	int			sqlerrcode;
} RedoRequest;

/*
 * Applies records to pages with a leased child.  Interruptible; waits for a
 * free child at most neon_pageserver.redo_timeout.  ereport(ERROR) only if no
 * child can be had at all.  The caller holds no LWLock.  A page may be all
 * zeros as result.  Its checksum field is stale.
 */
extern void redo_apply(const NeonId *tenant, uint32 wal_segment_size,
					   RedoRequest *requests, int n);

/* Since the start of the instance. */
typedef struct RedoPoolStats
{
	uint64		batches;
	uint64		pages;
	uint64		failed_pages;
	uint64		started;		/* children */
	uint64		failed_starts;
	uint64		died;			/* children that ended unasked */
	uint64		replaced;		/* for another tenant or after an error */
} RedoPoolStats;

extern void redopool_get_stats(RedoPoolStats *stats);

/* Called from the library's init files. */
extern void redopool_define_gucs(void);
extern Size redopool_shmem_size(void);
extern void redopool_shmem_init(void);
extern void redopool_register_worker(void);

#endif							/* NEON_PS_REDOPOOL_H */
