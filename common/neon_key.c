/*-------------------------------------------------------------------------
 *
 * neon_key.c
 *	  Order and encoding of keys.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "neon_key.h"
#include "port/pg_bswap.h"

#define CMP_FIELD(f) \
	if (a->f != b->f) \
		return a->f < b->f ? -1 : 1

int
neon_key_cmp(const NeonKey *a, const NeonKey *b)
{
	CMP_FIELD(kind);
	CMP_FIELD(spc);
	CMP_FIELD(db);
	CMP_FIELD(rel);
	CMP_FIELD(fork);
	CMP_FIELD(blk);
	return 0;
}

static uint8 *
put_u32(uint8 *p, uint32 v)
{
	uint32		n = pg_hton32(v);

	memcpy(p, &n, sizeof(n));
	return p + sizeof(n);
}

static uint32
get_u32(const uint8 *p)
{
	uint32		n;

	memcpy(&n, p, sizeof(n));
	return pg_ntoh32(n);
}

void
neon_key_encode(const NeonKey *key, uint8 *buf)
{
	uint8	   *p = buf;

	*p++ = key->kind;
	p = put_u32(p, key->spc);
	p = put_u32(p, key->db);
	p = put_u32(p, key->rel);
	*p++ = key->fork;
	(void) put_u32(p, key->blk);
}

static bool
kind_is_known(uint8 kind)
{
	switch (kind)
	{
		case NEON_KEY_CONTROL:
		case NEON_KEY_DATABASE:
		case NEON_KEY_TABLESPACE:
		case NEON_KEY_SIZE:
		case NEON_KEY_PAGE:
		case NEON_KEY_SLRU:
		case NEON_KEY_SLRU_BOUNDS:
		case NEON_KEY_TWOPHASE:
		case NEON_KEY_ORIGIN:
		case NEON_KEY_FILE:
		case NEON_KEY_TIME:
			return true;
	}
	return false;
}

bool
neon_key_decode(const uint8 *buf, NeonKey *key)
{
	if (!kind_is_known(buf[0]))
		return false;
	*key = neon_key(buf[0], get_u32(buf + 1), get_u32(buf + 5), get_u32(buf + 9),
					buf[13], get_u32(buf + 14));
	return key->kind == NEON_KEY_FILE || key->fork <= MAX_FORKNUM;
}
