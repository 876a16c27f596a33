/*-------------------------------------------------------------------------
 *
 * savedfile.c
 *	  The header of what is saved between lives, and its checks.
 *
 * The bytes went through the pageserver's disk and two connections; they are
 * checked as those of a stranger.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "neon.h"
#include "neon_codec.h"
#include "neon_durable.h"
#include "saved.h"
#include "storage/fd.h"

const char *
saved_title(NeonSavedKind kind)
{
	switch (kind)
	{
		case NEON_SAVED_STATISTICS:
			return "statistics";
		case NEON_SAVED_FSM:
			return "free space maps";
		case NEON_SAVED_WARM:
			return "lists of blocks in use";
	}
	return "data";
}

void
savedfile_end(StringInfo buf, NeonSavedKind kind)
{
	saved_end(buf, kind, &neon_boot.timeline_id, neon_boot.system_identifier, GetXLogInsertRecPtr());
}

/* Why it is not used, or NULL. */
static const char *
find_problem(const SavedHeader *header, uint64 size, NeonSavedKind kind)
{
	if (size < sizeof(*header) || memcmp(header->magic, SAVED_MAGIC, sizeof(header->magic)) != 0)
		return "it does not begin as such a file does";
	if (header->version != SAVED_VERSION || header->kind != kind)
		return "it is of another kind or version";
	if (header->len != size - sizeof(*header))
		return "its length is wrong";
	if (header->crc != codec_crc32c((const char *) (header + 1), header->len))
		return "its checksum is wrong";
	if (header->server_version_num / 10000 != PG_VERSION_NUM / 10000 ||
		header->system_identifier != neon_boot.system_identifier)
		return "it is of another system";
	if (kind == NEON_SAVED_STATISTICS && !neon_id_equal(&header->timeline_id, &neon_boot.timeline_id))
		return "it is of another timeline";
	return NULL;
}

/* Up to limit bytes of the file, palloc'd; NULL if it cannot be read. */
static char *
read_file(const char *name, uint64 limit, uint64 *size)
{
	struct stat st;
	char	   *data = NULL;
	int			fd = BasicOpenFile(name, O_RDONLY | PG_BINARY);

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && st.st_size > 0 && (uint64) st.st_size <= limit)
	{
		*size = st.st_size;
		data = palloc(Max(*size, sizeof(SavedHeader)));
		if (durable_pread(fd, data, *size, 0) != (ssize_t) *size)
		{
			pfree(data);
			data = NULL;
		}
	}
	close(fd);
	return data;
}

char *
savedfile_load(NeonSavedKind kind)
{
	const char *name = neon_saved_files[kind];
	const char *problem = "it could not be read";
	struct stat st;
	uint64		size = 0;
	char	   *data;

	if (stat(name, &st) != 0)
		return NULL;
	data = read_file(name, NEON_SAVED_MAX, &size);
	if (data != NULL)
		problem = find_problem((SavedHeader *) data, size, kind);
	(void) unlink(name);
	if (problem == NULL)
		return data;
	ereport(LOG,
			(errmsg("saved %s of the last life are not used: %s", saved_title(kind), problem)));
	if (data != NULL)
		pfree(data);
	return NULL;
}
