/*-------------------------------------------------------------------------
 *
 * wal.h
 *	  Where the WAL ends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_TEST_UTILS_WAL_H
#define NEON_TEST_UTILS_WAL_H

#include "access/xlogdefs.h"

/* The end of the last record that was inserted: what can be flushed. */
extern XLogRecPtr end_of_wal(void);

#endif							/* NEON_TEST_UTILS_WAL_H */
