/*-------------------------------------------------------------------------
 *
 * redosupervisor.c
 *	  The worker that starts, watches and replaces redo children.
 *
 * Each child has a directory neon/redo/N of its own, mode 0700, with what
 * "postgres --single" wants to see of a data directory and the Unix socket on
 * which the child serves.  The supervisor does no redo and connects to no
 * database; it sleeps until a child says something or ends, or a backend wants
 * one replaced.
 *
 * Children are killed with SIGKILL only: they have no state.  They end with
 * the supervisor, however it ends: by its exit callback, by the kernel
 * (PR_SET_PDEATHSIG), or by the end of their control socket.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "common/file_utils.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "neon_clock.h"
#include "neon_library.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "../neon_walredo/walredo_protocol.h"
#include "redopool_private.h"

/* Where the supervisor's entry point is. */
#ifndef REDOPOOL_LIBRARY
#define REDOPOOL_LIBRARY "neon_pageserver"
#endif

#define START_TIMEOUT_MS		30000
/* After a failed start, doubled up to the maximum; after a death in service. */
#define START_DELAY_MS			100
#define MAX_START_DELAY_MS		30000
#define DEATH_DELAY_MS			10
#define MAX_DEATH_DELAY_MS		1000
/* A child that lived so long does not count as a repeated failure. */
#define HEALTHY_MS				10000

/* Descriptors are moved out of the way of those that the child is given. */
#define FIRST_PARKED_FD			10

typedef struct Child
{
	pid_t		pid;			/* 0: none */
	int			control;		/* our end of its control socket, or -1 */
	bool		killed;			/* by us */
	bool		ready;
	TimestampTz started;
	int			failures;		/* in a row */
	TimestampTz not_before;		/* of the next start */
} Child;

static Child children[REDO_MAX_WORKERS];

PGDLLEXPORT void redo_supervisor_main(Datum arg);

void
redopool_register_worker(void)
{
	BackgroundWorker worker;

	library_worker(&worker, REDOPOOL_LIBRARY, "redo_supervisor_main", "neon redo supervisor");
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	RegisterBackgroundWorker(&worker);
}

/* ---- directories ---- */

static void
make_dir(const char *path)
{
	if (MakePGDirectory(path) < 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", path)));
}

/* Nothing here outlives the instance, so nothing is synced. */
static void
write_file(const char *path, const void *data, size_t len)
{
	int			fd = OpenTransientFile(path, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	ssize_t		n;

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	errno = 0;
	n = write(fd, data, len);
	if (n != len)
	{
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	}
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", path)));
}

/*
 * This instance's control file, with what depends on its initdb set to what
 * suits a child: no checksums (its pages have none that are valid) and the
 * segment size that the default settings allow.
 */
static void
write_control_file(const char *path)
{
	ControlFileData *control;
	char		image[PG_CONTROL_FILE_SIZE] = {0};
	bool		crc_ok;

	LWLockAcquire(ControlFileLock, LW_SHARED);
	control = get_controlfile(DataDir, &crc_ok);
	LWLockRelease(ControlFileLock);
	if (!crc_ok)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the control file has an incorrect checksum")));
	control->data_checksum_version = 0;
	control->xlog_seg_size = DEFAULT_XLOG_SEG_SIZE;
	INIT_CRC32C(control->crc);
	COMP_CRC32C(control->crc, (char *) control, offsetof(ControlFileData, crc));
	FIN_CRC32C(control->crc);
	memcpy(image, control, sizeof(ControlFileData));
	write_file(path, image, sizeof(image));
	pfree(control);
}

/* What "postgres --single -D" asks of its directory. */
static void
make_child_dir(int slot)
{
	char		path[MAXPGPATH];

	snprintf(path, sizeof(path), "%s/%d", REDO_DIR, slot);
	make_dir(path);
	if (chmod(path, S_IRWXU) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not set permissions of directory \"%s\": %m", path)));
	snprintf(path, sizeof(path), "%s/%d/global", REDO_DIR, slot);
	make_dir(path);
	snprintf(path, sizeof(path), "%s/%d/PG_VERSION", REDO_DIR, slot);
	write_file(path, PG_MAJORVERSION "\n", strlen(PG_MAJORVERSION "\n"));
	snprintf(path, sizeof(path), "%s/%d/postgresql.auto.conf", REDO_DIR, slot);
	write_file(path, "", 0);
	snprintf(path, sizeof(path), "%s/%d/global/pg_control", REDO_DIR, slot);
	write_control_file(path);
}

