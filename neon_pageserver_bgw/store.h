/*-------------------------------------------------------------------------
 *
 * store.h
 *	  The storage of a timeline: versions of keys.  The layered engine will
 *	  stand behind this same interface.
 *
 * One process, the timeline's owner (timeline_acquire_ownership), puts; any
 * number read.  A version's LSN is the END of the record that made it.  Reads
 * descend into ancestors by themselves, with the LSN cut at the branch point.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_STORE_H
#define NEON_PS_STORE_H

#include "access/xlogrecord.h"
#include "neon_key.h"
#include "size.h"
#include "timeline.h"

/* ---- writing ---- */

typedef struct StorePut
{
	NeonKey		key;
	uint8		value_kind;		/* NeonValueKind */
	bool		base;			/* nothing older is needed to make this version */
	const void *data;			/* of all kinds but WAL; copied */
	uint32		len;
} StorePut;

/*
 * Adds all that one record changes.  Visible to readers together, when
 * last_record_lsn moves to end by store_publish().  Never fails for lack of
 * memory in the index: it flushes instead.
 */
extern void store_put(Timeline *tl, XLogRecPtr start, XLogRecPtr end,
					  const StorePut *puts, int nputs);

/*
 * A function that is called about every 100 ms while a put or a flush works,
 * in the process that calls them (the ingest answers its source with it).
 */
extern void store_set_tick(void (*tick) (void *arg), void *arg);

/* Everything put so far becomes readable; wakes who waits for it. */
extern void store_publish(Timeline *tl, XLogRecPtr last_record_start,
						  XLogRecPtr last_record_end);

/* True when the owner should call store_flush_start (size, age, no more WAL, or memory). */
extern bool store_flush_due(Timeline *tl);

/*
 * True if store_flush_start cannot be put off, as memory gets short, and would not
 * wait for the frozen index either.
 */
extern bool store_flush_crowded(Timeline *tl);

/* True if somebody asks for it because memory is short. */
extern bool store_flush_wanted(Timeline *tl);

/*
 * Freezes the open index, for a worker to write it as a layer.  While the one
 * before is not written this does nothing, or waits for it if the open index
 * is far too large.  Owner only.
 */
extern void store_flush_start(Timeline *tl);

/*
 * From here on this process flushes without making images of pages with long
 * chains: for the end of the instance, when nobody is there who makes pages.
 */
extern void store_flush_without_images(void);

/*
 * The same as store_flush_start, and waits until it is written: when it returns
 * disk_consistent_lsn = last_record_lsn, durably.  Owner only.
 */
extern void store_flush(Timeline *tl);

/* Any process: writes the frozen index, if there is one and nobody else does; false if not. */
extern bool store_flush_frozen(Timeline *tl);

/*
 * Import: images and blobs in immutable layers, all at one LSN (the start of
 * a root timeline, or a copied database).  Keys in any order, each once.
 * Nothing is visible before finish, which makes it durable.
 */
typedef struct StoreImport StoreImport;

extern StoreImport *store_import_begin(Timeline *tl, XLogRecPtr lsn);
extern void store_import_put(StoreImport *imp, const NeonKey *key, uint8 value_kind,
							 const void *data, uint32 len);
extern void store_import_finish(StoreImport *imp);

/* ---- reading ---- */

/* One version of a key, found but not yet read. */
typedef struct StoreVersion
{
	XLogRecPtr	lsn;			/* end of the record */
	XLogRecPtr	start;			/* start of the record, of WAL only */
	uint8		value_kind;
	bool		base;
	uint32		len;			/* of data */
	const char *data;			/* of WAL: in walvalue.h's form, or NULL */
	XLogRecord *record;			/* then the record itself, or NULL: not read yet */
	Timeline   *timeline;		/* whose stored WAL has it then */
} StoreVersion;

typedef enum StoreFound
{
	STORE_MISSING,				/* no version of this key at this LSN */
	STORE_ZERO,					/* a page at or beyond the end of its fork, or
								 * cut away since its last version */
	STORE_FOUND,				/* versions, newest first; the last one is a
								 * base, unless has_base is false */
} StoreFound;

typedef struct StoreChain
{
	StoreFound	found;
	bool		has_base;		/* false: start from a zero page */
	int			nversions;
	StoreVersion *versions;
} StoreChain;

/*
 * Looks up n keys as of lsn (version LSN <= lsn).  For page keys the size and
 * the cut list of the fork are obeyed: a fork that does not exist is
 * STORE_MISSING, a block of an existing one without a version STORE_ZERO.  Chains are allocated in CurrentMemoryContext.
 * No lock is held on return.
 */
extern void store_get(Timeline *tl, const NeonKey *keys, int nkeys, XLogRecPtr lsn,
					  StoreChain *chains);

/*
 * The record of a version of a key, of kind WAL, in CurrentMemoryContext; its
 * xl_prev and xl_crc may be 0.  ereport(ERROR) with ERRCODE_DATA_CORRUPTED if
 * it is not what it should be.
 */
extern XLogRecord *store_record(const NeonKey *key, const StoreVersion *version);

/* Size of a fork as of lsn; false (size initialised) if it does not exist. */
extern bool store_size_at(Timeline *tl, const NeonKey *size_key, XLogRecPtr lsn,
						  RelSize *size);

/*
 * Newest version <= lsn of every key in [lo, hi], in key order, ancestors
 * included, tombstones left out.  For keys whose newest version is WAL (pages,
 * SLRU pages) only the key is told.  Return false from cb to stop.
 */
typedef bool (*StoreScanCallback) (const NeonKey *key, const StoreVersion *newest, void *arg);
extern void store_scan(Timeline *tl, const NeonKey *lo, const NeonKey *hi, XLogRecPtr lsn,
					   StoreScanCallback cb, void *arg);

/*
 * The same for keys that have a version in (above, lsn] only, those of which
 * the newest one is a tombstone too; no data is told.  A key may be told that
 * was written anew without a change.
 */
extern void store_scan_changed(Timeline *tl, const NeonKey *lo, const NeonKey *hi, XLogRecPtr above,
							   XLogRecPtr lsn, StoreScanCallback cb, void *arg);

/* Until this is called, once in a life of the server, compaction's workers wait: a start has other work. */
extern void store_allow_compaction(void);

/* Bytes on disk: layers and stored WAL of this timeline alone. */
extern uint64 store_physical_size(Timeline *tl);

/* Bytes of layers that would not be there if compaction were not behind; a hint. */
extern uint64 store_compaction_debt(Timeline *tl);

#endif							/* NEON_PS_STORE_H */
