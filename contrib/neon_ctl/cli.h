/*-------------------------------------------------------------------------
 *
 * cli.h
 *	  The commands, one function each, by the file that has them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_CLI_H
#define NEON_CTL_CLI_H

#include "options.h"

/* cli_init.c */
extern int	cmd_init(Invocation *inv);

/* cli_services.c */
extern int	cmd_start(Invocation *inv);
extern int	cmd_stop(Invocation *inv);
extern int	cmd_status(Invocation *inv);
extern int	cmd_pageserver_start(Invocation *inv);
extern int	cmd_pageserver_stop(Invocation *inv);
extern int	cmd_pageserver_status(Invocation *inv);
extern int	cmd_pageserver_logs(Invocation *inv);
extern int	cmd_safekeeper_start(Invocation *inv);
extern int	cmd_safekeeper_stop(Invocation *inv);
extern int	cmd_safekeeper_status(Invocation *inv);
extern int	cmd_safekeeper_logs(Invocation *inv);

/* cli_member.c */
extern int	cmd_safekeeper_add(Invocation *inv);
extern int	cmd_safekeeper_replace(Invocation *inv);
extern int	cmd_safekeeper_remove(Invocation *inv);

/* cli_tenant.c */
extern int	cmd_tenant_create(Invocation *inv);
extern int	cmd_tenant_list(Invocation *inv);
extern int	cmd_tenant_config(Invocation *inv);
extern int	cmd_tenant_set_default(Invocation *inv);
extern int	cmd_tenant_delete(Invocation *inv);

/*
 * Options of neon_pageserver.tenant_create or timeline_create as JSON text, with the
 * verifiers that each of them takes.
 */
struct pg_conn;
extern const char *creation_options(struct pg_conn *conn, const Invocation *inv, const char *tenant,
									bool new_tenant);

/* Dies if endpoints of the tenant, or of one of its timelines, are still there. */
extern void check_no_endpoints(const char *tenant, const char *timeline, const char *what);

/* cli_timeline.c */
extern int	cmd_timeline_list(Invocation *inv);
extern int	cmd_timeline_branch(Invocation *inv);
extern int	cmd_timeline_create(Invocation *inv);
extern int	cmd_timeline_rename(Invocation *inv);
extern int	cmd_timeline_delete(Invocation *inv);

/* cli_endpoint.c */
extern int	cmd_endpoint_create(Invocation *inv);
extern int	cmd_endpoint_start(Invocation *inv);
extern int	cmd_endpoint_stop(Invocation *inv);
extern int	cmd_endpoint_restart(Invocation *inv);
extern int	cmd_endpoint_run(Invocation *inv);

/*
 * The same start for a supervisor, if boot_id was the last that may write the
 * branch and was not stopped; else EXIT_SUPERSEDED.
 */
extern int	endpoint_reboot(const char *name, const char *boot_id);

/* cli_endpoint_list.c */
extern int	cmd_endpoint_list(Invocation *inv);
extern int	cmd_endpoint_destroy(Invocation *inv);
extern int	cmd_endpoint_logs(Invocation *inv);
extern int	cmd_endpoint_config(Invocation *inv);

/* cli_layer.c */
extern int	cmd_layer_dump(Invocation *inv);

/* cli_storage.c */
extern int	cmd_storage_verify(Invocation *inv);
extern int	cmd_storage_gc(Invocation *inv);

#endif							/* NEON_CTL_CLI_H */
