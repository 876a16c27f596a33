/*-------------------------------------------------------------------------
 *
 * acknowledge.c
 *	  A commit is told to be done when a majority has it, and not before.
 *
 * PostgreSQL ends the wait for the quorum when the statement is cancelled,
 * and then says COMMIT with a warning: the transaction is on the local disk
 * and becomes visible.  Here the local disk is a cache, and the next boot
 * would not know of that transaction.  So cancels (the client's, those of
 * pg_cancel_backend, statement_timeout and lock_timeout: all come as SIGINT)
 * are held back while a transaction commits, and take effect after it.  What
 * waits for the quorum looks at QueryCancelPending itself, so the signal must
 * not set it.  Termination still ends the session, without an answer.
 *
 * For the same reason the values of synchronous_commit that wait for less
 * than the quorum's disks, local and remote_write, mean on.  off keeps its
 * meaning.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "acknowledge.h"
#include "coordinator.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "quorum.h"
#include "settings.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/timeout.h"

/* Written by the process, read by its signal handler, and the other way round. */
static volatile sig_atomic_t holding = false;
static volatile sig_atomic_t held = false;

static pqsigfunc cancel_handler = NULL; /* what SIGINT did before */
static GucEnumCheckHook prev_check_synchronous_commit = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

/* ----------
 * Cancels
 * ----------
 */

static void
handle_cancel(SIGNAL_ARGS)
{
	if (holding)
		held = true;
	else
		cancel_handler(postgres_signal_arg);
}

/*
 * Once a process: backends and workers set their handler before they can run
 * a transaction.  Workers without a handler have no cancels.
 */
static void
take_over_signal(void)
{
	pqsigfunc	previous;

	if (cancel_handler != NULL)
		return;
	/* nothing may arrive while it is not yet known where to pass it on */
	holding = true;
	previous = pqsignal(SIGINT, handle_cancel);
	if (previous == SIG_IGN || previous == SIG_DFL)
		pqsignal(SIGINT, previous);
	else
		cancel_handler = previous;
}

/*
 * From here on no cancel is noticed.  One that came before ends the
 * transaction now, if it can be; else it is held back like the others.
 */
static void
hold_cancels(void)
{
	if (holding)
		return;
	take_over_signal();
	holding = true;
	if (QueryCancelPending)
		CHECK_FOR_INTERRUPTS();
	if (QueryCancelPending)
	{
		held = true;
		QueryCancelPending = false;
	}
}

/*
 * Was what came the timeout of a statement that is over now?  PostgreSQL would
 * report it to a client that has its answer already and has asked nothing.
 */
static bool
is_late_timeout(void)
{
	bool		lock;
	bool		statement;

	/* a procedure, VACUUM, CREATE INDEX CONCURRENTLY: goes on after the commit */
	if (ActivePortal != NULL)
		return false;
	lock = get_timeout_indicator(LOCK_TIMEOUT, true);
	statement = get_timeout_indicator(STATEMENT_TIMEOUT, true);
	return lock || statement;
}

/* What was held back takes effect when PostgreSQL looks next. */
static void
release_cancels(void)
{
	if (!holding)
		return;
	holding = false;
	if (!held)
		return;
	held = false;
	if (!is_late_timeout())
	{
		InterruptPending = true;
		QueryCancelPending = true;
	}
}

static void
acknowledge_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			hold_cancels();
			break;
		case XACT_EVENT_COMMIT:
			release_cancels();
			if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
				coordinator_notice_commit();
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			release_cancels();
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			break;
	}
}

static bool
ends_prepared(const PlannedStmt *pstmt)
{
	const TransactionStmt *stmt = (const TransactionStmt *) pstmt->utilityStmt;

	return IsA(stmt, TransactionStmt) &&
		(stmt->kind == TRANS_STMT_COMMIT_PREPARED || stmt->kind == TRANS_STMT_ROLLBACK_PREPARED);
}

/*
 * A prepared transaction ends while the command runs, without an event.  The
 * command is not in a block, so its own transaction ends next and releases.
 */
static void
acknowledged_process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
							 ProcessUtilityContext context, ParamListInfo params,
							 QueryEnvironment *env, DestReceiver *dest, QueryCompletion *completion)
{
	ProcessUtility_hook_type run = prev_process_utility ? prev_process_utility : standard_ProcessUtility;

	if (ends_prepared(pstmt) && !IsTransactionBlock())
		hold_cancels();
	run(pstmt, query, read_only_tree, context, params, env, dest, completion);
}

/* ----------
 * synchronous_commit
 * ----------
 */

static bool
waits_for_less(int value)
{
	return value == SYNCHRONOUS_COMMIT_LOCAL_FLUSH || value == SYNCHRONOUS_COMMIT_REMOTE_WRITE;
}

static bool
check_synchronous_commit(int *newval, void **extra, GucSource source)
{
	if (prev_check_synchronous_commit && !prev_check_synchronous_commit(newval, extra, source))
		return false;
	if (waits_for_less(*newval))
		*newval = SYNCHRONOUS_COMMIT_ON;
	return true;
}

static void
raise_synchronous_commit(void)
{
	struct config_enum *setting = (struct config_enum *) setting_find("synchronous_commit", PGC_ENUM);

	prev_check_synchronous_commit = setting->check_hook;
	setting->check_hook = check_synchronous_commit;
	/* the files were read before */
	if (waits_for_less(setting->reset_val))
		setting->reset_val = SYNCHRONOUS_COMMIT_ON;
	if (waits_for_less(*setting->variable))
	{
		*setting->variable = SYNCHRONOUS_COMMIT_ON;
		setting->assign_hook(SYNCHRONOUS_COMMIT_ON, setting->gen.extra);
	}
}

void
acknowledge_install(void)
{
	if (!quorum_mode())
		return;
	raise_synchronous_commit();
	RegisterXactCallback(acknowledge_transaction, NULL);
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = acknowledged_process_utility;
}
