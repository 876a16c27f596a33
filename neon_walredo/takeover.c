/*-------------------------------------------------------------------------
 *
 * takeover.c
 *	  Turns a starting stand-alone server into a WAL redo process.
 *
 * The library is preloaded by a stock "postgres --single" before shared memory
 * exists.  It takes control there and never gives it back: what resource
 * managers need of a server is set up here, in private memory, and nothing
 * else of it ever runs.
 *
 * Owns: the decision whether to take over, and the order of initialisation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "access/rmgr.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogutils.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/autovacuum.h"
#include "replication/walsender.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/pg_shmem.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/sinvaladt.h"
#include "utils/resowner.h"

#include "walredo.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/* Lock and condition variable code looks at the fields of MyProc. */
static PGPROC redo_proc;

/* True if the descriptor is a socket, listening or not as asked. */
static bool
is_socket(int fd, bool listening)
{
	int			value = 0;
	socklen_t	len = sizeof(value);

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &len) != 0)
		return false;
	return (value != 0) == listening;
}

/*
 * Nobody but the pageserver's supervisor has a use for this library, and
 * anywhere else a take-over would be a disaster: refuse.
 */
static void
check_start(void)
{
	const char *ask = getenv(WALREDO_ENV);

	if (ask == NULL || strcmp(ask, WALREDO_ENV_VALUE) != 0)
		ereport(FATAL,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("library \"neon_walredo\" cannot be loaded by a server or a session"),
				 errdetail("It turns a process into a WAL redo process of a Neon pageserver, which starts such processes itself."),
				 errhint("Remove \"neon_walredo\" from shared_preload_libraries.")));
	if (IsPostmasterEnvironment || IsUnderPostmaster ||
		!process_shared_preload_libraries_in_progress || UsedShmemSegAddr != NULL)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_walredo must be preloaded by \"postgres --single\"")));
	if (!is_socket(WALREDO_CONTROL_FD, false) || !is_socket(WALREDO_LISTEN_FD, true))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("neon_walredo was not given its sockets"),
				 errdetail("Descriptor %d must be a connected and descriptor %d a listening socket.",
						   WALREDO_CONTROL_FD, WALREDO_LISTEN_FD)));
}

/*
 * The server blocks signals while it starts.  This process ends at once on
 * those that mean end, and must not die of a client that went away.
 */
static void
init_signals(void)
{
	sigset_t	none;

	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	signal(SIGQUIT, SIG_DFL);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&none);
	if (sigprocmask(SIG_SETMASK, &none, NULL) != 0)
		elog(FATAL, "could not unblock signals: %m");
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
		elog(FATAL, "could not ask for a signal at the parent's death: %m");
}

/*
 * A segment of "shared" memory that nobody shares: no System V segment, no
 * file, no semaphores.
 */
static void
init_memory(void)
{
	PGShmemHeader *header;
	Size		size;
	int			nsemas;

	MaxConnections = 1;
	max_worker_processes = 0;
	max_wal_senders = 0;
	autovacuum_max_workers = 0;
	MaxBackends = MaxConnections + 1;

	size = CalculateShmemSize(&nsemas);
	header = mmap(NULL, size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (header == MAP_FAILED)
		ereport(FATAL,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not map %zu bytes of memory: %m", size)));
	header->creatorPID = MyProcPid;
	header->magic = PGShmemMagic;
	header->totalsize = size;
	header->freeoffset = MAXALIGN(sizeof(PGShmemHeader));
	UsedShmemSegAddr = header;
	InitShmemAccess(header);
	InitShmemAllocation();
}

/*
 * The order is the server's own.  XLOGShmemInit is for RecoveryInProgress(),
 * the invalidation queue for the redo of truncations.
 */
void
walredo_init_environment(void)
{
	init_memory();
	CreateLWLocks();
	InitShmemIndex();
	XLOGShmemInit();
	InitBufferPool();
	CreateSharedInvalidationState();

	MyProc = &redo_proc;
	InitBufferPoolAccess();
	memsmgr_install();

	SetProcessingMode(NormalProcessing);
	InRecovery = true;
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "neon_walredo");
	RmgrStartup();
	apply_init();
}

void
_PG_init(void)
{
	check_start();
	init_signals();

	/* The directory is used by this process alone, and never again. */
	if (unlink("postmaster.pid") != 0)
		elog(FATAL, "could not remove lock file of the redo process: %m");

	walredo_init_environment();
	sandbox_enter();
	walredo_loop();
}
