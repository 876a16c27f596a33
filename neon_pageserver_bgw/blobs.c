/*-------------------------------------------------------------------------
 *
 * blobs.c
 *	  Encoding and checked decoding of the values of kind BLOB.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "blobs.h"
#include "common/hashfn.h"

#define BLOB_VERSION	1

#ifdef WORDS_BIGENDIAN
#error "files are little-endian and are written as the machine has them"
#endif

typedef struct BlobCursor
{
	const char *p;
	uint32		left;
	bool		ok;
} BlobCursor;

static void
put_version(StringInfo buf)
{
	appendStringInfoCharMacro(buf, BLOB_VERSION);
}

static void
put_u32(StringInfo buf, uint32 v)
{
	appendBinaryStringInfo(buf, (const char *) &v, sizeof(v));
}

static void
put_u64(StringInfo buf, uint64 v)
{
	appendBinaryStringInfo(buf, (const char *) &v, sizeof(v));
}

/* len bytes of the blob, or NULL (and the cursor fails) if it has not so many */
static const char *
take(BlobCursor *c, uint32 len)
{
	const char *p = c->p;

	if (!c->ok || c->left < len)
	{
		c->ok = false;
		return NULL;
	}
	c->p += len;
	c->left -= len;
	return p;
}

static uint32
take_u32(BlobCursor *c)
{
	uint32		v = 0;
	const char *p = take(c, sizeof(v));

	if (p)
		memcpy(&v, p, sizeof(v));
	return v;
}

static uint64
take_u64(BlobCursor *c)
{
	uint64		v = 0;
	const char *p = take(c, sizeof(v));

	if (p)
		memcpy(&v, p, sizeof(v));
	return v;
}

static BlobCursor
open_blob(const char *data, uint32 len)
{
	BlobCursor	c = {data, len, true};
	const char *version = take(&c, 1);

	if (version && *version != BLOB_VERSION)
		c.ok = false;
	return c;
}

/* everything was there and nothing is left */
static bool
at_end(const BlobCursor *c)
{
	return c->ok && c->left == 0;
}

/* a counted string that fits dst[BLOB_PATH_MAX] and has no zero inside */
static void
take_path(BlobCursor *c, char *dst)
{
	uint32		len = take_u32(c);
	const char *p;

	dst[0] = '\0';
	if (len >= BLOB_PATH_MAX)
		c->ok = false;
	p = take(c, len);
	if (p == NULL)
		return;
	if (memchr(p, '\0', len) != NULL)
	{
		c->ok = false;
		return;
	}
	memcpy(dst, p, len);
	dst[len] = '\0';
}

static void
put_path(StringInfo buf, const char *path)
{
	uint32		len = strlen(path);

	if (len >= BLOB_PATH_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("path is too long: \"%s\"", path)));
	put_u32(buf, len);
	appendBinaryStringInfo(buf, path, len);
}

void
blob_put_database(StringInfo buf, const DatabaseBlob *blob)
{
	Assert(blob->relmap_len <= BLOB_RELMAP_MAX);
	put_version(buf);
	put_u32(buf, blob->alias_spc);
	put_u32(buf, blob->alias_db);
	put_u64(buf, blob->alias_lsn);
	put_u32(buf, blob->relmap_len);
	appendBinaryStringInfo(buf, blob->relmap, blob->relmap_len);
}

bool
blob_get_database(const char *data, uint32 len, DatabaseBlob *blob)
{
	BlobCursor	c = open_blob(data, len);
	const char *map;

	memset(blob, 0, sizeof(*blob));
	blob->alias_spc = take_u32(&c);
	blob->alias_db = take_u32(&c);
	blob->alias_lsn = take_u64(&c);
	blob->relmap_len = take_u32(&c);
	if (blob->relmap_len > BLOB_RELMAP_MAX)
		return false;
	map = take(&c, blob->relmap_len);
	if (map)
		memcpy(blob->relmap, map, blob->relmap_len);
	return at_end(&c);
}

void
blob_put_tablespace(StringInfo buf, const char *location)
{
	put_version(buf);
	put_path(buf, location);
}

bool
blob_get_tablespace(const char *data, uint32 len, char *location)
{
	BlobCursor	c = open_blob(data, len);

	take_path(&c, location);
	return at_end(&c);
}

void
blob_put_slru_bounds(StringInfo buf, BlockNumber oldest, BlockNumber latest)
{
	put_version(buf);
	put_u32(buf, oldest);
	put_u32(buf, latest);
}

bool
blob_get_slru_bounds(const char *data, uint32 len, BlockNumber *oldest, BlockNumber *latest)
{
	BlobCursor	c = open_blob(data, len);

	*oldest = take_u32(&c);
	*latest = take_u32(&c);
	return at_end(&c);
}

void
blob_put_twophase(StringInfo buf, const char *state, uint32 len)
{
	put_version(buf);
	appendBinaryStringInfo(buf, state, len);
}

bool
blob_get_twophase(const char *data, uint32 len, const char **state, uint32 *statelen)
{
	BlobCursor	c = open_blob(data, len);

	*statelen = c.left;
	*state = take(&c, c.left);
	return at_end(&c) && *statelen > 0;
}

void
blob_put_origin(StringInfo buf, XLogRecPtr remote_lsn)
{
	put_version(buf);
	put_u64(buf, remote_lsn);
}

bool
blob_get_origin(const char *data, uint32 len, XLogRecPtr *remote_lsn)
{
	BlobCursor	c = open_blob(data, len);

	*remote_lsn = take_u64(&c);
	return at_end(&c);
}

NeonKey
blob_file_key(const char *path)
{
	const unsigned char *bytes = (const unsigned char *) path;
	uint64		h1 = hash_bytes_extended(bytes, strlen(path), 1);
	uint64		h2 = hash_bytes_extended(bytes, strlen(path), 2);

	return neon_key(NEON_KEY_FILE, 0, (Oid) (h1 >> 32), (Oid) h1, 0, (BlockNumber) h2);
}

void
blob_put_file(StringInfo buf, const char *path, const char *bytes, uint32 len)
{
	put_version(buf);
	put_path(buf, path);
	appendBinaryStringInfo(buf, bytes, len);
}

bool
blob_get_file(const char *data, uint32 len, char *path, const char **bytes, uint32 *nbytes)
{
	BlobCursor	c = open_blob(data, len);

	take_path(&c, path);
	*nbytes = c.ok ? c.left : 0;
	*bytes = take(&c, *nbytes);
	return at_end(&c);
}
