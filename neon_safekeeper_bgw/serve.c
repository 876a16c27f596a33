/*-------------------------------------------------------------------------
 *
 * serve.c
 *	  Replication connections: taken over from the stock walsender, and their
 *	  commands.
 *
 * Nothing in PostgreSQL lets an extension serve replication commands.  But a
 * walsender's start-up ends with the message BackendKeyData, and messages go
 * through PqCommMethods, which can be replaced.  So authentication, pg_hba,
 * SSL, the REPLICATION right, settings and the slot in pg_stat_replication are
 * all stock; then, instead of returning into the stock command loop, the
 * process stays in the one below for the rest of its life.
 *
 * Every replication connection is taken over: this instance's own WAL holds
 * nothing that anybody should copy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <setjmp.h>

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "libpq/auth.h"
#include "libpq/libpq.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "neon_clientmsg.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "serve.h"
#include "serve_private.h"
#include "skwal.h"
#include "slot.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/sinval.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/timeout.h"

typedef struct ServeCommand
{
	NodeTag		tag;
	const char *name;
	void		(*run) (Node *cmd);
} ServeCommand;

static const ServeCommand commands[] = {
	{T_IdentifySystemCmd, "IDENTIFY_SYSTEM", serve_identify_system},
	{T_VariableShowStmt, "SHOW", serve_show},
	{T_TimeLineHistoryCmd, "TIMELINE_HISTORY", serve_timeline_history},
	{T_ReadReplicationSlotCmd, "READ_REPLICATION_SLOT", serve_read_slot},
	{T_CreateReplicationSlotCmd, "CREATE_REPLICATION_SLOT", serve_create_slot},
	{T_DropReplicationSlotCmd, "DROP_REPLICATION_SLOT", serve_drop_slot},
	{T_StartReplicationCmd, "START_REPLICATION", serve_start_replication},
	{T_BaseBackupCmd, "BASE_BACKUP", serve_base_backup},
};

ServeSession serve_session;

static char *option_tenant_id = NULL;
static char *option_timeline_id = NULL;

static ClientAuthentication_hook_type prev_authentication_hook = NULL;
static const PQcommMethods *stock_methods;
static PQcommMethods take_over_methods;

static MemoryContext command_context;
static bool answer_due;			/* the client waits for ReadyForQuery */
static bool skip_until_sync;	/* an error in the extended protocol */

/* ---- settings ---- */

static bool
check_id_option(char **newval, void **extra, GucSource source)
{
	NeonId		id;

	if (*newval == NULL || (*newval)[0] == '\0' || neon_id_parse(*newval, &id))
		return true;
	GUC_check_errdetail("An id has 32 hexadecimal digits.");
	return false;
}

void
serve_define_gucs(void)
{
	DefineCustomStringVariable("neon.tenant_id",
							   "Tenant whose WAL a replication connection reads.",
							   NULL, &option_tenant_id, "",
							   PGC_BACKEND, GUC_DISALLOW_IN_FILE | GUC_NOT_IN_SAMPLE,
							   check_id_option, NULL, NULL);
	DefineCustomStringVariable("neon.timeline_id",
							   "Timeline whose WAL a replication connection reads.",
							   NULL, &option_timeline_id, "",
							   PGC_BACKEND, GUC_DISALLOW_IN_FILE | GUC_NOT_IN_SAMPLE,
							   check_id_option, NULL, NULL);
}

/* ---- who may read what ---- */

/* Options and rights; ends the process (nothing catches errors yet) if they do not do. */
static void
open_session(void)
{
	NeonId		tenant;
	NeonId		timeline;
	const char *role;

	if (!neon_id_parse(option_tenant_id, &tenant) || !neon_id_parse(option_timeline_id, &timeline))
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a replication connection to a safekeeper must name a timeline"),
				 errhint("Add options='-c neon.tenant_id=... -c neon.timeline_id=...' to the connection string.")));

	StartTransactionCommand();
	sk_check_tenant_role(&tenant, true);
	role = GetUserNameFromId(GetSessionUserId(), false);
	if (strcmp(role, SERVE_STORAGE_ROLE) == 0)
	{
		serve_session.pageserver = strcmp(application_name, SERVE_PAGESERVER_NAME) == 0;
		serve_session.peer = strcmp(application_name, SERVE_PEER_NAME) == 0;
	}
	serve_session.tl = sk_open(&tenant, &timeline);
	CommitTransactionCommand();
	readers_register();
}

/* ---- the command loop ---- */

void
serve_housekeeping(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
}

