/*-------------------------------------------------------------------------
 *
 * walread.c
 *	  Reads the WAL between A and B, and makes each page's list of records.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "miscadmin.h"
#include "neon_walindex.h"
#include "storage/fd.h"

#include "difftest.h"

typedef struct RelFork
{
	RelFileNode rnode;
	uint32		fork;
} RelFork;

typedef struct Cut
{
	RelFork		rel;			/* hash key */
	BlockNumber blocks;
} Cut;

/* The segment that was read last. */
static char *segment;
static XLogSegNo segment_no;

static void
read_control(const char *dir, ControlFileData *control)
{
	char		path[MAXPGPATH];
	int			fd;

	snprintf(path, sizeof(path), "%s/global/pg_control", dir);
	fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0 || read(fd, control, sizeof(*control)) != sizeof(*control))
		elog(ERROR, "could not read \"%s\": %m", path);
	close(fd);
	if (control->state != DB_SHUTDOWNED)
		elog(ERROR, "the server of \"%s\" was not shut down", dir);
}

static bool
load_segment(TestWal *wal, XLogSegNo segno)
{
	uint32		segsize = wal->control_b.xlog_seg_size;
	char		name[MAXFNAMELEN];
	char		path[MAXPGPATH];
	int			fd;

	if (segment != NULL && segment_no == segno)
		return true;
	XLogFileName(name, 1, segno, segsize);
	snprintf(path, sizeof(path), "%s/pg_wal/%s", wal->b, name);
	fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
		return false;
	if (segment == NULL)
		segment = palloc(segsize);
	if (read(fd, segment, segsize) != segsize)
		elog(ERROR, "could not read \"%s\": %m", path);
	close(fd);
	segment_no = segno;
	return true;
}

static int
read_wal_page(XLogReaderState *reader, XLogRecPtr at, int len, XLogRecPtr target, char *buf)
{
	TestWal    *wal = reader->private_data;
	uint32		segsize = wal->control_b.xlog_seg_size;

	if (at > wal->control_b.checkPoint || !load_segment(wal, at / segsize))
		return -1;
	memcpy(buf, segment + at % segsize, XLOG_BLCKSZ);
	return XLOG_BLCKSZ;
}

/* The record's bytes without the page headers between them. */
static XLogRecord *
copy_record(TestWal *wal, XLogRecPtr at, uint32 len)
{
	uint32		segsize = wal->control_b.xlog_seg_size;
	char	   *raw = palloc(len);
	char	   *to = raw;

	while (len > 0)
	{
		uint32		n;

		if (at % XLOG_BLCKSZ == 0)
			at += at % segsize == 0 ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;
		n = Min(len, XLOG_BLCKSZ - at % XLOG_BLCKSZ);
		if (!load_segment(wal, at / segsize))
			elog(ERROR, "WAL at %X/%X is missing", LSN_FORMAT_ARGS(at));
		memcpy(to, segment + at % segsize, n);
		to += n;
		at += n;
		len -= n;
	}
	return (XLogRecord *) raw;
}

/* ---- effects of records ---- */

static bool
was_cut(TestWal *wal, const NeonKey *key)
{
	RelFork		rel = {{key->spc, key->db, key->rel}, key->fork};
	Cut		   *cut = hash_search(wal->cuts, &rel, HASH_FIND, NULL);

	return cut != NULL && key->blk >= cut->blocks;
}

static TestPage *
get_page(TestWal *wal, const NeonKey *key)
{
	bool		found;
	TestPage   *page = hash_search(wal->pages, key, HASH_ENTER, &found);

	if (!found)
	{
		page->n = page->size = 0;
		page->records = NULL;
		page->last_base = -1;
		page->source = NULL;
		page->not_in_a = was_cut(wal, key);
	}
	return page;
}

static void
on_page(void *arg, const NeonKey *key, bool base, bool implicit)
{
	TestWal    *wal = arg;
	TestPage   *page = get_page(wal, key);
	uint32		record = wal->nrecords - 1;

	wal->references++;
	wal->implicit += implicit;
	if (page->n > 0 && page->records[page->n - 1] == record)
	{
		/* told twice: as reference and as effect */
		if (base)
			page->last_base = page->n - 1;
		return;
	}
	if (page->n == page->size)
	{
		page->size = page->size ? page->size * 2 : 4;
		if (page->records)
			page->records = repalloc_huge(page->records, page->size * sizeof(uint32));
		else
			page->records = palloc(page->size * sizeof(uint32));
	}
	page->records[page->n++] = record;
	if (base)
		page->last_base = page->n - 1;
}

static void
forget(TestPage *page)
{
	page->n = 0;
	page->last_base = -1;
	page->not_in_a = true;
	page->source = NULL;
}

