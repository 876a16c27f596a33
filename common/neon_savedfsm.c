/*-------------------------------------------------------------------------
 *
 * neon_savedfsm.c
 *	  Collects free space maps, packed.
 *
 * Files are found by reading the databases' directories.  Relations and
 * databases may be dropped meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/pg_lzcompress.h"
#include "common/relpath.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_durable.h"
#include "neon_savedfile.h"
#include "neon_savedfsm.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "storage/fsm_internals.h"
#include "storage/reinit.h"

/* ---- where pages are ---- */

/*
 * A map is a tree of three levels, each page followed by all that is below it:
 * the root, a page of the middle level, its SlotsPerFSMPage leaves, the next one.
 */
BlockNumber
fsm_middle_block(uint32 middle)
{
	return 1 + middle * (SlotsPerFSMPage + 1);
}

BlockNumber
fsm_leaf_block(uint32 leaf)
{
	return fsm_middle_block(leaf / SlotsPerFSMPage) + 1 + leaf % SlotsPerFSMPage;
}

/* ---- the collection ---- */

int
fsm_compare_entries(const void *a, const void *b)
{
	return memcmp(&((const FsmEntry *) a)->rnode, &((const FsmEntry *) b)->rnode, sizeof(RelFileNode));
}

void
fsm_begin(FsmCollector *col)
{
	col->max = 256;
	col->n = 0;
	col->skipped = 0;
	col->entries = palloc(col->max * sizeof(FsmEntry));
	initStringInfo(&col->packed);
	initStringInfo(&col->one);
}

void
fsm_add(FsmCollector *col, RelFileNode rnode, BlockNumber nblocks, const char *packed, uint32 len)
{
	FsmEntry   *entry;

	if ((uint64) (col->n + 1) * sizeof(FsmEntry) + col->packed.len + len +
		sizeof(SavedHeader) + sizeof(col->n) > NEON_SAVED_MAX)
	{
		col->skipped++;
		return;
	}
	if (col->n == col->max)
	{
		col->max *= 2;
		col->entries = repalloc(col->entries, col->max * sizeof(FsmEntry));
	}
	entry = &col->entries[col->n++];
	entry->rnode = rnode;
	entry->nblocks = nblocks;
	entry->offset = col->packed.len;
	entry->len = len;
	appendBinaryStringInfo(&col->packed, packed, len);
}

/* A map that was put back meanwhile is there twice; either will do. */
static void
sort_entries(FsmCollector *col)
{
	uint32		kept = 0;

	qsort(col->entries, col->n, sizeof(FsmEntry), fsm_compare_entries);
	for (uint32 i = 0; i < col->n; i++)
		if (kept == 0 || fsm_compare_entries(&col->entries[kept - 1], &col->entries[i]) != 0)
			col->entries[kept++] = col->entries[i];
	col->n = kept;
}

void
fsm_end(FsmCollector *col, StringInfo out)
{
	sort_entries(col);
	appendBinaryStringInfo(out, (const char *) &col->n, sizeof(col->n));
	appendBinaryStringInfo(out, (const char *) col->entries, col->n * sizeof(FsmEntry));
	appendBinaryStringInfo(out, col->packed.data, col->packed.len);
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
collect_file(FsmCollector *col, RelFileNode rnode, int fd, BlockNumber map_blocks)
{
	PGAlignedBlock page;
	uint32		nleaves = 0;
	int			len = 0;
	BlockNumber blk;

	resetStringInfo(&col->one);
	for (uint32 leaf = 0; (blk = fsm_leaf_block(leaf)) < map_blocks; leaf++)
	{
		if (!(col->read_page && col->read_page(col->arg, rnode, blk, page.data)) &&
			durable_pread(fd, page.data, BLCKSZ, (off_t) blk * BLCKSZ) != BLCKSZ)
			break;
		if (pack_leaf(&col->one, page.data))
		{
			nleaves = leaf + 1;
			len = col->one.len;
		}
	}
	if (nleaves > 0)
		fsm_add(col, rnode, Min((uint64) nleaves * SlotsPerFSMPage, MaxBlockNumber),
				col->one.data, len);
}

static void
collect_map(FsmCollector *col, const char *path, RelFileNode rnode)
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
bool
fsm_add_directory(FsmCollector *col, const char *path, Oid spc, Oid db)
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

		CHECK_FOR_INTERRUPTS();
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
bool
fsm_add_databases(FsmCollector *col, const char *path, Oid spc)
{
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;
	bool		in_time = true;

	while (dir != NULL && in_time && (de = ReadDirExtended(dir, path, DEBUG1)) != NULL)
	{
		char		below[MAXPGPATH];

		CHECK_FOR_INTERRUPTS();
		if (strspn(de->d_name, "0123456789") != strlen(de->d_name))
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, de->d_name);
		in_time = fsm_add_directory(col, below, spc, strtoul(de->d_name, NULL, 10));
	}
	if (dir != NULL)
		FreeDir(dir);
	return in_time;
}
