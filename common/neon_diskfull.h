/*-------------------------------------------------------------------------
 *
 * neon_diskfull.h
 *	  What to do about a full disk.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_DISKFULL_H
#define NEON_DISKFULL_H

/*
 * Within ereport, behind errcode_for_file_access(): adds a HINT if that found
 * the file system full.  path, of a file, is relative to the data directory.
 */
extern int	neon_hint_if_full(const char *path);

#endif							/* NEON_DISKFULL_H */
