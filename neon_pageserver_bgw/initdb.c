/*-------------------------------------------------------------------------
 *
 * initdb.c
 *	  A fresh data directory, made by the instance's own programs.
 *
 * initdb and then a single-user server run as children of this process, each
 * in a process group of its own that is killed if this process fails or ends.
 * Nothing secret is in their arguments: statements go through standard input.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "access/xlog.h"
#include "initdb.h"
#include "lib/stringinfo.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "pgstat.h"
#include "port.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define CHILD_TIMEOUT_MS	(10 * 60 * 1000)
#define CHILD_OUTPUT_MAX	(16 * 1024)

typedef struct Child
{
	pid_t		pid;			/* 0: none, or already reaped */
	int			out;			/* its output, or -1 */
} Child;

void
initdb_default_options(InitdbOptions *options)
{
	memset(options, 0, sizeof(*options));
	strlcpy(options->locale, "C.UTF-8", sizeof(options->locale));
	strlcpy(options->encoding, "UTF8", sizeof(options->encoding));
	options->segsize_mb = 16;
}

/* In the child: nothing of the server's may leak into the program. */
static void
child_exec(char *const argv[], int in, int out, pid_t parent)
{
	sigset_t	none;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(126);
	if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
		dup2(out, STDERR_FILENO) < 0)
		_exit(126);
	closefrom(STDERR_FILENO + 1);
	for (int sig = 1; sig < 32; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(argv[0], argv);
	_exit(127);
}

/*
 * Starts the program with input (less than a pipe holds) as its standard
 * input.
 */
static void
child_start(Child *child, char *const argv[], const char *input)
{
	int			in[2];
	int			out[2];
	pid_t		parent = getpid();
	size_t		len = strlen(input);
	bool		written;

	if (pipe2(in, O_CLOEXEC) < 0)
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not create a pipe: %m")));
	if (pipe2(out, O_CLOEXEC) < 0)
	{
		close(in[0]);
		close(in[1]);
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not create a pipe: %m")));
	}
	fcntl(in[1], F_SETFL, O_NONBLOCK);
	written = write(in[1], input, len) == (ssize_t) len;
	close(in[1]);

	child->pid = written ? fork() : -1;
	if (child->pid == 0)
		child_exec(argv, in[0], out[1], parent);
	close(in[0]);
	close(out[1]);
	if (child->pid < 0)
	{
		child->pid = 0;
		close(out[0]);
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not start program \"%s\": %m", argv[0])));
	}
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	child->out = out[0];
}

static void
child_kill(int code, Datum arg)
{
	Child	   *child = (Child *) DatumGetPointer(arg);

	if (child->pid != 0)
	{
		kill(-child->pid, SIGKILL);
		kill(child->pid, SIGKILL);
		while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
			;
		child->pid = 0;
	}
	if (child->out >= 0)
		close(child->out);
	child->out = -1;
}

/* Sleeps until there is output, something happened to us, or 100 ms passed. */
static void
child_wait_event(Child *child, TimestampTz deadline, const char *program)
{
	int			events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;

	if (child->out >= 0)
		events |= WL_SOCKET_READABLE;
	if (WaitLatchOrSocket(MyLatch, events, child->out >= 0 ? child->out : PGINVALID_SOCKET,
						  100, PG_WAIT_EXTENSION) & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (neon_clock() > deadline)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("program \"%s\" did not finish in time", program)));
}

