/*-------------------------------------------------------------------------
 *
 * savedstate.c
 *	  What computes save between their lives, beside the timeline.
 *
 * Free space maps, statistics and which blocks were in use are in no WAL.  A primary sends
 * them from time to time and when it stops, and the next base backup brings
 * them.  To the pageserver they are bytes: one file of each kind below the
 * timeline's directory, replaced as a whole.  The manifest does not name them,
 * since nothing depends on them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "neon_diskfull.h"
#include "neon_durable.h"
#include "neon_saved.h"
#include "port/pg_crc32c.h"
#include "savedstate.h"
#include "sqlutil.h"
#include "storage/fd.h"
#include "storage/lock.h"
#include "store_private.h"
#include "tarstream.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "writer.h"

#define SAVED_MAGIC			"NSS1"
#define SAVED_VERSION		1

/* Fourth field of an advisory lock's tag that SQL cannot take. */
#define SAVED_LOCK_CLASS	15001

typedef struct SavedHead
{
	char		magic[4];
	uint32		version;
	uint32		term;			/* of the compute that saved it */
	uint32		len;			/* of the bytes that follow */
	uint64		lsn;			/* its insert position then */
	uint32		crc;			/* CRC-32C of this head with 0 here, and the bytes */
	uint32		pad;
} SavedHead;

static void
saved_path(Timeline *tl, NeonSavedKind kind, const char *suffix, char *path)
{
	char		name[64];

	snprintf(name, sizeof(name), "saved.%s%s", neon_saved_names[kind], suffix);
	timeline_path(&tl->id.tenant, &tl->id.timeline, name, path);
}

static uint32
saved_crc(const SavedHead *head, const char *data)
{
	SavedHead	copy = *head;
	pg_crc32c	crc;

	copy.crc = 0;
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, &copy, sizeof(copy));
	COMP_CRC32C(crc, data, head->len);
	FIN_CRC32C(crc);
	return crc;
}

/* ---- reading ---- */

/* The file's bytes into *data, palloc'd; what is wrong with it, or NULL. */
static const char *
read_open_file(int fd, SavedHead *head, char **data)
{
	struct stat st;

	if (fstat(fd, &st) != 0 || durable_pread(fd, head, sizeof(*head), 0) != sizeof(*head))
		return "it is too short";
	if (memcmp(head->magic, SAVED_MAGIC, sizeof(head->magic)) != 0 || head->version != SAVED_VERSION)
		return "it is of another kind or version";
	if (head->len > NEON_SAVED_MAX || st.st_size != (off_t) (sizeof(*head) + head->len))
		return "its length is wrong";
	*data = palloc(Max(head->len, 1));
	if (durable_pread(fd, *data, head->len, sizeof(*head)) != head->len)
		return "it could not be read";
	if (saved_crc(head, *data) != head->crc)
		return "its checksum is wrong";
	return NULL;
}

/* False if there is none that can be used. */
static bool
read_saved(Timeline *tl, NeonSavedKind kind, SavedHead *head, char **data)
{
	char		path[MAXPGPATH];
	const char *problem;
	int			fd;

	saved_path(tl, kind, "", path);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not open file \"%s\": %m", path)));
		return false;
	}
	problem = read_open_file(fd, head, data);
	CloseTransientFile(fd);
	if (problem != NULL)
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is not used: %s", path, problem),
				 errdetail("A compute starts without what it had saved, and saves it anew.")));
	return problem == NULL;
}

/* Hints of an ancestor serve a branch that has saved none yet; statistics are of one timeline. */
static bool
read_nearest(Timeline *tl, NeonSavedKind kind, SavedHead *head, char **data)
{
	for (; tl != NULL; tl = kind != NEON_SAVED_STATISTICS ? tl->ancestor : NULL)
	{
		if (read_saved(tl, kind, head, data))
			return true;
	}
	return false;
}

void
savedstate_send(Timeline *tl, BootKind kind)
{
	for (int i = 0; i < NEON_SAVED_KINDS; i++)
	{
		SavedHead	head;
		char	   *data;

		/* who cannot write needs neither; what is not the timeline has no statistics of it */
		if (kind == BOOT_STATIC || (kind == BOOT_EPHEMERAL && i == NEON_SAVED_STATISTICS))
			continue;
		if (!read_nearest(tl, i, &head, &data))
			continue;
		tar_file(neon_saved_files[i], data, head.len);
		pfree(data);
	}
}

