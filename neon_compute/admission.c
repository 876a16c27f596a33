/*-------------------------------------------------------------------------
 *
 * admission.c
 *	  Who may connect, and when.
 *
 * The storage's own role connects at once.  Others wait until the storage has
 * the boot record, because what they commit before that might be discarded
 * by the next boot.  Connections for physical replication read the files of
 * this data directory or its WAL, so they are for hydrated computes, and take no
 * base backup that would lack tablespaces.
 *
 * In quorum mode what counts for the quorum is a WAL sender with a member's
 * name, so these names are for the storage's role only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/stat.h>

#include "access/parallel.h"
#include "coordinator.h"
#include "guard.h"
#include "lease.h"
#include "localdisk.h"
#include "libpq/auth.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "pageserver.h"
#include "pgstat.h"
#include "postmaster/postmaster.h"
#include "quorum.h"
#include "redial.h"
#include "replication/slot.h"
#include "replication/walsender.h"
#include "settings.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "storage/spin.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

/* So long may a stalled storage hold up a shutdown, and its dead stream the next. */
#define STORAGE_SENDER_TIMEOUT	"10s"
#define MEMBER_SENDER_TIMEOUT	"5s"

#define HOLDER_TIMEOUT_MS		5000
#define HOLDER_POLL_MS			10

static GucStringCheckHook prev_check_application_name = NULL;

/* What a WAL sender logs of each command before it runs it. */
#define COMMAND_MESSAGE			"received replication command: %s"

static ClientAuthentication_hook_type prev_client_authentication = NULL;
static emit_log_hook_type prev_emit_log = NULL;
static bool commands_are_logged;

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
				 errhint("%s", disk_hydration_hint())));
}

/* ----------
 * Base backups in tar format
 * ----------
 */

/* Tablespaces are directories here, but for one made in this life at a LOCATION. */
static bool
has_inner_tablespaces(void)
{
	DIR		   *dir = AllocateDir("pg_tblspc");
	struct dirent *de;
	bool		found = false;

	while (!found && (de = ReadDir(dir, "pg_tblspc")) != NULL)
	{
		char		path[MAXPGPATH];
		struct stat st;

		snprintf(path, sizeof(path), "pg_tblspc/%s", de->d_name);
		found = de->d_name[0] != '.' && lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
	}
	FreeDir(dir);
	return found;
}

/* pg_basebackup -Ft asks for this option, and -Fp does not. */
static bool
is_tar_backup(const char *command)
{
	command += strspn(command, " \t\n\r\f\v");
	return strncmp(command, "BASE_BACKUP", strlen("BASE_BACKUP")) == 0 &&
		strcasestr(command, "TABLESPACE_MAP") != NULL;
}

/*
 * With that option PostgreSQL sends the tablespaces that pg_tblspc has links
 * to, each by itself, and leaves out the directories that it has, without a word.
 * A WAL sender's commands pass no hook but this one.
 */
static void
refuse_tar_backup(ErrorData *edata)
{
	if (edata->message_id != NULL && strcmp(edata->message_id, COMMAND_MESSAGE) == 0)
	{
		if (debug_query_string != NULL && is_tar_backup(debug_query_string) && has_inner_tablespaces())
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a base backup in tar format is not possible, as there are tablespaces"),
					 errdetail("They are directories in the data directory, which PostgreSQL would leave out of it."),
					 errhint("Use the plain format (pg_basebackup -Fp).")));
		edata->output_to_server = commands_are_logged;
	}
	if (prev_emit_log && edata->output_to_server)
		prev_emit_log(edata);
}

/* This session logs its commands, for the hook to see them. */
static void
watch_backups(void)
{
	commands_are_logged = log_replication_commands;
	SetConfigOption("log_replication_commands", "on", PGC_SUSET, PGC_S_OVERRIDE);
	if (log_min_messages > ERROR)
		SetConfigOption("log_min_messages", "error", PGC_SUSET, PGC_S_OVERRIDE);
	prev_emit_log = emit_log_hook;
	emit_log_hook = refuse_tar_backup;
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
	if (quorum_mode())
		ereport(FATAL,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("the database system is starting up"),
				 errdetail("No majority of the safekeepers streams the WAL of this compute yet%s%s",
						   state.problem[0] ? ": " : ".", state.problem),
				 errhint("Check that the safekeepers run, then connect again.")));
	ereport(FATAL,
			(errcode(ERRCODE_CANNOT_CONNECT_NOW),
			 errmsg("the database system is starting up"),
			 errdetail("Pageserver %s does not stream the WAL of this compute yet%s%s",
					   pageserver_address(), state.problem[0] ? ": " : ".", state.problem),
			 errhint("Check that the pageserver runs, then connect again.")));
}

