/*-------------------------------------------------------------------------
 *
 * neon_members.h
 *	  The safekeepers of a timeline as a compute is told them: the text of
 *	  neon.safekeepers, the members' names, and what a majority of them is.
 *
 * The text is "ID:NODE:HOST:PORT,..." (NODE: the safekeeper's uuid, 32
 * hexadecimal digits), in a joint configuration two such lists with a
 * semicolon between them, the old members and the new ones.
 *
 * Usable from the backend and from frontend programs; allocates nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_MEMBERS_H
#define NEON_MEMBERS_H

#include "neon_id.h"

#define NEON_MEMBERS_MAX		9	/* in each of the two lists */
#define NEON_MEMBERS_UNION_MAX	(2 * NEON_MEMBERS_MAX)
#define NEON_MEMBER_HOST_MAX	256
#define NEON_MEMBER_PREFIX		"neon_sk_"
#define NEON_MEMBER_NAME_MAX	64

/* Longest text that members_quorum_text writes, with the terminating zero. */
#define NEON_QUORUM_TEXT_MAX	(32 + NEON_MEMBERS_UNION_MAX * (NEON_MEMBER_NAME_MAX + 2))

typedef struct NeonMember
{
	int			id;				/* > 0 */
	char		node[NEON_ID_HEXLEN + 1];
	char		host[NEON_MEMBER_HOST_MAX];
	int			port;
	bool		is_old;			/* is in the first list */
	bool		is_new;			/* is in the second list */
} NeonMember;

typedef struct NeonMembers
{
	int			n;				/* members of either list, each once */
	bool		joint;			/* there are two lists */
	NeonMember	member[NEON_MEMBERS_UNION_MAX];
} NeonMembers;

/* False, and *problem a constant text, if the text is not valid. */
extern bool members_parse(const char *text, NeonMembers *members, const char **problem);

/*
 * The name of a member's replication slot at the compute of this boot, which
 * is its application_name too.  Returns name[NEON_MEMBER_NAME_MAX].
 */
extern char *members_name(const NeonMember *member, const NeonId *boot_id, char *name);

/* So many of all members must have WAL before it counts, whichever they are. */
extern int	members_quorum(const NeonMembers *members);

/* synchronous_standby_names for them; returns text[NEON_QUORUM_TEXT_MAX]. */
extern char *members_quorum_text(const NeonMembers *members, const NeonId *boot_id, char *text);

/*
 * The largest value that a majority has reached, values[i] being that of
 * member[i]; of two lists, the smaller one of both majorities'.
 */
extern uint64 members_majority_value(const NeonMembers *members, const uint64 *values);

#endif							/* NEON_MEMBERS_H */
