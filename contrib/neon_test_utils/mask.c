/*-------------------------------------------------------------------------
 *
 * mask.c
 *	  What WAL says of a page, without the rest: as wal_consistency_checking
 *	  masks it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/bufmask.h"
#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "fmgr.h"
#include "storage/bufpage.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(masked_page);

/* Whose redo writes the pages; RM_MAX_ID + 1: they have bits only. */
#define RM_MAP		(RM_MAX_ID + 1)

static const struct
{
	const char *name;
	int			rmid;
}			methods[] =
{
	{"heap", RM_HEAP_ID},
	{"btree", RM_BTREE_ID},
	{"hash", RM_HASH_ID},
	{"gin", RM_GIN_ID},
	{"gist", RM_GIST_ID},
	{"spgist", RM_SPGIST_ID},
	{"brin", RM_BRIN_ID},
	{"sequence", RM_SEQ_ID},
	{"vm", RM_MAP},
};

static int
method_of(const char *name)
{
	for (int i = 0; i < lengthof(methods); i++)
	{
		if (strcmp(methods[i].name, name) == 0)
			return methods[i].rmid;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown access method \"%s\"", name),
			 errhint("Access methods are those of PostgreSQL, \"sequence\" and \"vm\".")));
}

/* masked_page(page, access method, block): the page without what redo need not restore */
Datum
masked_page(PG_FUNCTION_ARGS)
{
	bytea	   *raw = PG_GETARG_BYTEA_P_COPY(0);
	int			rmid = method_of(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	int64		blk = PG_GETARG_INT64(2);
	char	   *page;

	if (VARSIZE_ANY_EXHDR(raw) != BLCKSZ)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a page has %d bytes, not %d", BLCKSZ, (int) VARSIZE_ANY_EXHDR(raw))));
	/* aligned as the masks want it */
	page = palloc(BLCKSZ);
	memcpy(page, VARDATA_ANY(raw), BLCKSZ);
	if (!PageIsNew((Page) page))
	{
		if (rmid == RM_MAP)
			mask_page_lsn_and_checksum((Page) page);
		else
			RmgrTable[rmid].rm_mask(page, (BlockNumber) blk);
	}
	memcpy(VARDATA_ANY(raw), page, BLCKSZ);
	PG_RETURN_BYTEA_P(raw);
}