static void
make_dirs(void)
{
	int			i;

	make_dir("neon");
	/* What an earlier life left, of other numbers too. */
	if (access(REDO_DIR, F_OK) == 0 && !rmtree(REDO_DIR, true))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove directory \"%s\"", REDO_DIR)));
	make_dir(REDO_DIR);
	for (i = 0; i < redo_pool->nslots; i++)
		make_child_dir(i);
}

static void
remove_if_there(const char *path)
{
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

/* ---- starting a child ---- */

/* Takes ownership of fd. */
static int
park_descriptor(int fd)
{
	int			parked;
	int			save_errno;

	if (fd < 0)
		return -1;
	parked = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_PARKED_FD);
	save_errno = errno;
	close(fd);
	errno = save_errno;
	return parked;
}

/* A listening socket at the slot's path. */
static int
make_listener(int slot)
{
	struct sockaddr_un addr = {0};
	char		path[MAXPGPATH];
	int			fd;

	redopool_socket_path(slot, path);
	remove_if_there(path);
	addr.sun_family = AF_UNIX;
	strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
	fd = park_descriptor(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	if (fd < 0 || bind(fd, (struct sockaddr *) &addr, sizeof(addr)) != 0 ||
		listen(fd, 8) != 0)
	{
		int			save_errno = errno;

		if (fd >= 0)
			close(fd);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create socket \"%s\": %m", path)));
	}
	return fd;
}

/*
 * The new process between fork and exec: only what is safe after a fork.
 * Nothing of the instance stays open in it but standard error.
 */
static void
exec_child(int control, int listener, pid_t parent, char **argv, char **envp)
{
	sigset_t	none;
	int			null;
	int			sig;

	for (sig = 1; sig < NSIG; sig++)
		(void) signal(sig, SIG_DFL);
	sigemptyset(&none);
	null = open("/dev/null", O_RDWR);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent &&
		null >= 0 && dup2(null, STDOUT_FILENO) >= 0 &&
		dup2(control, WALREDO_CONTROL_FD) >= 0 &&
		dup2(listener, WALREDO_LISTEN_FD) >= 0 &&
		syscall(SYS_close_range, WALREDO_LISTEN_FD + 1, ~0U, 0) == 0 &&
		sigprocmask(SIG_SETMASK, &none, NULL) == 0)
		execve(argv[0], argv, envp);
	_exit(127);
}

/* Forks with all signals blocked, so that no handler of ours runs in the child. */
static pid_t
fork_child(int control, int listener, char **argv, char **envp)
{
	pid_t		parent = MyProcPid;
	pid_t		pid;
	sigset_t	all;
	sigset_t	before;
	int			save_errno;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0)
		exec_child(control, listener, parent, argv, envp);
	save_errno = errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	errno = save_errno;
	return pid;
}

static pid_t
run_postgres(int slot, int control, int listener)
{
	char	   *argv[] = {
		my_exec_path, "--single",
		"-D", psprintf("%s/%s/%d", DataDir, REDO_DIR, slot),
		"-c", "config_file=/dev/null",
		"-c", psprintf("dynamic_library_path=%s", Dynamic_library_path),
		"-c", "shared_preload_libraries=neon_walredo",
		"-c", "shared_buffers=512kB",
		"-c", "log_min_messages=fatal",
		"-c", "log_line_prefix=neon_walredo: ",
		"template1",
		NULL
	};
	char	   *envp[] = {
		WALREDO_ENV "=" WALREDO_ENV_VALUE,
		"LC_ALL=C",
		NULL,					/* where the server's libraries are, if set */
		NULL,
		NULL
	};
	int			n = 2;

	if (getenv("LD_LIBRARY_PATH") != NULL)
		envp[n++] = psprintf("LD_LIBRARY_PATH=%s", getenv("LD_LIBRARY_PATH"));
#ifdef NEON_TESTING
	if (getenv("NEON_WALREDO_TEST_ESCAPE") != NULL)
		envp[n++] = "NEON_WALREDO_TEST_ESCAPE=1";
#endif
	return fork_child(control, listener, argv, envp);
}

static void
note_start_failure(int slot, const char *why)
{
	Child	   *child = &children[slot];
	int			delay = Min(START_DELAY_MS << Min(child->failures, 16), MAX_START_DELAY_MS);

	child->failures++;
	child->not_before = TimestampTzPlusMilliseconds(neon_clock(), delay);
	LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
	strlcpy(redo_pool->failure, why, sizeof(redo_pool->failure));
	redo_pool->stats.failed_starts++;
	LWLockRelease(&redo_pool->lock);
	ereport(LOG,
			(errmsg("could not start WAL redo process %d: %s", slot, why),
			 errdetail("It is tried again in %d ms.", delay)));
}

