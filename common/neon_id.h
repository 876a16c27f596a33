/*-------------------------------------------------------------------------
 *
 * neon_id.h
 *	  128-bit identifiers of tenants, timelines and boots.
 *
 * Shown everywhere as 32 lower-case hexadecimal digits.  Usable from the
 * backend and from frontend programs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_ID_H
#define NEON_ID_H

#define NEON_ID_BYTES	16
#define NEON_ID_HEXLEN	32

typedef struct NeonId
{
	uint8		b[NEON_ID_BYTES];
} NeonId;

/* Parses exactly 32 hex digits; false (id untouched) if it is anything else. */
extern bool neon_id_parse(const char *hex, NeonId *id);

/* Writes 32 digits and a terminating zero into buf[NEON_ID_HEXLEN + 1]; returns buf. */
extern char *neon_id_format(const NeonId *id, char *buf);

/* Fills id from the strong random source; false if there is none. */
extern bool neon_id_generate(NeonId *id);

extern bool neon_id_equal(const NeonId *a, const NeonId *b);
extern bool neon_id_is_zero(const NeonId *id);

#endif							/* NEON_ID_H */
