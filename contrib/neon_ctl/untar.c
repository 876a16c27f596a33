/*-------------------------------------------------------------------------
 *
 * untar.c
 *	  Unpacks an uncompressed tar stream below one directory.
 *
 *-------------------------------------------------------------------------
 */
#include "untar.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fsutil.h"
#include "output.h"
#include "pgtar.h"

#define MAX_FILE_BYTES	(UINT64CONST(4) << 30)
#define MAX_TOTAL_BYTES (UINT64CONST(256) << 30)
#define MAX_ENTRIES		20000000
#define MAX_DEPTH		8

/* Places in a tar header. */
#define TAR_NAME		0
#define TAR_NAME_LEN	100
#define TAR_SIZE		124
#define TAR_SIZE_LEN	12
#define TAR_CHECKSUM	148
#define TAR_CHECKSUM_LEN 8
#define TAR_TYPE		156
#define TAR_MAGIC		257
#define TAR_PREFIX		345
#define TAR_PREFIX_LEN	155

typedef enum UntarState
{
	UNTAR_HEADER,
	UNTAR_CONTENT,
	UNTAR_PADDING,
	UNTAR_END,					/* after the first block of zeros */
} UntarState;

struct Untar
{
	char		dir[MAXPGPATH];
	UntarState	state;
	char		header[TAR_BLOCK_SIZE];
	size_t		have;			/* bytes of the header */
	char		path[MAXPGPATH];
	int			fd;
	uint64		left;			/* bytes of content or padding to come */
	size_t		padding;
	uint64		total;
	uint64		entries;
};

static void
bad_archive(const char *why)
{
	die(EXIT_GENERAL,
		"Try again; if it stays, look into the pageserver's log: \"neon pageserver logs\".",
		"the base backup that the pageserver sent is not valid: %s", why);
}

Untar *
untar_begin(const char *dir)
{
	Untar	   *untar = pg_malloc0(sizeof(Untar));

	strlcpy(untar->dir, dir, sizeof(untar->dir));
	untar->fd = -1;
	return untar;
}

/* Relative, of plain components. */
static bool
name_is_safe(const char *name)
{
	int			depth = 0;

	for (const char *p = name;; p++)
	{
		size_t		len = strcspn(p, "/");

		if (len == 0 || len > 255 || (len == 1 && p[0] == '.') ||
			(len == 2 && p[0] == '.' && p[1] == '.') || ++depth > MAX_DEPTH)
			return false;
		for (size_t i = 0; i < len; i++)
		{
			if ((unsigned char) p[i] < 0x20 || (unsigned char) p[i] >= 0x7f)
				return false;
		}
		p += len;
		if (*p == '\0')
			return true;
	}
}

/* The name of the entry, without a slash at its end, checked. */
static void
entry_name(const char *header, char *name, size_t size)
{
	char		prefix[TAR_PREFIX_LEN + 1];
	char		base[TAR_NAME_LEN + 1];
	size_t		len;

	memcpy(prefix, header + TAR_PREFIX, TAR_PREFIX_LEN);
	prefix[TAR_PREFIX_LEN] = '\0';
	memcpy(base, header + TAR_NAME, TAR_NAME_LEN);
	base[TAR_NAME_LEN] = '\0';
	snprintf(name, size, "%s%s%s", prefix, prefix[0] ? "/" : "", base);
	len = strlen(name);
	if (len > 1 && name[len - 1] == '/')
		name[len - 1] = '\0';
	if (!name_is_safe(name))
		bad_archive("it has a file name that is not allowed");
}

static void
open_file(Untar *untar)
{
	untar->fd = open(untar->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
					 S_IRUSR | S_IWUSR);
	if (untar->fd < 0)
	{
		if (errno == EEXIST)
			bad_archive("it has a file twice");
		die(EXIT_GENERAL, "Check the space on that file system.", "could not create \"%s\": %m",
			untar->path);
	}
}

static void
close_file(Untar *untar)
{
	if (close(untar->fd) < 0)
		die(EXIT_GENERAL, "Check the space on that file system.", "could not close \"%s\": %m",
			untar->path);
	untar->fd = -1;
}

static void
end_of_content(Untar *untar)
{
	if (untar->fd >= 0)
		close_file(untar);
	untar->left = untar->padding;
	untar->state = untar->left > 0 ? UNTAR_PADDING : UNTAR_HEADER;
}

static void
begin_entry(Untar *untar)
{
	char		name[TAR_PREFIX_LEN + TAR_NAME_LEN + 2];
	char		type = untar->header[TAR_TYPE];
	uint64		size = read_tar_number(untar->header + TAR_SIZE, TAR_SIZE_LEN);

	if (memcmp(untar->header + TAR_MAGIC, "ustar", 5) != 0 ||
		read_tar_number(untar->header + TAR_CHECKSUM,
						TAR_CHECKSUM_LEN) != tarChecksum(untar->header))
		bad_archive("a header's checksum is wrong");
	entry_name(untar->header, name, sizeof(name));
	make_path(untar->path, "%s/%s", untar->dir, name);
	if (++untar->entries > MAX_ENTRIES)
		bad_archive("it has too many files");
	if (type == '5')
	{
		if (size != 0)
			bad_archive("a directory has a size");
		make_directory(untar->path);
		return;
	}
	if (type != '0' && type != '\0')
		bad_archive("it has something that is neither file nor directory");
	untar->total += size;
	if (size > MAX_FILE_BYTES || untar->total > MAX_TOTAL_BYTES)
		bad_archive("it is too large");
	open_file(untar);
	untar->left = size;
	untar->padding = tarPaddingBytesRequired(size);
	untar->state = UNTAR_CONTENT;
	if (size == 0)
		end_of_content(untar);
}

static bool
all_zeros(const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (data[i] != 0)
			return false;
	}
	return true;
}

static size_t
take_header(Untar *untar, const char *data, size_t len)
{
	size_t		n = Min(len, TAR_BLOCK_SIZE - untar->have);

	memcpy(untar->header + untar->have, data, n);
	untar->have += n;
	if (untar->have == TAR_BLOCK_SIZE)
	{
		untar->have = 0;
		if (all_zeros(untar->header, TAR_BLOCK_SIZE))
			untar->state = UNTAR_END;
		else
			begin_entry(untar);
	}
	return n;
}

static size_t
take_content(Untar *untar, const char *data, size_t len)
{
	size_t		n = Min(len, untar->left);

	errno = ENOSPC;
	if (write(untar->fd, data, n) != (ssize_t) n)
		die(EXIT_GENERAL, "Check the space on that file system.", "could not write \"%s\": %m",
			untar->path);
	untar->left -= n;
	if (untar->left == 0)
		end_of_content(untar);
	return n;
}

static size_t
take_padding(Untar *untar, size_t len)
{
	size_t		n = Min(len, untar->left);

	untar->left -= n;
	if (untar->left == 0)
		untar->state = UNTAR_HEADER;
	return n;
}

void
untar_data(Untar *untar, const char *data, size_t len)
{
	while (len > 0)
	{
		size_t		n = len;

		switch (untar->state)
		{
			case UNTAR_HEADER:
				n = take_header(untar, data, len);
				break;
			case UNTAR_CONTENT:
				n = take_content(untar, data, len);
				break;
			case UNTAR_PADDING:
				n = take_padding(untar, len);
				break;
			case UNTAR_END:
				if (!all_zeros(data, len))
					bad_archive("there is something after its end");
				break;
		}
		data += n;
		len -= n;
	}
}

void
untar_finish(Untar *untar)
{
	if (untar->state != UNTAR_END)
		bad_archive("it ends too early");
	free(untar);
}
