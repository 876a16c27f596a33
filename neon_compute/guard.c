/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Everything that a compute refuses to do, or does in another way.
 *
 * PostgreSQL does some things to whole files, below the storage manager, and
 * those files have holes here until the compute is hydrated.  Some settings
 * would make the data unsafe.  And some state is not in the WAL, so it would
 * be gone at the next boot.  Refusals of connections are in admission.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/rmgr.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "autoconf.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/tablespace.h"
#include "coordinator.h"
#include "files.h"
#include "guard.h"
#include "localdisk.h"
#include "miscadmin.h"
#include "neon_testpoint.h"
#include "nodes/parsenodes.h"
#include "quorum.h"
#include "replication/slot.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/*
 * Settings that ALTER SYSTEM may not touch: those with only one safe value,
 * those that are decided for a whole boot, and those that the launcher puts
 * on the command line, where ALTER SYSTEM has no effect.
 */
static const char *const fixed_settings[] = {
	"archive_mode", "fsync", "max_slot_wal_keep_size", "restart_after_crash"
};

static const char *const config_settings[] = {
	"full_page_writes", "wal_level", "max_wal_senders", "max_replication_slots",
	"synchronous_standby_names", "shared_preload_libraries", "listen_addresses"
};

/* Recovery, and replication from elsewhere. */
static const char *const recovery_settings[] = {
	"archive_cleanup_command", "hot_standby", "primary_conninfo", "primary_slot_name",
	"promote_trigger_file", "recovery_end_command", "recovery_min_apply_delay",
	"recovery_target", "recovery_target_action", "recovery_target_inclusive",
	"recovery_target_lsn", "recovery_target_name", "recovery_target_time",
	"recovery_target_timeline", "recovery_target_xid", "restore_command"
};

static const char *const launcher_settings[] = {
	"neon.tenant_id", "neon.timeline_id", "neon.endpoint_id", "neon.pageserver_connstring",
	"neon.safekeepers", "neon.safekeeper_connstring", "neon.config_generation",
	"neon.storage_conninfo", "neon.conf_dir",
	"port", "unix_socket_directories",
	"data_directory", "config_file", "hba_file", "ident_file", "external_pid_file"
};

static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

/* What DROP DATABASE found under the name, once it was locked. */
static Oid	dropped_database = InvalidOid;

/* ----------
 * At load
 * ----------
 */

static void
refuse_setting(const char *name, const char *value, const char *why, const char *hint)
{
	ereport(FATAL,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a compute cannot run with \"%s\" set to \"%s\"", name, value),
			 errdetail("%s", why),
			 errhint("%s", hint)));
}

void
guard_check_settings(void)
{
	static const char *const config = "Use \"neon endpoint config\" to change it.";
	static const char *const files = "Remove it from the files in the endpoint's conf directory; \"neon endpoint config\" does not set it.";

	if (wal_level < WAL_LEVEL_REPLICA)
		refuse_setting("wal_level", "minimal",
					   "The storage needs every change in the WAL.", config);
	if (XLogArchiveMode != ARCHIVE_MODE_OFF)
		refuse_setting("archive_mode", GetConfigOption("archive_mode", false, false),
					   "The WAL is archived by the storage.", files);
	if (neon_tenant_id_setting[0] == '\0' || neon_timeline_id_setting[0] == '\0' ||
		neon_endpoint_id_setting[0] == '\0')
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("neon.tenant_id, neon.timeline_id and neon.endpoint_id must be set"),
				 errhint("Use \"neon endpoint start\".")));
	if (max_wal_senders < 1)
		refuse_setting("max_wal_senders", "0", "The storage streams by a WAL sender.",
					   config);
	if (max_replication_slots < 1)
		refuse_setting("max_replication_slots", "0", "The storage needs a replication slot.",
					   config);
}

/* What only this start's kind decides, once the ticket is read. */
void
guard_check_primary_settings(void)
{
	/* what a majority of the safekeepers has needs no disk here */
	if (storage_needed() && !quorum_mode() && !enableFsync)
		refuse_setting("fsync", "off",
					   "Until the pageserver has the WAL, the only copy is in this data directory.",
					   "Use \"neon endpoint start\", which sets it; \"neon endpoint config\" cannot.");
}

void
guard_check_libraries(void)
{
	for (int id = RM_MIN_CUSTOM_ID; id <= RM_MAX_CUSTOM_ID; id++)
		if (RmgrIdExists(id))
			ereport(FATAL,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a compute cannot run with custom WAL resource manager \"%s\"",
							GetRmgr(id).rm_name),
					 errdetail("The storage could not replay its records."),
					 errhint("Remove its library from shared_preload_libraries by \"neon endpoint config\".")));
}

