/*-------------------------------------------------------------------------
 *
 * jump.h
 *	  A member that lacks WAL which nobody keeps any more begins its log anew.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_JUMP_H
#define NEON_SK_JUMP_H

#include "fetch.h"

/* Where a member's log begins, and what a peer needs to begin there, too. */
typedef struct SkBeginning
{
	XLogRecPtr	wal_start;		/* start of a segment; what lies below, the pageserver has */
	XLogRecPtr	first_record;	/* end of the record that reaches into it, if one does */
	XLogRecPtr	commit_lsn;		/* not below first_record */
	SkTerm		term;			/* the last one of the history */
	NeonId		boot_id;		/* of its boot record, if that lies below wal_start; zeros: not known */
	const char *data;			/* the bytes [wal_start, first_record) */
	size_t		len;
} SkBeginning;

/*
 * The donor's side; data is palloc'd.  ereport(ERROR): 55000 or NS001 unless
 * this member counts for the term, or if its log does not begin with a segment.
 * Takes the operation lock.
 */
extern void sk_read_beginning(SkTimeline *tl, uint32 term, SkBeginning *b);

/*
 * The log of a member that ends below b->wal_start becomes [wal_start,
 * first_record).  False if it has reached wal_start meanwhile, or the donor
 * speaks of another election than this member.  ereport(ERROR) if term is not
 * the promised one or b contradicts itself.  Takes the operation lock, and ends
 * a writer.
 */
extern bool sk_jump(SkTimeline *tl, uint32 term, const SkBeginning *b);

/*
 * The worker's: asks the peers, and jumps if none of those that answer has the
 * WAL behind flush_lsn.  True if the log has begun anew.
 */
extern bool jump_to_peer(Fetch *f);

#endif							/* NEON_SK_JUMP_H */
