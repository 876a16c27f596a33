/*-------------------------------------------------------------------------
 *
 * hydration.h
 *	  Fetching whole relations, databases and everything, and how far it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_HYDRATION_H
#define NEON_HYDRATION_H

#include "datatype/timestamp.h"
#include "common/relpath.h"
#include "storage/relfilenode.h"

typedef enum HydrationKind
{
	HYDRATION_RELATION,			/* neon.hydrate('...') */
	HYDRATION_DATABASE,			/* for a command that copies files */
	HYDRATION_ALL,				/* neon.hydrate() */
	HYDRATION_BACKGROUND,		/* the worker, at neon.hydrate_rate */
	HYDRATION_PREWARM,			/* the worker, catalogs and what was in use before */
} HydrationKind;

extern void hydration_define_gucs(void);

/* In the postmaster. */
extern void hydration_request_shmem(void);
extern void hydration_shmem_startup(void);

typedef struct HydrationProgress
{
	int			pid;
	HydrationKind kind;
	bool		flushing;		/* all is here, files are being flushed */
	TimestampTz started;
	uint64		total;			/* blocks that were absent when it began */
	uint64		left;			/* those of them that still are */
	uint64		fetched;		/* by this process; others may have helped */
	bool		reading;		/* then the next two say what */
	RelFileNode rnode;
	ForkNumber	forknum;
} HydrationProgress;

/* Slots are numbered from 0; false if no hydration runs in this one. */
extern int	hydration_nslots(void);
extern bool hydration_progress(int slot, HydrationProgress *progress);

extern const char *hydration_kind_name(HydrationKind kind);

#endif							/* NEON_HYDRATION_H */
