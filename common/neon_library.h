/*-------------------------------------------------------------------------
 *
 * neon_library.h
 *	  What a library that is preloaded is made of: parts with settings,
 *	  shared memory, hooks and background workers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_LIBRARY_H
#define NEON_LIBRARY_H

#include "postmaster/bgworker.h"

/*
 * A part of the library; any function may be NULL.  shmem_init runs in the
 * postmaster (again after a crash of a backend), with AddinShmemInitLock held.
 */
typedef struct LibraryPart
{
	const char *name;
	void		(*define_gucs) (void);
	Size		(*shmem_size) (void);
	void		(*shmem_init) (void);
	void		(*register_workers) (void);
	void		(*install_hooks) (void);
} LibraryPart;

/*
 * For _PG_init: an error unless the server preloads the library.  name is the
 * library's name.
 */
extern void library_check_preload(const char *name);

/*
 * For _PG_init: defines the settings (their prefix is name, which is reserved
 * then), installs hooks, registers workers, and has the shared memory made.
 * parts stay the caller's, for as long as the server runs.
 */
extern void library_init(const char *name, const LibraryPart *parts, int nparts);

/*
 * Fills in a worker with shared memory that runs once recovery is over and is
 * started again after a second.  name serves as its type too.  The caller
 * changes what differs, and registers it.
 */
extern void library_worker(BackgroundWorker *worker, const char *library, const char *function,
						   const char *name);

/* Registers n such workers, whose names end in a number from 1 on. */
extern void library_register_workers(const char *library, const char *function, const char *name,
									 int n);

#endif							/* NEON_LIBRARY_H */
