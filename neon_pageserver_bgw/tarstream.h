/*-------------------------------------------------------------------------
 *
 * tarstream.h
 *	  A POSIX tar archive written to the client in COPY OUT mode (copyio.h).
 *
 * Every process has at most one.  All functions may ereport(ERROR), and end
 * the process if the client is gone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_TARSTREAM_H
#define NEON_PS_TARSTREAM_H

extern void tar_begin(void);
extern void tar_directory(const char *path);

/* A whole file. */
extern void tar_file(const char *path, const void *data, size_t len);

/* The same in pieces, which must add up to size. */
extern void tar_file_begin(const char *path, uint64 size);
extern void tar_file_bytes(const void *data, size_t len);
extern void tar_file_end(void);

/* The end of the archive; returns the bytes sent. */
extern uint64 tar_end(void);

#endif							/* NEON_PS_TARSTREAM_H */
