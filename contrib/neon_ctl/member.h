/*-------------------------------------------------------------------------
 *
 * member.h
 *	  Changing the safekeepers of a timeline.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_MEMBER_H
#define NEON_CTL_MEMBER_H

#include "instance.h"
#include "quorum.h"

/* Who shall keep the branches: what the config says, with sessions to nobody. */
typedef struct MemberTarget
{
	int			n;
	Instance	inst[MAX_SAFEKEEPERS];
	char		node[MAX_SAFEKEEPERS][NEON_ID_HEXLEN + 1];
	char	   *json;			/* the same as a JSON array of members */
} MemberTarget;

extern void member_target_load(MemberTarget *target);

/*
 * Makes them the timeline's safekeepers, from wherever an earlier attempt got
 * to.  False if there was nothing to do, or the timeline is gone.  Commits go
 * on meanwhile.  Dies if it cannot go on, with the timeline as safe as before.
 */
extern bool member_change_timeline(PGconn *ps, const MemberTarget *target, const char *tenant,
								   const char *timeline);

/*
 * A timeline of laptop mode, whose last writer must be stopped, gets them as
 * its first safekeepers.  False if it has some.
 */
extern bool member_begin_timeline(PGconn *ps, const MemberTarget *target, const char *tenant,
								  const char *timeline);

#endif							/* NEON_CTL_MEMBER_H */
