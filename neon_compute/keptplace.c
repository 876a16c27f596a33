/*-------------------------------------------------------------------------
 *
 * keptplace.c
 *	  Warm restarts: the place where files were left, and whether it is the same.
 *
 * Files that were left need not be on disk: fetched pages are never flushed, and
 * with safekeepers nothing is.  They are in the page cache, which belongs to
 * one boot of the machine and to one attachment of a disk.  And who has changed
 * one is known by its time, which is of use as long as the clock is not set
 * back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "kept.h"

#define MACHINE_BOOT_FILE	"/proc/sys/kernel/random/boot_id"

/* Two clocks are read so near each other, if at all possible; in ns. */
#define CLOCK_NEAR			100000
#define CLOCK_TRIES			10

/* What may come of not reading them at once; in ns. */
#define CLOCK_TOLERANCE		10000000

/* At most size - 1 bytes, and a zero; false if there are none. */
static bool
read_text(const char *path, char *text, size_t size)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t		n;

	memset(text, 0, size);
	if (fd < 0)
		return false;
	n = read(fd, text, size - 1);
	close(fd);
	return n > 0;
}

/*
 * The kernel numbers disks as they are attached (since Linux 5.15), and logical
 * volumes as they are activated.  0 where it does not, or there is no one disk.
 */
static uint64
disk_number(dev_t device)
{
	char		path[64];
	char		text[32];

	/* that of a partition is its disk's */
	for (int i = 0; i < 2; i++)
	{
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%sdiskseq", major(device), minor(device),
				 i == 0 ? "" : "../");
		if (read_text(path, text, sizeof(text)))
			return strtoul(text, NULL, 10);
	}
	return 0;
}

/*
 * Time of day less time since the boot.  Clocks that are made to go faster or
 * slower are so both; only setting the time of day changes it.
 */
static int64
clock_difference(void)
{
	struct timespec before;
	struct timespec day;
	struct timespec after;
	int64		nearest = PG_INT64_MAX;
	int64		difference = 0;

	for (int i = 0; i < CLOCK_TRIES && nearest > CLOCK_NEAR; i++)
	{
		clock_gettime(CLOCK_BOOTTIME, &before);
		clock_gettime(CLOCK_REALTIME, &day);
		clock_gettime(CLOCK_BOOTTIME, &after);
		if (kept_time(&after) - kept_time(&before) >= nearest)
			continue;
		nearest = kept_time(&after) - kept_time(&before);
		difference = kept_time(&day) - kept_time(&before);
	}
	return difference;
}

bool
kept_place(NeonKeptPlace *place)
{
	struct stat st;

	memset(place, 0, sizeof(*place));
	if (!read_text(MACHINE_BOOT_FILE, place->machine_boot, sizeof(place->machine_boot)) ||
		stat(".", &st) != 0)
		return false;
	place->device = st.st_dev;
	place->disk = disk_number(st.st_dev);
	place->clock = clock_difference();
	return true;
}

const char *
kept_place_problem(const NeonKeptPlace *then)
{
	NeonKeptPlace now;

	if (!kept_place(&now) || memcmp(now.machine_boot, then->machine_boot, sizeof(now.machine_boot)) != 0)
		return "the machine was booted since";
	if (now.device != then->device || now.disk != then->disk)
		return "they are on another disk, or it was attached anew";
	if (now.clock < then->clock - CLOCK_TOLERANCE)
		return "the machine's clock was set back since";
	return NULL;
}
