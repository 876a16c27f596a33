/*-------------------------------------------------------------------------
 *
 * neon_codec.h
 *	  Little-endian encoding of what is written to files, and a
 *	  bounded cursor that reads it back.
 *
 * A cursor never reads past its end: it delivers zeros and turns "ok" off,
 * which the caller looks at once, when it has taken everything.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CODEC_H
#define NEON_CODEC_H

#include "lib/stringinfo.h"
#include "port/pg_crc32c.h"

/* CRC-32C of what lies in one piece. */
static inline uint32
codec_crc32c(const void *data, size_t len)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, len);
	FIN_CRC32C(crc);
	return crc;
}

static inline void
codec_store_u16(uint8 *p, uint16 v)
{
	p[0] = (uint8) v;
	p[1] = (uint8) (v >> 8);
}

static inline void
codec_store_u32(uint8 *p, uint32 v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8) (v >> (8 * i));
}

static inline void
codec_store_u64(uint8 *p, uint64 v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8) (v >> (8 * i));
}

static inline uint16
codec_load_u16(const uint8 *p)
{
	return (uint16) (p[0] | p[1] << 8);
}

static inline uint32
codec_load_u32(const uint8 *p)
{
	return (uint32) p[0] | (uint32) p[1] << 8 | (uint32) p[2] << 16 | (uint32) p[3] << 24;
}

static inline uint64
codec_load_u64(const uint8 *p)
{
	return (uint64) codec_load_u32(p) | (uint64) codec_load_u32(p + 4) << 32;
}

static inline void
codec_put_u8(StringInfo buf, uint8 v)
{
	appendStringInfoCharMacro(buf, (char) v);
}

static inline void
codec_put_u32(StringInfo buf, uint32 v)
{
	uint8		b[4];

	codec_store_u32(b, v);
	appendBinaryStringInfo(buf, (char *) b, sizeof(b));
}

static inline void
codec_put_u64(StringInfo buf, uint64 v)
{
	uint8		b[8];

	codec_store_u64(b, v);
	appendBinaryStringInfo(buf, (char *) b, sizeof(b));
}

static inline void
codec_put_bytes(StringInfo buf, const void *data, int len)
{
	appendBinaryStringInfo(buf, (const char *) data, len);
}

/* At most 10 bytes are written to p; returns how many. */
static inline int
codec_store_varint(uint8 *p, uint64 v)
{
	int			n = 0;

	while (v >= 0x80)
	{
		p[n++] = (uint8) (v | 0x80);
		v >>= 7;
	}
	p[n++] = (uint8) v;
	return n;
}

static inline void
codec_put_varint(StringInfo buf, uint64 v)
{
	uint8		b[10];

	codec_put_bytes(buf, b, codec_store_varint(b, v));
}

typedef struct Cursor
{
	const uint8 *p;
	const uint8 *end;
	bool		ok;
} Cursor;

static inline Cursor
cursor_over(const void *data, size_t len)
{
	Cursor		c;

	c.p = (const uint8 *) data;
	c.end = c.p + len;
	c.ok = true;
	return c;
}

static inline size_t
cursor_left(const Cursor *c)
{
	return c->end - c->p;
}

/* The next n bytes in place, or NULL. */
static inline const uint8 *
cursor_bytes(Cursor *c, size_t n)
{
	const uint8 *p = c->p;

	if (!c->ok || cursor_left(c) < n)
	{
		c->ok = false;
		return NULL;
	}
	c->p += n;
	return p;
}

static inline void
cursor_copy(Cursor *c, void *dst, size_t n)
{
	const uint8 *p = cursor_bytes(c, n);

	if (p)
		memcpy(dst, p, n);
	else
		memset(dst, 0, n);
}

static inline uint8
cursor_u8(Cursor *c)
{
	const uint8 *p = cursor_bytes(c, 1);

	return p ? *p : 0;
}

static inline uint32
cursor_u32(Cursor *c)
{
	const uint8 *p = cursor_bytes(c, 4);

	return p ? codec_load_u32(p) : 0;
}

static inline uint64
cursor_u64(Cursor *c)
{
	const uint8 *p = cursor_bytes(c, 8);

	return p ? codec_load_u64(p) : 0;
}

static inline uint64
cursor_varint(Cursor *c)
{
	uint64		v = 0;

	for (int shift = 0; shift < 64; shift += 7)
	{
		uint8		b = cursor_u8(c);

		v |= (uint64) (b & 0x7f) << shift;
		if (!(b & 0x80))
			return v;
	}
	c->ok = false;
	return 0;
}

#endif							/* NEON_CODEC_H */
