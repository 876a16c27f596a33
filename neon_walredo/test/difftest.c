/*-------------------------------------------------------------------------
 *
 * difftest.c
 *	  SQL function redo_diff(a, b): redoes every page that WAL between A and B
 *	  touched, and compares it with B.
 *
 * Each page is made twice: from its state in A with all records, and without
 * base from the last record that needs none.  Pages of B that no record
 * touched must be as in A.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/catalog.h"
#include "catalog/pg_tablespace_d.h"
#include "common/relpath.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "difftest.h"
#include "redopool.h"

PG_FUNCTION_INFO_V1(redo_diff);

#define BATCH	32

static const NeonId test_tenant = {{1, 2, 3}};

/* A named count, and the first thing that was counted. */
typedef struct Counter
{
	const char *name;
	int64		n;
	char		example[256];
} Counter;

typedef struct PassResult
{
	Counter		verdicts[NUM_VERDICTS];
	Counter		errors;
	Counter		missing;		/* the page is not in B */
	Counter		applied;
} PassResult;

static const char *const verdict_names[] = {
	"exact", "masked", "sequence", "spgist_meta", "vm_image", "different"
};

static char *
describe(const NeonKey *key)
{
	return psprintf("%u/%u/%u fork %d block %u", key->spc, key->db, key->rel, key->fork, key->blk);
}

static void
count(Counter *counter, const NeonKey *key, const char *more)
{
	if (counter->n++ == 0)
		snprintf(counter->example, sizeof(counter->example), "%s: %s", describe(key), more);
}

/* ---- redo ---- */

XLogRecord *
difftest_fetch(void *arg, int i, XLogRecPtr *start, XLogRecPtr *end)
{
	FetchArg   *fetch = arg;
	TestRecord *record = &fetch->wal->records[fetch->page->records[fetch->from + i]];

	*start = record->start;
	*end = record->end;
	return record->raw;
}

void
difftest_redo_one(TestWal *wal, TestPage *page, uint32 from, uint32 to,
				  const char *base, char *result)
{
	FetchArg	arg = {wal, page, from};
	RedoRequest request = {0};

	request.key = page->key;
	request.base = base;
	request.nrecords = to - from;
	request.fetch = difftest_fetch;
	request.arg = &arg;
	request.page = result;
	redo_apply(&test_tenant, wal->control_b.xlog_seg_size, &request, 1);
	if (!request.ok)
		elog(ERROR, "%s: %s", describe(&page->key), request.error);
}

/* The page in A, or of the database in A that its database was copied from. */
static bool
page_in_a(TestWal *wal, const NeonKey *key, char *page)
{
	NeonKey		source = *key;
	int			i;

	for (i = wal->ndbcopies - 1; i >= 0; i--)
	{
		TestDbCopy *copy = &wal->dbcopies[i];

		if (copy->db == source.db && copy->spc == source.spc)
		{
			source.db = copy->src_db;
			source.spc = copy->src_spc;
		}
	}
	return read_page_of(wal->a, &source, page);
}

bool
difftest_base(TestWal *wal, TestPage *page, char *base)
{
	PGAlignedBlock below;
	bool		has_base;

	if (page->source == NULL)
		return !page->not_in_a && page_in_a(wal, &page->key, base);
	has_base = difftest_base(wal, page->source, below.data);
	if (page->source->n == 0)
	{
		memcpy(base, below.data, BLCKSZ);
		return has_base;
	}
	difftest_redo_one(wal, page->source, 0, page->source->n,
					  has_base ? below.data : NULL, base);
	return true;
}

/* ---- comparison ---- */

static bool
has_image(TestWal *wal, TestPage *page)
{
	uint32		i;

	for (i = 0; i < page->n; i++)
	{
		if (wal->records[page->records[i]].rmid == RM_XLOG_ID)
			return true;
	}
	return false;
}

static void
judge(TestWal *wal, TestPage *page, RedoRequest *request, PassResult *result)
{
	TestRecord *last = &wal->records[page->records[page->n - 1]];
	PGAlignedBlock file;
	PageVerdict verdict;

	result->applied.n += request->nrecords;
	if (!request->ok)
	{
		count(&result->errors, &page->key, request->error);
		return;
	}
	if (!read_page_of(wal->b, &page->key, file.data))
	{
		count(&result->missing, &page->key, "not in B");
		return;
	}
	verdict = compare_pages(&page->key, last->rmid, has_image(wal, page),
							request->page, file.data);
	count(&result->verdicts[verdict], &page->key,
		  psprintf("%d records, the last of resource manager %d, info %02X at %X/%X",
				   request->nrecords, last->rmid, last->info, LSN_FORMAT_ARGS(last->start)));
}

