/*-------------------------------------------------------------------------
 *
 * read.c
 *	  Pages at an LSN: versions from the store, redo where it is needed.
 *
 * A page whose newest version is an image, or that does not exist, is made
 * here; the rest of a batch goes to one redo child together.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "framecache.h"
#include "read.h"
#include "redopool.h"
#include "service.h"
#include "storage/bufpage.h"
#include "storage/checksum.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* Chains of so many records and more are worth a frame of the page cache. */
#define FRAME_RECORDS	4

/* A page that needs redo: the WAL versions of its chain, newest first. */
typedef struct ReadChain
{
	int			index;			/* of the page in the batch */
	NeonKey		key;
	const StoreChain *chain;
	int			nrecords;
} ReadChain;

static void set_error(PageResult *result, int sqlstate, const char *format,...) pg_attribute_printf(3, 4);

static void
set_error(PageResult *result, int sqlstate, const char *format,...)
{
	char		buf[512];
	va_list		args;

	va_start(args, format);
	vsnprintf(buf, sizeof(buf), format, args);
	va_end(args);
	result->ok = false;
	strlcpy(result->sqlstate, unpack_sql_state(sqlstate), sizeof(result->sqlstate));
	result->message = pstrdup(buf);
}

static void
set_image(const StoreVersion *version, char *page, PageResult *result)
{
	if (version->len != BLCKSZ)
	{
		set_error(result, ERRCODE_DATA_CORRUPTED,
				  "stored page has %u bytes instead of %d", version->len, BLCKSZ);
		return;
	}
	memcpy(page, version->data, BLCKSZ);
	service_count(SERVE_PAGES_IMAGE, 1);
}

/*
 * Makes the page if that needs no redo; else false and the number of records
 * to apply.
 */
static bool
try_without_redo(const StoreChain *chain, char *page, PageResult *result, int *nrecords)
{
	const StoreVersion *newest = chain->versions;

	result->ok = true;
	if (chain->found != STORE_FOUND || chain->nversions == 0 ||
		newest->value_kind == NEON_VALUE_TOMBSTONE)
	{
		memset(page, 0, BLCKSZ);
		service_count(SERVE_PAGES_ZERO, 1);
		return true;
	}
	if (newest->value_kind == NEON_VALUE_IMAGE)
	{
		set_image(newest, page, result);
		return true;
	}
	for (*nrecords = 0; *nrecords < chain->nversions; (*nrecords)++)
		if (chain->versions[*nrecords].value_kind != NEON_VALUE_WAL)
			break;
	if (*nrecords > 0)
		return false;
	set_error(result, ERRCODE_DATA_CORRUPTED, "unexpected kind of value %u for a page",
			  newest->value_kind);
	return true;
}

/* The i-th record of a chain, oldest first. */
static XLogRecord *
fetch_record(void *arg, int i, XLogRecPtr *start, XLogRecPtr *end)
{
	const ReadChain *rc = arg;
	const StoreVersion *version = &rc->chain->versions[rc->nrecords - 1 - i];

	*start = version->start;
	*end = version->lsn;
	return store_record(&rc->key, version);
}

/* What the oldest record is applied to: NULL is a zero page. */
static const char *
chain_base(const ReadChain *rc, PageResult *result)
{
	const StoreVersion *base;

	if (rc->nrecords == rc->chain->nversions)
		return NULL;
	base = &rc->chain->versions[rc->nrecords];
	if (base->value_kind == NEON_VALUE_TOMBSTONE)
		return NULL;
	if (base->value_kind == NEON_VALUE_IMAGE && base->len == BLCKSZ)
		return base->data;
	set_error(result, ERRCODE_DATA_CORRUPTED, "unexpected kind of value %u below WAL records",
			  base->value_kind);
	return NULL;
}

static void
redo_chains(Timeline *tl, const NeonKey *keys, ReadChain *todo, int ntodo,
			char *pages, PageResult *results)
{
	RedoRequest *requests = palloc0(ntodo * sizeof(RedoRequest));
	int			n = 0;

	for (int i = 0; i < ntodo; i++)
	{
		RedoRequest *req = &requests[n];

		req->base = chain_base(&todo[i], &results[todo[i].index]);
		if (!results[todo[i].index].ok)
			continue;
		req->key = keys[todo[i].index];
		req->nrecords = todo[i].nrecords;
		req->fetch = fetch_record;
		req->arg = &todo[i];
		req->page = pages + (size_t) todo[i].index * BLCKSZ;
		n++;
		service_count(SERVE_REDO_RECORDS, todo[i].nrecords);
	}
	if (n > 0)
		redo_apply(&tl->id.tenant, tl->id.wal_segment_size, requests, n);
	for (int i = 0; i < n; i++)
	{
		PageResult *result = &results[((ReadChain *) requests[i].arg)->index];

		if (requests[i].ok)
			service_count(SERVE_PAGES_REDO, 1);
		else
			set_error(result,
					  requests[i].sqlerrcode ? requests[i].sqlerrcode : ERRCODE_DATA_CORRUPTED,
					  "%s", requests[i].error ? requests[i].error : "redo failed");
	}
	pfree(requests);
}

