/*-------------------------------------------------------------------------
 *
 * manifestops.c
 *	  The operations that a record of a manifest is a list of.
 *
 * Each is "u8 op | u32 length | bytes".  A snapshot is the list that makes the
 * state from nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog_internal.h"
#include "manifest.h"
#include "neon_codec.h"

typedef enum ManifestOp
{
	OP_IDENTITY = 1,
	OP_NAME,
	OP_FINISHED,
	OP_LSNS,
	OP_TERM,
	OP_LOGICAL_SIZE,
	OP_FILE_IDS,
	OP_WRITER,
	OP_ADD_FILE,
	OP_ADD_POINT,
	OP_DROP_POINT,
	OP_MEMBERS,
	OP_DROP_FILE,
	OP_GC_CUTOFF = 20,
	OP_PARTITION = 30,
} ManifestOp;

static int
op_begin(StringInfo body, ManifestOp op)
{
	codec_put_u8(body, (uint8) op);
	codec_put_u32(body, 0);
	return body->len;
}

static void
op_end(StringInfo body, int start)
{
	codec_store_u32((uint8 *) body->data + start - 4, body->len - start);
}

static void
put_string(StringInfo body, const char *s)
{
	uint32		len = strlen(s);

	codec_put_u32(body, len);
	codec_put_bytes(body, s, len);
}

static void
take_string(Cursor *c, char *dst, size_t size)
{
	uint32		len = cursor_u32(c);
	const uint8 *p = cursor_bytes(c, len);

	dst[0] = '\0';
	if (p == NULL || len >= size || memchr(p, '\0', len) != NULL)
	{
		c->ok = false;
		return;
	}
	memcpy(dst, p, len);
	dst[len] = '\0';
}

void
manifest_op_identity(StringInfo body, const TimelineIdentity *id)
{
	int			start = op_begin(body, OP_IDENTITY);

	codec_put_bytes(body, id->tenant.b, NEON_ID_BYTES);
	codec_put_bytes(body, id->timeline.b, NEON_ID_BYTES);
	codec_put_bytes(body, id->ancestor.b, NEON_ID_BYTES);
	codec_put_u64(body, id->ancestor_lsn);
	codec_put_u64(body, id->start_lsn);
	codec_put_u64(body, id->start_prev);
	codec_put_u64(body, id->system_identifier);
	codec_put_u32(body, id->wal_segment_size);
	codec_put_u8(body, id->data_checksums);
	codec_put_u32(body, id->server_version_num);
	op_end(body, start);
}

static void
take_identity(Cursor *c, TimelineIdentity *id)
{
	cursor_copy(c, id->tenant.b, NEON_ID_BYTES);
	cursor_copy(c, id->timeline.b, NEON_ID_BYTES);
	cursor_copy(c, id->ancestor.b, NEON_ID_BYTES);
	id->ancestor_lsn = cursor_u64(c);
	id->start_lsn = cursor_u64(c);
	id->start_prev = cursor_u64(c);
	id->system_identifier = cursor_u64(c);
	id->wal_segment_size = cursor_u32(c);
	id->data_checksums = cursor_u8(c) != 0;
	id->server_version_num = cursor_u32(c);
	if (!IsValidWalSegSize(id->wal_segment_size))
		c->ok = false;
}

void
manifest_op_name(StringInfo body, const char *name)
{
	int			start = op_begin(body, OP_NAME);

	put_string(body, name);
	op_end(body, start);
}

void
manifest_op_finished(StringInfo body)
{
	op_end(body, op_begin(body, OP_FINISHED));
}

void
manifest_op_lsns(StringInfo body, XLogRecPtr disk_consistent_lsn, XLogRecPtr prev_record_lsn)
{
	int			start = op_begin(body, OP_LSNS);

	codec_put_u64(body, disk_consistent_lsn);
	codec_put_u64(body, prev_record_lsn);
	op_end(body, start);
}

void
manifest_op_term(StringInfo body, uint32 term, XLogRecPtr boot_record_end)
{
	int			start = op_begin(body, OP_TERM);

	codec_put_u32(body, term);
	codec_put_u64(body, boot_record_end);
	op_end(body, start);
}

void
manifest_op_logical_size(StringInfo body, uint64 bytes)
{
	int			start = op_begin(body, OP_LOGICAL_SIZE);

	codec_put_u64(body, bytes);
	op_end(body, start);
}

void
manifest_op_file_ids(StringInfo body, uint64 next_file_id)
{
	int			start = op_begin(body, OP_FILE_IDS);

	codec_put_u64(body, next_file_id);
	op_end(body, start);
}

void
manifest_op_writer(StringInfo body, const TimelineWriter *writer)
{
	int			start = op_begin(body, OP_WRITER);

	put_string(body, writer->endpoint);
	codec_put_bytes(body, writer->boot_id.b, NEON_ID_BYTES);
	codec_put_u32(body, writer->term);
	codec_put_u64(body, writer->boot_lsn);
	put_string(body, writer->pgdata);
	put_string(body, writer->machine_boot_id);
	codec_put_u64(body, writer->drained_lsn);
	op_end(body, start);
}

static void
take_writer(Cursor *c, TimelineWriter *writer)
{
	take_string(c, writer->endpoint, sizeof(writer->endpoint));
	cursor_copy(c, writer->boot_id.b, NEON_ID_BYTES);
	writer->term = cursor_u32(c);
	writer->boot_lsn = cursor_u64(c);
	take_string(c, writer->pgdata, sizeof(writer->pgdata));
	take_string(c, writer->machine_boot_id, sizeof(writer->machine_boot_id));
	writer->drained_lsn = cursor_u64(c);
}

void
manifest_op_members(StringInfo body, uint64 generation, const char *config)
{
	int			start = op_begin(body, OP_MEMBERS);

	codec_put_u64(body, generation);
	put_string(body, config);
	op_end(body, start);
}

static void
take_members(Cursor *c, Manifest *m)
{
	m->members_generation = cursor_u64(c);
	if (m->members == NULL)
		m->members = palloc(MANIFEST_MEMBERS_MAX);
	take_string(c, m->members, MANIFEST_MEMBERS_MAX);
}

void
manifest_op_add_file(StringInfo body, const ManifestFile *file)
{
	int			start = op_begin(body, OP_ADD_FILE);

	codec_put_u64(body, file->id);
	codec_put_u32(body, file->generation);
	codec_put_u8(body, file->type);
	codec_put_u64(body, file->bytes);
	codec_put_u64(body, file->entries);
	codec_put_u64(body, file->lsn_lo);
	codec_put_u64(body, file->lsn_hi);
	codec_put_bytes(body, file->first_key, NEON_KEY_ENCODED_SIZE);
	codec_put_bytes(body, file->last_key, NEON_KEY_ENCODED_SIZE);
	op_end(body, start);
}

static void
take_file(Cursor *c, Manifest *m)
{
	ManifestFile *file;

	if (m->nfiles == m->maxfiles)
	{
		m->maxfiles = Max(16, m->maxfiles * 2);
		m->files = m->files ?
			repalloc_huge(m->files, m->maxfiles * sizeof(ManifestFile)) :
			palloc(m->maxfiles * sizeof(ManifestFile));
	}
	file = &m->files[m->nfiles++];
	file->id = cursor_u64(c);
	file->generation = cursor_u32(c);
	file->type = cursor_u8(c);
	file->bytes = cursor_u64(c);
	file->entries = cursor_u64(c);
	file->lsn_lo = cursor_u64(c);
	file->lsn_hi = cursor_u64(c);
	cursor_copy(c, file->first_key, NEON_KEY_ENCODED_SIZE);
	cursor_copy(c, file->last_key, NEON_KEY_ENCODED_SIZE);
}

void
manifest_op_drop_file(StringInfo body, uint64 id)
{
	int			start = op_begin(body, OP_DROP_FILE);

	codec_put_u64(body, id);
	op_end(body, start);
}

/* What is dropped must be there: else the log is not what was written. */
static void
take_drop_file(Cursor *c, Manifest *m)
{
	uint64		id = cursor_u64(c);

	for (int i = 0; i < m->nfiles; i++)
	{
		if (m->files[i].id == id)
		{
			m->files[i] = m->files[--m->nfiles];
			return;
		}
	}
	c->ok = false;
}

