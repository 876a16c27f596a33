/*-------------------------------------------------------------------------
 *
 * pg15_private.h
 *	  The few private layouts of PostgreSQL 15 that we rely on, stated once.
 *
 * Each is self-tested when a library that uses it is loaded; a server that is
 * not what is written here is refused.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG15_PRIVATE_H
#define PG15_PRIVATE_H

#include "storage/fd.h"
#include "storage/md.h"
#include "storage/smgr.h"

#define NEON_MIN_SERVER_VERSION 150013	/* 15.13; the major version is checked too */

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

#endif							/* PG15_PRIVATE_H */
