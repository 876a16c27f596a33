/*-------------------------------------------------------------------------
 *
 * neon_diskfull.c
 *	  What to do about a full disk.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "neon_diskfull.h"

int
neon_hint_if_full(const char *path)
{
	char		dir[MAXPGPATH];

	if (geterrcode() != ERRCODE_DISK_FULL)
		return 0;
	strlcpy(dir, path, sizeof(dir));
	get_parent_directory(dir);
	return errhint("Free space in the file system of directory \"%s/%s\", or make it larger; the server then goes on by itself.",
				   DataDir, dir);
}