static const ServeCommand *
find_command(NodeTag tag)
{
	for (int i = 0; i < lengthof(commands); i++)
	{
		if (commands[i].tag == tag)
			return &commands[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a safekeeper does not know this replication command")));
}

/* PostgreSQL's own grammar of replication commands. */
static Node *
parse_command(const char *query)
{
	replication_scanner_init(query);
	if (!replication_scanner_is_replication_command())
	{
		replication_scanner_finish();
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot execute SQL commands in a replication connection to a safekeeper"),
				 errhint("Connect without \"replication\" for SQL.")));
	}
	if (replication_yyparse() != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("invalid replication command")));
	replication_scanner_finish();
	return replication_parse_result;
}

static void
run_query(const char *body, int len)
{
	StringInfoData message;
	const char *query;
	const ServeCommand *command;
	Node	   *parsed;

	message.data = unconstify(char *, body);
	message.len = message.maxlen = len;
	message.cursor = 0;
	query = pq_getmsgstring(&message);
	pq_getmsgend(&message);
	query = pstrdup(query);		/* the body goes with the next read */

	debug_query_string = query;
	pgstat_report_activity(STATE_RUNNING, query);
	ereport(log_replication_commands ? LOG : DEBUG1,
			(errmsg("received replication command: %s", query)));
	parsed = parse_command(query);
	command = find_command(nodeTag(parsed));
	set_ps_display(command->name);
	command->run(parsed);
	EndReplicationCommand(command->name);
	debug_query_string = NULL;
}

/* The next message, whole. */
static char
next_message(const char **body, int *len)
{
	char		type;

	for (;;)
	{
		/* a cancel that comes while nothing runs means nothing */
		QueryCancelPending = false;
		serve_housekeeping();
		if (clientmsg_take(&type, body, len))
			return type;
		if (!clientmsg_read())
			clientmsg_wait(WL_SOCKET_READABLE, -1, WAIT_EVENT_CLIENT_READ);
	}
}

static void
serve_message(void)
{
	const char *body;
	int			len;
	char		type;

	if (answer_due)
	{
		answer_due = false;
		pgstat_report_activity(STATE_IDLE, NULL);
		set_ps_display("idle");
		ReportChangedGUCOptions();
		ReadyForQuery(DestRemote);
	}
	type = next_message(&body, &len);
	switch (type)
	{
		case 'Q':
			skip_until_sync = false;
			answer_due = true;
			run_query(body, len);
			break;
		case 'S':
			skip_until_sync = false;
			answer_due = true;
			break;
		case 'H':				/* Flush */
		case 'd':				/* what was under way when a stream ended */
		case 'c':
		case 'f':
			break;
		case 'X':
			whereToSendOutput = DestNone;
			proc_exit(0);
			break;
		case 'B':
		case 'C':
		case 'D':
		case 'E':
		case 'F':
		case 'P':
			if (skip_until_sync)
				break;
			skip_until_sync = type != 'F';
			answer_due = type == 'F';
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("extended query protocol not supported in a replication connection")));
			break;
		default:
			ereport(FATAL,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("invalid frontend message type %d", type)));
	}
}

/* The order of the stock loop's: see PostgresMain. */
static void
recover_from_error(void)
{
	error_context_stack = NULL;
	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	pq_comm_reset();
	EmitErrorReport();
	debug_query_string = NULL;
	AbortCurrentTransaction();
	AtEOXact_Files(false);
	sk_release_all();
	WalSndErrorCleanup();		/* locks, condition variables, state shown */
	skslot_end_use();
	skwal_forget(serve_session.tl);
	MemoryContextSwitchTo(TopMemoryContext);
	FlushErrorState();
	RESUME_INTERRUPTS();
}

static void
serve_loop(void)
{
	sigjmp_buf	local_buffer;

	clientmsg_take_over();
	skslot_register_exit();
	command_context = AllocSetContextCreate(TopMemoryContext, "replication command",
											ALLOCSET_DEFAULT_SIZES);
	answer_due = true;
	if (sigsetjmp(local_buffer, 1) != 0)
		recover_from_error();
	PG_exception_stack = &local_buffer;
	for (;;)
	{
		MemoryContextSwitchTo(command_context);
		MemoryContextReset(command_context);
		serve_message();
	}
}

/* ---- taking over ---- */

static int
take_over_putmessage(char msgtype, const char *s, size_t len)
{
	if (msgtype != 'K')
		return stock_methods->putmessage(msgtype, s, len);
	PqCommMethods = stock_methods;
	open_session();
	(void) stock_methods->putmessage(msgtype, s, len);
	serve_loop();
	return 0;					/* not reached */
}

static void
authentication_hook(Port *port, int status)
{
	if (prev_authentication_hook)
		prev_authentication_hook(port, status);
	if (status != STATUS_OK || !am_walsender)
		return;
	stock_methods = PqCommMethods;
	take_over_methods = *PqCommMethods;
	take_over_methods.putmessage = take_over_putmessage;
	PqCommMethods = &take_over_methods;
}

void
serve_install_hooks(void)
{
	prev_authentication_hook = ClientAuthentication_hook;
	ClientAuthentication_hook = authentication_hook;
}
