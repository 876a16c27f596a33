/*-------------------------------------------------------------------------
 *
 * tarstream.c
 *	  A POSIX tar archive written to the client in COPY OUT mode.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <time.h>

#include "copyio.h"
#include "miscadmin.h"
#include "pgtar.h"
#include "tarstream.h"

#define TAR_MESSAGE		(64 * 1024)

static const char zeros[2 * TAR_BLOCK_SIZE];

static int	message;			/* place of the open CopyData message, or -1 */
static uint64 total;
static uint64 file_left;		/* bytes that the current file still needs */
static size_t file_padding;
static time_t mtime;

static void
end_message(void)
{
	if (message < 0)
		return;
	copyio_finish_data(message);
	message = -1;
	copyio_flush();
	CHECK_FOR_INTERRUPTS();
}

static void
put(const void *data, size_t len)
{
	const char *p = data;

	total += len;
	while (len > 0)
	{
		size_t		n;

		if (message < 0)
			message = copyio_start_data();
		n = Min(len, TAR_MESSAGE - (copyio_out()->len - message));
		appendBinaryStringInfo(copyio_out(), p, n);
		p += n;
		len -= n;
		if (copyio_out()->len - message >= TAR_MESSAGE)
			end_message();
	}
}

static void
put_header(const char *path, uint64 size, mode_t mode)
{
	char		header[TAR_BLOCK_SIZE];

	if (tarCreateHeader(header, path, NULL, size, mode, 0, 0, mtime) != TAR_OK)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("path is too long for tar: \"%s\"", path)));
	put(header, sizeof(header));
}

void
tar_begin(void)
{
	message = -1;
	total = 0;
	file_left = 0;
	mtime = time(NULL);
}

void
tar_directory(const char *path)
{
	put_header(path, 0, S_IFDIR | S_IRWXU);
}

void
tar_file_begin(const char *path, uint64 size)
{
	put_header(path, size, S_IFREG | S_IRUSR | S_IWUSR);
	file_left = size;
	file_padding = tarPaddingBytesRequired(size);
}

void
tar_file_bytes(const void *data, size_t len)
{
	if (len > file_left)
		elog(ERROR, "too many bytes for a file in the archive");
	put(data, len);
	file_left -= len;
}

void
tar_file_end(void)
{
	if (file_left != 0)
		elog(ERROR, "too few bytes for a file in the archive");
	put(zeros, file_padding);
}

void
tar_file(const char *path, const void *data, size_t len)
{
	tar_file_begin(path, len);
	tar_file_bytes(data, len);
	tar_file_end();
}

uint64
tar_end(void)
{
	put(zeros, sizeof(zeros));
	end_message();
	return total;
}
