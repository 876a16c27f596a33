/*-------------------------------------------------------------------------
 *
 * ingest_test.c
 *	  What tests of the ingest look at, and data directories for them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "catalog/pg_type_d.h"
#include "common/controldata_utils.h"
#include "controlat.h"
#include "fmgr.h"
#include "funcapi.h"
#include "import.h"
#include "miscadmin.h"
#include "neon_bootrec.h"
#include "neon_id.h"
#include "slru.h"
#include "store.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "walstore.h"

PG_MODULE_MAGIC;

static NeonId
id_arg(FunctionCallInfo fcinfo, int argno)
{
	char	   *hex = text_to_cstring(PG_GETARG_TEXT_PP(argno));
	NeonId		id;

	if (!neon_id_parse(hex, &id))
		elog(ERROR, "not an id: %s", hex);
	return id;
}

static Timeline *
timeline_arg(FunctionCallInfo fcinfo)
{
	NeonId		tenant = id_arg(fcinfo, 0);
	NeonId		timeline = id_arg(fcinfo, 1);

	return timeline_open(&tenant, &timeline, false);
}

static Datum
id_datum(const NeonId *id)
{
	char		hex[NEON_ID_HEXLEN + 1];

	return CStringGetTextDatum(neon_id_format(id, hex));
}

/* ---- making timelines and boots ---- */

PG_FUNCTION_INFO_V1(neon_test_import_pgdata);

Datum
neon_test_import_pgdata(PG_FUNCTION_ARGS)
{
	ImportSource source;
	TimelineIdentity id;
	Timeline   *tl;
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false};

	import_open(&source, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	memset(&id, 0, sizeof(id));
	if (!neon_id_generate(&id.tenant) || !neon_id_generate(&id.timeline))
		elog(ERROR, "no random numbers");
	id.start_lsn = source.end;
	id.start_prev = source.start;
	id.system_identifier = source.control.system_identifier;
	id.wal_segment_size = source.control.xlog_seg_size;
	id.data_checksums = source.control.data_checksum_version != 0;
	id.server_version_num = PG_VERSION_NUM;

	tenant_create_dir(&id.tenant);
	timeline_create_root(&id, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	tl = timeline_open(&id.tenant, &id.timeline, false);
	if (!timeline_acquire_ownership(tl, false, 10000))
		elog(ERROR, "could not own the timeline");
	import_data_directory(tl, &source);
	timeline_release_ownership(tl);
	timeline_finish_root(tl);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = id_datum(&id.tenant);
	values[1] = id_datum(&id.timeline);
	values[2] = LSNGetDatum(source.end);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

static void
segment_file(const char *dir, XLogSegNo segno, uint32 segsize, char *path)
{
	char		name[MAXFNAMELEN];

	XLogFileName(name, 1, segno, segsize);
	snprintf(path, MAXPGPATH, "%s/pg_wal/%s", dir, name);
}

static void
segment_io(const char *path, char *buf, uint32 segsize, bool write_it)
{
	int			fd = open(path, write_it ? O_RDWR | O_CREAT : O_RDONLY, 0600);
	ssize_t		n = -1;

	if (fd < 0 && !write_it && errno == ENOENT)
		return;
	if (fd >= 0)
		n = write_it ? write(fd, buf, segsize) : read(fd, buf, segsize);
	if (fd < 0 || n != segsize || close(fd) != 0)
		elog(ERROR, "could not access \"%s\": %m", path);
}

PG_FUNCTION_INFO_V1(neon_test_boot_pgdata);

Datum
neon_test_boot_pgdata(PG_FUNCTION_ARGS)
{
	char	   *dir = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ImportSource source;
	BootRecordPlace place;
	uint32		segsize;
	XLogSegNo	segno;
	char		path[MAXPGPATH];
	char	   *image;

	import_open(&source, dir);
	segsize = source.control.xlog_seg_size;
	image = MemoryContextAllocHuge(CurrentMemoryContext, 2 * (Size) segsize);
	memset(image, 0, 2 * (Size) segsize);
	XLByteToSeg(source.end, segno, segsize);
	segment_file(dir, segno, segsize, path);
	segment_io(path, image, segsize, false);
	memset(image + XLogSegmentOffset(source.end, segsize), 0,
		   segsize - XLogSegmentOffset(source.end, segsize));
	bootrec_write(image, source.end, source.start, &source.control.checkPointCopy,
				  PG_GETARG_INT32(1), NULL, source.control.system_identifier, segsize, 1, &place);
	for (int i = 0; i < place.nsegments; i++)
	{
		segment_file(dir, segno + i, segsize, path);
		segment_io(path, image + (Size) i * segsize, segsize, true);
	}
	source.control.checkPoint = place.start;
	source.control.state = DB_SHUTDOWNED;
	update_controlfile(dir, &source.control, true);
	PG_RETURN_LSN(place.end);
}

/* ---- control state ---- */

PG_FUNCTION_INFO_V1(neon_test_control_at);

Datum
neon_test_control_at(PG_FUNCTION_ARGS)
{
	ControlState s;
	const CheckPoint *c = &s.checkpoint;

	control_at(timeline_arg(fcinfo), PG_GETARG_LSN(2), &s);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(
		"nextxid=%u:%u nextoid=%u nextmulti=%u nextoffset=%u oldestxid=%u oldestxiddb=%u "
		"oldestmulti=%u oldestmultidb=%u oldestcts=%u newestcts=%u fpw=%d "
		"wal_level=%d conn=%d workers=%d senders=%d prepared=%d locks=%d cts=%d hints=%d term=%u",
		EpochFromFullTransactionId(c->nextXid), XidFromFullTransactionId(c->nextXid),
		c->nextOid, c->nextMulti, c->nextMultiOffset, c->oldestXid, c->oldestXidDB,
		c->oldestMulti, c->oldestMultiDB, c->oldestCommitTsXid, c->newestCommitTsXid,
		c->fullPageWrites, s.parameters.wal_level, s.parameters.MaxConnections, s.parameters.max_worker_processes,
		s.parameters.max_wal_senders, s.parameters.max_prepared_xacts, s.parameters.max_locks_per_xact,
		s.parameters.track_commit_timestamp, s.parameters.wal_log_hints, s.term)));
}

