/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  Batches of made-up records that behave well or badly on purpose.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam_xlog.h"
#include "access/rmgr.h"
#include "access/xlogrecord.h"
#include "catalog/pg_control.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "utils/builtins.h"

#include "redopool.h"

PG_FUNCTION_INFO_V1(redo_probe);

#define PROBE_SEGSIZE	(16 * 1024 * 1024)
#define PROBE_START		((XLogRecPtr) 0x1000100)

typedef struct Probe
{
	NeonKey		key;
	const char *what;
	int			number;			/* of the page */
} Probe;

/* The byte with which a page is filled, so that pages cannot be mixed up. */
static int
filling(int number)
{
	return 'A' + number % 26;
}

static void
make_page(int number, char *page)
{
	PageInit((Page) page, BLCKSZ, 0);
	memset(page + SizeOfPageHeaderData, filling(number), BLCKSZ - SizeOfPageHeaderData);
}

/* A record with one block reference, with or without a full image. */
static XLogRecord *
make_record(const NeonKey *key, RmgrId rmid, uint8 info, const char *image)
{
	uint32		len = SizeOfXLogRecord + SizeOfXLogRecordBlockHeader +
	(image ? SizeOfXLogRecordBlockImageHeader : 0) + sizeof(RelFileNode) +
	sizeof(BlockNumber) + (image ? BLCKSZ : 0);
	char	   *buf = palloc0(len);
	char	   *p = buf + SizeOfXLogRecord;
	XLogRecord *record = (XLogRecord *) buf;
	XLogRecordBlockHeader block = {0};
	XLogRecordBlockImageHeader img = {0};
	RelFileNode rnode = {key->spc, key->db, key->rel};

	record->xl_tot_len = len;
	record->xl_rmid = rmid;
	record->xl_info = info;
	block.id = 0;
	block.fork_flags = key->fork | (image ? BKPBLOCK_HAS_IMAGE : 0);
	memcpy(p, &block, SizeOfXLogRecordBlockHeader);
	p += SizeOfXLogRecordBlockHeader;
	if (image)
	{
		img.length = BLCKSZ;
		img.bimg_info = BKPIMAGE_APPLY;
		memcpy(p, &img, SizeOfXLogRecordBlockImageHeader);
		p += SizeOfXLogRecordBlockImageHeader;
	}
	memcpy(p, &rnode, sizeof(rnode));
	p += sizeof(rnode);
	memcpy(p, &key->blk, sizeof(BlockNumber));
	p += sizeof(BlockNumber);
	if (image)
		memcpy(p, image, BLCKSZ);
	return record;
}

/* Ends where a record of this length must end. */
static XLogRecPtr
end_of(XLogRecPtr start, uint32 len)
{
	XLogRecPtr	at = start;

	while (len > XLOG_BLCKSZ - at % XLOG_BLCKSZ)
	{
		len -= XLOG_BLCKSZ - at % XLOG_BLCKSZ;
		at += XLOG_BLCKSZ - at % XLOG_BLCKSZ;
		at += at % PROBE_SEGSIZE == 0 ? 40 : 24;
	}
	return MAXALIGN64(at + len);
}

static XLogRecord *
fetch(void *arg, int i, XLogRecPtr *start, XLogRecPtr *end)
{
	Probe	   *probe = arg;
	const char *what = probe->what;
	bool		odd = probe->number % 2 == 1;
	XLogRecord *record;
	PGAlignedBlock page;

	make_page(probe->number, page.data);
	*start = PROBE_START;
	if (odd && strcmp(what, "fetch_error") == 0)
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("probe has no record")));
	if (strcmp(what, "sleep") == 0)
	{
		pg_usleep(100000);
		CHECK_FOR_INTERRUPTS();
	}
	if (odd && strcmp(what, "panic") == 0)
		record = make_record(&probe->key, RM_BTREE_ID, 0xF0, page.data);
	else if (odd && strcmp(what, "foreign") == 0)
		record = make_record(&probe->key, RM_XACT_ID, 0, page.data);
	else if (odd && strcmp(what, "no_base") == 0)
		record = make_record(&probe->key, RM_SEQ_ID, 0, NULL);
	else if (odd && strcmp(what, "missing") == 0)
		record = make_record(&probe->key, RM_HEAP2_ID, XLOG_HEAP2_FREEZE_PAGE, NULL);
	else if (odd && strcmp(what, "no_image") == 0)
		record = make_record(&probe->key, RM_XLOG_ID, XLOG_FPI, NULL);
	else
		record = make_record(&probe->key, RM_XLOG_ID, XLOG_FPI, page.data);
	if (odd && strcmp(what, "other_page") == 0)
		record = make_record(&(NeonKey)
							 {
								 NEON_KEY_PAGE, 0, 0, 1, 2, 3, 4
							 }, RM_XLOG_ID, XLOG_FPI, page.data);
	if (odd && strcmp(what, "garbage") == 0)
	{
		char	   *body = (char *) record + SizeOfXLogRecord;
		uint32		n = record->xl_tot_len - SizeOfXLogRecord;
		int			j;

		for (j = 0; j < 4; j++)
			body[pg_prng_uint64_range(&pg_global_prng_state, 0, Min(n, 40) - 1)] ^=
				(char) pg_prng_uint32(&pg_global_prng_state);
	}
	*end = end_of(*start, record->xl_tot_len);
	if (odd && strcmp(what, "wrong_end") == 0)
		*end += 8;
	return record;
}

/*
 * redo_probe(tenant text, npages int, nrecords int, what text)
 * returns table(page int, ok bool, error text): odd pages misbehave as said.
 */
Datum
redo_probe(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *tenant_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			n = PG_GETARG_INT32(1);
	int			nrecords = PG_GETARG_INT32(2);
	char	   *what = text_to_cstring(PG_GETARG_TEXT_PP(3));
	RedoRequest *requests = palloc0(n * sizeof(RedoRequest));
	Probe	   *probes = palloc0(n * sizeof(Probe));
	NeonId		tenant;
	int			i;

	if (!neon_id_parse(tenant_text, &tenant))
		elog(ERROR, "no tenant id");
	InitMaterializedSRF(fcinfo, 0);
	for (i = 0; i < n; i++)
	{
		probes[i].key = neon_key(NEON_KEY_PAGE, 1663, 5, 16384, MAIN_FORKNUM, i);
		probes[i].what = what;
		probes[i].number = i;
		requests[i].key = probes[i].key;
		requests[i].nrecords = nrecords;
		requests[i].fetch = fetch;
		requests[i].arg = &probes[i];
		requests[i].page = palloc(BLCKSZ);
	}
	redo_apply(&tenant, PROBE_SEGSIZE, requests, n);
	for (i = 0; i < n; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {0};
		PGAlignedBlock want;

		make_page(i, want.data);
		if (requests[i].ok && nrecords > 0)
		{
			XLogRecPtr	lsn = PageGetLSN((Page) requests[i].page);

			PageSetLSN((Page) want.data, lsn);
			if (lsn <= PROBE_START || memcmp(want.data, requests[i].page, BLCKSZ) != 0)
				requests[i].error = "WRONG PAGE";
		}
		values[0] = Int32GetDatum(i);
		values[1] = BoolGetDatum(requests[i].ok);
		values[2] = CStringGetTextDatum(requests[i].error ? requests[i].error : "");
		nulls[2] = requests[i].error == NULL;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
