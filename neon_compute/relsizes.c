/*-------------------------------------------------------------------------
 *
 * relsizes.c
 *	  Reading pgdata/neon.relsizes: the relation forks at the boot LSN.
 *
 * The file was made by the pageserver and came with the base backup; its
 * bytes are checked as those of a stranger.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_tablespace_d.h"
#include "common/relpath.h"
#include "neon.h"
#include "port/pg_crc32c.h"
#include "relsizes.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#define RELSIZES_FILE_NAME	"neon.relsizes"
#define RELSIZES_MAGIC		"NRS1"
#define RELSIZES_VERSION	1

typedef struct RelSizesHeader
{
	char		magic[4];
	uint32		version;
	uint64		lsn;
	uint32		nforks;
	uint32		crc;			/* CRC-32C of the entries */
} RelSizesHeader;

static void
invalid(const char *detail)
{
	ereport(FATAL,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" is not valid", RELSIZES_FILE_NAME),
			 errdetail_internal("%s", detail),
			 errhint("Start the endpoint again by \"neon endpoint start\".")));
}

/* Reads exactly len bytes. */
static void
read_exactly(int fd, void *buffer, uint64 len)
{
	char	   *p = buffer;

	while (len > 0)
	{
		ssize_t		n = read(fd, p, Min(len, 1 << 30));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			ereport(FATAL,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", RELSIZES_FILE_NAME)));
		if (n == 0)
			invalid("It is too short.");
		p += n;
		len -= n;
	}
}

static void
check_header(const RelSizesHeader *header, off_t file_size)
{
	if (memcmp(header->magic, RELSIZES_MAGIC, sizeof(header->magic)) != 0)
		invalid("It does not begin as such a file does.");
	if (header->version != RELSIZES_VERSION)
		invalid(psprintf("Its version is %u; this server knows version %u.",
						 header->version, RELSIZES_VERSION));
	if (header->lsn != neon_boot.boot_lsn)
		invalid(psprintf("It is of LSN %X/%X; the boot LSN is %X/%X.",
						 LSN_FORMAT_ARGS(header->lsn),
						 LSN_FORMAT_ARGS(neon_boot.boot_lsn)));
	if ((uint64) file_size != sizeof(RelSizesHeader) + (uint64) header->nforks * sizeof(RelSize))
		invalid(psprintf("Its length does not fit its %u entries.", header->nforks));
}

static int
compare_entries(const RelSize *a, const RelSize *b)
{
	if (a->spc != b->spc)
		return a->spc < b->spc ? -1 : 1;
	if (a->db != b->db)
		return a->db < b->db ? -1 : 1;
	if (a->rel != b->rel)
		return a->rel < b->rel ? -1 : 1;
	if (a->fork != b->fork)
		return a->fork < b->fork ? -1 : 1;
	return 0;
}

static bool
entry_is_valid(const RelSize *entry)
{
	if (entry->spc == InvalidOid || entry->rel == InvalidOid)
		return false;
	if ((entry->spc == GLOBALTABLESPACE_OID) != (entry->db == InvalidOid))
		return false;
	if (entry->fork != MAIN_FORKNUM && entry->fork != VISIBILITYMAP_FORKNUM)
		return false;
	return entry->nblocks <= MaxBlockNumber;
}

static void
check_entries(const RelSizes *sizes, uint32 expected_crc)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, sizes->forks, (uint64) sizes->nforks * sizeof(RelSize));
	FIN_CRC32C(crc);
	if (!EQ_CRC32C(crc, expected_crc))
		invalid("Its checksum is wrong.");
	for (uint32 i = 0; i < sizes->nforks; i++)
	{
		if (!entry_is_valid(&sizes->forks[i]))
			invalid(psprintf("Entry %u is out of range.", i));
		if (i > 0 && compare_entries(&sizes->forks[i - 1], &sizes->forks[i]) >= 0)
			invalid(psprintf("Entry %u is out of order.", i));
	}
}

void
relsizes_load(RelSizes *sizes)
{
	RelSizesHeader header;
	struct stat st;
	int			fd;

	fd = BasicOpenFile(RELSIZES_FILE_NAME, O_RDONLY | PG_BINARY);
	if (fd < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", RELSIZES_FILE_NAME)));
	if (fstat(fd, &st) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", RELSIZES_FILE_NAME)));
	read_exactly(fd, &header, sizeof(header));
	check_header(&header, st.st_size);

	sizes->nforks = header.nforks;
	sizes->forks = MemoryContextAllocHuge(CurrentMemoryContext,
										  Max((Size) header.nforks * sizeof(RelSize), 1));
	read_exactly(fd, sizes->forks, (uint64) header.nforks * sizeof(RelSize));
	if (close(fd) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", RELSIZES_FILE_NAME)));
	check_entries(sizes, header.crc);
}

void
relsizes_free(RelSizes *sizes)
{
	pfree(sizes->forks);
	sizes->forks = NULL;
	sizes->nforks = 0;
}