/* Reads all that the program prints; only the last part is kept. */
static void
child_read_output(Child *child, StringInfo output, TimestampTz deadline, const char *program)
{
	char		chunk[1024];

	while (child->out >= 0)
	{
		ssize_t		n = read(child->out, chunk, sizeof(chunk));

		if (n > 0)
		{
			appendBinaryStringInfo(output, chunk, n);
			if (output->len > CHILD_OUTPUT_MAX)
			{
				int			drop = output->len - CHILD_OUTPUT_MAX / 2;

				memmove(output->data, output->data + drop, output->len - drop + 1);
				output->len -= drop;
			}
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		{
			child_wait_event(child, deadline, program);
			continue;
		}
		close(child->out);
		child->out = -1;
	}
}

/* The program's exit status as of waitpid. */
static int
child_reap(Child *child, TimestampTz deadline, const char *program)
{
	for (;;)
	{
		int			status;
		pid_t		pid = waitpid(child->pid, &status, WNOHANG);

		if (pid == child->pid)
		{
			child->pid = 0;
			return status;
		}
		if (pid < 0 && errno != EINTR)
			ereport(ERROR,
					(errcode(ERRCODE_SYSTEM_ERROR),
					 errmsg("could not wait for program \"%s\": %m", program)));
		child_wait_event(child, deadline, program);
	}
}

/* The first line that tells of an error; the whole text if there is none. */
static char *
first_complaint(char *text)
{
	static const char *const marks[] = {"error: ", "ERROR: ", "FATAL: ", "PANIC: "};
	char	   *line = text;

	while (line != NULL)
	{
		char	   *next = strchr(line, '\n');
		size_t		len = next ? next - line : strlen(line);

		for (int i = 0; i < lengthof(marks); i++)
		{
			char	   *mark = strstr(line, marks[i]);

			if (mark != NULL && mark < line + len)
				return line;
		}
		line = next ? next + 1 : NULL;
	}
	return text;
}

/* What the user should read: the complaint without blank lines at its end. */
static char *
tidy_output(StringInfo output)
{
	while (output->len > 0 && isspace((unsigned char) output->data[output->len - 1]))
		output->data[--output->len] = '\0';
	if (output->len == 0)
		return pstrdup("It printed nothing.");
	/* what a program printed may be in any encoding */
	for (char *p = output->data; *p; p++)
		if (IS_HIGHBIT_SET(*p))
			*p = '?';
	return first_complaint(output->data);
}

static void
run_program(char *const argv[], const char *input, const char *what)
{
	Child		child = {0, -1};
	StringInfoData output;
	TimestampTz deadline = TimestampTzPlusMilliseconds(neon_clock(), CHILD_TIMEOUT_MS);
	int			status = 0;

	initStringInfo(&output);
	PG_ENSURE_ERROR_CLEANUP(child_kill, PointerGetDatum(&child));
	{
		child_start(&child, argv, input);
		child_read_output(&child, &output, deadline, argv[0]);
		status = child_reap(&child, deadline, argv[0]);
	}
	PG_END_ENSURE_ERROR_CLEANUP(child_kill, PointerGetDatum(&child));

	if (status != 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("%s failed: %s", what, wait_result_to_str(status)),
				 errdetail_internal("%s", tidy_output(&output))));
}

/* Path of a program beside the running server's. */
static void
sibling_program(const char *name, char *path)
{
	strlcpy(path, my_exec_path, MAXPGPATH);
	get_parent_directory(path);
	join_path_components(path, path, name);
	if (access(path, X_OK) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not find program \"%s\": %m", path)));
}

static void
run_initdb(const char *dir, const InitdbOptions *options)
{
	char		program[MAXPGPATH];
	char	   *argv[12];
	int			n = 0;

	sibling_program("initdb", program);
	argv[n++] = program;
	argv[n++] = psprintf("--pgdata=%s", dir);
	argv[n++] = "--username=cloud_admin";
	argv[n++] = "--auth=trust";
	argv[n++] = "--no-sync";
	argv[n++] = "--no-instructions";
	argv[n++] = psprintf("--encoding=%s", options->encoding);
	argv[n++] = psprintf("--locale=%s", options->locale);
	argv[n++] = psprintf("--wal-segsize=%d", options->segsize_mb);
	if (options->checksums)
		argv[n++] = "--data-checksums";
	argv[n] = NULL;
	Assert(n < lengthof(argv));
	run_program(argv, "", "initdb");
}

static void
append_password(StringInfo sql, const char *role, const char *verifier)
{
	if (verifier[0] != '\0')
		appendStringInfo(sql, "ALTER ROLE %s PASSWORD %s;\n",
						 role, quote_literal_cstr(verifier));
}

