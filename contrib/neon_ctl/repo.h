/*-------------------------------------------------------------------------
 *
 * repo.h
 *	  The state directory: its layout, its config file, its locks.
 *
 * Lock order: endpoint, then timeline, then config.  Never two endpoints or
 * two timelines at once.  Whoever touches the data directory or a process of
 * an endpoint that wrote a timeline holds that timeline's lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_REPO_H
#define NEON_CTL_REPO_H

#include "kvfile.h"
#include "options.h"

#define SUPERUSER		"cloud_admin"
#define STORAGE_ROLE	"neon_storage"
#define MAINTENANCE_DB	"postgres"
#define LOOPBACK		"127.0.0.1"
#define DEFAULT_PAGESERVER_PORT 64000
#define DEFAULT_SAFEKEEPER_PORT 5454
#define DEFAULT_SAFEKEEPERS 3	/* of a "neon init" that does not say */
#define FIRST_ENDPOINT_PORT 55432

typedef struct Repo
{
	char		dir[MAXPGPATH]; /* absolute, no links in it */
	KvFile		config;
	bool		trust;			/* --auth trust */
} Repo;

extern Repo repo;

/* Finds DIR by the options, takes on the server's user, loads the config.  Dies if there is none. */
extern void repo_open(const Invocation *inv);

/* For init: finds DIR and makes it; true if there is a config file already. */
extern bool repo_prepare(const Invocation *inv);

/* Full path of something below DIR, in one of strf()'s buffers. */
extern const char *repo_path(const char *fmt,...) pg_attribute_printf(1, 2);

extern void config_reload(void);
extern void config_save(void);	/* holding the config lock */

/*
 * Takes DIR/run/NAME.lock (flock).  Waits up to timeout_s, saying for whom;
 * then dies.  *waited, if not NULL, tells whether somebody else had it.
 * Released by lock_release or the end of the process.
 */
extern int	lock_acquire(const char *name, int timeout_s, bool *waited);
extern void lock_release(int lock);

/* Names another process as the holder, which has inherited the lock. */
extern void lock_note(int lock, pid_t holder);

/* The process that holds a lock; 0 if nobody does. */
extern pid_t lock_holder(const char *name);

/* lock_acquire without waiting; -1 if somebody else has it. */
extern int	lock_try(const char *name);

/* The tenant of the option, else the default one, as 32 lower-case digits; dies if none. */
extern const char *chosen_tenant(const Invocation *inv);

/* Socket directory of the servers, or NULL if its path is too long for that port. */
extern const char *socket_directory(int port);

extern bool port_is_free(int port);
extern int	any_free_port(void);

/* A random password of 48 hexadecimal digits, in a buffer of strf(). */
extern const char *new_password(void);

/* Secret of a tenant: which is superuser, storage or role.  "" with --auth trust. */
extern const char *tenant_secret(const char *tenant, const char *which);

#endif							/* NEON_CTL_REPO_H */