void
manifest_op_add_point(StringInfo body, const ManifestPoint *point)
{
	int			start = op_begin(body, OP_ADD_POINT);

	codec_put_u8(body, point->kind);
	codec_put_bytes(body, point->id.b, NEON_ID_BYTES);
	codec_put_u64(body, point->lsn);
	codec_put_u64(body, (uint64) point->expires);
	codec_put_u64(body, point->length);
	op_end(body, start);
}

void
manifest_op_drop_point(StringInfo body, uint8 kind, const NeonId *id)
{
	int			start = op_begin(body, OP_DROP_POINT);

	codec_put_u8(body, kind);
	codec_put_bytes(body, id->b, NEON_ID_BYTES);
	op_end(body, start);
}

static void
drop_point(Manifest *m, uint8 kind, const NeonId *id)
{
	for (int i = 0; i < m->npoints; i++)
	{
		if (m->points[i].kind == kind && neon_id_equal(&m->points[i].id, id))
		{
			m->points[i] = m->points[--m->npoints];
			return;
		}
	}
}

static void
take_point(Cursor *c, Manifest *m)
{
	ManifestPoint p;

	p.kind = cursor_u8(c);
	cursor_copy(c, p.id.b, NEON_ID_BYTES);
	p.lsn = cursor_u64(c);
	p.expires = (TimestampTz) cursor_u64(c);
	p.length = cursor_u64(c);
	drop_point(m, p.kind, &p.id);
	if (m->npoints == m->maxpoints)
	{
		m->maxpoints = Max(16, m->maxpoints * 2);
		m->points = m->points ?
			repalloc_huge(m->points, m->maxpoints * sizeof(ManifestPoint)) :
			palloc(m->maxpoints * sizeof(ManifestPoint));
	}
	m->points[m->npoints++] = p;
}