/* ----------
 * ALTER SYSTEM
 * ----------
 */

static bool
is_listed(const char *name, const char *const *list, int n)
{
	for (int i = 0; i < n; i++)
		if (pg_strcasecmp(name, list[i]) == 0)
			return true;
	return false;
}

/* What to do instead of ALTER SYSTEM, or NULL if that is right. */
static const char *
instead_of_alter_system(const char *name)
{
	if (is_listed(name, fixed_settings, lengthof(fixed_settings)))
		return "A compute is safe only with the value that it has.";
	if (quorum_mode() && pg_strcasecmp(name, "synchronous_standby_names") == 0)
		return "It names the safekeepers that make commits durable.";
	if (is_listed(name, recovery_settings, lengthof(recovery_settings)))
		return "A compute gets its data from the storage and follows no other server.";
	if (is_listed(name, config_settings, lengthof(config_settings)))
		return psprintf("Use \"neon endpoint config %s %s=...\".", neon_boot.endpoint, name);
	if (is_listed(name, launcher_settings, lengthof(launcher_settings)))
		return "It is set by \"neon endpoint start\".";
	return NULL;
}

static void
check_alter_system(const AlterSystemStmt *stmt)
{
	const VariableSetStmt *set = stmt->setstmt;
	const char *hint;

	/* taking a setting away is harmless */
	if (set->kind != VAR_SET_VALUE && set->kind != VAR_SET_DEFAULT)
		return;
	hint = instead_of_alter_system(set->name);
	if (hint != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CANT_CHANGE_RUNTIME_PARAM),
				 errmsg("parameter \"%s\" of a compute cannot be changed by ALTER SYSTEM", set->name),
				 errhint("%s", hint)));
}

/* ----------
 * Databases
 * ----------
 */

/* CREATE DATABASE that copies files: change it to one that copies pages. */
static bool
copies_files(const CreatedbStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "strategy") == 0 && option->arg != NULL &&
			pg_strcasecmp(defGetString(option), "file_copy") == 0)
			return true;
	}
	return false;
}

static void
copy_pages_instead(CreatedbStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "strategy") == 0)
			option->arg = (Node *) makeString("wal_log");
	}
	ereport(NOTICE,
			(errmsg("using strategy \"wal_log\" instead of \"file_copy\""),
			 errdetail("Files of a compute may not be complete, so it copies by pages.")));
}

/* The tablespace to which ALTER DATABASE moves a database, or NULL. */
static const char *
target_tablespace(const AlterDatabaseStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "tablespace") == 0)
			return defGetString(option);
	}
	return NULL;
}

static Oid
database_tablespace(Oid db)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(db));
	Oid			tablespace;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	tablespace = ((Form_pg_database) GETSTRUCT(tuple))->dattablespace;
	ReleaseSysCache(tuple);
	return tablespace;
}

/*
 * The database of this name, locked as the command will lock it, so that it
 * keeps its name; InvalidOid if there is none or it is not the user's: then
 * the command will fail, and says why better than we could.
 */
static Oid
lock_own_database(const char *name)
{
	for (;;)
	{
		Oid			db = get_database_oid(name, true);

		if (!OidIsValid(db) || db == MyDatabaseId || !pg_database_ownercheck(db, GetUserId()))
			return InvalidOid;
		LockSharedObject(DatabaseRelationId, db, 0, AccessExclusiveLock);
		if (get_database_oid(name, true) == db)
			return db;
		UnlockSharedObject(DatabaseRelationId, db, 0, AccessExclusiveLock);
	}
}

/* ----------
 * The hooks
 * ----------
 */

typedef struct UtilityCall
{
	const char *query;
	bool		read_only_tree;
	ProcessUtilityContext context;
	ParamListInfo params;
	QueryEnvironment *env;
	DestReceiver *dest;
	QueryCompletion *completion;
} UtilityCall;

static void
run_utility(PlannedStmt *pstmt, const UtilityCall *call)
{
	ProcessUtility_hook_type run = prev_process_utility ? prev_process_utility : standard_ProcessUtility;

	run(pstmt, call->query, call->read_only_tree, call->context, call->params,
		call->env, call->dest, call->completion);
}

static void
run_create_database(PlannedStmt *pstmt, const UtilityCall *call)
{
	/* the tree may belong to a cached plan */
	pstmt = copyObject(pstmt);
	copy_pages_instead(castNode(CreatedbStmt, pstmt->utilityStmt));
	run_utility(pstmt, call);
}

