/*-------------------------------------------------------------------------
 *
 * init.c
 *	  Loading neon.so: the order in which everything is checked and installed,
 *	  and the settings of the control half.
 *
 * All of it runs in the postmaster.  _PG_init decides whether this server may
 * run at all and changes nothing on disk, since "postgres -C" comes here too;
 * the shared memory hook then uses up the boot ticket.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "acknowledge.h"
#include "coordinator.h"
#include "diskhold.h"
#include "evict.h"
#include "fetchlog.h"
#include "fmgr.h"
#include "guard.h"
#include "lease.h"
#include "miscadmin.h"
#include "neon.h"
#include "pace.h"
#include "quorum.h"
#include "saved.h"
#include "storage/ipc.h"
#include "ticket.h"
#include "utils/guc.h"
#include "walkeep.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

NeonBoot	neon_boot;

char	   *neon_tenant_id_setting;
char	   *neon_timeline_id_setting;
char	   *neon_endpoint_id_setting;
char	   *neon_storage_conninfo;
char	   *neon_conf_dir;
int			neon_max_unflushed_wal = 1024;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static bool
check_id(char **newval, void **extra, GucSource source)
{
	NeonId		id;

	if (**newval == '\0' || neon_id_parse(*newval, &id))
		return true;
	GUC_check_errdetail("An id has 32 hexadecimal digits.");
	return false;
}

static void
define_identity_settings(void)
{
	DefineCustomStringVariable("neon.tenant_id",
							   "Tenant whose data this compute serves.",
							   NULL, &neon_tenant_id_setting, "",
							   PGC_POSTMASTER, 0, check_id, NULL, NULL);
	DefineCustomStringVariable("neon.timeline_id",
							   "Timeline that this compute serves.",
							   NULL, &neon_timeline_id_setting, "",
							   PGC_POSTMASTER, 0, check_id, NULL, NULL);
	DefineCustomStringVariable("neon.endpoint_id",
							   "Name of the endpoint that this compute is.",
							   NULL, &neon_endpoint_id_setting, "",
							   PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("neon.conf_dir",
							   "Directory that keeps the file written by ALTER SYSTEM.",
							   "Empty means that it is lost with the data directory.",
							   &neon_conf_dir, "",
							   PGC_POSTMASTER, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
}

static void
define_storage_settings(void)
{
	DefineCustomStringVariable("neon.storage_conninfo",
							   "How the storage connects to this compute.",
							   NULL, &neon_storage_conninfo, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomIntVariable("neon.max_unflushed_wal",
							"WAL that the storage may lack before writers are held.",
							NULL, &neon_max_unflushed_wal, 1024, 1, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	walkeep_define_settings();
}

/*
 * Settings that must not be what a user may have set them to.  The highest
 * source below a session's SET: configuration files no longer matter.
 */
static void
override_settings(void)
{
	SetConfigOption("restart_after_crash", "off", PGC_POSTMASTER, PGC_S_OVERRIDE);
	SetConfigOption("max_slot_wal_keep_size", "-1", PGC_POSTMASTER, PGC_S_OVERRIDE);
	if (neon_boot.kind != NEON_STATIC)
		return;
	/* recovery looks at pg_tblspc and wants no directories there; ours are */
	SetConfigOption("allow_in_place_tablespaces", "on", PGC_SUSET, PGC_S_OVERRIDE);
	/* no WAL will come: recovery, which looks for it again and again, logs that each time */
	SetConfigOption("wal_retrieve_retry_interval", "1d", PGC_SIGHUP, PGC_S_OVERRIDE);
}

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	neon_smgr_request_shmem();
	coordinator_request_shmem();
	quorum_request_shmem();
	lease_request_shmem();
	saver_request_shmem();
	pace_request_shmem();
	throttle_request_shmem();
}

static void
startup_shmem(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	guard_check_libraries();
	neon_smgr_selftest();
	disk_check_start();
	ticket_consume();
	neon_smgr_shmem_startup();
	coordinator_shmem_startup();
	quorum_shmem_startup();
	lease_shmem_startup();
	saver_shmem_startup();
	pace_shmem_startup();
	throttle_shmem_startup();
}

/* The library makes sense only as part of the server from its start. */
static void
check_load_context(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"neon\" must be loaded at server start"),
				 errdetail("It is not named in shared_preload_libraries of this server."),
				 errhint("Use \"neon endpoint start\".")));
	if (!IsPostmasterEnvironment)
		ereport(FATAL,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a compute cannot run in single-user mode"),
				 errhint("Use \"neon endpoint start\".")));
}

void
_PG_init(void)
{
	check_load_context();

	define_identity_settings();
	define_storage_settings();
	quorum_define_settings();
	saver_define_settings();
	fetchlog_define_settings();
	neon_smgr_define_gucs();
	MarkGUCPrefixReserved("neon");

	guard_check_settings();
	ticket_validate();
	override_settings();
	quorum_check_settings();
	guard_check_primary_settings();

	neon_smgr_install();
	neon_files_register_worker();
	neon_hydration_register_worker();
	evict_register_worker();
	coordinator_register_worker();
	bootlease_register_worker();
	saver_register_worker();

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;

	guard_install();
	admission_install();
	lease_install();
	/* called in the other order: writers are held while they can be cancelled */
	acknowledge_install();
	throttle_install();
	diskhold_install();
	fetchlog_install();
}
