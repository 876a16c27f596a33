/*-------------------------------------------------------------------------
 *
 * admission.c
 *	  Who may connect, and when.
 *
 * The storage's own role connects at once.  Others wait until the storage has
 * the boot record, because what they commit before that might be discarded
 * by the next boot.  Connections for physical replication read the files of
 * this data directory or its WAL, so they are for hydrated computes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "coordinator.h"
#include "guard.h"
#include "libpq/auth.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "pageserver.h"
#include "postmaster/postmaster.h"
#include "replication/walsender.h"
#include "utils/guc.h"

/* So long may a stalled storage hold up a shutdown, and its dead stream the next. */
#define STORAGE_SENDER_TIMEOUT	"10s"

static ClientAuthentication_hook_type prev_client_authentication = NULL;

static void
check_walsender(void)
{
	if (am_db_walsender)
		ereport(FATAL,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("logical replication from a compute is not supported"),
				 errdetail("Its slots would not survive the next boot."),
				 errhint("Use pg_dump to copy data to another server.")));
	if (!neon_fully_hydrated())
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("physical replication is not possible before this compute is hydrated"),
				 errdetail("Part of its data is only in the pageserver."),
				 errhint("Run SELECT neon.hydrate() first.")));
}

static void
wait_for_admission(void)
{
	/* leave time for the message before authentication_timeout */
	int			timeout_ms = Min(neon_fetch_timeout, AuthenticationTimeout * 800);
	StorageState state;

	if (storage_wait_admission(timeout_ms))
		return;
	storage_state(&state);
	ereport(FATAL,
			(errcode(ERRCODE_CANNOT_CONNECT_NOW),
			 errmsg("the database system is starting up"),
			 errdetail("Pageserver %s does not stream the WAL of this compute yet%s%s",
					   pageserver_address(), state.problem[0] ? ": " : ".", state.problem),
			 errhint("Check that the pageserver runs, then connect again.")));
}

static void
admit_client(Port *port, int status)
{
	if (prev_client_authentication)
		prev_client_authentication(port, status);
	if (status != STATUS_OK)
		return;
	if (strcmp(port->user_name, NEON_STORAGE_ROLE) == 0)
	{
		if (am_walsender)
			SetConfigOption("wal_sender_timeout", STORAGE_SENDER_TIMEOUT,
							PGC_USERSET, PGC_S_OVERRIDE);
		return;
	}
	wait_for_admission();
	if (am_walsender)
		check_walsender();
}

void
admission_install(void)
{
	prev_client_authentication = ClientAuthentication_hook;
	ClientAuthentication_hook = admit_client;
}
