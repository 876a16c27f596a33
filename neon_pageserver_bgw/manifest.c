/*-------------------------------------------------------------------------
 *
 * manifest.c
 *	  The log of changes of a timeline.
 *
 * File: header of 64 bytes, then records
 *
 *	  u32 body length | u32 crc | u16 type | u16 0 | u32 sequence | body
 *
 * whose CRC covers type, body, sequence and the number of the file.  A body is
 * a list of operations (manifestops.c).  When an edit has been synchronized, a
 * mark is written behind it, a record of its sequence without a body, which the
 * next edit overwrites.  The mark itself is not synchronized: it is there when
 * the edit was damaged later.  A bad record with nothing readable and newer, nor
 * its mark, behind it is a torn tail, cut by going on in a new file; otherwise
 * records were lost, and the timeline is damaged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "neon_codec.h"
#include "manifest.h"
#include "neon_diskfull.h"
#include "neon_durable.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "neon_testpoint.h"

#define MANIFEST_MAGIC		0x31464D4E	/* "NMF1" */
#define MANIFEST_VERSION	3		/* 1: layers referred to stored WAL; 2: no horizon */
#define MANIFEST_HEADER		64
#define RECORD_HEADER		16
#define RECORD_SNAPSHOT		1
#define RECORD_EDIT			2
#define RECORD_MARK			3
#define MANIFEST_MAX_BYTES	(512 * 1024 * 1024)
#define NAME_FILE_BYTES		(NEON_NAME_MAX + 16)

/* Bytes of edits after which the log goes on in a new file. */
#ifdef NEON_TESTING
#define MANIFEST_REWRITE_AFTER(snapshot) 2048	/* so that tests see many of them */
#else
#define MANIFEST_REWRITE_AFTER(snapshot) Max((uint64) 1024 * 1024, (snapshot))
#endif

static ManifestDamage damage;

/* ---- records ---- */

static pg_crc32c
record_crc(uint16 type, uint32 sequence, uint32 number, const void *body, uint32 len)
{
	uint8		head[10];
	pg_crc32c	crc;

	codec_store_u16(head, type);
	codec_store_u32(head + 2, sequence);
	codec_store_u32(head + 6, number);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, head, sizeof(head));
	COMP_CRC32C(crc, body, len);
	FIN_CRC32C(crc);
	return crc;
}

static void
put_record(StringInfo buf, uint16 type, uint32 sequence, uint32 number,
		   const char *body, uint32 len)
{
	codec_put_u32(buf, len);
	codec_put_u32(buf, record_crc(type, sequence, number, body, len));
	codec_put_u32(buf, type);
	codec_put_u32(buf, sequence);
	codec_put_bytes(buf, body, len);
}

typedef struct RecordView
{
	uint16		type;
	uint32		sequence;
	const uint8 *body;
	uint32		len;
	size_t		total;
} RecordView;

/* A whole valid record at p? */
static bool
view_record(const uint8 *p, size_t left, uint32 number, RecordView *r)
{
	if (left < RECORD_HEADER)
		return false;
	r->len = codec_load_u32(p);
	r->type = codec_load_u16(p + 8);
	r->sequence = codec_load_u32(p + 12);
	if (r->len > left - RECORD_HEADER || codec_load_u16(p + 10) != 0)
		return false;
	if (r->type != RECORD_SNAPSHOT && r->type != RECORD_EDIT &&
		!(r->type == RECORD_MARK && r->len == 0))
		return false;
	r->body = p + RECORD_HEADER;
	r->total = RECORD_HEADER + (size_t) r->len;
	return record_crc(r->type, r->sequence, number, r->body, r->len) == codec_load_u32(p + 4);
}

/*
 * Is there proof anywhere from offset on that the record of this sequence was
 * synchronized: its mark, or something newer?
 */
static bool
record_was_synced(const uint8 *data, size_t size, size_t offset, uint32 number,
				  uint32 sequence)
{
	for (; offset + RECORD_HEADER <= size; offset++)
	{
		RecordView	r;

		if (view_record(data + offset, size - offset, number, &r) &&
			((r.type == RECORD_EDIT && r.sequence > sequence) ||
			 (r.type == RECORD_MARK && r.sequence >= sequence)))
			return true;
	}
	return false;
}

static bool
is_mark(const uint8 *p, size_t left, uint32 number, uint32 sequence)
{
	RecordView	r;

	return view_record(p, left, number, &r) && r.type == RECORD_MARK && r.sequence == sequence;
}

