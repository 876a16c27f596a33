/*-------------------------------------------------------------------------
 *
 * neon_smgrswap.c
 *	  Finding and replacing the storage manager table of a stock server.
 *
 * smgr.c has the table as a private constant array with one member.  It lies
 * in the part of the main program that the dynamic linker relocates and then
 * write-protects (RELRO).  There it is looked for by its content, the
 * addresses of md.c's functions, which are exported; it must be there exactly
 * once.  The page is made writable, the table overwritten, and the page
 * write-protected again.
 *
 * That the server really calls through the table is not shown by this: the
 * caller must test every slot that it relies on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include "neon_smgrswap.h"
#include "utils/guc.h"

const f_smgr smgrswap_md = {
	.smgr_init = mdinit,
	.smgr_shutdown = NULL,
	.smgr_open = mdopen,
	.smgr_close = mdclose,
	.smgr_create = mdcreate,
	.smgr_exists = mdexists,
	.smgr_unlink = mdunlink,
	.smgr_extend = mdextend,
	.smgr_prefetch = mdprefetch,
	.smgr_read = mdread,
	.smgr_write = mdwrite,
	.smgr_writeback = mdwriteback,
	.smgr_nblocks = mdnblocks,
	.smgr_truncate = mdtruncate,
	.smgr_immedsync = mdimmedsync,
};

/* An address range of the main program. */
typedef struct Range
{
	uintptr_t	start;
	uintptr_t	end;
} Range;

static void
refuse(const char *detail)
{
	ereport(FATAL,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("this PostgreSQL server cannot be used with neon"),
			 errdetail_internal("%s", detail),
			 errhint("Use an unmodified PostgreSQL 15 package, version 15.13 or later.")));
}

/*
 * The major version is compiled into the module's magic block already; the
 * minor version decides about the arguments of smgr_truncate, and with it the
 * truncate function that takes them appeared.
 */
static void
check_server_version(void)
{
	const char *text = GetConfigOption("server_version_num", false, false);
	long		version = strtol(text, NULL, 10);

	if (version < NEON_MIN_SERVER_VERSION || version >= 160000)
		refuse(psprintf("The server's version is %s.", text));
	if (dlsym(RTLD_DEFAULT, "smgrtruncate2") == NULL)
		refuse("The server has no function smgrtruncate2().");
}

/* Callback of dl_iterate_phdr; the main program is the first object. */
static int
find_relro(struct dl_phdr_info *info, size_t size, void *arg)
{
	Range	   *range = arg;

	for (int i = 0; i < info->dlpi_phnum; i++)
	{
		const		ElfW(Phdr) *phdr = &info->dlpi_phdr[i];

		if (phdr->p_type == PT_GNU_RELRO)
		{
			range->start = info->dlpi_addr + phdr->p_vaddr;
			range->end = range->start + phdr->p_memsz;
		}
	}
	return 1;
}

/* The table, which must be in the range exactly once. */
static void *
find_table(Range range)
{
	void	   *found = NULL;
	int			count = 0;

	for (uintptr_t p = TYPEALIGN(sizeof(void *), range.start);
		 p + sizeof(f_smgr) <= range.end;
		 p += sizeof(void *))
	{
		if (memcmp((void *) p, &smgrswap_md, sizeof(f_smgr)) == 0)
		{
			found = (void *) p;
			count++;
		}
	}
	if (count != 1)
		refuse(psprintf("Its storage manager table was found %d times in its write-protected data.",
						count));
	return found;
}

/* Overwrites write-protected memory, which is write-protected again afterwards. */
static void
overwrite(void *target, const void *source, size_t len)
{
	uintptr_t	pagesize = sysconf(_SC_PAGESIZE);
	uintptr_t	start = (uintptr_t) target & ~(pagesize - 1);
	uintptr_t	end = ((uintptr_t) target + len + pagesize - 1) & ~(pagesize - 1);

	if (mprotect((void *) start, end - start, PROT_READ | PROT_WRITE) != 0)
		ereport(FATAL,
				(errmsg("could not make the storage manager table writable: %m")));
	memcpy(target, source, len);
	if (mprotect((void *) start, end - start, PROT_READ) != 0)
		ereport(FATAL,
				(errmsg("could not write-protect the storage manager table: %m")));
}

void
smgrswap_install(const f_smgr *table)
{
	Range		relro = {0, 0};

	check_server_version();
	(void) dl_iterate_phdr(find_relro, &relro);
	if (relro.start == 0)
		refuse("Its program has no segment of relocated read-only data.");
	overwrite(find_table(relro), table, sizeof(f_smgr));
}