/* ----------
 * Members of the quorum
 * ----------
 */

/*
 * Who may have a member's name: a session of the storage's role.  (A parallel
 * worker takes over what its leader has.)
 */
static bool
check_application_name(char **newval, void **extra, GucSource source)
{
	if (prev_check_application_name && !prev_check_application_name(newval, extra, source))
		return false;
	if (!quorum_is_member_name(*newval) || IsParallelWorker() ||
		(MyProcPort != NULL && strcmp(MyProcPort->user_name, NEON_STORAGE_ROLE) == 0))
		return true;
	GUC_check_errcode(ERRCODE_RESERVED_NAME);
	GUC_check_errmsg("application name \"%s\" is reserved", *newval);
	GUC_check_errdetail("Names that begin with \"" NEON_MEMBER_PREFIX "\" are those of the safekeepers of this compute.");
	return false;
}

static void
reserve_names(void)
{
	struct config_string *setting = (struct config_string *) setting_find("application_name", PGC_STRING);

	if (*setting->variable && quorum_is_member_name(*setting->variable))
		ereport(FATAL,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("application name \"%s\" is reserved", *setting->variable),
				 errhint("Use \"neon endpoint config\" to change it.")));
	prev_check_application_name = setting->check_hook;
	setting->check_hook = check_application_name;
}

/* The name in the client's startup packet, or NULL. */
static const char *
requested_name(const Port *port)
{
	ListCell   *lc = list_head(port->guc_options);

	while (lc != NULL)
	{
		const char *name = lfirst(lc);
		ListCell   *value = lnext(port->guc_options, lc);

		if (value == NULL)
			return NULL;
		if (pg_strcasecmp(name, "application_name") == 0)
			return lfirst(value);
		lc = lnext(port->guc_options, value);
	}
	return NULL;
}

static pid_t
slot_holder(const char *name)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(name, true);
	pid_t		pid = 0;

	if (slot != NULL)
	{
		SpinLockAcquire(&slot->mutex);
		pid = slot->active_pid;
		SpinLockRelease(&slot->mutex);
	}
	return pid;
}

/*
 * A member has one stream.  When it connects again, the WAL sender of the old
 * one may not have noticed the end, and keeps the slot until it times out.
 */
static void
end_stale_holder(const char *name)
{
	pid_t		pid = slot_holder(name);

	if (pid == 0)
		return;
	ereport(LOG,
			(errmsg("\"%s\" connects again: WAL sender %d of its old connection is terminated", name, (int) pid)));
	(void) kill(pid, SIGTERM);
	for (int waited = 0; waited < HOLDER_TIMEOUT_MS && slot_holder(name) == pid; waited += HOLDER_POLL_MS)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 HOLDER_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * It would release commits by the majority of an older configuration.  A
 * process has what the postmaster had read when it was forked.
 */
static void
check_generation(void)
{
	if (neon_config_generation < quorum_wanted_generation())
		ereport(FATAL,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("this server has not read configuration %d of the safekeepers yet",
						quorum_wanted_generation())));
}

static void
admit_storage(const Port *port)
{
	const char *name = requested_name(port);

	if (!am_walsender)
		return;
	/* the pageserver itself, so it is there */
	if (!quorum_mode())
		redial_now();
	SetConfigOption("wal_sender_timeout", quorum_mode() ? MEMBER_SENDER_TIMEOUT : STORAGE_SENDER_TIMEOUT,
					PGC_USERSET, PGC_S_OVERRIDE);
	if (quorum_mode())
		check_generation();
	if (quorum_mode() && name != NULL && quorum_is_member_name(name))
		end_stale_holder(name);
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
		admit_storage(port);
		return;
	}
	wait_for_admission();
	lease_check_connection();
	if (am_walsender)
	{
		check_walsender();
		watch_backups();
	}
}

void
admission_install(void)
{
	if (quorum_mode())
		reserve_names();
	prev_client_authentication = ClientAuthentication_hook;
	ClientAuthentication_hook = admit_client;
}
