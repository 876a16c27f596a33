/*-------------------------------------------------------------------------
 *
 * import.h
 *	  A cleanly stopped data directory becomes the first state of a timeline.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_IMPORT_H
#define NEON_PS_IMPORT_H

#include "catalog/pg_control.h"
#include "timeline.h"

/* Path of the control file, as the key of its stored bytes. */
#define IMPORT_CONTROL_PATH	"global/pg_control"

/* Directory of database template1, whose OID is always the same. */
#define IMPORT_TEMPLATE_DIR	"base/1"

/* What must be known of a data directory before a timeline is made for it. */
typedef struct ImportSource
{
	char		dir[MAXPGPATH];

	/*
	 * Where all databases but template1 are, and positions of replication
	 * origins; the same as dir if it is a whole data directory.
	 */
	char		databases[MAXPGPATH];
	XLogRecPtr	user_checkpoint;	/* that of databases, if that is another directory; else 0 */
	ControlFileData control;
	XLogRecPtr	start;			/* start of its shutdown checkpoint record */
	XLogRecPtr	end;			/* end of it: the first LSN of the timeline */
} ImportSource;

/*
 * Reads and checks the control file and its checkpoint record.  ereport(ERROR)
 * if the directory was not stopped cleanly or is of another version.
 */
extern void import_open(ImportSource *source, const char *dir);

/*
 * Stores everything as of source->end.  The caller owns the timeline, whose
 * identity was made from source.  Durable on return.
 */
extern void import_data_directory(Timeline *tl, const ImportSource *source);

/* importsaved.c: the directory's free space maps and statistics. */
extern void import_saved(Timeline *tl, const ImportSource *source);

#endif							/* NEON_PS_IMPORT_H */