static void
put_header(StringInfo buf, const TimelineIdentity *id, uint32 number, uint32 sequence)
{
	uint8		h[MANIFEST_HEADER] = {0};
	pg_crc32c	crc;

	codec_store_u32(h, MANIFEST_MAGIC);
	codec_store_u16(h + 4, MANIFEST_VERSION);
	memcpy(h + 8, id->tenant.b, NEON_ID_BYTES);
	memcpy(h + 24, id->timeline.b, NEON_ID_BYTES);
	codec_store_u32(h + 40, number);
	codec_store_u32(h + 44, sequence);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, h, MANIFEST_HEADER - 4);
	FIN_CRC32C(crc);
	codec_store_u32(h + MANIFEST_HEADER - 4, crc);
	codec_put_bytes(buf, h, sizeof(h));
}

static bool
header_ok(const uint8 *h, size_t size, uint32 number, const char *path)
{
	pg_crc32c	crc;

	if (size < MANIFEST_HEADER)
		return false;
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, h, MANIFEST_HEADER - 4);
	FIN_CRC32C(crc);
	if (crc != codec_load_u32(h + MANIFEST_HEADER - 4) ||
		codec_load_u32(h) != MANIFEST_MAGIC ||
		codec_load_u32(h + 40) != number)
		return false;
	if (codec_load_u16(h + 4) != MANIFEST_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("file \"%s\" has version %u, which this library cannot read",
						path, codec_load_u16(h + 4)),
				 codec_load_u16(h + 4) < MANIFEST_VERSION ?
				 errhint("Nothing is converted: dump the databases with the version that wrote it, and load them into a new tenant.") :
				 errhint("Use the version of neon_pageserver that wrote it, or a newer one.")));
	return true;
}

/* ---- files ---- */

void
manifest_file_path(const char *dir, uint32 number, char *path)
{
	if (snprintf(path, MAXPGPATH, "%s/manifest.%06u", dir, number) >= MAXPGPATH)
		elog(ERROR, "path is too long");
}

/* Whole file, in CurrentMemoryContext. */
static uint8 *
slurp(const char *path, uint64 limit, size_t *size)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	struct stat st;
	uint8	   *data;
	ssize_t		n;

	if (fd < 0 || fstat(fd, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	if (st.st_size > MANIFEST_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is too large", path)));
	*size = Min((uint64) st.st_size, limit);
	data = MemoryContextAllocHuge(CurrentMemoryContext, *size + 1);
	n = durable_pread(fd, data, *size, 0);
	if (n < 0 || (size_t) n != *size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	CloseTransientFile(fd);
	return data;
}

static void
corrupted(const char *path, uint64 offset, const char *what)
{
	strlcpy(damage.file, path, sizeof(damage.file));
	damage.offset = offset;
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" is corrupted", path),
			 errdetail("%s", what)));
}

const ManifestDamage *
manifest_damage(void)
{
	return &damage;
}

/* Replays a file; NULL if it has no valid snapshot and never had an edit. */
static Manifest *
replay(const char *path, uint32 number, const uint8 *data, size_t size, ManifestPos *pos)
{
	Manifest   *m;
	RecordView	r;
	size_t		offset = MANIFEST_HEADER;

	if (!header_ok(data, size, number, path) ||
		!view_record(data + offset, size - offset, number, &r) ||
		r.type != RECORD_SNAPSHOT)
	{
		if (record_was_synced(data, size, 0, number, 0))
			corrupted(path, 0, "Header or snapshot, at offset 0, are unreadable, but changes follow them.");
		return NULL;
	}
	m = palloc0(sizeof(Manifest));
	memset(pos, 0, sizeof(*pos));
	pos->number = number;
	pos->sequence = r.sequence;
	pos->snapshot_length = r.total;
	do
	{
		if (!manifest_apply(m, (const char *) r.body, r.len))
			corrupted(path, offset, psprintf("The record at offset %zu cannot be understood.", offset));
		offset += r.total;
		pos->sequence = r.sequence;
	} while (view_record(data + offset, size - offset, number, &r) &&
			 r.type == RECORD_EDIT && r.sequence == pos->sequence + 1);
	pos->length = offset;
	if (is_mark(data + offset, size - offset, number, pos->sequence))
		offset += RECORD_HEADER;
	if (offset < size)
	{
		if (record_was_synced(data, size, offset, number, pos->sequence + 1))
			corrupted(path, offset, psprintf("Record %u at offset %zu is unreadable, and it was written whole.",
									 pos->sequence + 1, offset));
		pos->torn = true;
	}
	return m;
}

static int
compare_u32_desc(const void *a, const void *b)
{
	uint32		x = *(const uint32 *) a;
	uint32		y = *(const uint32 *) b;

	return x == y ? 0 : (x > y ? -1 : 1);
}