PG_FUNCTION_INFO_V1(neon_test_control_times);

Datum
neon_test_control_times(PG_FUNCTION_ARGS)
{
	ControlState s;

	control_at(timeline_arg(fcinfo), PG_GETARG_LSN(2), &s);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(
		"lsn=%X/%X prev=%X/%X last=%X/%X-%X/%X commit=%X/%X time=" INT64_FORMAT " max=" INT64_FORMAT " checkpoint=" INT64_FORMAT,
		LSN_FORMAT_ARGS(s.lsn), LSN_FORMAT_ARGS(s.prev), LSN_FORMAT_ARGS(s.last_commit_start),
		LSN_FORMAT_ARGS(s.last_commit_end), LSN_FORMAT_ARGS(s.commit_end),
		s.commit_time, s.max_commit_time, (int64) s.checkpoint.time)));
}

PG_FUNCTION_INFO_V1(neon_test_round_to_commit);

Datum
neon_test_round_to_commit(PG_FUNCTION_ARGS)
{
	ControlState s;

	control_round_to_commit(timeline_arg(fcinfo), PG_GETARG_LSN(2), &s);
	PG_RETURN_LSN(s.lsn);
}

/* ---- SLRUs ---- */

PG_FUNCTION_INFO_V1(neon_test_slru_bounds);

Datum
neon_test_slru_bounds(PG_FUNCTION_ARGS)
{
	BlockNumber oldest;
	BlockNumber latest;
	Datum		values[2];

	if (!slru_bounds_at(timeline_arg(fcinfo), PG_GETARG_INT32(3), PG_GETARG_LSN(2),
						&oldest, &latest))
		PG_RETURN_NULL();
	values[0] = Int64GetDatum(oldest);
	values[1] = Int64GetDatum(latest);
	PG_RETURN_ARRAYTYPE_P(construct_array(values, 2, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

PG_FUNCTION_INFO_V1(neon_test_slru_page);

Datum
neon_test_slru_page(PG_FUNCTION_ARGS)
{
	bytea	   *page = palloc(VARHDRSZ + BLCKSZ);

	SET_VARSIZE(page, VARHDRSZ + BLCKSZ);
	slru_page_at(timeline_arg(fcinfo), PG_GETARG_INT32(3), PG_GETARG_INT64(4),
				 PG_GETARG_LSN(2), VARDATA(page));
	PG_RETURN_BYTEA_P(page);
}

/* ---- keys ---- */

static bool
put_key_row(const NeonKey *key, const StoreVersion *newest, void *arg)
{
	ReturnSetInfo *rsinfo = arg;
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = ObjectIdGetDatum(key->spc);
	values[1] = ObjectIdGetDatum(key->db);
	values[2] = Int64GetDatum(key->rel);
	values[3] = Int32GetDatum(key->fork);
	values[4] = Int64GetDatum(key->blk);
	nulls[5] = newest->data == NULL;
	if (newest->data)
	{
		bytea	   *value = palloc(VARHDRSZ + newest->len);

		SET_VARSIZE(value, VARHDRSZ + newest->len);
		memcpy(VARDATA(value), newest->data, newest->len);
		values[5] = PointerGetDatum(value);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return true;
}

PG_FUNCTION_INFO_V1(neon_test_keys);

Datum
neon_test_keys(PG_FUNCTION_ARGS)
{
	uint8		kind = PG_GETARG_INT32(3);
	NeonKey		lo = neon_key(kind, 0, 0, 0, 0, 0);
	NeonKey		hi = neon_key(kind, PG_UINT32_MAX, PG_UINT32_MAX, PG_UINT32_MAX,
							  MAX_FORKNUM, PG_UINT32_MAX);

	InitMaterializedSRF(fcinfo, 0);
	store_scan(timeline_arg(fcinfo), &lo, &hi, PG_GETARG_LSN(2), put_key_row, fcinfo->resultinfo);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(neon_test_record_ends);

Datum
neon_test_record_ends(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Timeline   *tl = timeline_arg(fcinfo);
	WalCursor  *cursor = walstore_cursor(tl, PG_GETARG_LSN(2), InvalidXLogRecPtr,
										PG_GETARG_LSN(3));

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	while (walcursor_next(cursor) == WALCURSOR_RECORD && cursor->next <= PG_GETARG_LSN(3))
	{
		Datum		value = LSNGetDatum(cursor->next);
		bool		null = false;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &null);
	}
	walcursor_close(cursor);
	return (Datum) 0;
}
