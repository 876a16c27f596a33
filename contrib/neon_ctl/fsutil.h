/*-------------------------------------------------------------------------
 *
 * fsutil.h
 *	  Durable files and directories.  Everything here dies on failure unless
 *	  it says otherwise; paths are absolute.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_FSUTIL_H
#define NEON_CTL_FSUTIL_H

#include "postgres_fe.h"

extern bool path_exists(const char *path);
extern bool is_directory(const char *path);
extern bool directory_is_empty(const char *path);

/* mode 0700; an existing directory is fine. */
extern void make_directory(const char *path);

/* Removes a tree, or a file; fine if it is not there.  A mount point is emptied. */
extern void remove_path_tree(const char *path);

/* Removes a file and makes that durable; fine if it is not there. */
extern void remove_file_durably(const char *path);

/* Writes a new file beside path (mode 0600), fsyncs it, renames it, fsyncs the directory. */
extern void write_file_durably(const char *path, const char *data, size_t len);

/*
 * The whole file, zero-terminated, malloc'd; NULL if it is not there or, with
 * *len untouched, larger than limit.
 */
extern char *read_small_file(const char *path, size_t limit, size_t *len);

extern void rename_durably(const char *from, const char *to);

/* fsync of every file and directory below path, and of path. */
extern void sync_tree(const char *path);

/* snprintf that dies if the result does not fit into MAXPGPATH. */
extern void make_path(char *buf, const char *fmt,...) pg_attribute_printf(2, 3);

#endif							/* NEON_CTL_FSUTIL_H */
