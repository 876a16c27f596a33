/*-------------------------------------------------------------------------
 *
 * adopt.h
 *	  A user's cleanly stopped data directory as the beginning of a timeline.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_ADOPT_H
#define NEON_PS_ADOPT_H

#include "import.h"
#include "initdb.h"

/*
 * Makes a data directory in work (which must not exist) with what of pgdata the
 * storage's roles need to be added to, adds them, and opens both together as
 * source.  pgdata is only read.  ereport(ERROR) if it cannot be taken over.
 */
extern void adopt_data_directory(ImportSource *source, const char *pgdata, const char *work,
								 const InitdbOptions *options);

/* ereport(ERROR) if a server was started in pgdata since. */
extern void adopt_check_unchanged(const char *pgdata, XLogRecPtr checkpoint);

#endif							/* NEON_PS_ADOPT_H */
