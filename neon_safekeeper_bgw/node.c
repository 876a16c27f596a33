/*-------------------------------------------------------------------------
 *
 * node.c
 *	  The uuid of this safekeeper, in PGDATA/neon/node.
 *
 * A safekeeper that lost its disk makes a new one and so is another member: it
 * can never be taken for one that remembers its promises.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "neon_durable.h"
#include "node.h"
#include "storage/fd.h"
#include "table.h"

#define NODE_DIR	"neon"
#define NODE_FILE	"neon/node"
#define NODE_TEMP	"neon/node.temp"

static NeonId node;

/* False if there is none. */
static bool
read_node(void)
{
	char		text[NEON_ID_HEXLEN + 2] = {0};
	int			fd = OpenTransientFile(NODE_FILE, O_RDONLY | PG_BINARY);
	ssize_t		len;

	if (fd < 0 && errno == ENOENT)
		return false;
	if (fd < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", NODE_FILE)));
	len = durable_pread(fd, text, sizeof(text) - 1, 0);
	CloseTransientFile(fd);
	if (len == NEON_ID_HEXLEN + 1 && text[NEON_ID_HEXLEN] == '\n')
		text[NEON_ID_HEXLEN] = '\0';
	if (!neon_id_parse(text, &node) || neon_id_is_zero(&node))
		ereport(FATAL,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" does not hold a node's uuid", NODE_FILE),
				 errdetail("Without it this safekeeper may not vote under its old name.")));
	return true;
}

static void
write_node(void)
{
	char		text[NEON_ID_HEXLEN + 2];
	int			fd;
	bool		ok;

	if (!neon_id_generate(&node))
		ereport(FATAL, (errmsg("could not generate a random node uuid")));
	neon_id_format(&node, text);
	strcat(text, "\n");
	durable_make_dir(NODE_DIR, true);
	fd = OpenTransientFile(NODE_TEMP, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	ok = fd >= 0 && durable_pwrite(fd, text, NEON_ID_HEXLEN + 1, 0) && pg_fsync(fd) == 0;
	if (fd >= 0)
		CloseTransientFile(fd);
	if (!ok || rename(NODE_TEMP, NODE_FILE) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", NODE_FILE)));
	durable_sync_dir(NODE_DIR);
}

void
sknode_load(void)
{
	if (!read_node())
		write_node();
}

const NeonId *
sk_node(void)
{
	return &node;
}
