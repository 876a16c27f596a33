/*-------------------------------------------------------------------------
 *
 * fuzz.c
 *	  SQL function redo_fuzz(a, b, batches, seed): batches of real pages, one
 *	  of which has a record with a few bytes broken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "difftest.h"
#include "redopool.h"

PG_FUNCTION_INFO_V1(redo_fuzz);

#define FUZZ_BATCH	16
#define MAX_CHAIN	50

static const NeonId fuzz_tenant = {{7, 7, 7}};

typedef struct FuzzPage
{
	FetchArg	fetch;
	int			broken;			/* record that is broken, or -1 */
	PGAlignedBlock base;
	PGAlignedBlock result;
} FuzzPage;

static XLogRecord *
fetch_broken(void *arg, int i, XLogRecPtr *start, XLogRecPtr *end)
{
	FuzzPage   *page = arg;
	XLogRecord *record = difftest_fetch(&page->fetch, i, start, end);
	uint32		len = record->xl_tot_len;
	char	   *copy;
	int			j;

	if (i != page->broken)
		return record;
	copy = palloc(len);
	memcpy(copy, record, len);
	for (j = 0; j < 4 && len > SizeOfXLogRecord; j++)
		copy[pg_prng_uint64_range(&pg_global_prng_state, SizeOfXLogRecord,
								  Min(len, SizeOfXLogRecord + 100) - 1)] ^=
			(char) pg_prng_uint32(&pg_global_prng_state);
	return (XLogRecord *) copy;
}

/* A random page with a chain that is not too long. */
static TestPage *
choose(TestPage **pages, int npages)
{
	TestPage   *page;

	do
		page = pages[pg_prng_uint64_range(&pg_global_prng_state, 0, npages - 1)];
	while (page->n > MAX_CHAIN || page->source != NULL);
	return page;
}

static void
prepare(TestWal *wal, TestPage **pages, int npages, FuzzPage *fuzz, RedoRequest *request)
{
	TestPage   *page = choose(pages, npages);

	memset(request, 0, sizeof(*request));
	fuzz->fetch = (FetchArg)
	{
		wal, page, 0
	};
	fuzz->broken = -1;
	request->key = page->key;
	request->base = difftest_base(wal, page, fuzz->base.data) ? fuzz->base.data : NULL;
	request->nrecords = page->n;
	request->fetch = fetch_broken;
	request->arg = fuzz;
	request->page = fuzz->result.data;
}

/* redo_fuzz(a text, b text, batches int, seed bigint) returns table(what text, n bigint) */
Datum
redo_fuzz(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"broken_ok", "broken_error", "other_failed", "other_wrong"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			batches = PG_GETARG_INT32(2);
	FuzzPage   *fuzz = palloc(FUZZ_BATCH * sizeof(FuzzPage));
	RedoRequest requests[FUZZ_BATCH];
	int64		counts[4] = {0};
	int			npages;
	TestPage  **pages;
	TestWal    *wal;
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	pg_prng_seed(&pg_global_prng_state, PG_GETARG_INT64(3));
	wal = testwal_read(text_to_cstring(PG_GETARG_TEXT_PP(0)),
					   text_to_cstring(PG_GETARG_TEXT_PP(1)));
	pages = difftest_sorted_pages(wal, &npages);
	while (batches-- > 0)
	{
		int			victim = pg_prng_uint64_range(&pg_global_prng_state, 0, FUZZ_BATCH - 1);

		for (i = 0; i < FUZZ_BATCH; i++)
			prepare(wal, pages, npages, &fuzz[i], &requests[i]);
		fuzz[victim].broken = pg_prng_uint64_range(&pg_global_prng_state, 0,
												   requests[victim].nrecords - 1);
		redo_apply(&fuzz_tenant, wal->control_b.xlog_seg_size, requests, FUZZ_BATCH);
		for (i = 0; i < FUZZ_BATCH; i++)
		{
			PGAlignedBlock right;

			if (i == victim)
			{
				counts[requests[i].ok ? 0 : 1]++;
				continue;
			}
			if (!requests[i].ok)
			{
				counts[2]++;
				elog(LOG, "another page failed: %s", requests[i].error);
				continue;
			}
			difftest_redo_one(wal, fuzz[i].fetch.page, 0, requests[i].nrecords,
							  requests[i].base, right.data);
			counts[3] += memcmp(right.data, requests[i].page, BLCKSZ) != 0;
		}
		CHECK_FOR_INTERRUPTS();
	}
	for (i = 0; i < lengthof(names); i++)
	{
		Datum		values[2];
		bool		nulls[2] = {0};

		values[0] = CStringGetTextDatum(names[i]);
		values[1] = Int64GetDatum(counts[i]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
