/*-------------------------------------------------------------------------
 *
 * state.h
 *	  What a safekeeper persists about a timeline beside its WAL: the state
 *	  file, its history of terms and its configuration of members.
 *
 * An SkState has a fixed size and no pointers: it lies in shared memory as it
 * is, and is copied by assignment.  Functions here touch neither locks nor
 * shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_STATE_H
#define NEON_SK_STATE_H

#include "access/xlogdefs.h"
#include "neon_id.h"
#include "utils/jsonb.h"

#define SK_MAX_HISTORY		64	/* terms that are told apart; see skhistory_compact */
#define SK_MAX_MEMBERS		7	/* of one set */
#define SK_HOST_MAX			128 /* bytes, with the zero */
#define SK_LAUNCHER_MAX		512
#define SK_DETAIL_MAX		256

/* A term and the LSN (X) where it begins. */
typedef struct SkTerm
{
	uint32		term;
	XLogRecPtr	start;
} SkTerm;

/* Ascending in both; of entries with equal start only the last has any WAL. */
typedef struct SkHistory
{
	int			n;
	SkTerm		entry[SK_MAX_HISTORY];
} SkHistory;

typedef struct SkMember
{
	uint32		id;
	NeonId		node;
	char		host[SK_HOST_MAX];
	uint32		port;
} SkMember;

typedef struct SkMemberSet
{
	int			n;
	SkMember	member[SK_MAX_MEMBERS];
} SkMemberSet;

typedef struct SkConfig
{
	uint64		generation;
	uint32		floor;			/* terms below this may not be promised or run */
	SkMemberSet members;
	bool		joint;			/* then a majority is one of either set */
	SkMemberSet new_members;
} SkConfig;

typedef struct SkState
{
	NeonId		tenant;
	NeonId		timeline;
	NeonId		node;			/* whose file this is: a copied one is refused */
	uint64		system_identifier;
	uint32		wal_segment_size;
	uint32		tli;			/* PostgreSQL's, always 1 */
	XLogRecPtr	start_lsn;		/* the timeline's own WAL begins here */
	SkConfig	config;
	uint32		promised;
	char		launcher[SK_LAUNCHER_MAX];	/* text that came with the last promise */
	uint32		lease_ms;		/* longest read lease that may be running; 0: none */
	SkHistory	history;
	XLogRecPtr	commit_lsn;		/* a lower bound */
	XLogRecPtr	acked_lsn;		/* a lower bound of what was reported as durable */
	XLogRecPtr	wal_start;		/* WAL below this is not here */
	XLogRecPtr	clean_end;		/* flush_lsn of a clean stop, nothing written since; else 0 */
	uint32		boot_term;		/* whose boot record was removed; 0: none was */
	NeonId		boot_id;		/* what that record held of its boot id (R10) */
	bool		deleted;		/* a tombstone */
	char		damage[SK_DETAIL_MAX];	/* why it may not vote any more, or "" */
} SkState;

/* ---- state.c: the file ---- */

typedef enum SkStateResult
{
	SK_STATE_OK,
	SK_STATE_MISSING,
	SK_STATE_BAD,				/* version, checksum or contents; see problem */
} SkStateResult;

/* Reads DIR/state; ereport(ERROR) only if the disk cannot be read. */
extern SkStateResult skstate_read(const char *dir, SkState *state, char **problem);

/*
 * Writes DIR/state whole: temporary file, fdatasync, rename, fsync of the
 * directory.  Durable when it returns; ereport(ERROR) else, and then the disk
 * has the old or the new one.  The caller holds the timeline's operation lock.
 */
extern void skstate_write(const char *dir, const SkState *state);

/* ---- history.c ---- */

/* Term of the last entry with start <= lsn; 0 if there is none. */
extern uint32 skhistory_term_at(const SkHistory *h, XLogRecPtr lsn);

/* The entry of a term, or NULL. */
extern const SkTerm *skhistory_find(const SkHistory *h, uint32 term);
extern const SkTerm *skhistory_last(const SkHistory *h);	/* NULL if empty */

/*
 * End of the common part (R6) of an own log with history own that ends at
 * flush_lsn, and a log with history given.  final: both logs are equal below
 * it whatever their histories still tell (own commit_lsn).
 */
extern XLogRecPtr skhistory_common(const SkHistory *own, XLogRecPtr flush_lsn,
								   const SkHistory *given, XLogRecPtr final);

/*
 * Makes room when all entries are in use: entries without WAL go, then the
 * oldest that end at or below commit_lsn.  False if that does not help.
 */
extern bool skhistory_compact(SkHistory *h, XLogRecPtr commit_lsn);

/* [[term, "X/X"], ...]; problem is set (and false returned) if it is no history. */
extern bool skhistory_from_jsonb(Jsonb *jb, SkHistory *h, char **problem);
extern char *skhistory_to_json(const SkHistory *h);

/* ---- config.c ---- */

extern bool skconfig_from_jsonb(Jsonb *jb, SkConfig *config, char **problem);
extern char *skconfig_to_json(const SkConfig *config);
extern bool skconfig_equal(const SkConfig *a, const SkConfig *b);

/* The member of either set with this node uuid, or NULL. */
extern const SkMember *skconfig_member(const SkConfig *config, const NeonId *node);

/*
 * R12: the LSN that a majority (joint: of both sets) has reached; position is
 * asked for each member and returns its flush_lsn, or 0 if it does not count.
 */
typedef XLogRecPtr (*SkPositionFunction) (const SkMember *member, void *arg);
extern XLogRecPtr skconfig_quorum_lsn(const SkConfig *config, SkPositionFunction position,
									  void *arg);

#endif							/* NEON_SK_STATE_H */