/* Redoes and compares some pages in one batch. */
static void
run_batch(TestWal *wal, TestPage **pages, int n, bool from_a, PassResult *result)
{
	static PGAlignedBlock bases[BATCH];
	static PGAlignedBlock results[BATCH];
	RedoRequest requests[BATCH];
	FetchArg	args[BATCH];
	int			i;

	memset(requests, 0, sizeof(requests));
	for (i = 0; i < n; i++)
	{
		TestPage   *page = pages[i];

		args[i].wal = wal;
		args[i].page = page;
		args[i].from = from_a ? 0 : page->last_base;
		requests[i].key = page->key;
		if (from_a && difftest_base(wal, page, bases[i].data))
			requests[i].base = bases[i].data;
		requests[i].nrecords = page->n - args[i].from;
		requests[i].fetch = difftest_fetch;
		requests[i].arg = &args[i];
		requests[i].page = results[i].data;
	}
	redo_apply(&test_tenant, wal->control_b.xlog_seg_size, requests, n);
	for (i = 0; i < n; i++)
		judge(wal, pages[i], &requests[i], result);
}

static int
cmp_pages(const void *a, const void *b)
{
	return neon_key_cmp(&(*(TestPage *const *) a)->key, &(*(TestPage *const *) b)->key);
}

/* All pages with records, in key order. */
TestPage  **
difftest_sorted_pages(TestWal *wal, int *n)
{
	TestPage  **pages = MemoryContextAllocHuge(CurrentMemoryContext,
											   (hash_get_num_entries(wal->pages) + 1) * sizeof(TestPage *));
	HASH_SEQ_STATUS seq;
	TestPage   *page;

	*n = 0;
	hash_seq_init(&seq, wal->pages);
	while ((page = hash_seq_search(&seq)) != NULL)
	{
		if (page->n > 0)
			pages[(*n)++] = page;
	}
	qsort(pages, *n, sizeof(TestPage *), cmp_pages);
	return pages;
}

static void
compare_all(TestWal *wal, TestPage **pages, int n, bool from_a, PassResult *result)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "batch",
												  ALLOCSET_DEFAULT_SIZES);
	TestPage   *some[BATCH];
	int			nsome = 0;
	int			i;

	for (i = 0; i < n; i++)
	{
		if (from_a || pages[i]->last_base >= 0)
			some[nsome++] = pages[i];
		if (nsome == BATCH || (i == n - 1 && nsome > 0))
		{
			MemoryContext oldcontext = MemoryContextSwitchTo(context);

			run_batch(wal, some, nsome, from_a, result);
			nsome = 0;
			MemoryContextSwitchTo(oldcontext);
			MemoryContextReset(context);
			CHECK_FOR_INTERRUPTS();
		}
	}
}

/* ---- pages that no record touched ---- */

typedef struct Untouched
{
	Counter		pages;
	Counter		zero;			/* extended, never used */
	Counter		verdicts[NUM_VERDICTS]; /* against A */
	Counter		unlogged;
	Counter		fsm;
	Counter		empty_map;		/* page of the visibility map, extended only */
	Counter		unexplained;	/* not in A */
} Untouched;

static bool
is_zero(const char *page)
{
	return page[0] == 0 && memcmp(page, page + 1, BLCKSZ - 1) == 0;
}

static void
check_untouched_page(TestWal *wal, const NeonKey *key, bool unlogged, Untouched *u)
{
	TestPage   *entry = hash_search(wal->pages, key, HASH_FIND, NULL);
	PGAlignedBlock page;
	PGAlignedBlock before;

	if (entry != NULL && entry->n > 0)
		return;
	u->pages.n++;
	if (unlogged || key->fork == FSM_FORKNUM)
	{
		count(unlogged ? &u->unlogged : &u->fsm, key, "");
		return;
	}
	if (!read_page_of(wal->b, key, page.data))
		elog(ERROR, "could not read %s", describe(key));
	if (is_zero(page.data))
		count(&u->zero, key, "");
	else if (key->fork == VISIBILITYMAP_FORKNUM && is_empty_map(page.data))
		count(&u->empty_map, key, "");
	else if (entry != NULL ? !difftest_base(wal, entry, before.data) :
			 !page_in_a(wal, key, before.data))
		count(&u->unexplained, key, "has no history");
	else
		count(&u->verdicts[compare_pages(key, RM_XLOG_ID, false, before.data, page.data)],
			  key, "changed without WAL");
}

static void
check_untouched_file(TestWal *wal, const char *dir, Oid spc, Oid db, const char *name, Untouched *u)
{
	unsigned int rel;
	unsigned int segno = 0;
	char		suffix[16] = "";
	char	   *path;
	struct stat st;
	NeonKey		key;
	ForkNumber	fork = MAIN_FORKNUM;
	bool		unlogged;
	BlockNumber blk;

	if (sscanf(name, "%u_%15[a-z].%u", &rel, suffix, &segno) < 2 &&
		sscanf(name, "%u.%u", &rel, &segno) < 1)
		return;
	if (suffix[0] != '\0')
		fork = forkname_to_number(suffix);
	path = psprintf("%s/%u_init", dir, rel);
	unlogged = fork != INIT_FORKNUM && access(path, F_OK) == 0;
	path = psprintf("%s/%s", dir, name);
	if (stat(path, &st) != 0)
		elog(ERROR, "could not stat \"%s\": %m", path);
	key = neon_key(NEON_KEY_PAGE, spc, db, rel, fork, 0);
	for (blk = 0; blk < st.st_size / BLCKSZ; blk++)
	{
		key.blk = segno * RELSEG_SIZE + blk;
		check_untouched_page(wal, &key, unlogged, u);
	}
}