static void
on_truncate(void *arg, RelFileNode rnode, ForkNumber fork, BlockNumber nblocks)
{
	TestWal    *wal = arg;
	RelFork		rel = {rnode, fork};
	HASH_SEQ_STATUS seq;
	TestPage   *page;
	bool		found;
	Cut		   *cut = hash_search(wal->cuts, &rel, HASH_ENTER, &found);

	cut->blocks = found ? Min(cut->blocks, nblocks) : nblocks;
	hash_seq_init(&seq, wal->pages);
	while ((page = hash_seq_search(&seq)) != NULL)
	{
		if (page->key.rel == rnode.relNode && page->key.db == rnode.dbNode &&
			page->key.spc == rnode.spcNode && page->key.fork == fork &&
			page->key.blk >= nblocks)
			forget(page);
	}
}

static void
on_drop(void *arg, RelFileNode rnode)
{
	int			fork;

	for (fork = 0; fork <= MAX_FORKNUM; fork++)
		on_truncate(arg, rnode, fork, 0);
}

static void
on_drop_db(void *arg, Oid db, Oid spc)
{
	TestWal    *wal = arg;
	HASH_SEQ_STATUS seq;
	TestPage   *page;

	hash_seq_init(&seq, wal->pages);
	while ((page = hash_seq_search(&seq)) != NULL)
	{
		if (page->key.db == db && page->key.spc == spc)
			forget(page);
	}
}

/* Pages with a history are copied with it; others are found by dbcopies. */
static void
on_create_db_copy(void *arg, Oid db, Oid spc, Oid src_db, Oid src_spc)
{
	TestWal    *wal = arg;
	HASH_SEQ_STATUS seq;
	TestPage   *page;
	TestPage  **sources = palloc(hash_get_num_entries(wal->pages) * sizeof(TestPage *));
	int			n = 0;
	int			i;

	if (wal->ndbcopies == MAX_DB_COPIES)
		elog(ERROR, "too many databases were copied");
	wal->dbcopies[wal->ndbcopies++] = (TestDbCopy)
	{
		db, spc, src_db, src_spc
	};
	hash_seq_init(&seq, wal->pages);
	while ((page = hash_seq_search(&seq)) != NULL)
	{
		if (page->key.db == src_db && page->key.spc == src_spc)
			sources[n++] = page;
	}
	for (i = 0; i < n; i++)
	{
		TestPage   *source = palloc(sizeof(TestPage));
		NeonKey		key = sources[i]->key;

		/* A copy: the original goes on. */
		*source = *sources[i];
		source->records = palloc((source->n + 1) * sizeof(uint32));
		memcpy(source->records, sources[i]->records, source->n * sizeof(uint32));
		key.db = db;
		key.spc = spc;
		page = get_page(wal, &key);
		forget(page);
		page->source = source;
	}
	pfree(sources);
}

static const WalIndexSink sink = {
	.page = on_page,
	.truncate = on_truncate,
	.drop = on_drop,
	.create_db_copy = on_create_db_copy,
	.drop_db = on_drop_db,
};

/* ---- reading ---- */

static TestRecord *
add_record(TestWal *wal)
{
	if (wal->nrecords == wal->size)
	{
		wal->size = wal->size ? wal->size * 2 : 65536;
		if (wal->records)
			wal->records = repalloc_huge(wal->records, wal->size * sizeof(TestRecord));
		else
			wal->records = palloc(wal->size * sizeof(TestRecord));
	}
	return &wal->records[wal->nrecords++];
}

static void
make_tables(TestWal *wal)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(NeonKey);
	ctl.entrysize = sizeof(TestPage);
	ctl.hcxt = CurrentMemoryContext;
	wal->pages = hash_create("pages", 65536, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(RelFork);
	ctl.entrysize = sizeof(Cut);
	wal->cuts = hash_create("cuts", 1024, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

TestWal *
testwal_read(const char *a, const char *b)
{
	TestWal    *wal = palloc0(sizeof(TestWal));
	XLogReaderState *reader;
	XLogRecord *header;
	char	   *problem;

	wal->a = a;
	wal->b = b;
	read_control(a, &wal->control_a);
	read_control(b, &wal->control_b);
	make_tables(wal);
	segment = NULL;
	reader = XLogReaderAllocate(wal->control_b.xlog_seg_size, NULL,
								XL_ROUTINE(.page_read = read_wal_page), wal);
	XLogBeginRead(reader, wal->control_a.checkPoint);
	while ((header = XLogReadRecord(reader, &problem)) != NULL)
	{
		TestRecord *record = add_record(wal);
		uint64		before = wal->references;

		record->start = reader->ReadRecPtr;
		record->end = reader->EndRecPtr;
		record->rmid = header->xl_rmid;
		record->info = header->xl_info;
		record->raw = NULL;
		wal->bytes += header->xl_tot_len;
		walindex_record(reader, &sink, wal);
		if (wal->references != before)
			wal->records[wal->nrecords - 1].raw =
				copy_record(wal, reader->ReadRecPtr, header->xl_tot_len);
		if (reader->ReadRecPtr == wal->control_b.checkPoint)
			break;
		CHECK_FOR_INTERRUPTS();
	}
	if (reader->ReadRecPtr != wal->control_b.checkPoint)
		elog(ERROR, "WAL ends at %X/%X before the last checkpoint: %s",
			 LSN_FORMAT_ARGS(reader->EndRecPtr), problem ? problem : "no reason given");
	XLogReaderFree(reader);
	return wal;
}