static void
take_drop_point(Cursor *c, Manifest *m)
{
	uint8		kind = cursor_u8(c);
	NeonId		id;

	cursor_copy(c, id.b, NEON_ID_BYTES);
	drop_point(m, kind, &id);
}

void
manifest_op_gc_cutoff(StringInfo body, XLogRecPtr cutoff, TimestampTz time)
{
	int			start = op_begin(body, OP_GC_CUTOFF);

	codec_put_u64(body, cutoff);
	codec_put_u64(body, (uint64) time);
	op_end(body, start);
}

/* It never goes back: what lay below it may be gone. */
static void
take_gc_cutoff(Cursor *c, Manifest *m)
{
	XLogRecPtr	cutoff = cursor_u64(c);
	TimestampTz time = (TimestampTz) cursor_u64(c);

	if (cutoff < m->gc_cutoff)
		c->ok = false;
	m->gc_cutoff = cutoff;
	m->gc_cutoff_time = time;
}

void
manifest_op_partition(StringInfo body, const ManifestPartition *p)
{
	int			start = op_begin(body, OP_PARTITION);

	codec_put_bytes(body, p->first_key, NEON_KEY_ENCODED_SIZE);
	codec_put_u64(body, p->upto);
	codec_put_u64(body, p->base_lsn);
	codec_put_u32(body, p->points);
	codec_put_u32(body, p->nfiles);
	for (uint32 i = 0; i < p->nfiles; i++)
		codec_put_u64(body, p->files[i]);
	op_end(body, start);
}

/* The place of a partition that begins at the key, made if there is none. */
static ManifestPartition *
place_partition(Manifest *m, const uint8 *first_key)
{
	int			i = m->npartitions;

	while (i > 0 && memcmp(m->partitions[i - 1].first_key, first_key, NEON_KEY_ENCODED_SIZE) > 0)
		i--;
	if (i > 0 && memcmp(m->partitions[i - 1].first_key, first_key, NEON_KEY_ENCODED_SIZE) == 0)
	{
		if (m->partitions[i - 1].files)
			pfree(m->partitions[i - 1].files);
		return &m->partitions[i - 1];
	}
	if (m->npartitions == m->maxpartitions)
	{
		m->maxpartitions = Max(16, m->maxpartitions * 2);
		m->partitions = m->partitions ?
			repalloc_huge(m->partitions, m->maxpartitions * sizeof(ManifestPartition)) :
			palloc(m->maxpartitions * sizeof(ManifestPartition));
	}
	memmove(&m->partitions[i + 1], &m->partitions[i],
			(m->npartitions - i) * sizeof(ManifestPartition));
	m->npartitions++;
	return &m->partitions[i];
}