static void
run_drop_database(PlannedStmt *pstmt, const UtilityCall *call)
{
	dropped_database = InvalidOid;
	run_utility(pstmt, call);
	/* its files are gone, whatever becomes of the transaction */
	if (OidIsValid(dropped_database))
		neon_drop_database_map(dropped_database, InvalidOid);
}

static void
end_copy(int code, Datum arg)
{
	neon_end_copy(false);
}

static void
move_database(PlannedStmt *pstmt, const UtilityCall *call, Oid db, Oid from, Oid to)
{
	PG_ENSURE_ERROR_CLEANUP(end_copy, (Datum) 0);
	{
		neon_begin_copy(db, from, to);
		NEON_TEST_POINT("database_whole");
		run_utility(pstmt, call);
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_copy, (Datum) 0);
	neon_end_copy(true);
	if (!NEON_TEST_BUG("kept_map"))
		neon_drop_database_map(db, from);
}

/* It copies the directory, which therefore must be complete. */
static void
run_move_database(PlannedStmt *pstmt, const UtilityCall *call)
{
	const AlterDatabaseStmt *stmt = castNode(AlterDatabaseStmt, pstmt->utilityStmt);
	Oid			db;
	Oid			from;
	Oid			to;

	PreventInTransactionBlock(call->context == PROCESS_UTILITY_TOPLEVEL,
							  "ALTER DATABASE SET TABLESPACE");
	db = lock_own_database(stmt->dbname);
	from = OidIsValid(db) ? database_tablespace(db) : InvalidOid;
	to = get_tablespace_oid(target_tablespace(stmt), true);
	if (OidIsValid(from) && OidIsValid(to) && from != to)
		move_database(pstmt, call, db, from, to);
	else						/* nothing is copied, or the command says why not */
		run_utility(pstmt, call);
}

static void
run_alter_system(PlannedStmt *pstmt, const UtilityCall *call)
{
	check_alter_system(castNode(AlterSystemStmt, pstmt->utilityStmt));
	autoconf_take_edits();
	run_utility(pstmt, call);
	autoconf_keep();
}

static void
guarded_process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
						ProcessUtilityContext context, ParamListInfo params,
						QueryEnvironment *env, DestReceiver *dest, QueryCompletion *completion)
{
	UtilityCall call = {query, read_only_tree, context, params, env, dest, completion};
	Node	   *stmt = pstmt->utilityStmt;

	/* it looks whether the template has files where the new one's are to be */
	if (IsA(stmt, CreatedbStmt))
		files_create_all();
	if (IsA(stmt, CreatedbStmt) && copies_files((CreatedbStmt *) stmt))
		run_create_database(pstmt, &call);
	else if (IsA(stmt, DropdbStmt))
		run_drop_database(pstmt, &call);
	else if (IsA(stmt, AlterDatabaseStmt) && target_tablespace((AlterDatabaseStmt *) stmt) != NULL)
		run_move_database(pstmt, &call);
	else if (IsA(stmt, AlterSystemStmt))
		run_alter_system(pstmt, &call);
	else
		run_utility(pstmt, &call);
}

static void
refuse_unhydrated(const char *what)
{
	if (neon_fully_hydrated())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s is not possible before this compute is hydrated", what),
			 errdetail("Part of its data is only in the pageserver."),
			 errhint("%s", disk_hydration_hint())));
}

static void
check_function(Oid function)
{
	switch (function)
	{
		case F_PG_BACKUP_START:
			refuse_unhydrated("a base backup");
			break;
		case F_PG_READ_BINARY_FILE_TEXT_INT8_INT8_BOOL:
			/* other forms have other uses; this one is how pg_rewind copies relations */
			refuse_unhydrated("reading parts of files");
			break;
		case F_PG_CREATE_PHYSICAL_REPLICATION_SLOT:
		case F_PG_COPY_PHYSICAL_REPLICATION_SLOT_NAME_NAME:
		case F_PG_COPY_PHYSICAL_REPLICATION_SLOT_NAME_NAME_BOOL:
			refuse_unhydrated("a replication slot");
			break;
		case F_PG_CREATE_LOGICAL_REPLICATION_SLOT:
		case F_PG_COPY_LOGICAL_REPLICATION_SLOT_NAME_NAME:
		case F_PG_COPY_LOGICAL_REPLICATION_SLOT_NAME_NAME_BOOL:
		case F_PG_COPY_LOGICAL_REPLICATION_SLOT_NAME_NAME_BOOL_NAME:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("logical replication slots on a compute are not supported"),
					 errdetail("They would not survive the next boot."),
					 errhint("To copy data to another server use pg_dump, of a branch or a static endpoint if writing goes on.")));
			break;
		case F_PG_REPLICATION_SLOT_ADVANCE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("replication slots of a compute cannot be advanced"),
					 errdetail("The WAL behind a slot may be the only copy."),
					 errhint("Let its consumer confirm what it has, or drop a slot that has none.")));
			break;
		case F_PG_PROMOTE:
			/* the server refuses it on any other */
			if (neon_boot.kind != NEON_STATIC)
				break;
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a static endpoint cannot be promoted"),
					 errdetail("Nothing would store what it writes."),
					 errhint("Use \"neon timeline branch\" or \"neon endpoint start --ephemeral\".")));
			break;
		default:
			break;
	}
}

