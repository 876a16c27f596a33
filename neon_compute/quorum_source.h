/*-------------------------------------------------------------------------
 *
 * quorum_source.h
 *	  The coordinator names the safekeepers to the pageserver.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_QUORUM_SOURCE_H
#define NEON_QUORUM_SOURCE_H

#include "neon_members.h"
#include "peer.h"

/* After every wait of the coordinator's loop; ends the server if it is superseded. */
extern void source_drive(const NeonMembers *members, uint64 now);

/* Names them as soon as possible: they have changed. */
extern void source_repeat(void);

/* To wait for, and for its problem. */
extern const Peer *source_peer(void);
extern uint64 source_wakeup(void);

#endif							/* NEON_QUORUM_SOURCE_H */
