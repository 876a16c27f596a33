/*-------------------------------------------------------------------------
 *
 * neon.h
 *	  What the parts of neon.so have to do with each other.
 *
 * The library has two halves.  The control half (init, ticket, guard,
 * coordinator, sql) decides whether and as what this server may run, and the
 * storage half (smgr, map, files, hydrate, stream) stands below PostgreSQL's
 * buffer manager.  The control half calls the storage half in the order in
 * which the functions are declared here; the storage half only reads
 * neon_boot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_H
#define NEON_H

#include "access/xlogdefs.h"
#include "neon_id.h"
#include "storage/relfilenode.h"

typedef enum NeonEndpointKind
{
	NEON_PRIMARY,				/* writes the timeline */
	NEON_STATIC,				/* read-only at boot_lsn */
	NEON_EPHEMERAL,				/* writable, stores nothing */
} NeonEndpointKind;

#define NEON_ENDPOINT_NAME_MAX	64

/*
 * What this server was booted as: the boot ticket and neon.boot, checked
 * against each other.  Filled in _PG_init of the postmaster before any
 * function of the storage half is called, constant from then on.
 */
typedef struct NeonBoot
{
	bool		valid;			/* the fields below are set */
	NeonId		tenant_id;
	NeonId		timeline_id;
	NeonId		boot_id;		/* of this start; no two have the same */
	char		endpoint[NEON_ENDPOINT_NAME_MAX];
	NeonEndpointKind kind;
	uint32		term;			/* 0 unless primary */
	XLogRecPtr	boot_lsn;		/* X: every page not here is asked as of X or later */
	XLogRecPtr	boot_record_lsn;	/* 0 if not primary */
	XLogRecPtr	boot_record_end;
	uint64		system_identifier;
	uint32		server_version_num; /* of the writer */
} NeonBoot;

extern NeonBoot neon_boot;

/* ----------
 * Start, in the postmaster.  In _PG_init, once neon_boot is filled:
 * ----------
 */

/* Defines neon.pageserver_connstring, neon.fetch_timeout and those of tests. */
extern void neon_smgr_define_gucs(void);

/* Swaps the storage manager table, installs hooks.  FATAL on a server that is not known. */
extern void neon_smgr_install(void);

/* Registers the worker that completes the relation files. */
extern void neon_files_register_worker(void);

/* Registers the worker that fetches everything in the background. */
extern void neon_hydration_register_worker(void);

/* In a worker that stays, after settings were read again: it may be needed again. */
extern void neon_hydration_reloaded(void);

/* From the shmem_request_hook. */
extern void neon_smgr_request_shmem(void);

/*
 * From the shmem_startup_hook, before the ticket is consumed: calls every
 * replaced storage manager function through the server's own code.  FATAL
 * naming the slot that was not reached.
 */
extern void neon_smgr_selftest(void);

/*
 * From the shmem_startup_hook, after the ticket was consumed: builds and maps
 * neon.map from neon.relsizes and creates relation files.  FATAL on failure.
 */
extern void neon_smgr_shmem_startup(void);

/* ----------
 * In any process of the running server.
 * ----------
 */

/*
 * Fetch every absent block of a relation with its indexes and TOAST table, or
 * of everything; returns the number of blocks fetched by this call.  Need
 * interrupts to be allowed and no lock but a heavyweight one.  ERROR if the
 * pageserver cannot be reached.  neon_hydrate_all also fsyncs the files, and
 * neon_fully_hydrated() is true from then on.
 */
extern uint64 neon_hydrate_relation(Oid relid);
extern uint64 neon_hydrate_all(void);
extern bool neon_fully_hydrated(void);

/*
 * Around the server's copying of a database's directory from one tablespace to
 * another.  The first fetches what is absent, keeps it here until the
 * transaction ends, and sees to it that there is room for the copy.  The second
 * is to be called after errors of both, too.
 */
extern void neon_begin_copy(Oid db, Oid from, Oid to);
extern void neon_end_copy(bool copied);

/*
 * Forget that anything of a database was remote: call when its files are
 * removed without the storage manager (DROP DATABASE, after SET TABLESPACE
 * for the old tablespace).  spc InvalidOid means all tablespaces.  Cannot be
 * undone, so the removal must be certain to happen.
 */
extern void neon_drop_database_map(Oid db, Oid spc);

/* What is here, and counters since boot or the last reset; stat_local shows them. */
typedef struct NeonLocalStats
{
	uint64		hits;			/* reads of permanent pages served locally */
	uint64		misses;			/* reads that had to wait for the pageserver */
	uint64		fetched_pages;	/* pages received */
	uint64		fetched_bytes;	/* bytes received with them */
	uint64		evicted_chunks;
	uint64		present_bytes;	/* of blocks that were remote at boot */
	uint64		absent_bytes;	/* of those that still are */
	uint64		limit_bytes;	/* 0: no limit */
} NeonLocalStats;

extern void neon_local_stats(NeonLocalStats *stats);

/* ----------
 * Settings of the storage half that others read.
 * ----------
 */
extern char *neon_pageserver_connstring;	/* SIGHUP */
extern int	neon_fetch_timeout; /* milliseconds, USERSET */

#ifdef NEON_TESTING

/*
 * If not empty, absent pages come from this data directory and there is no
 * pageserver: the coordinator does not run and clients are admitted at once.
 */
extern char *neon_test_reference_dir;
#endif

#endif							/* NEON_H */
