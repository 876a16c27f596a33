/*-------------------------------------------------------------------------
 *
 * bench.c
 *	  SQL function redo_bench(a, b, milliseconds): pages per second of chains
 *	  of one kind of record, by chain length and pages per batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam_xlog.h"
#include "access/nbtxlog.h"
#include "access/xlog_internal.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"

#include "difftest.h"
#include "redopool.h"

PG_FUNCTION_INFO_V1(redo_bench);

#define MAX_SET		500
#define MAX_BATCH	64

static const NeonId bench_tenant = {{1, 2, 3}};

/* A page before a run of records of one kind. */
typedef struct BenchPage
{
	PGAlignedBlock base;
	FetchArg	fetch;
	RedoRequest request;
} BenchPage;

typedef struct BenchKind
{
	const char *name;
	RmgrId		rmid;
	uint8		mask;
	uint8		op;
} BenchKind;

static const BenchKind kinds[] = {
	{"heap insert", RM_HEAP_ID, 0xF0, XLOG_HEAP_INSERT},
	{"heap hot update", RM_HEAP_ID, 0xF0, XLOG_HEAP_HOT_UPDATE},
	{"btree insert", RM_BTREE_ID, 0xF0, XLOG_BTREE_INSERT_LEAF},
};

/* Where a run of length records begins in the page's list, or -1. */
static int
find_run(TestWal *wal, TestPage *page, const BenchKind *kind, int length)
{
	int			run = 0;
	uint32		i;

	for (i = 1; i < page->n; i++)
	{
		TestRecord *r = &wal->records[page->records[i]];

		if (r->rmid != kind->rmid || (r->info & kind->mask) != kind->op ||
			page->last_base >= (int) i)
			run = 0;
		else if (++run == length)
			return i + 1 - length;
	}
	return -1;
}

static int
collect(TestWal *wal, const BenchKind *kind, int length, BenchPage *set)
{
	HASH_SEQ_STATUS seq;
	TestPage   *page;
	int			n = 0;

	hash_seq_init(&seq, wal->pages);
	while ((page = hash_seq_search(&seq)) != NULL)
	{
		BenchPage  *b = &set[n];
		PGAlignedBlock base;
		bool		has_base;
		int			from;

		if (n == MAX_SET || page->source != NULL ||
			(from = find_run(wal, page, kind, length)) < 0)
			continue;
		has_base = difftest_base(wal, page, base.data);
		difftest_redo_one(wal, page, 0, from, has_base ? base.data : NULL, b->base.data);
		b->fetch = (FetchArg)
		{
			wal, page, from
		};
		memset(&b->request, 0, sizeof(b->request));
		b->request.key = page->key;
		b->request.base = b->base.data;
		b->request.nrecords = length;
		b->request.fetch = difftest_fetch;
		b->request.arg = &b->fetch;
		n++;
	}
	return n;
}

/* Pages per second. */
static double
measure(TestWal *wal, BenchPage *set, int n, int batch, int ms)
{
	static PGAlignedBlock results[MAX_BATCH];
	RedoRequest requests[MAX_BATCH];
	instr_time	begin;
	instr_time	now;
	int64		done = 0;
	int			next = 0;
	int			i;

	INSTR_TIME_SET_CURRENT(begin);
	do
	{
		for (i = 0; i < batch; i++)
		{
			requests[i] = set[next].request;
			requests[i].page = results[i].data;
			next = (next + 1) % n;
		}
		redo_apply(&bench_tenant, wal->control_b.xlog_seg_size, requests, batch);
		for (i = 0; i < batch; i++)
		{
			if (!requests[i].ok)
				elog(ERROR, "redo failed: %s", requests[i].error);
		}
		done += batch;
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, begin);
		CHECK_FOR_INTERRUPTS();
	} while (INSTR_TIME_GET_MILLISEC(now) < ms);
	return done / INSTR_TIME_GET_DOUBLE(now);
}

/*
 * redo_bench(a text, b text, ms int) returns table(kind text, length int,
 * pages int, batch1 float8, batch16 float8, batch64 float8)
 */
Datum
redo_bench(PG_FUNCTION_ARGS)
{
	static const int lengths[] = {1, 10, 100};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			ms = PG_GETARG_INT32(2);
	BenchPage  *set = palloc(MAX_SET * sizeof(BenchPage));
	TestWal    *wal;
	int			k;
	int			l;

	InitMaterializedSRF(fcinfo, 0);
	wal = testwal_read(text_to_cstring(PG_GETARG_TEXT_PP(0)),
					   text_to_cstring(PG_GETARG_TEXT_PP(1)));
	for (k = 0; k < lengthof(kinds); k++)
	{
		for (l = 0; l < lengthof(lengths); l++)
		{
			int			n = collect(wal, &kinds[k], lengths[l], set);
			Datum		values[6];
			bool		nulls[6] = {0};

			if (n == 0)
				continue;
			values[0] = CStringGetTextDatum(kinds[k].name);
			values[1] = Int32GetDatum(lengths[l]);
			values[2] = Int32GetDatum(n);
			values[3] = Float8GetDatum(measure(wal, set, n, 1, ms));
			values[4] = Float8GetDatum(measure(wal, set, n, 16, ms));
			values[5] = Float8GetDatum(measure(wal, set, n, MAX_BATCH, ms));
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}
