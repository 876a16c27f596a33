/*-------------------------------------------------------------------------
 *
 * pg15_private.h
 *	  The few private layouts of PostgreSQL 15 that we rely on, stated once.
 *
 * What a library writes to is self-tested when it is loaded, and a server that
 * is not what is written here is refused.  What is only read, by programs, is
 * checked field by field where it is read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG15_PRIVATE_H
#define PG15_PRIVATE_H

#define NEON_MIN_SERVER_VERSION 150013	/* 15.13; the major version is checked too */

#ifndef FRONTEND

#include "storage/fd.h"
#include "storage/md.h"
#include "storage/smgr.h"

/* smgr.c: the storage manager switch; smgr_truncate has old_blocks since 15.13. */
typedef struct f_smgr
{
	void		(*smgr_init) (void);
	void		(*smgr_shutdown) (void);
	void		(*smgr_open) (SMgrRelation reln);
	void		(*smgr_close) (SMgrRelation reln, ForkNumber forknum);
	void		(*smgr_create) (SMgrRelation reln, ForkNumber forknum, bool isRedo);
	bool		(*smgr_exists) (SMgrRelation reln, ForkNumber forknum);
	void		(*smgr_unlink) (RelFileNodeBackend rnode, ForkNumber forknum, bool isRedo);
	void		(*smgr_extend) (SMgrRelation reln, ForkNumber forknum,
								BlockNumber blocknum, char *buffer, bool skipFsync);
	bool		(*smgr_prefetch) (SMgrRelation reln, ForkNumber forknum,
								  BlockNumber blocknum);
	void		(*smgr_read) (SMgrRelation reln, ForkNumber forknum,
							  BlockNumber blocknum, char *buffer);
	void		(*smgr_write) (SMgrRelation reln, ForkNumber forknum,
							   BlockNumber blocknum, char *buffer, bool skipFsync);
	void		(*smgr_writeback) (SMgrRelation reln, ForkNumber forknum,
								   BlockNumber blocknum, BlockNumber nblocks);
	BlockNumber (*smgr_nblocks) (SMgrRelation reln, ForkNumber forknum);
	void		(*smgr_truncate) (SMgrRelation reln, ForkNumber forknum,
								  BlockNumber old_blocks, BlockNumber nblocks);
	void		(*smgr_immedsync) (SMgrRelation reln, ForkNumber forknum);
} f_smgr;

#endif							/* FRONTEND */

/*
 * dsm.c: the control segment, which lists the dynamic shared memory segments
 * of a server.  Its handle is in the server's System V segment; the segment of
 * a handle is the POSIX shared memory object "/PostgreSQL.HANDLE".  Handles of
 * what lies in the main shared memory are odd.
 */
#define NEON_DSM_CONTROL_MAGIC	0x9a503d32
#define NEON_DSM_NAME_FORMAT	"/PostgreSQL.%u"

typedef struct NeonDsmItem
{
	uint32		handle;
	uint32		refcount;		/* 0: not in use */
	size_t		first_page;
	size_t		npages;
	void	   *private_handle;
	bool		pinned;
} NeonDsmItem;

typedef struct NeonDsmControl
{
	uint32		magic;
	uint32		nitems;
	uint32		maxitems;
	NeonDsmItem items[FLEXIBLE_ARRAY_MEMBER];
} NeonDsmControl;

#endif							/* PG15_PRIVATE_H */