/* Numbers of the manifest files in dir, newest first. */
static int
list_numbers(const char *dir, uint32 **numbers)
{
	DIR		   *d = AllocateDir(dir);
	struct dirent *de;
	int			n = 0;
	int			max = 8;

	*numbers = palloc(max * sizeof(uint32));
	while ((de = ReadDir(d, dir)) != NULL)
	{
		unsigned int number;
		int			used = 0;

		if (sscanf(de->d_name, "manifest.%6u%n", &number, &used) != 1 ||
			de->d_name[used] != '\0' || number == 0)
			continue;
		if (n == max)
		{
			max *= 2;
			*numbers = repalloc(*numbers, max * sizeof(uint32));
		}
		(*numbers)[n++] = number;
	}
	FreeDir(d);
	qsort(*numbers, n, sizeof(uint32), compare_u32_desc);
	return n;
}

/* The first n of the list. */
static void
remove_numbers(const char *dir, const uint32 *numbers, int n)
{
	char		path[MAXPGPATH];

	for (int i = 0; i < n; i++)
	{
		manifest_file_path(dir, numbers[i], path);
		if (unlink(path) != 0 && errno != ENOENT)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not remove file \"%s\": %m", path)));
	}
}

/* Files before the one that is in use; what cannot be removed does no harm. */
static void
remove_older(const char *dir, ManifestPos *pos)
{
	char		path[MAXPGPATH];
	uint32	   *numbers;
	int			n = list_numbers(dir, &numbers);

	for (int i = 0; i < n; i++)
	{
		if (numbers[i] >= pos->number)
			continue;
		manifest_file_path(dir, numbers[i], path);
		(void) unlink(path);
	}
	pfree(numbers);
	pos->has_older = false;
}

Manifest *
manifest_load(const char *dir, ManifestPos *pos)
{
	uint32	   *numbers;
	int			n = list_numbers(dir, &numbers);
	char		path[MAXPGPATH];

	damage.file[0] = '\0';
	for (int i = 0; i < n; i++)
	{
		size_t		size;
		uint8	   *data;
		Manifest   *m;

		manifest_file_path(dir, numbers[i], path);
		data = slurp(path, MANIFEST_MAX_BYTES, &size);
		m = replay(path, numbers[i], data, size, pos);
		pfree(data);
		if (m == NULL)
			continue;
		/* What is newer was never completed; what is older stays until this is known to be durable. */
		remove_numbers(dir, numbers, i);
		pos->unproven = true;
		pos->has_older = i + 1 < n;
		pfree(numbers);
		return m;
	}
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("directory \"%s\" has no manifest", dir)));
	manifest_file_path(dir, numbers[0], path);
	corrupted(path, 0, "Neither its header nor its snapshot is readable.");
	return NULL;
}

Manifest *
manifest_read(const char *dir, const ManifestPos *pos)
{
	char		path[MAXPGPATH];
	ManifestPos found;
	size_t		size;
	uint8	   *data;
	Manifest   *m;

	manifest_file_path(dir, pos->number, path);
	data = slurp(path, pos->length, &size);
	m = replay(path, pos->number, data, size, &found);
	pfree(data);
	if (m == NULL || found.length != pos->length || found.sequence != pos->sequence)
		corrupted(path, found.length, "It no longer has the records that were written.");
	return m;
}

/* Creates the file with its first bytes; errors leave nothing behind. */
static int
create_file(const char *path, const char *data, int len)
{
	int			fd = OpenTransientFile(path, O_RDWR | O_CREAT | O_EXCL | PG_BINARY);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path),
				 neon_hint_if_full(path)));
	if (!durable_pwrite(fd, data, len, 0))
	{
		int			save_errno = errno;

		CloseTransientFile(fd);
		unlink(path);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path),
				 neon_hint_if_full(path)));
	}
	return fd;
}

/* ---- the name, apart ---- */

bool
manifest_noted_name(const char *dir, char *name)
{
	char		path[MAXPGPATH];
	char		text[NAME_FILE_BYTES + 1];
	pg_crc32c	crc;
	ssize_t		n = -1;
	int			fd;

	snprintf(path, sizeof(path), "%s/name", dir);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
		return false;
	n = durable_pread(fd, text, NAME_FILE_BYTES, 0);
	CloseTransientFile(fd);
	/* 8 digits, a space, at least a byte, a newline */
	if (n < 11 || text[8] != ' ' || text[n - 1] != '\n')
		return false;
	text[n - 1] = '\0';
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, text + 9, n - 10);
	FIN_CRC32C(crc);
	if (strtoul(text, NULL, 16) != crc || strlen(text + 9) != n - 10)
		return false;
	strlcpy(name, text + 9, NEON_NAME_MAX);
	return true;
}