/*
 * What is served must pass the checks of a server that reads it from disk; the
 * page LSN stays as it is.
 */
static void
finish_page(Timeline *tl, const NeonKey *key, char *page)
{
	PageHeader	header = (PageHeader) page;

	if (PageIsNew(page))
		return;
	header->pd_checksum = tl->id.data_checksums ? pg_checksum_page(page, key->blk) : 0;
}

/* No page may be newer than what was asked for. */
static void
check_page_lsn(const NeonKey *key, const char *page, XLogRecPtr lsn, PageResult *result)
{
	XLogRecPtr	page_lsn = PageGetLSN(unconstify(char *, page));

	if (!PageIsNew(unconstify(char *, page)) && page_lsn > lsn)
		set_error(result, ERRCODE_DATA_CORRUPTED,
				  "page was made with LSN %X/%X, but LSN %X/%X was asked for",
				  LSN_FORMAT_ARGS(page_lsn), LSN_FORMAT_ARGS(lsn));
}

void
read_pages(Timeline *tl, const NeonKey *keys, int n, XLogRecPtr lsn,
		   char *pages, PageResult *results)
{
	StoreChain *chains = palloc(n * sizeof(StoreChain));
	ReadChain  *todo = palloc(n * sizeof(ReadChain));
	int			ntodo = 0;

	memset(results, 0, n * sizeof(PageResult));
	store_get(tl, keys, n, lsn, chains);
	for (int i = 0; i < n; i++)
	{
		int			nrecords;

		Assert(keys[i].kind == NEON_KEY_PAGE);
		if (try_without_redo(&chains[i], pages + (size_t) i * BLCKSZ, &results[i], &nrecords))
			continue;
		todo[ntodo].index = i;
		todo[ntodo].key = keys[i];
		todo[ntodo].chain = &chains[i];
		todo[ntodo].nrecords = nrecords;
		ntodo++;
	}
	if (ntodo > 0)
		redo_chains(tl, keys, todo, ntodo, pages, results);
	for (int i = 0; i < n; i++)
	{
		char	   *page = pages + (size_t) i * BLCKSZ;

		if (results[i].ok)
			check_page_lsn(&keys[i], page, lsn, &results[i]);
		if (results[i].ok)
			finish_page(tl, &keys[i], page);
	}
	for (int i = 0; i < ntodo; i++)
	{
		int			at = todo[i].index;

		if (results[at].ok && todo[i].nrecords >= FRAME_RECORDS)
			framecache_put(tl, &keys[at], todo[i].chain->versions[0].lsn,
						   pages + (size_t) at * BLCKSZ);
	}
	pfree(todo);
	pfree(chains);
}

/* ---- pages that cannot be made ---- */

/* So many are logged one by one. */
#define MAX_LOGGED	10000

typedef struct LoggedPage
{
	NeonId		timeline;
	NeonKey		key;
} LoggedPage;

bool
read_never_works(const PageResult *result)
{
	return !result->ok &&
		strcmp(result->sqlstate, unpack_sql_state(ERRCODE_DATA_CORRUPTED)) == 0;
}

void
read_log_unmakeable(Timeline *tl, const NeonKey *key, XLogRecPtr lsn, const PageResult *result)
{
	static HTAB *logged = NULL;
	char		hex[NEON_ID_HEXLEN + 1];
	LoggedPage	page;
	bool		found;

	if (logged == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(LoggedPage), .entrysize = sizeof(LoggedPage)};

		logged = hash_create("neon pages that cannot be made", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	memset(&page, 0, sizeof(page));
	page.timeline = tl->id.timeline;
	page.key = *key;
	if (hash_get_num_entries(logged) >= MAX_LOGGED)
		return;
	(void) hash_search(logged, &page, HASH_ENTER, &found);
	if (found)
		return;
	ereport(LOG,
			(errmsg("block %u of relation %u/%u/%u fork %u of timeline \"%s\" cannot be made at %X/%X",
					key->blk, key->spc, key->db, key->rel, key->fork,
					neon_id_format(&tl->id.timeline, hex), LSN_FORMAT_ARGS(lsn)),
			 errdetail("%s", result->message),
			 errhint("What is stored of it is kept. This is logged once for each page.")));
}

void
read_page(Timeline *tl, const NeonKey *key, XLogRecPtr lsn, char *page)
{
	PageResult	result;

	read_pages(tl, key, 1, lsn, page, &result);
	if (!result.ok)
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(result.sqlstate[0], result.sqlstate[1],
									   result.sqlstate[2], result.sqlstate[3],
									   result.sqlstate[4])),
				 errmsg("could not make block %u of relation %u/%u/%u at %X/%X: %s",
						key->blk, key->spc, key->db, key->rel, LSN_FORMAT_ARGS(lsn),
						result.message)));
}
