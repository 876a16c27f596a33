/*-------------------------------------------------------------------------
 *
 * neon_durable.h
 *	  The few durable file operations of the services.  A failed sync is
 *	  reported to the caller and never repeated.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_DURABLE_H
#define NEON_DURABLE_H

#include <signal.h>

/* ereport(ERROR) if the directory's entries cannot be made durable. */
extern void durable_sync_dir(const char *path);

/* The same, false and errno on failure. */
extern bool durable_try_sync_dir(const char *path);

/* Makes the directory and its entry durable; existing is fine if exists_ok. */
extern void durable_make_dir(const char *path, bool exists_ok);

/* Removes a file or a whole directory tree; what is missing is no error. */
extern void durable_remove_tree(const char *path);

/* The same, but ends early when *stop is set. */
extern void durable_remove_tree_until(const char *path, const volatile sig_atomic_t *stop);

/* Whole reads and writes at an offset, EINTR and short counts handled. */
extern ssize_t durable_pread(int fd, void *buf, size_t len, off_t offset);
extern bool durable_pwrite(int fd, const void *buf, size_t len, off_t offset);

extern bool durable_exists(const char *path);

#endif							/* NEON_DURABLE_H */
