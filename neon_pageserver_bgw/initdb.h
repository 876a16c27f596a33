/*-------------------------------------------------------------------------
 *
 * initdb.h
 *	  A fresh data directory, made by the instance's own programs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_INITDB_H
#define NEON_PS_INITDB_H

#include "catalog/pg_control.h"

#define INITDB_OPTION_MAX	128
#define INITDB_VERIFIER_MAX	512

typedef struct InitdbOptions
{
	char		locale[INITDB_OPTION_MAX];
	char		encoding[INITDB_OPTION_MAX];
	bool		checksums;
	int			segsize_mb;
	/* SCRAM verifiers; "": the role has no password */
	char		superuser_verifier[INITDB_VERIFIER_MAX];
	char		storage_verifier[INITDB_VERIFIER_MAX];
} InitdbOptions;

extern void initdb_default_options(InitdbOptions *options);

/*
 * Runs initdb into the directory dir (which must not exist), makes the roles
 * and shuts down cleanly.  Takes seconds; interruptible; its children die with
 * this process.  ereport(ERROR) with the program's output as DETAIL.
 */
extern void initdb_run(const char *dir, const InitdbOptions *options);

/*
 * Adds the roles of computes and storage to a cleanly stopped data directory,
 * which then has another last checkpoint.  control is that of the directory.
 */
extern void initdb_add_roles(const char *dir, const ControlFileData *control,
							 const InitdbOptions *options);

#endif							/* NEON_PS_INITDB_H */