/* ---- writing ---- */

static void
write_temp(const char *path, const SavedHead *head, const char *data)
{
	int			fd = OpenTransientFile(path, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	if (!durable_pwrite(fd, head, sizeof(*head), 0) ||
		!durable_pwrite(fd, data, head->len, sizeof(*head)))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path),
				 neon_hint_if_full(path)));
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", path)));
}

/* Writes, synchronizes and puts in its place; one at a time. */
static void
replace_saved(Timeline *tl, NeonSavedKind kind, const SavedHead *head, const char *data)
{
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];

	saved_path(tl, kind, "", path);
	saved_path(tl, kind, ".tmp", temp);
	PG_TRY();
	{
		write_temp(temp, head, data);
		(void) durable_rename(temp, path, ERROR);
	}
	PG_CATCH();
	{
		unlink(temp);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Until the end of the transaction; two timelines that share a tag only wait. */
static void
lock_saved(Timeline *tl, NeonSavedKind kind)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, 0, hash_bytes((const unsigned char *) &tl->id.timeline, sizeof(NeonId)),
						 kind, SAVED_LOCK_CLASS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

static NeonSavedKind
kind_arg(FunctionCallInfo fcinfo, int argno)
{
	char	   *name = sql_text_arg(fcinfo, argno, "kind");

	for (int i = 0; i < NEON_SAVED_KINDS; i++)
		if (strcmp(name, neon_saved_names[i]) == 0)
			return i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown kind of saved state \"%.64s\"", name),
			 errhint("Kinds are statistics, fsm and warm.")));
	return NEON_SAVED_STATISTICS;	/* not reached */
}

/* An earlier call that hung may come after a later one. */
static bool
is_older(Timeline *tl, NeonSavedKind kind, const SavedHead *head)
{
	SavedHead	stored;
	char	   *data;

	return read_saved(tl, kind, &stored, &data) &&
		(head->term < stored.term || (head->term == stored.term && head->lsn < stored.lsn));
}

void
savedstate_import(Timeline *tl, NeonSavedKind kind, XLogRecPtr lsn, StringInfo data)
{
	SavedHead	head = {.magic = {'N', 'S', 'S', '1'}, .version = SAVED_VERSION};

	head.len = data->len;
	head.lsn = lsn;
	head.crc = saved_crc(&head, data->data);
	replace_saved(tl, kind, &head, data->data);
}

PG_FUNCTION_INFO_V1(neon_saved_put);

/* saved_put(tenant, timeline, term, kind, lsn, data): of the timeline's last writer */
Datum
neon_saved_put(PG_FUNCTION_ARGS)
{
	Timeline   *tl = sql_open_timeline(fcinfo, 0, 1);
	NeonSavedKind kind = kind_arg(fcinfo, 3);
	bytea	   *data = PG_GETARG_BYTEA_PP(5);
	TimelineWriter writer;
	SavedHead	head = {.magic = {'N', 'S', 'S', '1'}, .version = SAVED_VERSION};

	sql_refuse_transaction_block("saved_put");
	timeline_check_writable(tl);
	if (VARSIZE_ANY_EXHDR(data) > NEON_SAVED_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("state to save is too large"),
				 errdetail("It has %zu bytes, at most %d are kept.",
						   (size_t) VARSIZE_ANY_EXHDR(data), NEON_SAVED_MAX)));
	head.term = writer_term_arg(fcinfo, 2);
	head.len = VARSIZE_ANY_EXHDR(data);
	head.lsn = PG_GETARG_LSN(4);
	head.crc = saved_crc(&head, VARDATA_ANY(data));
	lock_saved(tl, kind);
	timeline_get_writer(tl, &writer);
	writer_check_term(tl, &writer, head.term);
	if (!is_older(tl, kind, &head))
		replace_saved(tl, kind, &head, VARDATA_ANY(data));
	PG_RETURN_VOID();
}
