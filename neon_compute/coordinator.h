/*-------------------------------------------------------------------------
 *
 * coordinator.h
 *	  What the server knows about its storage: does it stream, how far is it,
 *	  has another compute taken over; and who must wait for it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_COORDINATOR_H
#define NEON_COORDINATOR_H

#include "neon.h"

#define NEON_STORAGE_ROLE	"neon_storage"
#define NEON_STORAGE_SLOT	"neon_pageserver"

/* Settings; see init.c.  The ids are those of neon_boot, as text. */
extern char *neon_tenant_id_setting;
extern char *neon_timeline_id_setting;
extern char *neon_endpoint_id_setting;
extern char *neon_safekeepers;
extern char *neon_storage_conninfo;
extern int	neon_max_unflushed_wal; /* megabytes */

/* In the postmaster: from the request and startup hooks, and _PG_init. */
extern void coordinator_request_shmem(void);
extern void coordinator_shmem_startup(void);
extern void coordinator_register_worker(void);

/* Is there a storage that must have this server's WAL? */
extern bool storage_needed(void);

/* State for views. */
typedef struct StorageState
{
	bool		admitted;		/* clients are let in */
	bool		streaming;		/* something streams from the slot now */
	XLogRecPtr	flush_lsn;		/* the storage has the WAL up to here */
	char		problem[256];	/* why it does not stream, or "" */
} StorageState;

extern void storage_state(StorageState *state);

/*
 * Waits until clients may be let in; false after timeout_ms.  Interruptible.
 * At once true for an endpoint that stores nothing.
 */
extern bool storage_wait_admission(int timeout_ms);

/* End of the WAL that the storage has, read from the slot; never falls. */
extern XLogRecPtr storage_flush_lsn(void);

/* The same as last seen by anybody: takes no lock. */
extern XLogRecPtr storage_known_flush_lsn(void);

/*
 * Holds the calling writer while the storage is more than
 * neon.max_unflushed_wal behind; ERROR 53100 after neon.fetch_timeout.
 * Returns at once where waiting or failing is not possible (critical
 * section, interrupts held off, recovery, processes that serve no query).
 */
extern void neon_throttle(void);

/* Installs the points at which writers are held: statements and commits. */
extern void throttle_install(void);

/*
 * Any process learnt that a later term writes the timeline: the coordinator
 * logs it and shuts the server down.  term 0: not known.
 */
extern void neon_superseded(uint32 term);

#endif							/* NEON_COORDINATOR_H */
