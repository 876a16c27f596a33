/*-------------------------------------------------------------------------
 *
 * importsaved.c
 *	  What a data directory has that is in no WAL and is no page: its free
 *	  space maps and cumulative statistics become those that the first compute
 *	  finds as if one before it had saved them.
 *
 * They are hints.  What cannot be read, or is too large, is left out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "catalog/pg_tablespace_d.h"
#include "import.h"
#include "neon_durable.h"
#include "neon_savedfile.h"
#include "neon_savedfsm.h"
#include "pgstat.h"
#include "savedstate.h"
#include "storage/fd.h"

static void
put(Timeline *tl, const ImportSource *source, NeonSavedKind kind, StringInfo buf)
{
	saved_end(buf, kind, &tl->id.timeline, source->control.system_identifier, source->end);
	if (buf->len <= NEON_SAVED_MAX)
		savedstate_import(tl, kind, source->end, buf);
}

static void
import_free_space(Timeline *tl, const ImportSource *source)
{
	FsmCollector col = {.deadline = PG_INT64_MAX};
	StringInfoData buf;

	initStringInfo(&buf);
	saved_begin(&buf);
	fsm_begin(&col);
	(void) fsm_add_directory(&col, psprintf("%s/global", source->dir), GLOBALTABLESPACE_OID, InvalidOid);
	(void) fsm_add_databases(&col, psprintf("%s/base", source->databases), DEFAULTTABLESPACE_OID);
	if (col.n == 0)
		return;
	fsm_end(&col, &buf);
	put(tl, source, NEON_SAVED_FSM, &buf);
	if (col.skipped > 0)
		ereport(NOTICE,
				(errmsg("free space maps of %u relations are not kept", col.skipped),
				 errdetail("There is room for %d MB of them.", NEON_SAVED_MAX / (1024 * 1024)),
				 errhint("VACUUM makes them anew.")));
}

/* The server writes this file when it has stopped cleanly. */
static void
import_statistics(Timeline *tl, const ImportSource *source)
{
	char	   *path = psprintf("%s/%s", source->databases, PGSTAT_STAT_PERMANENT_FILENAME);
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	char	   *raw = NULL;
	struct stat st;
	StringInfoData buf;

	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size <= STATS_RAW_MAX)
	{
		raw = palloc(st.st_size);
		if (durable_pread(fd, raw, st.st_size, 0) != st.st_size)
			raw = NULL;
	}
	(void) CloseTransientFile(fd);
	initStringInfo(&buf);
	saved_begin(&buf);
	if (raw != NULL && saved_put_statistics(&buf, raw, st.st_size))
		put(tl, source, NEON_SAVED_STATISTICS, &buf);
}

void
import_saved(Timeline *tl, const ImportSource *source)
{
	import_free_space(tl, source);
	import_statistics(tl, source);
}
