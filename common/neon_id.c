/*-------------------------------------------------------------------------
 *
 * neon_id.c
 *	  128-bit identifiers of tenants, timelines and boots.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "neon_id.h"

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool
neon_id_parse(const char *hex, NeonId *id)
{
	NeonId		result;

	if (hex == NULL || strlen(hex) != NEON_ID_HEXLEN)
		return false;
	for (int i = 0; i < NEON_ID_BYTES; i++)
	{
		int			hi = hex_digit(hex[2 * i]);
		int			lo = hex_digit(hex[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return false;
		result.b[i] = (uint8) ((hi << 4) | lo);
	}
	*id = result;
	return true;
}

char *
neon_id_format(const NeonId *id, char *buf)
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < NEON_ID_BYTES; i++)
	{
		buf[2 * i] = digits[id->b[i] >> 4];
		buf[2 * i + 1] = digits[id->b[i] & 0x0f];
	}
	buf[NEON_ID_HEXLEN] = '\0';
	return buf;
}

bool
neon_id_generate(NeonId *id)
{
	return pg_strong_random(id->b, NEON_ID_BYTES);
}

bool
neon_id_equal(const NeonId *a, const NeonId *b)
{
	return memcmp(a->b, b->b, NEON_ID_BYTES) == 0;
}

bool
neon_id_is_zero(const NeonId *id)
{
	static const NeonId zero;

	return neon_id_equal(id, &zero);
}