/*
 * The storage streams as this role.  Without it, or with another password
 * (which the restore of another server's dump would set), no compute could
 * start on this timeline any more.
 */
static void
protect_storage_role(Oid role)
{
	if (role == get_role_oid(NEON_STORAGE_ROLE, true))
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("role \"%s\" cannot be changed or dropped", NEON_STORAGE_ROLE),
				 errdetail("The pageserver streams the WAL of this compute with it."),
				 errhint("Use another role; when you restore a dump of roles, leave this one out.")));
}

/* Is a password changed that there was?  Where there is none, none is asked for. */
static bool
changes_password(Oid role, HeapTuple new, TupleDesc desc)
{
	HeapTuple	old = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		had_none = true;
	bool		has_none;
	Datum		before = (Datum) 0;
	Datum		after = heap_getattr(new, Anum_pg_authid_rolpassword, desc, &has_none);
	bool		changes;

	if (!HeapTupleIsValid(old))
		return false;
	before = SysCacheGetAttr(AUTHOID, old, Anum_pg_authid_rolpassword, &had_none);
	changes = !had_none &&
		(has_none || strcmp(TextDatumGetCString(before), TextDatumGetCString(after)) != 0);
	ReleaseSysCache(old);
	return changes;
}

/* Can "neon" use it as it has just been made? */
static bool
is_usable(Oid role, HeapTuple new, TupleDesc desc)
{
	const FormData_pg_authid *form = (Form_pg_authid) GETSTRUCT(new);
	bool		no_end;
	Datum		end = heap_getattr(new, Anum_pg_authid_rolvaliduntil, desc, &no_end);

	return strcmp(NameStr(form->rolname), NEON_SUPERUSER_ROLE) == 0 &&
		form->rolsuper && form->rolcanlogin && form->rolconnlimit != 0 &&
		(no_end || TIMESTAMP_IS_NOEND(DatumGetTimestampTz(end))) &&
		!changes_password(role, new, desc);
}

/* The role was changed, but the caches do not know yet. */
static bool
stays_usable(Oid role)
{
	Relation	rel = table_open(AuthIdRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	new;
	bool		usable;

	ScanKeyInit(&key, Anum_pg_authid_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(role));
	scan = systable_beginscan(rel, AuthIdOidIndexId, true, SnapshotSelf, 1, &key);
	new = systable_getnext(scan);
	usable = HeapTupleIsValid(new) && is_usable(role, new, RelationGetDescr(rel));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return usable;
}

/* "neon" connects as this superuser, with the tenant's password, to start an endpoint and to branch. */
static void
protect_superuser(ObjectAccessType access, Oid role)
{
	if (role != get_role_oid(NEON_SUPERUSER_ROLE, true) ||
		(access == OAT_POST_ALTER && stays_usable(role)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_RESERVED_NAME),
			 errmsg("role \"%s\" must stay a superuser that can log in, with its name and password", NEON_SUPERUSER_ROLE),
			 errdetail("The command \"neon\" connects with it; without it this endpoint could not be started again."),
			 errhint("Use another role; when you restore a dump of roles, leave this one out.")));
}

static void
guarded_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
	if (access == OAT_FUNCTION_EXECUTE && class_id == ProcedureRelationId)
		check_function(object_id);
	else if ((access == OAT_DROP || access == OAT_POST_ALTER) && class_id == AuthIdRelationId)
	{
		protect_storage_role(object_id);
		protect_superuser(access, object_id);
	}
	else if (access == OAT_DROP && class_id == DatabaseRelationId)
		dropped_database = object_id;
}

void
guard_install(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = guarded_process_utility;
	prev_object_access = object_access_hook;
	object_access_hook = guarded_object_access;
}
