/*-------------------------------------------------------------------------
 *
 * sqlutil.h
 *	  Arguments of the pageserver's SQL functions: timelines, branch names.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_SQLUTIL_H
#define NEON_PS_SQLUTIL_H

#include "neon_sqlutil.h"
#include "timeline.h"
#include "utils/timestamp.h"

/* ereport(ERROR) unless name is fit for a branch. */
extern void sql_check_branch_name(const char *name);

/* The timeline of a tenant by id; access is checked first. */
extern Timeline *sql_open_timeline(FunctionCallInfo fcinfo, int tenant_argno, int timeline_argno);

/* First LSN of the history of a timeline, its ancestors included. */
extern XLogRecPtr sql_history_start(Timeline *tl);

/* Microseconds from now to an interval from now; ereport(ERROR) if it is negative. */
extern int64 sql_interval_us(Interval *interval, const char *what);

#endif							/* NEON_PS_SQLUTIL_H */
