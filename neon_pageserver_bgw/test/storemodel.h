/*-------------------------------------------------------------------------
 *
 * storemodel.h
 *	  A model in memory of what the store has.
 *
 * A run is a list of steps that follows from a seed alone, so that it can be
 * repeated after a crash: what the store still has is skipped, the rest is put
 * again, and every version must then be what the model says.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_STOREMODEL_H
#define NEON_PS_STOREMODEL_H

#include "common/pg_prng.h"
#include "store.h"
#include "testwal.h"

#define START_LSN	((XLogRecPtr) TEST_SEGMENT + 0x100)
#define MAX_TIMELINES 6
#define NRELS		3
#define NFORKS		2
#define NBLOCKS		150
#define NBLOBS		12
#define MAX_BLOB	100000

/* One version in the model; of sizes the change, not the value. */
typedef struct ModelVersion
{
	NeonKey		key;
	XLogRecPtr	start;
	XLogRecPtr	lsn;
	uint8		kind;
	bool		base;
	uint32		len;			/* of the value */
	uint32		fill;			/* its bytes follow from this */
	uint32		wal_len;		/* of WAL: of the record */
	bool		cut;			/* SIZE: a truncation or drop to blocks */
	bool		dropped;
	BlockNumber blocks;
} ModelVersion;

typedef struct ModelTimeline
{
	Timeline   *tl;
	int			ancestor;		/* -1: none */
	XLogRecPtr	ancestor_lsn;
	XLogRecPtr	next;			/* start of the next record */
	XLogRecPtr	last_start;
	XLogRecPtr	durable;		/* what the store had when the run began */
	int			n;
	int			max;
	ModelVersion *v;
	RelSize		size[NRELS][NFORKS];
} ModelTimeline;

typedef struct Model
{
	pg_prng_state random;
	NeonId		tenant;
	uint64		seed;
	bool		apply;			/* put into the store, or only into the model */
	int			ntimelines;
	ModelTimeline t[MAX_TIMELINES + 1]; /* and one that no step makes */
	void		(*after_step) (struct Model *m, int i); /* or NULL */
} Model;

extern uint32 draw(Model *m, uint32 n);
extern NeonId make_id(uint64 seed, uint32 n);
extern char *make_bytes(uint32 fill, uint32 len);
extern NeonKey page_key(uint32 rel, uint32 fork, BlockNumber blk);
extern NeonKey size_key(uint32 rel, uint32 fork);
extern NeonKey draw_key(Model *m);

/* What the model says of a fork (call with *nblocks = 0, *exists = false). */
extern void model_size(Model *m, int t, const NeonKey *key, XLogRecPtr lsn, BlockNumber *nblocks,
					   bool *exists);

/* LSN of the newest cut at or below a block. */
extern XLogRecPtr model_floor(Model *m, int t, const NeonKey *key, XLogRecPtr lsn, BlockNumber blk);

/* The newest version in (above, lsn], or NULL. */
extern ModelVersion *model_newest(Model *m, int t, const NeonKey *key, XLogRecPtr above,
								  XLogRecPtr lsn);

/* Reports a difference. */
extern void differs(const NeonKey *key, int t, XLogRecPtr lsn, const char *what) pg_attribute_noreturn();

/* The root timeline, and all steps. */
extern void make_root(Model *m);
extern Model *run_steps(uint64 seed, int steps, bool apply, bool check,
						void (*after_step) (Model *m, int i));

#endif							/* NEON_PS_STOREMODEL_H */
