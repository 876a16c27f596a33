/*-------------------------------------------------------------------------
 *
 * passfile.h
 *	  Password files as libpq reads them: the user's and those of servers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_PASSFILE_H
#define NEON_CTL_PASSFILE_H

#include "postgres_fe.h"

/*
 * Puts the password of user at 127.0.0.1, localhost and the socket directory
 * (NULL: none) first in the calling user's own passfile; older lines for the
 * same go away.  Only warns if that cannot be done.
 */
extern void user_passfile_put(const char *socket_dir, int port, const char *user, const char *password);

/* Removes these lines if they have that password: another server may have the port now. */
extern void user_passfile_remove(const char *socket_dir, int port, const char *user, const char *password);

/*
 * Puts the line for 127.0.0.1:port into a server's file at path, in place of
 * an older one.  password NULL removes.  False, with errno, if that fails.
 */
extern bool server_passfile_put(const char *path, int port, const char *user, const char *password);

#endif							/* NEON_CTL_PASSFILE_H */
