/*-------------------------------------------------------------------------
 *
 * savedfsm_collect.c
 *	  Free space maps, as they are now, packed.
 *
 * Files are found by reading the databases' directories, pages are taken from
 * shared buffers where they are there and else from the files.  Relations and
 * databases may be dropped meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_tablespace_d.h"
#include "common/pg_lzcompress.h"
#include "common/relpath.h"
#include "neon_clock.h"
#include "neon_durable.h"
#include "saved.h"
#include "savedfsm_private.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "storage/fsm_internals.h"
#include "storage/reinit.h"

/* A shared buffer that had a page of a map when it was looked at. */
typedef struct FsmBuffer
{
	RelFileNode rnode;
	BlockNumber blk;
	Buffer		buffer;
} FsmBuffer;

typedef struct Collector
{
	FsmCollection *c;
	TimestampTz deadline;
	FsmBuffer  *buffers;		/* in order of rnode and blk */
	uint32		nbuffers;
	StringInfoData packed;		/* of one relation */
} Collector;

/* ---- the collection ---- */

void
savedfsm_add(FsmCollection *c, RelFileNode rnode, BlockNumber nblocks, const char *packed, uint32 len)
{
	FsmEntry   *entry;

	if ((uint64) (c->n + 1) * sizeof(FsmEntry) + c->packed.len + len +
		sizeof(SavedHeader) + sizeof(c->n) > NEON_SAVED_MAX)
	{
		c->skipped++;
		return;
	}
	if (c->n == c->max)
	{
		c->max *= 2;
		c->entries = repalloc(c->entries, c->max * sizeof(FsmEntry));
	}
	entry = &c->entries[c->n++];
	entry->rnode = rnode;
	entry->nblocks = nblocks;
	entry->offset = c->packed.len;
	entry->len = len;
	appendBinaryStringInfo(&c->packed, packed, len);
}

/* A map that was put back meanwhile is there twice; either will do. */
static void
sort_entries(FsmCollection *c)
{
	uint32		kept = 0;

	qsort(c->entries, c->n, sizeof(FsmEntry), fsm_compare_entries);
	for (uint32 i = 0; i < c->n; i++)
		if (kept == 0 || fsm_compare_entries(&c->entries[kept - 1], &c->entries[i]) != 0)
			c->entries[kept++] = c->entries[i];
	c->n = kept;
}

/* ---- shared buffers ---- */

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
find_buffers(Collector *col)
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
read_buffered(Collector *col, RelFileNode rnode, BlockNumber blk, char *page)
{
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

/* ---- one map ---- */

static bool
all_zeros(const uint8 *slots)
{
	return slots[0] == 0 && memcmp(slots, slots + 1, SlotsPerFSMPage - 1) == 0;
}

/* Appends a leaf's slots; true if they say anything. */
static bool
pack_leaf(StringInfo packed, Page page)
{
	const uint8 *slots = ((FSMPage) PageGetContents(page))->fp_nodes + NonLeafNodesPerPage;
	char		bytes[PGLZ_MAX_OUTPUT(SlotsPerFSMPage)];
	bool		empty = PageIsNew(page) || all_zeros(slots);
	int32		n = 0;
	uint16		len = 0;

	if (!empty)
	{
		n = pglz_compress((const char *) slots, SlotsPerFSMPage, bytes, PGLZ_strategy_always);
		len = n > 0 && n < SlotsPerFSMPage ? n : SlotsPerFSMPage;
	}
	appendBinaryStringInfo(packed, (const char *) &len, sizeof(len));
	appendBinaryStringInfo(packed, len == SlotsPerFSMPage ? (const char *) slots : bytes, len);
	return !empty;
}

/*
 * Leaves at the end that say nothing are left out.  Of a map with several
 * segment files, which is that of 4 TB, the first one is saved.
 */
static void
collect_file(Collector *col, RelFileNode rnode, int fd, BlockNumber map_blocks)
{
	PGAlignedBlock page;
	uint32		nleaves = 0;
	int			len = 0;
	BlockNumber blk;

	resetStringInfo(&col->packed);
	for (uint32 leaf = 0; (blk = fsm_leaf_block(leaf)) < map_blocks; leaf++)
	{
		if (!read_buffered(col, rnode, blk, page.data) &&
			durable_pread(fd, page.data, BLCKSZ, (off_t) blk * BLCKSZ) != BLCKSZ)
			break;
		if (pack_leaf(&col->packed, page.data))
		{
			nleaves = leaf + 1;
			len = col->packed.len;
		}
	}
	if (nleaves > 0)
		savedfsm_add(col->c, rnode, Min((uint64) nleaves * SlotsPerFSMPage, MaxBlockNumber),
					 col->packed.data, len);
}

static void
collect_map(Collector *col, const char *path, RelFileNode rnode)
{
	int			fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	struct stat st;

	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0)
		collect_file(col, rnode, fd, st.st_size / BLCKSZ);
	close(fd);
}

