/*-------------------------------------------------------------------------
 *
 * untar.h
 *	  Unpacks an uncompressed tar stream below one directory.
 *
 * The stream comes from the network: names, sizes and types are checked
 * before anything is created, and nothing is ever written outside, through a
 * link, or over an existing file.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_UNTAR_H
#define NEON_CTL_UNTAR_H

#include "postgres_fe.h"

typedef struct Untar Untar;

/* dir exists and is empty. */
extern Untar *untar_begin(const char *dir);

/* Any number of bytes; dies on a bad archive or a failed write. */
extern void untar_data(Untar *untar, const char *data, size_t len);

/* Dies if the archive is incomplete; frees.  Nothing is fsynced. */
extern void untar_finish(Untar *untar);

#endif							/* NEON_CTL_UNTAR_H */
