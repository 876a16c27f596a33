/*-------------------------------------------------------------------------
 *
 * pagecompare.c
 *	  Are two pages equal as far as WAL determines them?
 *
 * The resource managers' own masks hide what is never logged (hint bits,
 * unused space ...).  Three kinds of pages differ beyond that, for reasons
 * known; each is recognised by showing that nothing else differs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/bufmask.h"
#include "access/brin_page.h"
#include "access/gist.h"
#include "access/hash.h"
#include "access/htup_details.h"
#include "access/rmgr.h"
#include "access/spgist_private.h"
#include "access/xlog_internal.h"
#include "catalog/catalog.h"
#include "commands/sequence.h"
#include "common/relpath.h"
#include "storage/bufpage.h"
#include "storage/fd.h"

#include "difftest.h"

#define SEQUENCE_MAGIC	0x1717
#define BLOOM_MAGIC		0xFF83

bool
read_page_of(const char *dir, const NeonKey *key, char *page)
{
	char	   *rel = GetRelationPath(key->db, key->spc, key->rel, InvalidBackendId, key->fork);
	char	   *path;
	BlockNumber segno = key->blk / RELSEG_SIZE;
	ssize_t		n;
	int			fd;

	path = segno == 0 ? psprintf("%s/%s", dir, rel) : psprintf("%s/%s.%u", dir, rel, segno);
	fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	pfree(rel);
	pfree(path);
	if (fd < 0)
		return false;
	n = pread(fd, page, BLCKSZ, (off_t) (key->blk % RELSEG_SIZE) * BLCKSZ);
	close(fd);
	return n == BLCKSZ;
}

/* Whose page it is by its looks. */
static RmgrId
guess_rmgr(const char *page)
{
	uint16		special = BLCKSZ - ((PageHeader) page)->pd_special;
	uint32		first;
	uint16		last;

	if (special == 0 || special > 64)
		return RM_HEAP_ID;
	memcpy(&first, page + BLCKSZ - special, sizeof(first));
	memcpy(&last, page + BLCKSZ - sizeof(last), sizeof(last));
	if (special == MAXALIGN(sizeof(uint32)) && first == SEQUENCE_MAGIC)
		return RM_SEQ_ID;
	if (last == GIST_PAGE_ID)
		return RM_GIST_ID;
	if (last == HASHO_PAGE_ID)
		return RM_HASH_ID;
	if (last == SPGIST_PAGE_ID)
		return RM_SPGIST_ID;
	if (last == BLOOM_MAGIC)
		return RM_GENERIC_ID;
	if (last >= BRIN_PAGETYPE_META && last <= BRIN_PAGETYPE_REGULAR)
		return RM_BRIN_ID;
	return special == 8 ? RM_GIN_ID : RM_BTREE_ID;
}

static void
mask(const NeonKey *key, RmgrId rmid, char *page)
{
	if (PageIsNew((Page) page))
		return;
	if (key->fork == VISIBILITYMAP_FORKNUM)
		mask_page_lsn_and_checksum((Page) page);
	else
		RmgrTable[rmid].rm_mask(page, key->blk);
}

/* Sets what a sequence's WAL is ahead of to nothing; false if it is none. */
static bool
mask_sequence(char *page)
{
	ItemId		item;
	HeapTupleHeader tuple;
	Form_pg_sequence_data data;

	if (PageIsNew((Page) page) || PageGetMaxOffsetNumber((Page) page) != FirstOffsetNumber)
		return false;
	item = PageGetItemId((Page) page, FirstOffsetNumber);
	tuple = (HeapTupleHeader) PageGetItem((Page) page, item);
	if (ItemIdGetLength(item) < tuple->t_hoff + offsetof(FormData_pg_sequence_data, is_called) + 1)
		return false;
	data = (Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff);
	data->last_value = data->log_cnt = 0;
	data->is_called = false;
	return true;
}

static bool
mask_spgist_meta(char *page)
{
	SpGistMetaPageData *meta = (SpGistMetaPageData *) PageGetContents((Page) page);

	if (PageIsNew((Page) page) || meta->magicNumber != SPGIST_MAGIC_NUMBER)
		return false;
	memset(&meta->lastUsedPages, 0, sizeof(meta->lastUsedPages));
	return true;
}

bool
is_empty_map(const char *page)
{
	const char *p;

	for (p = PageGetContents((Page) page); p < page + BLCKSZ; p++)
	{
		if (*p != 0)
			return false;
	}
	return true;
}

/* No bit of the map x is set that is not set in y. */
static bool
is_part_of_map(const char *x, const char *y)
{
	uint32		i;

	if (memcmp(x, y, SizeOfPageHeaderData) != 0)
		return false;
	for (i = SizeOfPageHeaderData; i < BLCKSZ; i++)
	{
		if ((x[i] & ~y[i]) != 0)
			return false;
	}
	return true;
}

/* What explains that the masked pages x and y still differ. */
static PageVerdict
explain(const NeonKey *key, RmgrId rmid, bool has_image, char *x, char *y)
{
	if (rmid == RM_SEQ_ID && mask_sequence(x) && mask_sequence(y) &&
		memcmp(x, y, BLCKSZ) == 0)
		return PAGE_SEQUENCE;
	if (rmid == RM_SPGIST_ID && key->blk == SPGIST_METAPAGE_BLKNO &&
		mask_spgist_meta(x) && mask_spgist_meta(y) && memcmp(x, y, BLCKSZ) == 0)
		return PAGE_SPGIST_META;
	if (key->fork == VISIBILITYMAP_FORKNUM && has_image && is_part_of_map(x, y))
		return PAGE_VM_IMAGE;
	return PAGE_DIFFERENT;
}

PageVerdict
compare_pages(const NeonKey *key, RmgrId rmid, bool has_image,
			  const char *redone, const char *file)
{
	PGAlignedBlock x;
	PGAlignedBlock y;

	memcpy(x.data, redone, BLCKSZ);
	memcpy(y.data, file, BLCKSZ);
	((PageHeader) x.data)->pd_checksum = ((PageHeader) y.data)->pd_checksum = 0;
	if (memcmp(x.data, y.data, BLCKSZ) == 0)
		return PAGE_EXACT;
	if (rmid == RM_XLOG_ID || rmid == RM_SMGR_ID)
		rmid = guess_rmgr(PageIsNew((Page) y.data) ? x.data : y.data);
	mask(key, rmid, x.data);
	mask(key, rmid, y.data);
	if (memcmp(x.data, y.data, BLCKSZ) == 0)
		return PAGE_MASKED;
	return explain(key, rmid, has_image, x.data, y.data);
}
