/*-------------------------------------------------------------------------
 *
 * serve.h
 *	  Standard streaming replication of timelines' committed WAL: what other
 *	  parts of the library see of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_SERVE_H
#define NEON_SK_SERVE_H

/* The role of the services, and what the pageserver's stream calls itself. */
#define SERVE_STORAGE_ROLE		"neon_storage"
#define SERVE_PEER_NAME			"neon_safekeeper"
#define SERVE_PAGESERVER_NAME	"neon_pageserver"

/* ---- called by init.c ---- */
extern void serve_define_gucs(void);
extern void serve_install_hooks(void);
extern Size readers_shmem_size(void);
extern void readers_shmem_init(void);

#endif							/* NEON_SK_SERVE_H */
