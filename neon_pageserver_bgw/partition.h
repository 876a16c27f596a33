/*-------------------------------------------------------------------------
 *
 * partition.h
 *	  Jobs on partitions: partitionplan.c chooses, partition.c does them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_PARTITION_H
#define NEON_PS_PARTITION_H

#include "history.h"
#include "layermap.h"
#include "nodes/pg_list.h"

typedef enum PartitionJobKind
{
	PARTITION_PULL,
	PARTITION_FOLD,
	PARTITION_REBASE,
} PartitionJobKind;

typedef struct PartitionPlan
{
	PartitionJobKind kind;
	int			partition;		/* its position in the map */
	int			first;			/* its files that are read and replaced: from here */
	int			n;				/* so many */
	List	   *wide;			/* positions of the wide files that are read */
	XLogRecPtr	upto;			/* its files have all versions up to here afterwards */
	XLogRecPtr	horizon;		/* what is below is read at the points only; 0: none */
	const RetentionSet *retention;
	uint32		points;			/* checksum of those below the horizon */
} PartitionPlan;

/* Does the job; the caller has claimed the partition. */
extern void partition_run(Timeline *tl, const LayerMap *map, const PartitionPlan *plan);

#endif							/* NEON_PS_PARTITION_H */
