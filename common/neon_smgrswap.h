/*-------------------------------------------------------------------------
 *
 * neon_smgrswap.h
 *	  Finding and replacing the storage manager table of a stock server.
 *
 * The table is a private constant of smgr.c.  It is found by content in the
 * RELRO segment of the main program: exactly one run of the 15 pointers.
 * Everything fails closed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SMGRSWAP_H
#define NEON_SMGRSWAP_H

#include "pg15_private.h"

/* Copy of the table as md.c's functions. */
extern const f_smgr smgrswap_md;

/*
 * Installs table, which is copied.  For the postmaster or a --single server
 * while shared_preload_libraries are loaded; children inherit it.
 * ereport(FATAL) with ERRCODE_FEATURE_NOT_SUPPORTED, DETAIL and HINT if the
 * running server is not one whose layout is known.  The caller still has to
 * test each slot that it relies on: the compiler may have resolved some calls.
 */
extern void smgrswap_install(const f_smgr *table);

#endif							/* NEON_SMGRSWAP_H */
