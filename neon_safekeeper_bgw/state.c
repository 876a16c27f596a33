/*-------------------------------------------------------------------------
 *
 * state.c
 *	  The state file of a timeline: one CRC, one version, always written whole.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "neon_codec.h"
#include "neon_durable.h"
#include "neon_testpoint.h"
#include "port/pg_crc32c.h"
#include "state.h"
#include "storage/fd.h"

#define STATE_MAGIC			0x54534b4e	/* "NKST" */
#define STATE_VERSION		1
#define STATE_HEADER_SIZE	16	/* magic, version, length of the body, CRC */
#define STATE_MAX_SIZE		65536

/* ---- encoding ---- */

static void
put_text(StringInfo buf, const char *text)
{
	uint32		len = strlen(text);

	codec_put_u32(buf, len);
	codec_put_bytes(buf, text, len);
}

static void
get_text(Cursor *c, char *dst, size_t size)
{
	uint32		len = cursor_u32(c);

	dst[0] = '\0';
	if (len >= size)
	{
		c->ok = false;
		return;
	}
	cursor_copy(c, dst, len);
	dst[len] = '\0';
	if (strlen(dst) != len)
		c->ok = false;
}

static void
put_members(StringInfo buf, const SkMemberSet *set)
{
	codec_put_u32(buf, set->n);
	for (int i = 0; i < set->n; i++)
	{
		const SkMember *m = &set->member[i];

		codec_put_u32(buf, m->id);
		codec_put_bytes(buf, m->node.b, NEON_ID_BYTES);
		put_text(buf, m->host);
		codec_put_u32(buf, m->port);
	}
}

static void
get_members(Cursor *c, SkMemberSet *set)
{
	uint32		n = cursor_u32(c);

	if (n > SK_MAX_MEMBERS)
	{
		c->ok = false;
		return;
	}
	set->n = n;
	for (int i = 0; i < set->n; i++)
	{
		SkMember   *m = &set->member[i];

		m->id = cursor_u32(c);
		cursor_copy(c, m->node.b, NEON_ID_BYTES);
		get_text(c, m->host, sizeof(m->host));
		m->port = cursor_u32(c);
	}
}

static void
put_config(StringInfo buf, const SkConfig *config)
{
	codec_put_u64(buf, config->generation);
	codec_put_u32(buf, config->floor);
	put_members(buf, &config->members);
	codec_put_u8(buf, config->joint);
	put_members(buf, &config->new_members);
}

static void
get_config(Cursor *c, SkConfig *config)
{
	config->generation = cursor_u64(c);
	config->floor = cursor_u32(c);
	get_members(c, &config->members);
	config->joint = cursor_u8(c) != 0;
	get_members(c, &config->new_members);
}

static void
put_history(StringInfo buf, const SkHistory *h)
{
	codec_put_u32(buf, h->n);
	for (int i = 0; i < h->n; i++)
	{
		codec_put_u32(buf, h->entry[i].term);
		codec_put_u64(buf, h->entry[i].start);
	}
}

static void
get_history(Cursor *c, SkHistory *h)
{
	uint32		n = cursor_u32(c);

	if (n > SK_MAX_HISTORY)
	{
		c->ok = false;
		return;
	}
	h->n = n;
	for (int i = 0; i < h->n; i++)
	{
		h->entry[i].term = cursor_u32(c);
		h->entry[i].start = cursor_u64(c);
	}
}

/* With this bug only what was elected is kept: the fault run must find it. */
static uint32
promised_to_keep(const SkState *st)
{
	const SkTerm *last = skhistory_last(&st->history);

	return NEON_TEST_BUG("forget-promise") && last != NULL ? last->term : st->promised;
}

static void
encode_body(StringInfo buf, const SkState *st)
{
	codec_put_bytes(buf, st->tenant.b, NEON_ID_BYTES);
	codec_put_bytes(buf, st->timeline.b, NEON_ID_BYTES);
	codec_put_bytes(buf, st->node.b, NEON_ID_BYTES);
	codec_put_u64(buf, st->system_identifier);
	codec_put_u32(buf, st->wal_segment_size);
	codec_put_u32(buf, st->tli);
	codec_put_u64(buf, st->start_lsn);
	put_config(buf, &st->config);
	codec_put_u32(buf, promised_to_keep(st));
	put_text(buf, st->launcher);
	codec_put_u32(buf, st->lease_ms);
	put_history(buf, &st->history);
	codec_put_u64(buf, st->commit_lsn);
	codec_put_u64(buf, st->acked_lsn);
	codec_put_u64(buf, st->wal_start);
	codec_put_u64(buf, st->clean_end);
	codec_put_u32(buf, st->boot_term);
	codec_put_bytes(buf, st->boot_id.b, NEON_ID_BYTES);
	codec_put_u8(buf, st->deleted);
	put_text(buf, st->damage);
}

