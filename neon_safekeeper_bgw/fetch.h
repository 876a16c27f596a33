/*-------------------------------------------------------------------------
 *
 * fetch.h
 *	  What the worker of a timeline does for one order: shared by its two
 *	  sources of WAL, the compute (skreceive.c) and the peers (copy.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_FETCH_H
#define NEON_SK_FETCH_H

#include "neon_receive.h"
#include "receivers.h"
#include "walwriter.h"

#define FETCH_CONNECT_MS	10000

typedef struct Fetch
{
	int			row;
	SkTimeline *tl;
	ReceiverOrder order;
	bool		progress;		/* something came since this was cleared */
	char	   *problem;		/* why the last attempt failed; palloc'd in the round's memory */
} Fetch;

typedef enum FetchResult
{
	FETCH_DONE,
	FETCH_FAILED,				/* see problem; worth another attempt */
	FETCH_STOP,					/* a higher term, a newer order */
} FetchResult;

/* True when the worker has to leave what it does: a newer order, a higher promise. */
extern bool fetch_interrupted(void *fetch);

/*
 * What a connection is made with; session is given application_name and
 * options by the caller.
 */
extern ReceiverOptions fetch_session(Fetch *f, bool replication);

/*
 * Streams into the log until stop_at (0: for ever) is durable.  The receiver
 * has been started at the log's end.  Closes neither.
 */
extern FetchResult fetch_stream(Fetch *f, Receiver *receiver, WalWriter *writer,
								XLogRecPtr stop_at);

/* ---- copy.c ---- */

/*
 * A member that missed the election of the order's term learns its history
 * from a peer that counts for it (the launcher's own messages, late).
 */
extern FetchResult copy_learn_term(Fetch *f);

/* R8: copies up to upto from the peers. */
extern FetchResult copy_from_peers(Fetch *f, XLogRecPtr upto);

/*
 * How far a piece of a donor's log that ends at end may be used (R8): where
 * the donor's history, of the same moment, and the own one are one.
 */
extern XLogRecPtr copy_usable_end(SkTimeline *tl, const SkHistory *donors, XLogRecPtr end);

/* The highest commit_lsn that a peer of the same term has told. */
extern XLogRecPtr copy_committed_at_peers(Fetch *f);

/* ---- copy.c: talking to donors ---- */

/* What a donor says of itself. */
typedef struct Donor
{
	char		conninfo[RECEIVER_CONNINFO_SIZE];
	Receiver   *receiver;
	bool		counts;
	uint64		generation;
	uint32		promised;
	XLogRecPtr	commit_lsn;
	char	   *launcher;
} Donor;

typedef struct PeerList
{
	int			n;
	char		conninfo[2 * SK_MAX_MEMBERS + 1][RECEIVER_CONNINFO_SIZE];
} PeerList;

/* The order's donor first, then all other members of either set. */
extern PeerList *copy_peers(Fetch *f);

/* Connects and asks for its positions; the caller closes d->receiver. False: see f->problem. */
extern bool copy_open_donor(Fetch *f, const char *conninfo, Donor *d);

/* "'TENANT', 'TIMELINE'" */
extern const char *copy_ids_as_arguments(Fetch *f);

/* ---- streamfuncs.c ---- */

/*
 * The donor's side: at most max_bytes of the log from from on, below
 * flush_lsn, and the state, of one moment.  NS001 or 55000 unless term is
 * promised.  Takes the operation lock.
 */
extern bytea *sk_read_tail(SkTimeline *tl, uint32 term, XLogRecPtr from, int max_bytes,
						   SkState *st);

#endif							/* NEON_SK_FETCH_H */