/* ---- directories ---- */

/* All maps of a database in a tablespace; false if time is over. */
static bool
collect_directory(Collector *col, const char *path, Oid spc, Oid db)
{
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;
	bool		in_time = true;

	while (dir != NULL && in_time && (de = ReadDirExtended(dir, path, DEBUG1)) != NULL)
	{
		char		file[MAXPGPATH];
		RelFileNode rnode = {spc, db, InvalidOid};
		ForkNumber	fork;
		int			oidchars;

		if (!parse_filename_for_nontemp_relation(de->d_name, &oidchars, &fork) ||
			fork != FSM_FORKNUM || strchr(de->d_name, '.') != NULL)
			continue;
		rnode.relNode = strtoul(de->d_name, NULL, 10);
		snprintf(file, sizeof(file), "%s/%s", path, de->d_name);
		collect_map(col, file, rnode);
		in_time = neon_clock() < col->deadline;
	}
	if (dir != NULL)
		FreeDir(dir);
	return in_time;
}

/* A tablespace's databases: directories whose names are numbers. */
static bool
collect_databases(Collector *col, const char *path, Oid spc)
{
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;
	bool		in_time = true;

	while (dir != NULL && in_time && (de = ReadDirExtended(dir, path, DEBUG1)) != NULL)
	{
		char		below[MAXPGPATH];

		if (strspn(de->d_name, "0123456789") != strlen(de->d_name))
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, de->d_name);
		in_time = collect_directory(col, below, spc, strtoul(de->d_name, NULL, 10));
	}
	if (dir != NULL)
		FreeDir(dir);
	return in_time;
}

static bool
collect_tablespaces(Collector *col)
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
		in_time = collect_databases(col, below, strtoul(de->d_name, NULL, 10));
	}
	if (dir != NULL)
		FreeDir(dir);
	return in_time;
}

/* ---- the whole ---- */

int
savedfsm_collect(StringInfo out, TimestampTz deadline)
{
	FsmCollection c = {.max = 256};
	Collector	col = {&c, deadline};
	bool		in_time;

	c.entries = palloc(c.max * sizeof(FsmEntry));
	initStringInfo(&c.packed);
	initStringInfo(&col.packed);
	savedfsm_add_untouched(&c);
	find_buffers(&col);
	in_time = collect_directory(&col, "global", GLOBALTABLESPACE_OID, InvalidOid) &&
		collect_databases(&col, "base", DEFAULTTABLESPACE_OID) &&
		collect_tablespaces(&col);
	sort_entries(&c);
	appendBinaryStringInfo(out, (const char *) &c.n, sizeof(c.n));
	appendBinaryStringInfo(out, (const char *) c.entries, c.n * sizeof(FsmEntry));
	appendBinaryStringInfo(out, c.packed.data, c.packed.len);
	return in_time ? (int) c.skipped : -1;
}