/* Arguments of a program. */
typedef struct Arguments
{
	char	   *argv[64];
	int			n;
} Arguments;

static void
add_argument(Arguments *a, char *arg)
{
	Assert(a->n < lengthof(a->argv) - 1);
	a->argv[a->n++] = arg;
	a->argv[a->n] = NULL;
}

static void
add_setting(Arguments *a, const char *name, const char *value)
{
	add_argument(a, "-c");
	add_argument(a, psprintf("%s=%s", name, value));
}

static void
add_number(Arguments *a, const char *name, int value)
{
	add_setting(a, name, psprintf("%d", value));
}

/* A server of our own settings, whatever the directory's are. */
static void
begin_single_user(Arguments *a, const char *dir)
{
	a->n = 0;
	add_argument(a, my_exec_path);
	add_argument(a, "--single");
	add_argument(a, "-F");
	add_argument(a, "-D");
	add_argument(a, unconstify(char *, dir));
	add_setting(a, "exit_on_error", "on");
	add_setting(a, "search_path", "pg_catalog");
	add_setting(a, "log_min_error_statement", "panic");
	add_setting(a, "log_statement", "none");
	add_setting(a, "shared_preload_libraries", "");
	add_setting(a, "max_parallel_workers", "0");
}

/* Roles; also the first start with the settings that computes use. */
static void
run_single_user(const char *dir, const InitdbOptions *options)
{
	StringInfoData sql;
	Arguments	a;

	begin_single_user(&a, dir);
	add_setting(&a, "wal_level", "replica");
	add_argument(&a, "postgres");
	initStringInfo(&sql);
	appendStringInfoString(&sql, "CREATE ROLE neon_storage LOGIN REPLICATION;\n");
	append_password(&sql, "neon_storage", options->storage_verifier);
	append_password(&sql, "cloud_admin", options->superuser_verifier);
	run_program(a.argv, sql.data, "setting up the new data directory");
}

/* What pg_control knows stays as it is: a standby depends on it, and commit timestamps. */
static void
add_control_settings(Arguments *a, const ControlFileData *control)
{
	add_setting(a, "wal_level", control->wal_level == WAL_LEVEL_LOGICAL ? "logical" : "replica");
	add_number(a, "max_connections", control->MaxConnections);
	add_number(a, "max_worker_processes", control->max_worker_processes);
	add_number(a, "max_wal_senders", control->max_wal_senders);
	add_number(a, "max_prepared_transactions", control->max_prepared_xacts);
	add_number(a, "max_locks_per_transaction", control->max_locks_per_xact);
	add_setting(a, "wal_log_hints", control->wal_log_hints ? "on" : "off");
	add_setting(a, "track_commit_timestamp", control->track_commit_timestamp ? "on" : "off");
	add_setting(a, "full_page_writes", "off");
}

void
initdb_add_roles(const char *dir, const ControlFileData *control, const InitdbOptions *options)
{
	StringInfoData sql;
	Arguments	a;

	begin_single_user(&a, dir);
	add_control_settings(&a, control);
	add_argument(&a, "template1");
	initStringInfo(&sql);
	/* they may be there already */
	appendStringInfoString(&sql, "SET exit_on_error = off;\n");
	appendStringInfoString(&sql, "CREATE ROLE cloud_admin;\n");
	appendStringInfoString(&sql, "CREATE ROLE neon_storage;\n");
	appendStringInfoString(&sql, "SET exit_on_error = on;\n");
	appendStringInfoString(&sql, "ALTER ROLE cloud_admin LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS;\n");
	appendStringInfoString(&sql, "ALTER ROLE neon_storage LOGIN REPLICATION;\n");
	append_password(&sql, "neon_storage", options->storage_verifier);
	append_password(&sql, "cloud_admin", options->superuser_verifier);
	run_program(a.argv, sql.data, "adding roles to a copy of the data directory");
}

void
initdb_run(const char *dir, const InitdbOptions *options)
{
	run_initdb(dir, options);
	run_single_user(dir, options);
}
