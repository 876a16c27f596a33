/*-------------------------------------------------------------------------
 *
 * smgr.h
 *	  The replaced functions of the storage manager table, and their test.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SMGR_H
#define NEON_SMGR_H

#include "neon_smgrswap.h"

/* The functions of the table that we replace. */
typedef enum SmgrSlot
{
	SLOT_CREATE,
	SLOT_EXISTS,
	SLOT_UNLINK,
	SLOT_EXTEND,
	SLOT_PREFETCH,
	SLOT_READ,
	SLOT_WRITE,
	SLOT_NBLOCKS,
	SLOT_TRUNCATE,
	SMGR_SLOTS,
} SmgrSlot;

/* Its name is that of the member of f_smgr without "smgr_". */
extern const char *smgr_slot_name(SmgrSlot slot);

/*
 * While the self-test runs, in a process of its own, this points to one flag
 * a slot; a replaced function then only sets its flag.
 */
extern volatile bool *smgr_reached;

#endif							/* NEON_SMGR_H */
