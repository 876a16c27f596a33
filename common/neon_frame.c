/*-------------------------------------------------------------------------
 *
 * neon_frame.c
 *	  Encoding and checked decoding of page service frames.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/relpath.h"
#include "libpq/pqformat.h"
#include "neon_frame.h"
#include "port/pg_bswap.h"

typedef struct FrameCursor
{
	const char *p;
	const char *end;
	bool		ok;
} FrameCursor;

static void
take(FrameCursor *c, void *dst, size_t n)
{
	if (!c->ok || (size_t) (c->end - c->p) < n)
	{
		c->ok = false;
		memset(dst, 0, n);
		return;
	}
	memcpy(dst, c->p, n);
	c->p += n;
}

static uint8
take_u8(FrameCursor *c)
{
	uint8		v;

	take(c, &v, sizeof(v));
	return v;
}

static uint16
take_u16(FrameCursor *c)
{
	uint16		v;

	take(c, &v, sizeof(v));
	return pg_ntoh16(v);
}

static uint32
take_u32(FrameCursor *c)
{
	uint32		v;

	take(c, &v, sizeof(v));
	return pg_ntoh32(v);
}

static uint64
take_u64(FrameCursor *c)
{
	uint64		v;

	take(c, &v, sizeof(v));
	return pg_ntoh64(v);
}

/* A zero-terminated string inside the message. */
static const char *
take_string(FrameCursor *c)
{
	const char *s = c->p;
	const char *nul;

	if (!c->ok || (nul = memchr(s, '\0', c->end - s)) == NULL)
	{
		c->ok = false;
		return "";
	}
	c->p = nul + 1;
	return s;
}

void
neon_frame_put_request(StringInfo buf, const NeonRequest *req)
{
	pq_sendbyte(buf, NEON_TAG_GET_PAGES);
	pq_sendbyte(buf, NEON_FRAME_VERSION);
	pq_sendint16(buf, req->nblocks);
	pq_sendint64(buf, req->reqid);
	pq_sendint64(buf, req->lsn);
	pq_sendint64(buf, req->not_modified_since);
	pq_sendint32(buf, req->term);
	pq_sendint32(buf, req->rnode.spcNode);
	pq_sendint32(buf, req->rnode.dbNode);
	pq_sendint32(buf, req->rnode.relNode);
	pq_sendbyte(buf, (uint8) req->fork);
	pq_sendint32(buf, req->blkno);
}

/* The rules that every request must obey; NULL if it does. */
static const char *
request_problem(const NeonRequest *req)
{
	if (req->nblocks == 0 || req->nblocks > NEON_MAX_BLOCKS_PER_REQUEST)
		return "number of blocks out of range";
	if (req->fork > MAX_FORKNUM)
		return "fork number out of range";
	if (req->rnode.relNode == InvalidOid || req->rnode.spcNode == InvalidOid)
		return "invalid relation";
	if (req->blkno > MaxBlockNumber - req->nblocks)
		return "block number out of range";
	if (req->not_modified_since == InvalidXLogRecPtr)
		return "not_modified_since is zero";
	if (req->lsn != NEON_LSN_MAX && req->lsn != req->not_modified_since)
		return "lsn differs from not_modified_since";
	return NULL;
}

bool
neon_frame_get_request(const char *data, int len, NeonRequest *req,
					   const char **problem)
{
	FrameCursor c = {data, data + len, true};
	uint8		tag;
	uint8		version;

	memset(req, 0, sizeof(*req));
	tag = take_u8(&c);
	version = take_u8(&c);
	req->nblocks = take_u16(&c);
	req->reqid = take_u64(&c);
	if (!c.ok || tag != NEON_TAG_GET_PAGES || version != NEON_FRAME_VERSION)
	{
		*problem = "unknown request tag or version";
		return false;
	}
	req->lsn = take_u64(&c);
	req->not_modified_since = take_u64(&c);
	req->term = take_u32(&c);
	req->rnode.spcNode = take_u32(&c);
	req->rnode.dbNode = take_u32(&c);
	req->rnode.relNode = take_u32(&c);
	req->fork = (ForkNumber) take_u8(&c);
	req->blkno = take_u32(&c);
	if (!c.ok || c.p != c.end)
	{
		*problem = "wrong request length";
		return false;
	}
	*problem = request_problem(req);
	return *problem == NULL;
}

static void
put_response_header(StringInfo buf, uint8 tag, uint64 reqid,
					XLogRecPtr effective_lsn, uint16 nblocks)
{
	pq_sendbyte(buf, tag);
	pq_sendbyte(buf, NEON_FRAME_VERSION);
	pq_sendint16(buf, nblocks);
	pq_sendint64(buf, reqid);
	pq_sendint64(buf, effective_lsn);
}

void
neon_frame_put_pages_header(StringInfo buf, uint64 reqid,
							XLogRecPtr effective_lsn, uint16 nblocks)
{
	put_response_header(buf, NEON_TAG_PAGES, reqid, effective_lsn, nblocks);
}

void
neon_frame_put_error(StringInfo buf, uint64 reqid, XLogRecPtr effective_lsn,
					 NeonErrorClass error_class, const char *sqlstate,
					 const char *message, const char *detail, const char *hint)
{
	char		state[5] = "XX000";

	Assert(strlen(sqlstate) == 5);
	memcpy(state, sqlstate, sizeof(state));
	put_response_header(buf, NEON_TAG_ERROR, reqid, effective_lsn, 0);
	pq_sendbyte(buf, (uint8) error_class);
	appendBinaryStringInfo(buf, state, sizeof(state));
	appendBinaryStringInfo(buf, message, strlen(message) + 1);
	appendBinaryStringInfo(buf, detail ? detail : "", detail ? strlen(detail) + 1 : 1);
	appendBinaryStringInfo(buf, hint ? hint : "", hint ? strlen(hint) + 1 : 1);
}

static void
take_error(FrameCursor *c, NeonResponse *resp)
{
	resp->error_class = (NeonErrorClass) take_u8(c);
	take(c, resp->sqlstate, 5);
	resp->sqlstate[5] = '\0';
	resp->message = take_string(c);
	resp->detail = take_string(c);
	resp->hint = take_string(c);
	for (int i = 0; i < 5; i++)
	{
		char		ch = resp->sqlstate[i];

		if (!((ch >= '0' && ch <= '9') || (ch >= 'A' && ch <= 'Z')))
			c->ok = false;
	}
}

bool
neon_frame_get_response(const char *data, int len, NeonResponse *resp,
						const char **problem)
{
	FrameCursor c = {data, data + len, true};
	uint8		version;

	memset(resp, 0, sizeof(*resp));
	resp->tag = take_u8(&c);
	version = take_u8(&c);
	resp->nblocks = take_u16(&c);
	resp->reqid = take_u64(&c);
	resp->effective_lsn = take_u64(&c);
	if (!c.ok || version != NEON_FRAME_VERSION)
	{
		*problem = "unknown answer version or length";
		return false;
	}
	switch (resp->tag)
	{
		case NEON_TAG_PAGES:
			resp->pages = c.p;
			if ((size_t) (c.end - c.p) != (size_t) resp->nblocks * BLCKSZ)
				c.ok = false;
			break;
		case NEON_TAG_ERROR:
			take_error(&c, resp);
			if (c.p != c.end)
				c.ok = false;
			break;
		default:
			*problem = "unknown answer tag";
			return false;
	}
	if (!c.ok)
		*problem = "wrong answer length";
	return c.ok;
}
