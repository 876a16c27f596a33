/*-------------------------------------------------------------------------
 *
 * instance.h
 *	  A storage service: the pageserver or a safekeeper.  Each is a PostgreSQL
 *	  instance below DIR with its extension, made, started and stopped alike.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_INSTANCE_H
#define NEON_CTL_INSTANCE_H

#include "db.h"
#include "server.h"

#define INSTANCE_START_TIMEOUT 120	/* seconds */
#define MAX_SAFEKEEPERS 10		/* 5, and those that come or go */

typedef struct Instance
{
	int			id;				/* 0: the pageserver; else the safekeeper's number */
	char		name[32];		/* "pageserver", "safekeeper 2": in messages */
	char		service[32];	/* "pageserver", "safekeeper": the command's word */
	char		dir[32];		/* below DIR */
	int			port;
} Instance;

extern Instance instance_pageserver(void);
extern Instance instance_safekeeper(int id);

/*
 * All of this state directory: the pageserver first, then the safekeepers;
 * MAX_SAFEKEEPERS + 1 places.  Returns how many.
 */
extern int	instance_all(Instance *all);

/*
 * How many safekeepers keep the branches of this state directory, not counting
 * those that come or go while that is changed; 0 is laptop mode.
 */
extern int	safekeeper_count(void);

/* Does this safekeeper keep new branches?  Not before it joins, nor while it leaves. */
extern bool safekeeper_is_member(int id);

/* Is it to be removed, when no branch has it any more? */
extern bool safekeeper_is_leaving(int id);

extern const char *instance_path(const Instance *inst, const char *below);
extern const char *instance_pgdata(const Instance *inst);
extern const char *instance_log(const Instance *inst);
extern const char *instance_password(const Instance *inst);	/* of the superuser */

/* How to look into its log: a command. */
extern const char *instance_logs_command(const Instance *inst);

/*
 * Makes the instance, its extension and the role STORAGE_ROLE; it is stopped
 * when this returns.  Port and password are in the config.  A safekeeper's
 * node id is put there.
 */
extern void instance_create(const Instance *inst);

/* False if it ran already.  Takes the instance's lock; waits until it accepts connections. */
extern bool instance_start(const Instance *inst);

/* False if it does not run. */
extern bool instance_stop(const Instance *inst, bool immediate);

/* A session of the superuser.  The first dies, the second returns NULL. */
extern PGconn *instance_connect(const Instance *inst);
extern PGconn *instance_try_connect(const Instance *inst);

#endif							/* NEON_CTL_INSTANCE_H */
