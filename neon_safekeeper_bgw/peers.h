/*-------------------------------------------------------------------------
 *
 * peers.h
 *	  The worker that exchanges positions with the other safekeepers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_PEERS_H
#define NEON_SK_PEERS_H

#include "state.h"

/* host, port and user of a peer; buf has RECEIVER_CONNINFO_SIZE bytes. */
extern char *peers_conninfo(const SkMember *member, char *buf);

/* Ask all of them at once, not in a second. */
extern void peers_ask_now(void);

extern void peers_define_gucs(void);
extern Size peers_shmem_size(void);
extern void peers_shmem_init(void);
extern void peers_register_worker(void);

#endif							/* NEON_SK_PEERS_H */
