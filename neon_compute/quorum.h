/*-------------------------------------------------------------------------
 *
 * quorum.h
 *	  The safekeepers of this compute, and what they have of its WAL.
 *
 * A primary whose neon.safekeepers is not empty runs in quorum mode: its WAL
 * is durable when a majority of them has it.  Which mode it is, is decided
 * at the start.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_QUORUM_H
#define NEON_QUORUM_H

#include "neon.h"
#include "neon_members.h"

/* Settings; see quorum.c. */
extern char *neon_safekeepers;	/* SIGHUP */
extern char *neon_safekeeper_connstring;	/* SIGHUP */
extern int	neon_config_generation; /* SIGHUP */
extern int	neon_read_lease;	/* milliseconds, SIGHUP */
extern double neon_max_ingest_lag;	/* bytes, SIGHUP; 0: no limit */
extern int	neon_safekeeper_wal_keep;	/* megabytes, SIGHUP */

/* In _PG_init. */
extern void quorum_define_settings(void);

/*
 * In _PG_init once the ticket is read: decides the mode, shows term and boot
 * id, checks members and synchronous_standby_names and guards the latter from
 * then on.  FATAL with a HINT.
 */
extern void quorum_check_settings(void);

extern void quorum_request_shmem(void);
extern void quorum_shmem_startup(void);

/* Does this server need a majority of safekeepers?  Constant after _PG_init. */
extern bool quorum_mode(void);

/* The members of neon.safekeepers as this process has read it. */
extern const NeonMembers *quorum_members(void);

/* Is synchronous_standby_names, as read by this process, that of the members? */
extern bool quorum_names_agree(void);

/* Is this the name of a member's slot, of whatever boot? */
extern bool quorum_is_member_name(const char *name);

/*
 * A majority has the WAL up to here: what the WAL senders have released
 * commits up to.  Takes SyncRepLock.  0 before the first time.
 */
extern XLogRecPtr quorum_flush_lsn(void);

/* The pageserver has the WAL up to here; at least the boot LSN. */
extern XLogRecPtr quorum_pageserver_lsn(void);
extern void quorum_set_pageserver_lsn(XLogRecPtr lsn);	/* only rises */

/* One member, as the coordinator sees it. */
typedef struct MemberStatus
{
	NeonMember	member;
	bool		streaming;		/* its slot is in use */
	XLogRecPtr	flush_lsn;		/* it has reported this; 0: nothing yet */
	uint64		lag_bytes;		/* what it lacks of the majority's WAL */
	char		problem[256];	/* why it does not stream, or what hinders it; or "" */
} MemberStatus;

/* Takes a lock; the coordinator publishes all of them at once. */
extern void quorum_publish(const MemberStatus *status, int n);
extern int	quorum_status(MemberStatus status[NEON_MEMBERS_UNION_MAX]);

/* "safekeeper 2 (HOST:PORT) and ..." that lack WAL from lsn on; palloc'd. */
extern char *quorum_name_laggards(XLogRecPtr lsn);

/* No WAL sender may begin that has read an older configuration. */
extern void quorum_set_wanted_generation(int generation);
extern int	quorum_wanted_generation(void);

/* Of the configuration that no WAL sender of an older one is left for. */
extern void quorum_set_applied_generation(int generation);
extern int	quorum_applied_generation(void);

#endif							/* NEON_QUORUM_H */
