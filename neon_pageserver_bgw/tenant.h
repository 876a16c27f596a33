/*-------------------------------------------------------------------------
 *
 * tenant.h
 *	  The job of making a timeline from nothing, as handed to its worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_TENANT_H
#define NEON_PS_TENANT_H

#include "initdb.h"
#include "lib/stringinfo.h"
#include "timeline.h"

/* In a dynamic shared memory segment, written by the caller but for the result. */
typedef struct TenantJob
{
	Oid			database;		/* where the worker connects to */
	NeonId		tenant;
	NeonId		timeline;
	bool		new_tenant;		/* else the tenant exists */
	char		name[NEON_NAME_MAX];	/* of the branch */
	char		role_verifier[INITDB_VERIFIER_MAX]; /* of the tenant's role */
	InitdbOptions options;
	char		pgdata[MAXPGPATH];	/* the user's data directory; "": a new one */
	/* result */
	bool		done;
	XLogRecPtr	lsn;
} TenantJob;

/*
 * Does the job in this process, which is connected to job->database and in no
 * transaction.  ereport(ERROR) leaves nothing behind.
 */
extern void tenant_job_run(TenantJob *job);

/*
 * Hands the job to a background worker, passes its notices and errors on, and
 * waits.  The result is in *job.
 */
extern void tenant_job_delegate(TenantJob *job);

/* Roles on this instance; inside a transaction. */
extern void tenant_role_create(const NeonId *tenant, const char *verifier);
extern void tenant_role_drop(const NeonId *tenant);

#endif							/* NEON_PS_TENANT_H */
