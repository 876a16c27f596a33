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
#define NEON_SUPERUSER_ROLE "cloud_admin"	/* of the command "neon" */
#define NEON_STORAGE_SLOT	"neon_pageserver"

/* Settings; see init.c.  The ids are those of neon_boot, as text. */
extern char *neon_tenant_id_setting;
extern char *neon_timeline_id_setting;
extern char *neon_endpoint_id_setting;
extern char *neon_storage_conninfo;
extern int	neon_max_unflushed_wal; /* megabytes */

/* In the postmaster: from the request and startup hooks, and _PG_init. */
extern void coordinator_request_shmem(void);
extern void coordinator_shmem_startup(void);
extern void coordinator_register_worker(void);

/* bootlease.c, from _PG_init: a worker that keeps the history at the boot LSN. */
extern void bootlease_register_worker(void);

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

/* A transaction that wrote has committed. */
extern void coordinator_notice_commit(void);

/*
 * Holds the calling writer while the storage is more than
 * neon.max_unflushed_wal behind; ERROR 53100 after neon.fetch_timeout.
 * Returns at once where waiting or failing is not possible (critical
 * section, interrupts held off, recovery, processes that serve no query).
 */
extern void neon_throttle(void);

/*
 * Where a page is about to be read: a pause of 100 ms at most, as others may
 * wait for that page, and none for a process that has written no WAL since it
 * was here last.  Returns at once where waiting is not possible.
 */
extern void neon_throttle_read(void);

/* May this process wait, and fail, here? */
extern bool throttle_may_wait(void);

/*
 * Why writers are slowed down or held now, as a line that names who lags; false
 * if they are not.
 */
extern bool throttle_describe(char *buf, size_t size);

/* In the postmaster, as above. */
extern void throttle_request_shmem(void);
extern void throttle_shmem_startup(void);

/* Installs the points at which writers are held: statements and commits. */
extern void throttle_install(void);

/*
 * Any process learnt that a later term writes the timeline: the coordinator
 * logs it and shuts the server down.  term 0: not known.
 */
extern void neon_superseded(uint32 term);

/* ----------
 * For the coordinator's own process.
 * ----------
 */

/* The loop; does not return. */
extern void quorum_worker_main(void) pg_attribute_noreturn();

/* Shutdown, reload (true: settings were read again), another compute's take-over. */
extern bool coordinator_check_signals(void);

/* A slot that holds the WAL from lsn on; false if some of it is gone already. */
extern bool coordinator_create_slot(const char *name, XLogRecPtr lsn);

/* Lets clients in, once the storage has the boot record; who has it, for the log. */
extern void coordinator_admit(const char *who);

extern void coordinator_raise_flush_lsn(XLogRecPtr lsn);
extern void coordinator_set_streaming(bool streaming);
extern void coordinator_set_problem(const char *text);
extern void coordinator_set_dozing(bool dozing);	/* the next commit wakes it */

/* What the settings of this process say becomes what writers are held by. */
extern void throttle_publish_limits(void);

/*
 * Logs that writers are held, at the beginning and each minute, and when that
 * is over; now is neon_boottime_ms().
 */
extern void throttle_report(uint64 now);

/* Ends the server at once, without a checkpoint; they do not return. */
extern void coordinator_stop_server(void) pg_attribute_noreturn();
extern void coordinator_stop_superseded(const char *who) pg_attribute_noreturn();

#endif							/* NEON_COORDINATOR_H */