static void
publish_start(int slot)
{
	RedoSlot   *s = &redo_pool->slots[slot];

	LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
	s->state = REDO_SLOT_STARTING;
	s->child = children[slot].pid;
	s->generation = ++redo_pool->last_generation;
	s->used = false;
	s->client = 0;
	s->changed = children[slot].started;
	redo_pool->stats.started++;
	LWLockRelease(&redo_pool->lock);
}

static void
start_child(int slot)
{
	Child	   *child = &children[slot];
	char		path[MAXPGPATH];
	int			pair[2];
	int			listener;

	snprintf(path, sizeof(path), "%s/%d/postmaster.pid", REDO_DIR, slot);
	remove_if_there(path);
	listener = make_listener(slot);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
	{
		note_start_failure(slot, "no socket pair");
		close(listener);
		return;
	}
	pair[0] = park_descriptor(pair[0]);
	pair[1] = park_descriptor(pair[1]);
	child->pid = run_postgres(slot, pair[1], listener);
	close(listener);
	close(pair[1]);
	if (child->pid < 0)
	{
		child->pid = 0;
		close(pair[0]);
		note_start_failure(slot, "could not fork");
		return;
	}
	child->control = pair[0];
	child->killed = child->ready = false;
	child->started = neon_clock();
	publish_start(slot);
}

/* ---- watching ---- */

static void
kill_child(Child *child)
{
	if (child->pid > 0 && !child->killed)
	{
		(void) kill(child->pid, SIGKILL);
		child->killed = true;
	}
}

static void
close_control(Child *child)
{
	if (child->control >= 0)
		close(child->control);
	child->control = -1;
}

static void
log_death(int slot, int status)
{
	Child	   *child = &children[slot];
	char	   *why = wait_result_to_str(status);

	if (!child->ready)
		note_start_failure(slot, why);
	else
	{
		/* A child that exits by itself has told its client why. */
		ereport(WIFEXITED(status) ? DEBUG1 : LOG,
				(errmsg("WAL redo process %d (PID %d) ended: %s", slot, (int) child->pid, why)));
		child->not_before =
			TimestampTzPlusMilliseconds(neon_clock(),
										Min(DEATH_DELAY_MS << Min(child->failures, 16),
											MAX_DEATH_DELAY_MS));
		if (TimestampDifferenceExceeds(child->started, neon_clock(), HEALTHY_MS))
			child->failures = 0;
		else
			child->failures++;
	}
	pfree(why);
}

/* The child is gone: its slot is free, unless a backend still has it. */
static void
child_gone(int slot, int status)
{
	Child	   *child = &children[slot];
	RedoSlot   *s = &redo_pool->slots[slot];

	if (!child->killed)
		log_death(slot, status);
	LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
	if (child->killed)
		redo_pool->stats.replaced++;
	else if (child->ready)
		redo_pool->stats.died++;
	s->child = 0;
	if (s->state != REDO_SLOT_LEASED)
		s->state = REDO_SLOT_EMPTY;
	LWLockRelease(&redo_pool->lock);
	child->pid = 0;
	close_control(child);
}

/* Reads what the child says on its control socket. */
static void
listen_to_child(int slot)
{
	Child	   *child = &children[slot];
	WalRedoReady ready;
	ssize_t		n = read(child->control, &ready, sizeof(ready));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n == sizeof(ready) && !child->ready && memcmp(ready.magic, "NWR", 3) == 0 &&
		ready.version == WALREDO_VERSION && ready.server_version_num == PG_VERSION_NUM)
	{
		child->ready = true;
		LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
		redo_pool->slots[slot].state = REDO_SLOT_IDLE;
		redo_pool->slots[slot].changed = neon_clock();
		redo_pool->failure[0] = '\0';
		LWLockRelease(&redo_pool->lock);
		ConditionVariableBroadcast(&redo_pool->changed);
		return;
	}
	close_control(child);
	if (n == sizeof(ready) && !child->ready)
	{
		note_start_failure(slot, "library neon_walredo is of another version; restart the server");
		kill_child(child);
	}
	else
	{
		/*
		 * It ended, which waitpid() will tell more about, or does what it
		 * should not: this makes sure, and is a death all the same.
		 */
		(void) kill(child->pid, SIGKILL);
	}
}

static void
reap_children(void)
{
	int			i;

	for (i = 0; i < redo_pool->nslots; i++)
	{
		int			status;

		if (children[i].pid > 0 && waitpid(children[i].pid, &status, WNOHANG) == children[i].pid)
			child_gone(i, status);
	}
}

