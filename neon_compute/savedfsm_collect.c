/*-------------------------------------------------------------------------
 *
 * savedfsm_collect.c
 *	  Free space maps, as they are now, packed.
 *
 * Pages are taken from shared buffers where they are there, and else from the
 * files.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_tablespace_d.h"
#include "common/relpath.h"
#include "neon_savedfsm.h"
#include "saved.h"
#include "savedfsm_private.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/fd.h"

/* A shared buffer that had a page of a map when it was looked at. */
typedef struct FsmBuffer
{
	RelFileNode rnode;
	BlockNumber blk;
	Buffer		buffer;
} FsmBuffer;

/* In order of rnode and blk. */
typedef struct FsmBuffers
{
	FsmBuffer  *buffers;
	uint32		nbuffers;
} FsmBuffers;

static int
compare_buffers(const void *a, const void *b)
{
	const FsmBuffer *x = a;
	const FsmBuffer *y = b;
	int			order = memcmp(&x->rnode, &y->rnode, sizeof(RelFileNode));

	if (order != 0)
		return order;
	return x->blk < y->blk ? -1 : x->blk > y->blk;
}

static void
find_buffers(FsmBuffers *col)
{
	uint32		max = 256;

	col->buffers = palloc(max * sizeof(FsmBuffer));
	for (int i = 0; i < NBuffers; i++)
	{
		BufferDesc *desc = GetBufferDescriptor(i);
		uint32		state;
		BufferTag	tag;

		/* a first look without the lock: a miss is a page that comes from its file */
		if (desc->tag.forkNum != FSM_FORKNUM)
			continue;
		state = LockBufHdr(desc);
		tag = desc->tag;
		UnlockBufHdr(desc, state);
		if ((state & BM_VALID) == 0 || tag.forkNum != FSM_FORKNUM)
			continue;
		if (col->nbuffers == max)
		{
			max *= 2;
			col->buffers = repalloc_huge(col->buffers, max * sizeof(FsmBuffer));
		}
		col->buffers[col->nbuffers].rnode = tag.rnode;
		col->buffers[col->nbuffers].blk = tag.blockNum;
		col->buffers[col->nbuffers++].buffer = i + 1;
	}
	qsort(col->buffers, col->nbuffers, sizeof(FsmBuffer), compare_buffers);
}

/* The page from its buffer, if it is (still) there. */
static bool
read_buffered(void *arg, RelFileNode rnode, BlockNumber blk, char *page)
{
	FsmBuffers *col = arg;
	FsmBuffer	key = {rnode, blk, InvalidBuffer};
	FsmBuffer  *found;

	if (col->nbuffers == 0)
		return false;
	found = bsearch(&key, col->buffers, col->nbuffers, sizeof(FsmBuffer), compare_buffers);
	if (found == NULL || !ReadRecentBuffer(rnode, FSM_FORKNUM, blk, found->buffer))
		return false;
	LockBuffer(found->buffer, BUFFER_LOCK_SHARE);
	memcpy(page, BufferGetPage(found->buffer), BLCKSZ);
	UnlockReleaseBuffer(found->buffer);
	return true;
}

static bool
collect_tablespaces(FsmCollector *col)
{
	DIR		   *dir = AllocateDir("pg_tblspc");
	struct dirent *de;
	bool		in_time = true;

	while (dir != NULL && in_time && (de = ReadDirExtended(dir, "pg_tblspc", DEBUG1)) != NULL)
	{
		char		below[MAXPGPATH];

		if (de->d_name[0] == '.')
			continue;
		snprintf(below, sizeof(below), "pg_tblspc/%s/%s", de->d_name, TABLESPACE_VERSION_DIRECTORY);
		in_time = fsm_add_databases(col, below, strtoul(de->d_name, NULL, 10));
	}
	if (dir != NULL)
		FreeDir(dir);
	return in_time;
}

int
savedfsm_collect(StringInfo out, TimestampTz deadline)
{
	FsmBuffers	buffers = {0};
	FsmCollector col = {.deadline = deadline, .read_page = read_buffered, .arg = &buffers};
	bool		in_time;

	fsm_begin(&col);
	savedfsm_add_untouched(&col);
	find_buffers(&buffers);
	in_time = fsm_add_directory(&col, "global", GLOBALTABLESPACE_OID, InvalidOid) &&
		fsm_add_databases(&col, "base", DEFAULTTABLESPACE_OID) &&
		collect_tablespaces(&col);
	fsm_end(&col, out);
	return in_time ? (int) col.skipped : -1;
}
