/*-------------------------------------------------------------------------
 *
 * endpoint.c
 *	  An endpoint's directory and what is kept of it.
 *
 *-------------------------------------------------------------------------
 */
#include "endpoint.h"

#include <dirent.h>

#include "fsutil.h"
#include "instance.h"
#include "neon_lsn.h"
#include "options.h"
#include "output.h"
#include "repo.h"

static const char *const kind_names[] = {"primary", "static", "ephemeral"};

const char *
endpoint_kind_name(EndpointKind kind)
{
	return kind_names[kind];
}

const char *
endpoint_path(const Endpoint *ep, const char *below)
{
	return repo_path("endpoints/%s/%s", ep->name, below);
}

static void
bad_state(const Endpoint *ep, const char *what)
{
	die(EXIT_GENERAL,
		"Restore the file from a copy, or remove the endpoint by \"neon endpoint destroy\".",
		"\"%s\" has no valid %s", endpoint_path(ep, "conf/endpoint"), what);
}

static void
load_id(const Endpoint *ep, const KvFile *kv, const char *key, char *to)
{
	NeonId		id;

	if (!neon_id_parse(kv_get_default(kv, key, ""), &id))
		bad_state(ep, key);
	neon_id_format(&id, to);
}

void
endpoint_load(Endpoint *ep, const char *name)
{
	KvFile		kv;
	const char *kind;

	memset(ep, 0, sizeof(*ep));
	check_endpoint_name(name);
	strlcpy(ep->name, name, sizeof(ep->name));
	ep->exists = kv_load(&kv, endpoint_path(ep, "conf/endpoint"));
	if (!ep->exists)
		return;
	load_id(ep, &kv, "tenant_id", ep->tenant);
	load_id(ep, &kv, "timeline_id", ep->timeline);
	kind = kv_get_default(&kv, "kind", "");
	ep->kind = ENDPOINT_PRIMARY;
	while (strcmp(kind, kind_names[ep->kind]) != 0)
	{
		if (ep->kind == ENDPOINT_EPHEMERAL)
			bad_state(ep, "kind");
		ep->kind++;
	}
	if (!neon_lsn_parse(kv_get_default(&kv, "lsn", "0/0"), &ep->lsn))
		bad_state(ep, "lsn");
	ep->port = (int) kv_get_int(&kv, "port", 0);
	ep->wanted = kv_get_int(&kv, "wanted", 0) != 0;
	kv_free(&kv);
}

void
endpoint_load_existing(Endpoint *ep, const char *name)
{
	endpoint_load(ep, name);
	if (!ep->exists)
		die(EXIT_GENERAL, "See \"neon endpoint list\", or create it by \"neon endpoint create\".",
			"there is no endpoint \"%s\"", name);
}

void
endpoint_save(const Endpoint *ep)
{
	KvFile		kv = {0};

	kv_set(&kv, "tenant_id", ep->tenant);
	kv_set(&kv, "timeline_id", ep->timeline);
	kv_set(&kv, "kind", kind_names[ep->kind]);
	kv_set(&kv, "lsn", lsn_text(ep->lsn));
	kv_set_int(&kv, "port", ep->port);
	kv_set_int(&kv, "wanted", ep->wanted);
	kv_save(&kv, endpoint_path(ep, "conf/endpoint"),
			"State of an endpoint, written by the neon command.");
	kv_free(&kv);
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

char	  **
endpoint_names(int *n)
{
	DIR		   *dir = opendir(repo_path("endpoints"));
	struct dirent *entry;
	char	  **names = NULL;
	int			max = 0;

	*n = 0;
	if (dir == NULL)
		return NULL;
	while ((entry = readdir(dir)) != NULL)
	{
		if (entry->d_name[0] == '.' || strlen(entry->d_name) > 63 ||
			!path_exists(repo_path("endpoints/%s/conf/endpoint", entry->d_name)))
			continue;
		if (*n == max)
		{
			max = max ? max * 2 : 16;
			names = pg_realloc(names, max * sizeof(char *));
		}
		names[(*n)++] = pg_strdup(entry->d_name);
	}
	closedir(dir);
	if (*n > 1)
		qsort(names, *n, sizeof(char *), compare_names);
	return names;
}

static bool
port_is_taken(int port)
{
	int			n;
	char	  **names = endpoint_names(&n);
	Instance	all[MAX_SAFEKEEPERS + 1];
	int			ninstances = instance_all(all);
	bool		taken = false;

	for (int i = 0; i < ninstances; i++)
		taken |= port == all[i].port;

	for (int i = 0; i < n; i++)
	{
		Endpoint	other;

		endpoint_load(&other, names[i]);
		taken |= other.port == port;
	}
	return taken;
}

/* The lock on the port of the endpoint that this process starts, or -1. */
static int	port_lock = -1;

bool
endpoint_reserve_port(int port)
{
	if (!port_is_free(port))
		return false;
	endpoint_release_port();
	port_lock = lock_try(strf("port.%d", port));
	return port_lock >= 0;
}

void
endpoint_release_port(void)
{
	if (port_lock >= 0)
		lock_release(port_lock);
	port_lock = -1;
}

int
endpoint_choose_port(void)
{
	for (int port = FIRST_ENDPOINT_PORT; port <= 65535; port++)
	{
		if (!port_is_taken(port) && endpoint_reserve_port(port))
			return port;
	}
	die(EXIT_GENERAL, "Give one by --port.", "there is no free port from %d on",
		FIRST_ENDPOINT_PORT);
}

int
endpoint_lock(const char *name, bool *waited)
{
	check_endpoint_name(name);
	return lock_acquire(strf("endpoint.%s", name), ENDPOINT_LOCK_TIMEOUT, waited);
}

int
timeline_lock(const char *timeline)
{
	return lock_acquire(strf("timeline.%s", timeline), ENDPOINT_LOCK_TIMEOUT, NULL);
}

/* Its path comes from the pageserver: it must be that of one of our endpoints. */
const char *
writer_pgdata(const WriterInfo *writer)
{
	if (strcmp(writer->pgdata, strf("endpoints/%s/pgdata", writer->endpoint)) != 0)
		die(EXIT_GENERAL, "Look into the pageserver's view neon_pageserver.timelines.",
			"the last writer's data directory \"%s\" is none of this state directory", writer->pgdata);
	check_endpoint_name(writer->endpoint);
	return repo_path("%s", writer->pgdata);
}

bool
writer_is_live(const WriterInfo *writer, Endpoint *ep)
{
	ServerInfo	info;
	TicketInfo	ticket;
	const char *pgdata;

	if (writer->term == 0 || writer->drained_lsn != InvalidXLogRecPtr)
		return false;
	pgdata = writer_pgdata(writer);
	server_info(pgdata, &info);
	if (info.state != SERVER_RUNNING || !ticket_read(pgdata, &ticket) ||
		strcmp(ticket.boot_id, writer->boot_id) != 0)
		return false;
	endpoint_load(ep, writer->endpoint);
	ep->port = info.port;
	return true;
}

const char *
machine_boot_id(void)
{
	char	   *data = read_small_file("/proc/sys/kernel/random/boot_id", 64, NULL);
	const char *id;

	if (data == NULL)
		die(EXIT_GENERAL, "Mount /proc.", "could not read the machine's boot id");
	data[strcspn(data, "\n")] = '\0';
	id = strf("%s", data);
	free(data);
	return id;
}