/*
 * Who is damaged shall keep its name, so that nobody else gets it.  The file is
 * of no other use: one that is missing or bad does no harm while the manifest
 * can be read.
 */
void
manifest_note_name(const char *dir, const char *name)
{
	char		noted[NEON_NAME_MAX];
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];
	char		text[NAME_FILE_BYTES + 1];
	pg_crc32c	crc;
	int			fd;
	bool		ok;

	snprintf(path, sizeof(path), "%s/name", dir);
	snprintf(temp, sizeof(temp), "%s/name.temp", dir);
	if (manifest_noted_name(dir, noted) && strcmp(noted, name) == 0)
		return;
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, name, strlen(name));
	FIN_CRC32C(crc);
	snprintf(text, sizeof(text), "%08X %s\n", crc, name);
	fd = OpenTransientFile(temp, O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);
	ok = fd >= 0 && durable_pwrite(fd, text, strlen(text), 0) && pg_fsync(fd) == 0;
	if (fd >= 0)
	{
		int			save_errno = errno;

		CloseTransientFile(fd);
		errno = save_errno;
	}
	/* the directory is synchronized with the manifest's new file */
	if (!ok || rename(temp, path) != 0)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
		(void) unlink(temp);
	}
}

/* ---- writing ---- */

bool
manifest_write_snapshot(const char *dir, const Manifest *m, ManifestPos *pos)
{
	uint32		number = pos->number + 1;
	uint32		sequence = pos->sequence + 1;
	char		path[MAXPGPATH];
	StringInfoData body;
	StringInfoData buf;
	int			fd;
	bool		synced;

	initStringInfo(&body);
	initStringInfo(&buf);
	manifest_snapshot_body(m, &body);
	put_header(&buf, &m->identity, number, sequence);
	put_record(&buf, RECORD_SNAPSHOT, sequence, number, body.data, body.len);

	manifest_note_name(dir, m->name);
	manifest_file_path(dir, number, path);
	fd = create_file(path, buf.data, buf.len);
	NEON_TEST_POINT("snapshot-written");
	synced = pg_fsync(fd) == 0 && !NEON_TEST_FAILS("snapshot-sync");
	CloseTransientFile(fd);
	synced = synced && durable_try_sync_dir(dir);
	NEON_TEST_POINT("snapshot-synced");
	if (synced)
	{
		pos->has_older = pos->number != 0;
		pos->number = number;
		pos->sequence = sequence;
		pos->length = buf.len;
		pos->snapshot_length = buf.len;
		pos->torn = false;
		pos->unproven = false;
	}
	else
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not synchronize file \"%s\": %m", path)));
		unlink(path);
	}
	pfree(body.data);
	pfree(buf.data);
	return synced;
}

bool
manifest_wants_rewrite(const ManifestPos *pos)
{
	return pos->torn || pos->unproven ||
		pos->length - pos->snapshot_length > MANIFEST_REWRITE_AFTER(pos->snapshot_length);
}

/* The last edit is synchronized.  Without its mark, which may fail, it would be taken for torn if it got damaged. */
static void
put_mark(int fd, const ManifestPos *pos)
{
	StringInfoData buf;

	initStringInfo(&buf);
	put_record(&buf, RECORD_MARK, pos->sequence, pos->number, "", 0);
	(void) durable_pwrite(fd, buf.data, buf.len, pos->length);
	pfree(buf.data);
}

bool
manifest_append(const char *dir, ManifestPos *pos, const char *body, uint32 len)
{
	char		path[MAXPGPATH];
	StringInfoData buf;
	int			fd;
	bool		synced;

	Assert(!pos->torn && !pos->unproven);
	manifest_file_path(dir, pos->number, path);
	initStringInfo(&buf);
	put_record(&buf, RECORD_EDIT, pos->sequence + 1, pos->number, body, len);
	fd = OpenTransientFile(path, O_RDWR | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	if (!durable_pwrite(fd, buf.data, buf.len, pos->length))
	{
		int			save_errno = errno;

		if (ftruncate(fd, pos->length) != 0)
			pos->torn = true;
		CloseTransientFile(fd);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path),
				 neon_hint_if_full(path)));
	}
	NEON_TEST_POINT("edit-written");
	synced = pg_fdatasync(fd) == 0 && !NEON_TEST_FAILS("edit-sync");
	if (!synced)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not synchronize file \"%s\": %m", path)));
	if (synced)
	{
		pos->sequence++;
		pos->length += buf.len;
		put_mark(fd, pos);
	}
	CloseTransientFile(fd);
	if (synced && pos->has_older)
		remove_older(dir, pos);
	pfree(buf.data);
	return synced;
}
