/*-------------------------------------------------------------------------
 *
 * walvalue.h
 *	  A WAL record as it is stored in a layer file under a key.
 *
 * Left out are the record's length, xl_prev and CRC (the block's CRC takes
 * over), and of the block reference that the key names its RelFileNode and
 * block number.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_WALVALUE_H
#define NEON_PS_WALVALUE_H

#include "access/xlogrecord.h"
#include "lib/stringinfo.h"
#include "neon_key.h"

/* Appends the stored form of a record whose CRC was verified. */
extern void walvalue_encode(const XLogRecord *record, const NeonKey *key, StringInfo buf);

/*
 * The record, palloc'd, with xl_prev and xl_crc 0; NULL and *problem if the
 * bytes are none.
 */
extern XLogRecord *walvalue_decode(const char *data, uint32 len, const NeonKey *key,
								   const char **problem);

#endif							/* NEON_PS_WALVALUE_H */
