/*-------------------------------------------------------------------------
 *
 * neon_walindex.h
 *	  What a WAL record changes: its block references and every effect that
 *	  is not a block reference.
 *
 * Records are expected to have passed their CRC.  Lengths inside them are
 * checked nevertheless: a record that does not hold what its type promises is
 * an ereport(ERROR, ERRCODE_DATA_CORRUPTED).
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_WALINDEX_H
#define NEON_WALINDEX_H

#include "access/xlogreader.h"
#include "datatype/timestamp.h"
#include "neon_key.h"

/*
 * Receives the effects of one record, in the order in which they must be
 * applied.  Any callback may be NULL.
 */
typedef struct WalIndexSink
{
	/*
	 * The record must be applied to this page.  base: the page needs no older
	 * version (will_init or an applied image of this very block).  implicit:
	 * derived, not a block reference (visibility map bits).  FSM pages are
	 * never told.
	 */
	void		(*page) (void *arg, const NeonKey *key, bool base, bool implicit);

	/* The fork has at least nblocks blocks (block references; not implicit ones). */
	void		(*extend) (void *arg, RelFileNode rnode, ForkNumber fork, BlockNumber nblocks);
	void		(*create) (void *arg, RelFileNode rnode, ForkNumber fork);
	/* Nothing happens if the fork is not longer than nblocks. */
	void		(*truncate) (void *arg, RelFileNode rnode, ForkNumber fork, BlockNumber nblocks);
	void		(*drop) (void *arg, RelFileNode rnode); /* all forks */

	/* Databases, tablespaces, relation maps. */
	void		(*create_db_copy) (void *arg, Oid db, Oid spc, Oid src_db, Oid src_spc);
	void		(*create_db) (void *arg, Oid db, Oid spc);	/* WAL_LOG strategy */
	void		(*drop_db) (void *arg, Oid db, Oid spc);
	void		(*create_tablespace) (void *arg, Oid spc, const char *path);
	void		(*drop_tablespace) (void *arg, Oid spc);
	void		(*relmap) (void *arg, Oid db, Oid spc, const char *data, int len);

	/*
	 * Two-phase state (data is the state file without its CRC) and replication
	 * origins (force: may go backward).
	 */
	void		(*prepare) (void *arg, TransactionId xid, const char *data, uint32 len);
	void		(*finish_prepared) (void *arg, TransactionId xid);
	void		(*origin) (void *arg, RepOriginId origin, XLogRecPtr remote_lsn, bool force);
	void		(*drop_origin) (void *arg, RepOriginId origin);
} WalIndexSink;

extern void walindex_record(XLogReaderState *record, const WalIndexSink *sink, void *arg);

/* A commit or abort record, plain or of a prepared transaction. */
typedef struct WalXact
{
	bool		commit;
	bool		prepared;		/* COMMIT PREPARED, ROLLBACK PREPARED */
	TransactionId xid;			/* the top-level one that ends */
	TimestampTz time;			/* of this server's clock */
	TimestampTz origin_time;	/* what commit timestamps record: time, or the origin's */
	XLogRecPtr	origin_lsn;
	RepOriginId origin;			/* InvalidRepOriginId if none */
	int			nsubxacts;
	const TransactionId *subxacts;	/* into the record */
	int			nrels;
	const RelFileNode *rels;	/* into the record */
} WalXact;

/* False if the record is no commit or abort. */
extern bool walindex_parse_xact(XLogReaderState *record, WalXact *xact);

/* The header of an XLOG_XACT_PREPARE record and its subtransactions; false if it is none. */
extern bool walindex_parse_prepare(XLogReaderState *record, TransactionId *xid,
								   int *nsubxacts, const TransactionId **subxacts,
								   XLogRecPtr *origin_lsn);

#endif							/* NEON_WALINDEX_H */
