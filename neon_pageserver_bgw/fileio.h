/*-------------------------------------------------------------------------
 *
 * fileio.h
 *	  The few durable file operations of the storage.  A failed sync is
 *	  reported to the caller and never repeated.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_FILEIO_H
#define NEON_PS_FILEIO_H

/* ereport(ERROR) if the directory's entries cannot be made durable. */
extern void fileio_sync_dir(const char *path);

/* The same, false and errno on failure. */
extern bool fileio_try_sync_dir(const char *path);

/* Makes the directory and its entry durable; existing is fine if exists_ok. */
extern void fileio_make_dir(const char *path, bool exists_ok);

/* Removes a file or a whole directory tree; what is missing is no error. */
extern void fileio_remove_tree(const char *path);

/* Whole reads and writes at an offset, EINTR and short counts handled. */
extern ssize_t fileio_pread(int fd, void *buf, size_t len, off_t offset);
extern bool fileio_pwrite(int fd, const void *buf, size_t len, off_t offset);

extern bool fileio_exists(const char *path);

#endif							/* NEON_PS_FILEIO_H */