static void
take_partition(Cursor *c, Manifest *m)
{
	uint8		first_key[NEON_KEY_ENCODED_SIZE];
	ManifestPartition *p;

	cursor_copy(c, first_key, NEON_KEY_ENCODED_SIZE);
	if (!c->ok)
		return;
	p = place_partition(m, first_key);
	memcpy(p->first_key, first_key, NEON_KEY_ENCODED_SIZE);
	p->upto = cursor_u64(c);
	p->base_lsn = cursor_u64(c);
	p->points = cursor_u32(c);
	p->nfiles = cursor_u32(c);
	p->files = NULL;
	if (!c->ok || p->nfiles > cursor_left(c) / sizeof(uint64))
	{
		p->nfiles = 0;
		c->ok = false;
		return;
	}
	if (p->nfiles > 0)
		p->files = palloc(p->nfiles * sizeof(uint64));
	for (uint32 i = 0; i < p->nfiles; i++)
		p->files[i] = cursor_u64(c);
}

static void
apply_op(Manifest *m, uint8 op, Cursor *c)
{
	switch ((ManifestOp) op)
	{
		case OP_IDENTITY:
			take_identity(c, &m->identity);
			break;
		case OP_NAME:
			take_string(c, m->name, sizeof(m->name));
			break;
		case OP_FINISHED:
			m->finished = true;
			break;
		case OP_LSNS:
			m->disk_consistent_lsn = cursor_u64(c);
			m->prev_record_lsn = cursor_u64(c);
			break;
		case OP_TERM:
			m->term = cursor_u32(c);
			m->boot_record_end = cursor_u64(c);
			break;
		case OP_LOGICAL_SIZE:
			m->logical_size = cursor_u64(c);
			break;
		case OP_FILE_IDS:
			m->next_file_id = cursor_u64(c);
			break;
		case OP_WRITER:
			take_writer(c, &m->writer);
			break;
		case OP_ADD_FILE:
			take_file(c, m);
			break;
		case OP_ADD_POINT:
			take_point(c, m);
			break;
		case OP_DROP_POINT:
			take_drop_point(c, m);
			break;
		case OP_DROP_FILE:
			take_drop_file(c, m);
			break;
		case OP_MEMBERS:
			take_members(c, m);
			break;
		case OP_GC_CUTOFF:
			take_gc_cutoff(c, m);
			break;
		case OP_PARTITION:
			take_partition(c, m);
			break;
		default:
			c->ok = false;
	}
}

bool
manifest_apply(Manifest *m, const char *body, uint32 len)
{
	Cursor		c = cursor_over(body, len);

	while (c.ok && cursor_left(&c) > 0)
	{
		uint8		op = cursor_u8(&c);
		uint32		oplen = cursor_u32(&c);
		const uint8 *p = cursor_bytes(&c, oplen);
		Cursor		opc;

		if (p == NULL)
			return false;
		opc = cursor_over(p, oplen);
		apply_op(m, op, &opc);
		if (!opc.ok || cursor_left(&opc) != 0)
			return false;
	}
	return c.ok;
}

void
manifest_snapshot_body(const Manifest *m, StringInfo body)
{
	manifest_op_identity(body, &m->identity);
	manifest_op_name(body, m->name);
	if (m->finished)
		manifest_op_finished(body);
	manifest_op_lsns(body, m->disk_consistent_lsn, m->prev_record_lsn);
	manifest_op_term(body, m->term, m->boot_record_end);
	manifest_op_logical_size(body, m->logical_size);
	manifest_op_file_ids(body, m->next_file_id);
	manifest_op_writer(body, &m->writer);
	if (m->members_generation > 0)
		manifest_op_members(body, m->members_generation, m->members);
	if (!XLogRecPtrIsInvalid(m->gc_cutoff))
		manifest_op_gc_cutoff(body, m->gc_cutoff, m->gc_cutoff_time);
	for (int i = 0; i < m->nfiles; i++)
		manifest_op_add_file(body, &m->files[i]);
	for (int i = 0; i < m->npoints; i++)
		manifest_op_add_point(body, &m->points[i]);
	for (int i = 0; i < m->npartitions; i++)
		manifest_op_partition(body, &m->partitions[i]);
}

void
manifest_free(Manifest *m)
{
	if (m->files)
		pfree(m->files);
	if (m->points)
		pfree(m->points);
	if (m->members)
		pfree(m->members);
	for (int i = 0; i < m->npartitions; i++)
	{
		if (m->partitions[i].files)
			pfree(m->partitions[i].files);
	}
	if (m->partitions)
		pfree(m->partitions);
	pfree(m);
}
