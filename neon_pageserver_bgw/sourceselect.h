/*-------------------------------------------------------------------------
 *
 * sourceselect.h
 *	  Connecting to a timeline's source of WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_SOURCESELECT_H
#define NEON_PS_SOURCESELECT_H

#include "neon_receive.h"
#include "source.h"

/*
 * A replication connection to the source, which is the right system.  Of
 * safekeepers it is the one that has committed most; of other sources the
 * turn'th.  NULL with *problem, palloc'd, if there is none now.  Waits a few
 * seconds for each at most, interruptibly.
 */
extern Receiver *source_connect(Timeline *tl, const SourceTarget *target, int turn,
								char **problem);

/* The same to one certain connection string of the target, counted from 0. */
extern Receiver *source_connect_to(Timeline *tl, const SourceTarget *target, int which,
								   char **problem);

/* Does any safekeeper have committed WAL behind lsn?  Waits as source_connect() does. */
extern bool source_has_more(Timeline *tl, const SourceTarget *target, XLogRecPtr lsn);

#endif							/* NEON_PS_SOURCESELECT_H */