/* Does what a slot's state asks for. */
static void
tend_slot(int slot)
{
	Child	   *child = &children[slot];
	RedoSlotState state;
	TimestampTz now = neon_clock();

	LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
	if (redo_pool->slots[slot].state == REDO_SLOT_RETIRED && child->pid == 0)
		redo_pool->slots[slot].state = REDO_SLOT_EMPTY;
	state = redo_pool->slots[slot].state;
	LWLockRelease(&redo_pool->lock);

	if (state == REDO_SLOT_RETIRED)
		kill_child(child);
	else if (state == REDO_SLOT_EMPTY && child->pid == 0 && now >= child->not_before)
		start_child(slot);
	else if (state == REDO_SLOT_STARTING && !child->ready && !child->killed &&
			 TimestampDifferenceExceeds(child->started, now, START_TIMEOUT_MS))
	{
		note_start_failure(slot, "it did not become ready in time");
		kill_child(child);
	}
}

/* ---- the worker ---- */

static void
handle_sigchld(SIGNAL_ARGS)
{
	int			save_errno = errno;

	SetLatch(MyLatch);
	errno = save_errno;
}

/* How long nothing needs to be done, if nothing happens; -1 for ever. */
static long
time_to_next(void)
{
	TimestampTz now = neon_clock();
	long		least = -1;
	int			i;

	for (i = 0; i < redo_pool->nslots; i++)
	{
		Child	   *child = &children[i];
		TimestampTz when;
		long		left;

		if (child->pid == 0)
			when = child->not_before;
		else if (!child->ready)
			when = TimestampTzPlusMilliseconds(child->started, START_TIMEOUT_MS);
		else
			continue;
		left = Max(TimestampDifferenceMilliseconds(now, when), 1);
		if (least < 0 || left < least)
			least = left;
	}
	return least;
}

/* user_data of an event is its slot, by address. */
static void
wait_and_listen(void)
{
	WaitEvent	events[REDO_MAX_WORKERS + 2];
	WaitEventSet *wait_set;
	int			n;
	int			i;

	wait_set = CreateWaitEventSet(TopMemoryContext, REDO_MAX_WORKERS + 2);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (i = 0; i < redo_pool->nslots; i++)
	{
		if (children[i].control >= 0)
			AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, children[i].control, NULL,
							  &children[i]);
	}
	n = WaitEventSetWait(wait_set, time_to_next(), events, lengthof(events),
						 PG_WAIT_EXTENSION);
	FreeWaitEventSet(wait_set);
	ResetLatch(MyLatch);
	for (i = 0; i < n; i++)
	{
		if (events[i].events & WL_SOCKET_READABLE)
			listen_to_child((Child *) events[i].user_data - children);
	}
}

static void
on_supervisor_exit(int code, Datum arg)
{
	int			i;

	for (i = 0; i < redo_pool->nslots; i++)
		kill_child(&children[i]);
	LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
	redo_pool->supervisor = NULL;
	LWLockRelease(&redo_pool->lock);
}

/* Slots as an earlier supervisor of this instance left them: its children are dead. */
static void
adopt_slots(void)
{
	int			i;

	for (i = 0; i < lengthof(children); i++)
		children[i].control = -1;
	LWLockAcquire(&redo_pool->lock, LW_EXCLUSIVE);
	redo_pool->supervisor = MyProc;
	for (i = 0; i < redo_pool->nslots; i++)
	{
		redo_pool->slots[i].child = 0;
		if (redo_pool->slots[i].state != REDO_SLOT_LEASED)
			redo_pool->slots[i].state = REDO_SLOT_EMPTY;
	}
	LWLockRelease(&redo_pool->lock);
}

void
redo_supervisor_main(Datum arg)
{
	int			i;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGCHLD, handle_sigchld);
	BackgroundWorkerUnblockSignals();

	CurrentMemoryContext = AllocSetContextCreate(TopMemoryContext, "redo supervisor",
												 ALLOCSET_DEFAULT_SIZES);
	before_shmem_exit(on_supervisor_exit, (Datum) 0);
	make_dirs();
	adopt_slots();
	while (!ShutdownRequestPending)
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		reap_children();
		for (i = 0; i < redo_pool->nslots; i++)
			tend_slot(i);
		MemoryContextReset(CurrentMemoryContext);
		wait_and_listen();
	}
	/* With 0 it would not be started again after a SIGTERM by hand. */
	proc_exit(1);
}
