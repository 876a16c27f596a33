/*-------------------------------------------------------------------------
 *
 * node.h
 *	  The uuid of this safekeeper: whoever has another one is another member.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_NODE_H
#define NEON_SK_NODE_H

#include "neon_id.h"

/*
 * PGDATA/neon/node, made at the first start of the instance and never
 * changed.  Called in the postmaster: FATAL if the file is unreadable.
 */
extern void sknode_load(void);

#endif							/* NEON_SK_NODE_H */