static void
check_untouched_dir(TestWal *wal, const char *dir, Oid spc, Oid db, Untouched *u)
{
	DIR		   *d = AllocateDir(dir);
	struct dirent *de;

	while ((de = ReadDir(d, dir)) != NULL)
	{
		if (isdigit((unsigned char) de->d_name[0]))
			check_untouched_file(wal, dir, spc, db, de->d_name, u);
	}
	FreeDir(d);
}

/* Directories of databases below dir. */
static void
check_untouched_dbs(TestWal *wal, const char *dir, Oid spc, Untouched *u)
{
	DIR		   *d = AllocateDir(dir);
	struct dirent *de;

	while ((de = ReadDir(d, dir)) != NULL)
	{
		if (isdigit((unsigned char) de->d_name[0]))
			check_untouched_dir(wal, psprintf("%s/%s", dir, de->d_name), spc,
								strtoul(de->d_name, NULL, 10), u);
	}
	FreeDir(d);
}

static void
check_untouched(TestWal *wal, Untouched *u)
{
	char	   *dir = psprintf("%s/pg_tblspc", wal->b);
	DIR		   *d;
	struct dirent *de;

	check_untouched_dir(wal, psprintf("%s/global", wal->b), GLOBALTABLESPACE_OID, 0, u);
	check_untouched_dbs(wal, psprintf("%s/base", wal->b), DEFAULTTABLESPACE_OID, u);
	d = AllocateDir(dir);
	while ((de = ReadDir(d, dir)) != NULL)
	{
		if (isdigit((unsigned char) de->d_name[0]))
			check_untouched_dbs(wal, psprintf("%s/%s/%s", dir, de->d_name,
											  TABLESPACE_VERSION_DIRECTORY),
								strtoul(de->d_name, NULL, 10), u);
	}
	FreeDir(d);
}

/* ---- the function ---- */

static void
put_row(ReturnSetInfo *rsinfo, const char *prefix, const char *name, int64 n, const char *example)
{
	Datum		values[3];
	bool		nulls[3] = {0};

	values[0] = CStringGetTextDatum(psprintf("%s%s", prefix, name));
	values[1] = Int64GetDatum(n);
	values[2] = CStringGetTextDatum(example);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_verdicts(ReturnSetInfo *rsinfo, const char *prefix, const Counter *verdicts)
{
	int			i;

	for (i = 0; i < NUM_VERDICTS; i++)
		put_row(rsinfo, prefix, verdict_names[i], verdicts[i].n, verdicts[i].example);
}

static void
put_result(ReturnSetInfo *rsinfo, const char *prefix, const PassResult *result)
{
	put_verdicts(rsinfo, prefix, result->verdicts);
	put_row(rsinfo, prefix, "errors", result->errors.n, result->errors.example);
	put_row(rsinfo, prefix, "missing", result->missing.n, result->missing.example);
	put_row(rsinfo, prefix, "applied", result->applied.n, "");
}

/* redo_diff(a text, b text) returns table(what text, n bigint, example text) */
Datum
redo_diff(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TestWal    *wal;
	TestPage  **pages;
	int			npages;
	static PassResult from_a;
	static PassResult from_base;
	static Untouched untouched;

	memset(&from_a, 0, sizeof(from_a));
	memset(&from_base, 0, sizeof(from_base));
	memset(&untouched, 0, sizeof(untouched));
	InitMaterializedSRF(fcinfo, 0);
	wal = testwal_read(text_to_cstring(PG_GETARG_TEXT_PP(0)),
					   text_to_cstring(PG_GETARG_TEXT_PP(1)));
	pages = difftest_sorted_pages(wal, &npages);
	compare_all(wal, pages, npages, true, &from_a);
	compare_all(wal, pages, npages, false, &from_base);
	check_untouched(wal, &untouched);

	put_row(rsinfo, "", "wal_records", wal->nrecords, "");
	put_row(rsinfo, "", "wal_bytes", wal->bytes, "");
	put_row(rsinfo, "", "references", wal->references, "");
	put_row(rsinfo, "", "implicit", wal->implicit, "");
	put_row(rsinfo, "", "pages", npages, "");
	put_result(rsinfo, "chain_", &from_a);
	put_result(rsinfo, "base_", &from_base);
	put_row(rsinfo, "untouched_", "pages", untouched.pages.n, "");
	put_row(rsinfo, "untouched_", "zero", untouched.zero.n, untouched.zero.example);
	put_row(rsinfo, "untouched_", "unlogged", untouched.unlogged.n, untouched.unlogged.example);
	put_row(rsinfo, "untouched_", "fsm", untouched.fsm.n, untouched.fsm.example);
	put_row(rsinfo, "untouched_", "empty_map", untouched.empty_map.n, untouched.empty_map.example);
	put_row(rsinfo, "untouched_", "unexplained", untouched.unexplained.n,
			untouched.unexplained.example);
	put_verdicts(rsinfo, "untouched_", untouched.verdicts);
	return (Datum) 0;
}
