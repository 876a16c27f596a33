/*-------------------------------------------------------------------------
 *
 * quorum_config.c
 *	  A new configuration of the safekeepers, for this compute to adopt.
 *
 * The safekeepers tell the generation of their configuration with each answer
 * to commit().  When it is newer than this compute's, the coordinator fetches
 * it and writes it where the launcher wrote the first one: neon.conf in the
 * endpoint's directory of settings, which postgresql.conf includes.  The
 * members and synchronous_standby_names change by one rename.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "guard.h"
#include "neon.h"
#include "quorum.h"
#include "quorum_config.h"
#include "storage/fd.h"

#define FILE_NAME	"neon.conf"

/* Nothing in it needs quoting: hosts and names have no quotes and blanks. */
static char *
file_content(int generation, const char *members_text, const NeonMembers *members)
{
	StringInfoData buf;
	char		names[NEON_QUORUM_TEXT_MAX];

	initStringInfo(&buf);
	appendStringInfo(&buf,
					 "# Written by neon; do not change it.\n"
					 "neon.safekeepers = '%s'\n"
					 "neon.config_generation = %d\n"
					 "synchronous_standby_names = '%s'\n",
					 members_text, generation,
					 members_quorum_text(members, &neon_boot.boot_id, names));
	return buf.data;
}

static bool
write_file(const char *path, const char *content)
{
	FILE	   *file = AllocateFile(path, PG_BINARY_W);
	bool		ok;

	if (file == NULL)
		return false;
	ok = fputs(content, file) >= 0 && fflush(file) == 0;
	return FreeFile(file) == 0 && ok;
}

/* It is written anew at each start, so it need not survive a crash of the machine. */
static bool
replace_file(const char *content)
{
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];

	snprintf(path, sizeof(path), "%s/" FILE_NAME, neon_conf_dir);
	snprintf(temp, sizeof(temp), "%s/" FILE_NAME ".new", neon_conf_dir);
	return write_file(temp, content) && rename(temp, path) == 0;
}

bool
quorum_config_write(int generation, const char *members_text, char **problem)
{
	NeonMembers members;
	const char *invalid;

	if (!members_parse(members_text, &members, &invalid))
	{
		*problem = psprintf("configuration %d of the safekeepers is not valid: %s",
							generation, invalid);
		return false;
	}
	if (neon_conf_dir[0] == '\0' ||
		!replace_file(file_content(generation, members_text, &members)))
	{
		*problem = psprintf("could not write \"%s/" FILE_NAME "\": %m", neon_conf_dir);
		return false;
	}
	ereport(LOG,
			(errmsg("configuration %d of the safekeepers is adopted: \"%s\"",
					generation, members_text)));
	if (kill(PostmasterPid, SIGHUP) != 0)
	{
		*problem = psprintf("could not signal the postmaster: %m");
		return false;
	}
	return true;
}
