/*-------------------------------------------------------------------------
 *
 * saved.h
 *	  What is carried from one life of a compute to the next, but is in no WAL:
 *	  free space maps, cumulative statistics and which blocks were in use.
 *
 * All of it is advisory.  Nothing here refuses a start or ends a session; what
 * goes wrong is logged, and the compute goes on without.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_COMPUTE_SAVED_H
#define NEON_COMPUTE_SAVED_H

#include "neon_savedfile.h"
#include "storage/relfilenode.h"

/* One kind, as people call it; plural. */
extern const char *saved_title(NeonSavedKind kind);

/* ----------
 * savedfile.c: the header, and the file that came with the base backup.
 * ----------
 */

/* Ends what saved_begin() began, as of now. */
extern void savedfile_end(StringInfo buf, NeonSavedKind kind);

/* The header of what savedfile_end() finished, or savedfile_load() loaded. */
static inline const SavedHeader *
savedfile_header(const char *data)
{
	return (const SavedHeader *) data;
}

/*
 * In the postmaster: the file's bytes, palloc'd, header first, checked; NULL if
 * there is none that can be used.  The file is removed.
 */
extern char *savedfile_load(NeonSavedKind kind);

/* ----------
 * savedstats.c
 * ----------
 */

/* Appends the body; false if it is too large.  In a process with shared memory. */
extern bool savedstats_collect(StringInfo out);

/* Before the startup process runs: gives the server the file that it looks for. */
extern bool savedstats_restore(const char *body, uint32 len);

/* ----------
 * savedfsm.c
 * ----------
 */

/*
 * Appends the body, without the relations that have no room in it: their number
 * is returned, or -1 if the deadline (of neon_clock()) passed.
 */
extern int	savedfsm_collect(StringInfo out, TimestampTz deadline);

/* In the postmaster.  Takes a copy of the body, which all processes will share. */
extern bool savedfsm_restore(const char *body, uint32 len);

/*
 * Before anybody looks whether the relation has a free space map: if one was
 * saved and has not been put back, it is now.  Never fails.
 */
extern void savedfsm_put_back(RelFileNode rnode);

extern void savedfsm_request_shmem(void);
extern void savedfsm_shmem_startup(void);

/* ----------
 * savedwarm.c
 * ----------
 */

/* Some blocks of a chunk of 128 blocks of a fork, as saved. */
typedef struct WarmChunk
{
	uint32		spc;
	uint32		db;
	uint32		rel;
	uint32		fork;
	uint32		chunk;
	uint32		zero;
	uint64		blocks[2];		/* a bit each */
} WarmChunk;

/* Appends the body: what is in shared buffers now. */
extern void savedwarm_collect(StringInfo out);

/* In the postmaster.  Takes a copy of the body, of which each process gets one. */
extern bool savedwarm_restore(const char *body, uint32 len);

/*
 * What was restored, in the order in which it is to be fetched.  Nothing but
 * its length was checked.
 */
extern uint32 savedwarm_chunks(const WarmChunk **chunks);

/* ----------
 * saver.c: the process that saves, and what is known about it.
 * ----------
 */
extern void saver_define_settings(void);
extern void saver_request_shmem(void);
extern void saver_shmem_startup(void);
extern void saver_register_worker(void);

#endif							/* NEON_COMPUTE_SAVED_H */
