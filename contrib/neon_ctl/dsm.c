/*-------------------------------------------------------------------------
 *
 * dsm.c
 *	  Dynamic shared memory that a killed server left behind.
 *
 * A server lists its segments in a control segment, which its System V
 * segment names.  After a crash the next start on the same data directory
 * removes them all; a directory that is given up sees no next start, so its
 * segments would stay in memory until the machine is booted.
 *
 * The layout of the control segment (pg15_private.h) is private to the server.
 * Each field is checked before it is used, and a server with another layout is
 * left alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dsm.h"
#include "pg15_private.h"
#include "storage/dsm_impl.h"
#include "storage/pg_shmem.h"

#define NAME_SIZE			64

static const char *
segment_name(uint32 handle, char *name)
{
	snprintf(name, NAME_SIZE, NEON_DSM_NAME_FORMAT, handle);
	return name;
}

static void
remove_segment(uint32 handle)
{
	char		name[NAME_SIZE];

	(void) shm_unlink(segment_name(handle, name));
}

/* The handle of the control segment, or 0. */
static uint32
control_handle(int shmem_id)
{
	struct shmid_ds ds;
	PGShmemHeader *header;
	uint32		handle = 0;

	if (shmctl(shmem_id, IPC_STAT, &ds) < 0 || ds.shm_segsz < sizeof(PGShmemHeader))
		return 0;
	header = shmat(shmem_id, NULL, SHM_RDONLY);
	if (header == (void *) -1)
		return 0;
	if (header->magic == PGShmemMagic)
		handle = header->dsm_control;
	(void) shmdt(header);
	return handle;
}

static void
remove_listed(const NeonDsmControl *control, size_t size)
{
	if (size < offsetof(NeonDsmControl, items) || control->magic != NEON_DSM_CONTROL_MAGIC ||
		control->nitems > control->maxitems ||
		control->nitems > (size - offsetof(NeonDsmControl, items)) / sizeof(NeonDsmItem))
		return;
	for (uint32 i = 0; i < control->nitems; i++)
	{
		if (control->items[i].refcount != 0 && control->items[i].handle % 2 == 0)
			remove_segment(control->items[i].handle);
	}
}

void
dsm_remove_leftovers(int shmem_id)
{
	uint32		handle = control_handle(shmem_id);
	char		name[NAME_SIZE];
	struct stat st;
	void	   *control;
	int			fd;

	if (handle == 0 || handle % 2 != 0)
		return;
	fd = shm_open(segment_name(handle, name), O_RDONLY, 0);
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && st.st_size > 0)
	{
		control = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
		if (control != MAP_FAILED)
		{
			remove_listed(control, st.st_size);
			(void) munmap(control, st.st_size);
			remove_segment(handle);
		}
	}
	(void) close(fd);
}
