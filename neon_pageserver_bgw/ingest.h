/*-------------------------------------------------------------------------
 *
 * ingest.h
 *	  From a decoded WAL record to the store.
 *
 * The process that owns a timeline (timeline_acquire_ownership) holds one
 * Ingest of it and gives it every record once, in order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_INGEST_H
#define NEON_PS_INGEST_H

#include "access/xlogreader.h"
#include "control.h"
#include "timeline.h"

typedef struct Ingest Ingest;
struct StorePut;

/*
 * The caller owns the timeline.  Starts behind the last record that is
 * published; use ingest_stored_wal() before anything new.  Its memory belongs
 * to CurrentMemoryContext.
 */
extern Ingest *ingest_begin(Timeline *tl);

/*
 * WAL that was ingested before, once more: what it changes goes to a function
 * and not to the store, which is read as of where that WAL begins.  Changes
 * nothing of the timeline, and needs no ownership.  ereport(ERROR) for a record
 * whose changes are not in WAL (a database copied by files).
 */
typedef struct IngestAside
{
	XLogRecPtr	lsn;			/* end of the record before */
	void		(*put) (void *arg, XLogRecPtr start, XLogRecPtr end, const struct StorePut *puts,
						int nputs);
	void	   *arg;
} IngestAside;

extern Ingest *ingest_begin_aside(Timeline *tl, const IngestAside *aside);

/*
 * Puts all that the record changes; not yet visible.  The record must follow
 * the last one.  ereport(ERROR) leaves the Ingest unusable: the process has to
 * give up the ownership and begin anew.
 */
extern void ingest_record(Ingest *ingest, XLogReaderState *record);

/* Makes visible what was put.  Does nothing if nothing was. */
extern void ingest_publish(Ingest *ingest);

typedef enum IngestFlush
{
	INGEST_FLUSH_IF_DUE,		/* begin a layer if the store wants one */
	INGEST_FLUSH_IF_CROWDED,	/* only if it cannot be put off */
	INGEST_FLUSH_BEGIN,			/* begin one in any case */
	INGEST_FLUSH_WAIT,			/* and wait until it is durable */
} IngestFlush;

/* Publishes, and has the index written as a layer. */
extern void ingest_flush(Ingest *ingest, IngestFlush when);

/*
 * Decodes what is stored behind the last record, as far as it is valid, and
 * publishes it; then the stored WAL is durable up to there (flush_lsn) and the
 * timeline counts as recovered in this life of the server.
 */
extern void ingest_stored_wal(Ingest *ingest);

/*
 * Where the last ingest_stored_wal() ended because of what is not valid, though
 * stored WAL goes on behind it: the start of the last stored page; else 0.
 * Such WAL is not cleaned away before the source has it still: walmend().
 */
extern XLogRecPtr ingest_goes_on(const Ingest *ingest);

/*
 * Nothing but zeros is stored behind the last record when this returns.  Bytes
 * below dirty_end may have been written; PG_UINT64_MAX: nobody knows.  Not
 * durable before walstore_sync().
 */
extern void ingest_clean_tail(Ingest *ingest, XLogRecPtr dirty_end);

/*
 * Nobody will write for long, and all stored WAL is indexed: what lies behind
 * the last record is cleaned and needs no space.  Owner only.
 */
extern void ingest_rest(Ingest *ingest);

/*
 * Whether a record may follow under a writer of this term: behind another
 * writer's WAL only its boot record may, and later no other boot record.
 * Term 0 is plain PostgreSQL, which is not checked.  False with *problem.
 */
extern bool ingest_check_term(const Ingest *ingest, uint32 term, XLogReaderState *record,
							  const char **problem);

/* State behind the last record that was put. */
extern const ControlState *ingest_state(const Ingest *ingest);
extern void ingest_end(Ingest *ingest);

/*
 * After a start of the server last_record_lsn may lie below what is stored
 * until that is decoded.  Makes sure that it was; takes the ownership for it if
 * nobody does it.  ereport(ERROR) if it cannot be had for a minute.
 */
extern void ingest_catch_up(Timeline *tl);

/*
 * The same for who waits for an LSN: if nobody decodes the timeline's stored WAL
 * yet, this process does, else it is only waited for that LSN.
 */
extern void ingest_begin_catch_up(Timeline *tl);

/* All that is known of the timeline is in layers when it returns; the caller owns nothing. */
extern void ingest_checkpoint(Timeline *tl);

/*
 * Runs body with the ownership of the timeline, all stored WAL indexed.  A
 * worker that ingests is stopped for it.  ereport(ERROR) if the ownership
 * cannot be had for a minute; it is given back in any case.
 */
extern void ingest_with_ownership(Timeline *tl, void (*body) (Ingest *ingest, void *arg),
								  void *arg);

/* ---- the live source, for views and branches ---- */

#define INGEST_ERROR_MAX	256

typedef struct IngestSourceInfo
{
	bool		has_source;		/* timeline_source was called */
	bool		connected;		/* WAL streams */
	uint32		term;
	XLogRecPtr	received_lsn;	/* end of the bytes received */
	XLogRecPtr	reported_lsn;	/* flush position told to the source */
	TimestampTz last_message;	/* from the source; 0: none yet */
	int			worker_pid;		/* 0: none */
	char		last_error[INGEST_ERROR_MAX];	/* "" if none */
	TimestampTz last_error_time;
} IngestSourceInfo;

extern bool ingest_get_source(Timeline *tl, IngestSourceInfo *info);
extern bool ingest_source_connected(Timeline *tl);

/*
 * Asks the live source for an LSN behind every transaction that it has
 * acknowledged until now, which it has flushed.  Invalid if no source is
 * connected; ereport(ERROR) if it does not answer.
 */
extern XLogRecPtr ingest_current_lsn(Timeline *tl);

/* ---- parts of the library's start ---- */

extern void ingest_define_gucs(void);
extern Size ingest_shmem_size(void);
extern void ingest_shmem_init(void);
extern void ingest_register_worker(void);

#endif							/* NEON_PS_INGEST_H */
