/*-------------------------------------------------------------------------
 *
 * read.h
 *	  Pages at an LSN: versions from the store, redo where it is needed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_READ_H
#define NEON_PS_READ_H

#include "neon_key.h"
#include "store.h"

/* Result of one page; errors are per page and do not hurt the others. */
typedef struct PageResult
{
	bool		ok;
	char		sqlstate[6];	/* of an error */
	char	   *message;		/* of an error, in CurrentMemoryContext */
} PageResult;

/*
 * Makes n pages (keys of kind PAGE) of a timeline as of lsn, which must not be
 * beyond last_record_lsn.  pages has n * BLCKSZ bytes.  Pages beyond the end
 * are zero; checksums are stamped if the lineage has them.
 */
extern void read_pages(Timeline *tl, const NeonKey *keys, int n, XLogRecPtr lsn,
					   char *pages, PageResult *results);

/* The same for one page; ereport(ERROR) if it cannot be made. */
extern void read_page(Timeline *tl, const NeonKey *key, XLogRecPtr lsn, char *page);

/*
 * Is the page itself the reason of the error, so that it will be the same the
 * next time?  (Not so a lack of redo processes.)
 */
extern bool read_never_works(const PageResult *result);

/* A page that maintenance cannot make: logged once by each process. */
extern void read_log_unmakeable(Timeline *tl, const NeonKey *key, XLogRecPtr lsn,
								const PageResult *result);

#endif							/* NEON_PS_READ_H */
