/*-------------------------------------------------------------------------
 *
 * writer.h
 *	  The last writer of a timeline: who may write, and up to where it did.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_WRITER_H
#define NEON_PS_WRITER_H

#include "fmgr.h"
#include "timeline.h"

/* A call is refused because a later term writes the timeline. */
#define ERRCODE_NEON_SUPERSEDED MAKE_SQLSTATE('N', 'S', '0', '0', '1')

/* Highest term that wrote the timeline or, up to the branch point, an ancestor. */
extern uint32 writer_highest_term(Timeline *tl, const TimelineWriter *writer);

/* ereport(ERROR, ERRCODE_NEON_SUPERSEDED) if a later term has written. */
extern void writer_check_term(Timeline *tl, const TimelineWriter *writer, uint32 term);

/* A term argument; ereport(ERROR) if it is negative. */
extern uint32 writer_term_arg(FunctionCallInfo fcinfo, int argno);

#endif							/* NEON_PS_WRITER_H */
