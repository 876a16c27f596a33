/*-------------------------------------------------------------------------
 *
 * custom_rmgr.c
 *	  A library with a WAL resource manager of its own, as extensions may
 *	  have one.  No record of it is ever written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static void
redo_nothing(XLogReaderState *record)
{
}

static void
describe_nothing(StringInfo buf, XLogReaderState *record)
{
}

static const char *
identify_nothing(uint8 info)
{
	return NULL;
}

static RmgrData test_rmgr = {
	.rm_name = "neon_test",
	.rm_redo = redo_nothing,
	.rm_desc = describe_nothing,
	.rm_identify = identify_nothing
};

void
_PG_init(void)
{
	RegisterCustomRmgr(RM_EXPERIMENTAL_ID, &test_rmgr);
}
