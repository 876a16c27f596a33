/*-------------------------------------------------------------------------
 *
 * crash.c
 *	  Ending the own process as a bug, an assertion or the kernel would.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "fmgr.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(crash_backend);

Datum
crash_backend(PG_FUNCTION_ARGS)
{
	char	   *how = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			signo;

	if (strcmp(how, "segv") == 0)
		signo = SIGSEGV;
	else if (strcmp(how, "abort") == 0)
		signo = SIGABRT;
	else if (strcmp(how, "kill") == 0)
		signo = SIGKILL;
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown way to crash: \"%s\"", how),
				 errhint("Use \"segv\", \"abort\" or \"kill\".")));

	(void) signal(signo, SIG_DFL);
	(void) kill(getpid(), signo);
	PG_RETURN_VOID();
}
