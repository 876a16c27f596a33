/*-------------------------------------------------------------------------
 *
 * credentials.c
 *	  Which passwords are in whose password file.
 *
 * Safekeepers and the pageserver log in to safekeepers as STORAGE_ROLE with the
 * services' password, to endpoints with the tenant's; endpoints log in to
 * services as their tenant's role.
 *
 *-------------------------------------------------------------------------
 */
#include "credentials.h"

#include "fsutil.h"
#include "output.h"
#include "passfile.h"
#include "repo.h"

#define LOCK_TIMEOUT	30		/* seconds */

static void
put_of_service(const Instance *inst, int port, const char *password)
{
	char		path[MAXPGPATH];

	make_path(path, "%s", instance_path(inst, "passfile"));
	/* a safekeeper that lost its disk has none */
	if (inst->id > 0 && !path_exists(path))
		return;
	if (server_passfile_put(path, port, STORAGE_ROLE, password))
		return;
	if (inst->id == 0)
		die(EXIT_GENERAL, "Check its permissions and the space on its file system.",
			"could not write \"%s\": %m", path);
	if (password != NULL)
		warn("could not write \"%s\": %m; %s cannot log in to port %d until \"neon safekeeper start %d\" can write it",
			 path, inst->name, port, inst->id);
}

static void
put_of_endpoint(const Endpoint *ep, int port)
{
	char		path[MAXPGPATH];

	make_path(path, "%s", endpoint_path(ep, "passfile"));
	if (!server_passfile_put(path, port, strf("tenant_%s", ep->tenant),
							 tenant_secret(ep->tenant, "role")))
		die(EXIT_GENERAL, "Check its permissions and the space on its file system.",
			"could not write \"%s\": %m", path);
}

static const char *
service_secret(void)
{
	return kv_get_default(&repo.config, "storage_service_password", "");
}

static int
lock_files(void)
{
	return lock_acquire("passfile", LOCK_TIMEOUT, NULL);
}

/* All services log in to the port with the password, or do not any more (NULL); with the lock. */
static void
tell_services(int port, const char *password)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);

	for (int i = 0; i < n; i++)
		put_of_service(&all[i], port, password);
}

void
credentials_of_services(const Instance *all, int n)
{
	if (repo.trust)
		return;
	for (int i = 0; i < n; i++)
	{
		for (int k = 1; k < n; k++)
			put_of_service(&all[i], all[k].port, service_secret());
	}
}

/* What is known of all others; for_endpoints: these are told of the instance, too. */
static void
complete(const Instance *inst, bool for_endpoints)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);
	int			nendpoints;
	char	  **names = endpoint_names(&nendpoints);

	for (int i = 1; i < n; i++)
		put_of_service(inst, all[i].port, service_secret());
	for (int i = 0; i < nendpoints; i++)
	{
		Endpoint	ep;

		endpoint_load(&ep, names[i]);
		if (!ep.exists)
			continue;
		if (for_endpoints)
			put_of_endpoint(&ep, inst->port);
		put_of_service(inst, ep.port, tenant_secret(ep.tenant, "storage"));
	}
}

void
credentials_complete(const Instance *inst)
{
	int			lock;

	if (repo.trust)
		return;
	lock = lock_files();
	complete(inst, false);
	lock_release(lock);
}

void
credentials_of_safekeeper(const Instance *new)
{
	int			lock;

	if (repo.trust)
		return;
	lock = lock_files();
	tell_services(new->port, service_secret());
	complete(new, true);
	lock_release(lock);
}

void
credentials_of_endpoint(const Endpoint *ep)
{
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			n = instance_all(all);
	int			lock;

	if (repo.trust)
		return;
	for (int i = 0; i < n; i++)
		put_of_endpoint(ep, all[i].port);
	lock = lock_files();
	tell_services(ep->port, tenant_secret(ep->tenant, "storage"));
	lock_release(lock);
}

void
credentials_forget_endpoint(const Endpoint *ep)
{
	int			lock;

	if (repo.trust)
		return;
	lock = lock_files();
	tell_services(ep->port, NULL);
	lock_release(lock);
}
