/*-------------------------------------------------------------------------
 *
 * selftest.c
 *	  Proof that the server calls the storage manager through the table.
 *
 * A compiler may resolve calls through a constant table: stock builds do so
 * for some of its members.  So each slot that is replaced is exercised by the
 * server's own function that uses it, on a relation that does not exist, and
 * must be seen to be reached.
 *
 * Where it is not, md.c's function runs instead, and that may do anything in
 * a postmaster, which has no file access machinery.  So the calls are made in
 * a child process that sets up what md.c needs and can do no harm by dying.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catalog/pg_database_d.h"
#include "catalog/pg_tablespace_d.h"
#include "miscadmin.h"
#include "neon.h"
#include "postmaster/fork_process.h"
#include "smgr.h"
#include "storage/fd.h"
#include "utils/memutils.h"

/* md.c is bound to return soon, whatever it is asked to do. */
#define TEST_TIMEOUT_SECONDS	10

/* A temporary relation of no process: no shared buffer can belong to it. */
#define TEST_RELATION		PG_UINT32_MAX
#define TEST_BACKEND		MaxBackends

typedef struct SlotTest
{
	const char *name;
	void		(*exercise) (SMgrRelation reln);
} SlotTest;

static PGAlignedBlock page;

/* ----------
 * Each slot by way of the server's function
 * ----------
 */

static void
exercise_create(SMgrRelation reln)
{
	smgrcreate(reln, MAIN_FORKNUM, false);
}

static void
exercise_exists(SMgrRelation reln)
{
	(void) smgrexists(reln, MAIN_FORKNUM);
}

static void
exercise_unlink(SMgrRelation reln)
{
	smgrdounlinkall(&reln, 1, false);
}

static void
exercise_extend(SMgrRelation reln)
{
	smgrextend(reln, MAIN_FORKNUM, 0, page.data, true);
}

static void
exercise_prefetch(SMgrRelation reln)
{
	(void) smgrprefetch(reln, MAIN_FORKNUM, 0);
}

static void
exercise_read(SMgrRelation reln)
{
	smgrread(reln, MAIN_FORKNUM, 0, page.data);
}

static void
exercise_write(SMgrRelation reln)
{
	smgrwrite(reln, MAIN_FORKNUM, 0, page.data, true);
}

static void
exercise_nblocks(SMgrRelation reln)
{
	(void) smgrnblocks(reln, MAIN_FORKNUM);
}

static void
exercise_truncate(SMgrRelation reln)
{
	ForkNumber	forknum = MAIN_FORKNUM;
	BlockNumber old_blocks = 1;
	BlockNumber nblocks = 0;

	smgrtruncate2(reln, &forknum, 1, &old_blocks, &nblocks);
}

static const SlotTest slot_tests[SMGR_SLOTS] = {
	[SLOT_CREATE] = {"create", exercise_create},
	[SLOT_EXISTS] = {"exists", exercise_exists},
	[SLOT_UNLINK] = {"unlink", exercise_unlink},
	[SLOT_EXTEND] = {"extend", exercise_extend},
	[SLOT_PREFETCH] = {"prefetch", exercise_prefetch},
	[SLOT_READ] = {"read", exercise_read},
	[SLOT_WRITE] = {"write", exercise_write},
	[SLOT_NBLOCKS] = {"nblocks", exercise_nblocks},
	[SLOT_TRUNCATE] = {"truncate", exercise_truncate},
};

const char *
smgr_slot_name(SmgrSlot slot)
{
	return slot_tests[slot].name;
}

/* ----------
 * The child
 * ----------
 */

static void
exercise_slot(const SlotTest *test, RelFileNode rnode)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		test->exercise(smgropen(rnode, TEST_BACKEND));
	}
	PG_CATCH();
	{
		/* md.c complained of a missing file: that says enough */
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
}

static void
run_child(volatile bool *reached)
{
	RelFileNode rnode = {DEFAULTTABLESPACE_OID, Template1DbOid, TEST_RELATION};
	sigset_t	none;
	char	   *path;

	/* the postmaster's handlers are not for us, and crashes are */
	pqsignal(SIGALRM, SIG_DFL);
	pqsignal(SIGTERM, SIG_DFL);
	pqsignal(SIGQUIT, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	alarm(TEST_TIMEOUT_SECONDS);

	InitFileAccess();
	mdinit();
	smgr_reached = reached;
	for (int slot = 0; slot < SMGR_SLOTS; slot++)
		exercise_slot(&slot_tests[slot], rnode);

	/* if md.c made a file after all */
	path = relpathbackend(rnode, TEST_BACKEND, MAIN_FORKNUM);
	(void) unlink(path);
}

/* ----------
 * The postmaster
 * ----------
 */

static void
run_in_child(volatile bool *reached)
{
	pid_t		pid;
	int			status;

	pid = fork_process();
	if (pid < 0)
		ereport(FATAL,
				(errmsg("could not fork the storage manager's self-test: %m")));
	if (pid == 0)
	{
		run_child(reached);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0)
	{
		if (errno != EINTR)
			ereport(FATAL,
					(errmsg("could not wait for the storage manager's self-test: %m")));
	}
}

void
neon_smgr_selftest(void)
{
	volatile bool *reached;

	reached = mmap(NULL, SMGR_SLOTS * sizeof(bool), PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (reached == MAP_FAILED)
		ereport(FATAL,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not map memory for the storage manager's self-test: %m")));
	run_in_child(reached);
	for (int slot = 0; slot < SMGR_SLOTS; slot++)
	{
		if (!reached[slot])
			ereport(FATAL,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("this PostgreSQL server cannot be used with neon"),
					 errdetail("Its storage manager does not call slot \"%s\" of its table.",
							   smgr_slot_name(slot)),
					 errhint("Use an unmodified PostgreSQL 15 package, version 15.13 or later.")));
	}
	(void) munmap((void *) reached, SMGR_SLOTS * sizeof(bool));
}
