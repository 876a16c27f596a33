/*-------------------------------------------------------------------------
 *
 * neon_lsn.c
 *	  LSNs as text.
 *
 *-------------------------------------------------------------------------
 */
#ifdef FRONTEND
#include "postgres_fe.h"
#else
#include "postgres.h"
#endif

#include "neon_lsn.h"

#define HEX_DIGITS	"0123456789abcdefABCDEF"

bool
neon_lsn_parse(const char *text, XLogRecPtr *lsn)
{
	size_t		high;
	size_t		low;

	if (text == NULL)
		return false;
	high = strspn(text, HEX_DIGITS);
	if (high < 1 || high > 8 || text[high] != '/')
		return false;
	low = strspn(text + high + 1, HEX_DIGITS);
	if (low < 1 || low > 8 || text[high + 1 + low] != '\0')
		return false;
	*lsn = ((uint64) strtoul(text, NULL, 16) << 32) | strtoul(text + high + 1, NULL, 16);
	return true;
}
