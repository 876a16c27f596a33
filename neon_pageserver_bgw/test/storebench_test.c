/*-------------------------------------------------------------------------
 *
 * storebench_test.c
 *	  The speed of the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "portability/instr_time.h"
#include "storemodel.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define BENCH_RECORD 90

PG_FUNCTION_INFO_V1(neon_test_store_bench);

static double
seconds_since(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_DOUBLE(now);
}

/* store_bench(seed, refs, pages): rates as text. */
Datum
neon_test_store_bench(PG_FUNCTION_ARGS)
{
	int			nrefs = PG_GETARG_INT32(1);
	int			npages = PG_GETARG_INT32(2);
	Model	   *m = palloc0(sizeof(Model));
	StringInfoData out;
	instr_time	start;
	Timeline   *tl;
	XLogRecPtr	lsn;
	RelSize		size;
	StringInfoData buf;
	StorePut	put;
	StoreChain	chain;
	NeonKey		key;

	initStringInfo(&out);
	initStringInfo(&buf);
	m->seed = PG_GETARG_INT64(0);
	m->apply = true;
	m->tenant = make_id(m->seed, 0);
	pg_prng_seed(&m->random, m->seed);
	make_root(m);
	tl = m->t[0].tl;
	lsn = timeline_last_record_lsn(tl);

	relsize_init(&size);
	(void) relsize_extend(&size, npages);
	relsize_encode(&size, &buf);
	put.key = size_key(0, 0);
	put.value_kind = NEON_VALUE_SIZE;
	put.base = true;
	put.data = buf.data;
	put.len = buf.len;
	store_put(tl, lsn, lsn + 64, &put, 1);
	lsn += 64;

	put.value_kind = NEON_VALUE_WAL;
	put.base = false;
	put.data = NULL;
	put.len = 0;
	INSTR_TIME_SET_CURRENT(start);
	for (int i = 0; i < nrefs; i++)
	{
		XLogRecPtr	from = behind_header(lsn);
		uint32		fill = draw(m, 1000000) * 4;
		XLogRecord *record;

		put.key = page_key(0, 0, i % 8 == 0 ? 0 : draw(m, npages));
		record = make_record(&put.key, fill, BENCH_RECORD);
		store_wal(tl, from, (char *) record, BENCH_RECORD);
		pfree(record);
		lsn = end_of_record(from, BENCH_RECORD);
		store_put(tl, from, lsn, &put, 1);
		if (i % 100 == 0 || i == nrefs - 1)
			store_publish(tl, from, lsn);
	}
	appendStringInfo(&out, "put %.2f M refs/s, ", nrefs / seconds_since(start) / 1e6);
	for (int round = 0; round < 2; round++)
	{
		MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "bench",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(context);
		uint64		versions = 0;

		INSTR_TIME_SET_CURRENT(start);
		for (int i = 0; i < 20000; i++)
		{
			key = page_key(0, 0, 1 + draw(m, npages - 1));
			store_get(tl, &key, 1, lsn, &chain);
			versions += chain.nversions;
			MemoryContextReset(context);
		}
		appendStringInfo(&out, "get %.2f us (%.1f versions), ", seconds_since(start) / 20000 * 1e6,
						 versions / 20000.0);
		INSTR_TIME_SET_CURRENT(start);
		key = page_key(0, 0, 0);
		store_get(tl, &key, 1, lsn, &chain);
		appendStringInfo(&out, "hot get %.0f us (%d versions)", seconds_since(start) * 1e6,
						 chain.nversions);
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
		if (round == 0)
		{
			INSTR_TIME_SET_CURRENT(start);
			store_flush(tl);
			appendStringInfo(&out, "; flush %.2f s, " UINT64_FORMAT " bytes; ", seconds_since(start),
							 store_physical_size(tl));
		}
	}
	timeline_release_ownership(tl);
	PG_RETURN_TEXT_P(cstring_to_text(out.data));
}