static bool
decode_body(Cursor *c, SkState *st)
{
	memset(st, 0, sizeof(*st));
	cursor_copy(c, st->tenant.b, NEON_ID_BYTES);
	cursor_copy(c, st->timeline.b, NEON_ID_BYTES);
	cursor_copy(c, st->node.b, NEON_ID_BYTES);
	st->system_identifier = cursor_u64(c);
	st->wal_segment_size = cursor_u32(c);
	st->tli = cursor_u32(c);
	st->start_lsn = cursor_u64(c);
	get_config(c, &st->config);
	st->promised = cursor_u32(c);
	get_text(c, st->launcher, sizeof(st->launcher));
	st->lease_ms = cursor_u32(c);
	get_history(c, &st->history);
	st->commit_lsn = cursor_u64(c);
	st->acked_lsn = cursor_u64(c);
	st->wal_start = cursor_u64(c);
	st->clean_end = cursor_u64(c);
	st->boot_term = cursor_u32(c);
	cursor_copy(c, st->boot_id.b, NEON_ID_BYTES);
	st->deleted = cursor_u8(c) != 0;
	get_text(c, st->damage, sizeof(st->damage));
	return c->ok && cursor_left(c) == 0;
}

static pg_crc32c
state_crc(const char *header, const char *body, size_t len)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, STATE_HEADER_SIZE - 4);
	COMP_CRC32C(crc, body, len);
	FIN_CRC32C(crc);
	return crc;
}

static void
encode(StringInfo buf, const SkState *st)
{
	char		header[STATE_HEADER_SIZE] = {0};
	uint8	   *h;

	initStringInfo(buf);
	codec_put_bytes(buf, header, STATE_HEADER_SIZE);
	encode_body(buf, st);
	h = (uint8 *) buf->data;
	codec_store_u32(h, STATE_MAGIC);
	codec_store_u32(h + 4, STATE_VERSION);
	codec_store_u32(h + 8, buf->len - STATE_HEADER_SIZE);
	codec_store_u32(h + 12, state_crc(buf->data, buf->data + STATE_HEADER_SIZE,
									  buf->len - STATE_HEADER_SIZE));
}

/* ---- reading ---- */

static char *
decode(const char *data, size_t len, SkState *st)
{
	const uint8 *h = (const uint8 *) data;
	Cursor		c;

	if (len < STATE_HEADER_SIZE || codec_load_u32(h) != STATE_MAGIC)
		return "it is no state file of a safekeeper";
	if (codec_load_u32(h + 8) != len - STATE_HEADER_SIZE)
		return "its length is wrong";
	if (codec_load_u32(h + 12) != state_crc(data, data + STATE_HEADER_SIZE,
											len - STATE_HEADER_SIZE))
		return "its checksum is wrong";
	if (codec_load_u32(h + 4) != STATE_VERSION)
		return psprintf("its format version is %u, not %u", codec_load_u32(h + 4), STATE_VERSION);
	c = cursor_over(data + STATE_HEADER_SIZE, len - STATE_HEADER_SIZE);
	if (!decode_body(&c, st))
		return "its contents are malformed";
	return NULL;
}

SkStateResult
skstate_read(const char *dir, SkState *state, char **problem)
{
	char		path[MAXPGPATH];
	char	   *data;
	ssize_t		len;
	int			fd;

	snprintf(path, sizeof(path), "%s/state", dir);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
	{
		if (errno == ENOENT)
			return SK_STATE_MISSING;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	}
	data = palloc(STATE_MAX_SIZE);
	len = durable_pread(fd, data, STATE_MAX_SIZE, 0);
	if (len < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	CloseTransientFile(fd);
	*problem = decode(data, len, state);
	pfree(data);
	return *problem ? SK_STATE_BAD : SK_STATE_OK;
}

/* ---- writing ---- */

static bool
write_and_sync(const char *path, const StringInfo buf)
{
	int			fd = OpenTransientFile(path, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	bool		ok;
	int			save_errno;

	if (fd < 0)
		return false;
	ok = durable_pwrite(fd, buf->data, buf->len, 0) && pg_fdatasync(fd) == 0 &&
		!NEON_TEST_FAILS("state-sync");
	save_errno = errno;
	CloseTransientFile(fd);
	errno = save_errno;
	return ok;
}

void
skstate_write(const char *dir, const SkState *state)
{
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];
	StringInfoData buf;

	snprintf(path, sizeof(path), "%s/state", dir);
	snprintf(temp, sizeof(temp), "%s/state.temp", dir);
	encode(&buf, state);
	if (!write_and_sync(temp, &buf))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", temp)));
	pfree(buf.data);
	NEON_TEST_POINT("state-written");
	if (rename(temp, path) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rename file \"%s\" to \"%s\": %m", temp, path)));
	NEON_TEST_POINT("state-renamed");
	durable_sync_dir(dir);
}
