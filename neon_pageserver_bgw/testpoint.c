/*-------------------------------------------------------------------------
 *
 * testpoint.c
 *	  Named places where a TESTING build can be made to die.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "testpoint.h"

#ifdef NEON_TESTING

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "utils/guc.h"

static char *test_crash_at = NULL;
static char *test_fail_at = NULL;

void
testpoint_define_gucs(void)
{
	DefineCustomStringVariable("neon_pageserver.test_crash_at",
							   "Name of the place where a process kills itself.",
							   NULL, &test_crash_at, "",
							   PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("neon_pageserver.test_fail_at",
							   "Name of the place where a sync fails.",
							   NULL, &test_fail_at, "",
							   PGC_SUSET, 0, NULL, NULL, NULL);
}

void
testpoint_reached(const char *name)
{
	if (test_crash_at == NULL)
		return;
	if (strncmp(test_crash_at, "segv:", 5) == 0 && strcmp(test_crash_at + 5, name) == 0)
		raise(SIGSEGV);
	if (strcmp(test_crash_at, name) != 0)
		return;
	ereport(LOG, (errmsg("test point \"%s\" reached", name)));
	/* The whole instance, as a power cut would: the postmaster first. */
	kill(PostmasterPid, SIGKILL);
	kill(MyProcPid, SIGKILL);
	pause();
}

bool
testpoint_fails(const char *name)
{
	if (test_fail_at == NULL || strcmp(test_fail_at, name) != 0)
		return false;
	errno = EIO;
	return true;
}

#endif							/* NEON_TESTING */
