/*-------------------------------------------------------------------------
 *
 * known.c
 *	  Which timelines this safekeeper was given: for each an empty file
 *	  PGDATA/neon/known/TENANT/TIMELINE.
 *
 * A timeline whose files are gone, or a part of them, would otherwise be taken
 * for one that never was here.  It would be created anew, forget what it had
 * promised and acknowledged, and vote.  A safekeeper that lost all of its disk
 * lost its node file too, and so is another member; this is for the rest.
 *
 * The name is durable before the creation is answered, and goes after the
 * tombstone came.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "known.h"
#include "neon_durable.h"
#include "storage/fd.h"

static char *
known_path(const NeonId *tenant, const NeonId *timeline, char *path)
{
	char		hex[NEON_ID_HEXLEN + 1];
	int			len = snprintf(path, MAXPGPATH, SKKNOWN_DIR "/%s", neon_id_format(tenant, hex));

	if (timeline)
		snprintf(path + len, MAXPGPATH - len, "/%s", neon_id_format(timeline, hex));
	return path;
}

void
skknown_add(const NeonId *tenant, const NeonId *timeline)
{
	char		path[MAXPGPATH];
	int			fd;

	durable_make_dir(SKKNOWN_DIR, true);
	durable_make_dir(known_path(tenant, NULL, path), true);
	fd = OpenTransientFile(known_path(tenant, timeline, path), O_WRONLY | O_CREAT | PG_BINARY);
	if (fd < 0 || pg_fsync(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	CloseTransientFile(fd);
	durable_sync_dir(known_path(tenant, NULL, path));
}

bool
skknown_has(const NeonId *tenant, const NeonId *timeline)
{
	char		path[MAXPGPATH];

	return durable_exists(known_path(tenant, timeline, path));
}

void
skknown_remove(const NeonId *tenant, const NeonId *timeline)
{
	char		path[MAXPGPATH];

	durable_remove_tree(known_path(tenant, timeline, path));
}
