/*-------------------------------------------------------------------------
 *
 * autoconf.c
 *	  postgresql.auto.conf, which ALTER SYSTEM writes, outlives the data
 *	  directory: a copy is kept in neon.conf_dir.
 *
 * The launcher takes it from there at the next boot.  Whoever edits the kept
 * copy by hand meanwhile finds that in force after the next start, or together
 * with the next ALTER SYSTEM: of the two files the newer one is right.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "autoconf.h"
#include "guard.h"
#include "storage/copydir.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "utils/guc.h"

/* AutoFileLock is held: the last file written is the one that stays. */
static void
replace_file(char *from, const char *to)
{
	char		temp[MAXPGPATH];

	snprintf(temp, sizeof(temp), "%s.tmp", to);
	if (unlink(temp) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", temp)));
	copy_file(from, temp);
	durable_rename(temp, to, ERROR);
}

static bool
is_newer(const char *path, const char *than)
{
	struct stat a;
	struct stat b;

	if (stat(path, &a) != 0 || stat(than, &b) != 0)
		return false;
	if (a.st_mtim.tv_sec != b.st_mtim.tv_sec)
		return a.st_mtim.tv_sec > b.st_mtim.tv_sec;
	return a.st_mtim.tv_nsec > b.st_mtim.tv_nsec;
}

static bool
kept_path(char *path)
{
	snprintf(path, MAXPGPATH, "%s/%s", neon_conf_dir, PG_AUTOCONF_FILENAME);
	return neon_conf_dir[0] != '\0';
}

void
autoconf_take_edits(void)
{
	char		kept[MAXPGPATH];

	if (!kept_path(kept))
		return;
	LWLockAcquire(AutoFileLock, LW_EXCLUSIVE);
	if (is_newer(kept, PG_AUTOCONF_FILENAME))
		replace_file(kept, PG_AUTOCONF_FILENAME);
	LWLockRelease(AutoFileLock);
}

void
autoconf_keep(void)
{
	char		kept[MAXPGPATH];

	if (!kept_path(kept))
		return;
	LWLockAcquire(AutoFileLock, LW_EXCLUSIVE);
	replace_file(PG_AUTOCONF_FILENAME, kept);
	LWLockRelease(AutoFileLock);
}
