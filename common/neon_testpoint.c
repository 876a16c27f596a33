/*-------------------------------------------------------------------------
 *
 * neon_testpoint.c
 *	  Named places where a TESTING build can be made to die, to fail or to wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "neon_testpoint.h"

#ifdef NEON_TESTING

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "utils/guc.h"

static char *test_crash_at = NULL;
static char *test_fail_at = NULL;
static char *test_wait_at = NULL;
static char *test_bug = NULL;

void		(*testpoint_hook) (const char *name) = NULL;

static void
define_name(const char *prefix, const char *name, const char *meaning, char **variable)
{
	DefineCustomStringVariable(psprintf("%s.%s", prefix, name), meaning, NULL, variable, "",
							   PGC_SUSET, 0, NULL, NULL, NULL);
}

void
testpoint_define_gucs(const char *prefix)
{
	define_name(prefix, "test_crash_at", "Name of the place where a process kills itself.",
				&test_crash_at);
	define_name(prefix, "test_fail_at", "Name of the place where a sync fails.", &test_fail_at);
	define_name(prefix, "test_wait_at", "Name of the place where a process waits.",
				&test_wait_at);
	define_name(prefix, "test_bug", "Name of the rule that is broken.", &test_bug);
}

static void
wait_here(const char *name)
{
	struct stat st;

	if (test_wait_at == NULL || strcmp(test_wait_at, name) != 0 || stat("test_wait", &st) != 0)
		return;
	ereport(LOG, (errmsg("test point \"%s\" reached", name)));
	while (stat("test_wait", &st) == 0)
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(10000L);
	}
}

void
testpoint_reached(const char *name)
{
	if (testpoint_hook)
		testpoint_hook(name);
	wait_here(name);
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

bool
testpoint_has_bug(const char *name)
{
	return test_bug != NULL && strcmp(test_bug, name) == 0;
}

#endif							/* NEON_TESTING */
