/*-------------------------------------------------------------------------
 *
 * logs.c
 *	  The log of a server.
 *
 * Until a server's logging collector runs, and all the time if a user has
 * turned that off, it writes to the file that we give it at its start.
 *
 *-------------------------------------------------------------------------
 */
#include "logs.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fsutil.h"
#include "output.h"

#define ROTATE_SIZE		(10 * 1024 * 1024)

typedef struct LogFile
{
	char		path[MAXPGPATH];
	off_t		size;
	struct timespec changed;
} LogFile;

struct LogMark
{
	char		log[MAXPGPATH];
	int			n;
	LogFile    *files;
};

/* ---- the files ---- */

static void
add_file(LogMark *mark, const char *path)
{
	struct stat st;
	LogFile    *file;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	mark->files = pg_realloc(mark->files, (mark->n + 1) * sizeof(LogFile));
	file = &mark->files[mark->n++];
	strlcpy(file->path, path, sizeof(file->path));
	file->size = st.st_size;
	file->changed = st.st_mtim;
}

static int
compare_age(const void *a, const void *b)
{
	const LogFile *x = a;
	const LogFile *y = b;

	if (x->changed.tv_sec != y->changed.tv_sec)
		return x->changed.tv_sec < y->changed.tv_sec ? -1 : 1;
	if (x->changed.tv_nsec != y->changed.tv_nsec)
		return x->changed.tv_nsec < y->changed.tv_nsec ? -1 : 1;
	return strcmp(x->path, y->path);
}

static void
add_collected(LogMark *mark)
{
	char		path[MAXPGPATH];
	char		dir_path[MAXPGPATH];
	DIR		   *dir;
	struct dirent *entry;

	strlcpy(dir_path, mark->log, sizeof(dir_path));
	get_parent_directory(dir_path);
	strlcat(dir_path, "/log", sizeof(dir_path));
	dir = opendir(dir_path);
	if (dir == NULL)
		return;
	while ((entry = readdir(dir)) != NULL)
	{
		make_path(path, "%s/%s", dir_path, entry->d_name);
		add_file(mark, path);
	}
	closedir(dir);
}

LogMark *
log_mark(const char *log)
{
	LogMark    *mark = pg_malloc0(sizeof(LogMark));
	char		path[MAXPGPATH];

	strlcpy(mark->log, log, sizeof(mark->log));
	add_file(mark, mark->log);
	make_path(path, "%s.old", mark->log);
	add_file(mark, path);
	add_collected(mark);
	if (mark->n > 1)
		qsort(mark->files, mark->n, sizeof(LogFile), compare_age);
	return mark;
}

static void
mark_free(LogMark *mark)
{
	free(mark->files);
	free(mark);
}

void
log_rotate(const char *log)
{
	struct stat st;
	char		old[MAXPGPATH];

	make_path(old, "%s.old", log);
	if (stat(log, &st) == 0 && st.st_size > ROTATE_SIZE && rename(log, old) < 0)
		warn("could not rename log \"%s\": %m", log);
}

/* ---- why it did not start ---- */

/* The text after "KEY:" in a log line, without blanks. */
static const char *
log_text(const char *line, const char *key)
{
	const char *p = strstr(line, key);

	if (p == NULL)
		return NULL;
	p += strlen(key);
	return p + strspn(p, " ");
}

/* Adds " (DETAIL)" to the message. */
static void
add_detail(char *message, size_t size, const char *detail)
{
	size_t		len = strlen(message);

	snprintf(message + len, size - len, " (%s)", detail);
}

/* What looks for a reason in the rest of a log file. */
typedef bool (*Finder) (FILE *file, char *message, char *hint, size_t size);

/* A compute that ends itself logs why, and in the DETAIL that it "shuts down." */
static bool
find_shutdown(FILE *file, char *message, char *hint, size_t size)
{
	char		line[4096];
	bool		found = false;

	while (fgets(line, sizeof(line), file) != NULL)
	{
		const char *rest;

		line[strcspn(line, "\r\n")] = '\0';
		if (found)
		{
			rest = log_text(line, "HINT:");
			if (rest != NULL)
				strlcpy(hint, rest, size);
			break;
		}
		rest = log_text(line, "LOG:");
		if (rest != NULL)
			strlcpy(message, rest, size);
		rest = log_text(line, "DETAIL:");
		if (rest != NULL && strstr(rest, "shuts down.") != NULL)
		{
			add_detail(message, size, rest);
			found = true;
		}
	}
	if (!found)
		message[0] = '\0';
	return found;
}

static bool
find_failure(FILE *file, char *message, char *hint, size_t size)
{
	char		line[4096];
	bool		found = false;
	bool		has_detail = false;

	while (fgets(line, sizeof(line), file) != NULL)
	{
		const char *rest = log_text(line, "FATAL:");

		line[strcspn(line, "\r\n")] = '\0';
		if (rest == NULL)
			rest = log_text(line, "PANIC:");
		if (rest == NULL && strncmp(line, "postgres: ", 10) == 0)
			rest = line;
		/* what clients were told meanwhile is no reason */
		if (rest != NULL && (strncmp(rest, "the database system is ", 23) == 0 ||
							 strncmp(rest, "terminating ", 12) == 0))
			continue;
		if (found && rest != NULL)
			break;
		if (rest != NULL)
		{
			strlcpy(message, rest, size);
			found = true;
		}
		rest = log_text(line, "DETAIL:");
		if (found && rest != NULL && !has_detail)
		{
			add_detail(message, size, rest);
			has_detail = true;
		}
		rest = log_text(line, "HINT:");
		if (found && rest != NULL)
		{
			strlcpy(hint, rest, size);
			break;
		}
	}
	return found;
}

/* Where the file ended at the mark; 0 if it was not there or has been emptied since. */
static off_t
end_at_mark(const LogMark *mark, const LogFile *now)
{
	for (int i = 0; i < mark->n; i++)
	{
		if (strcmp(mark->files[i].path, now->path) == 0 && mark->files[i].size <= now->size)
			return mark->files[i].size;
	}
	return 0;
}

static bool
find_since(const LogMark *mark, const LogMark *now, Finder find, char *message, char *hint,
		   size_t size)
{
	bool		found = false;

	for (int i = 0; i < now->n && !found; i++)
	{
		const LogFile *log = &now->files[i];
		FILE	   *file = fopen(log->path, "r");

		if (file == NULL)
			continue;
		found = fseeko(file, end_at_mark(mark, log), SEEK_SET) == 0 &&
			find(file, message, hint, size);
		fclose(file);
	}
	return found;
}

bool
log_failure(const LogMark *mark, char *message, char *hint, size_t size)
{
	LogMark    *now = log_mark(mark->log);
	bool		found;

	message[0] = hint[0] = '\0';
	found = find_since(mark, now, find_shutdown, message, hint, size) ||
		find_since(mark, now, find_failure, message, hint, size);
	mark_free(now);
	return found;
}

/* ---- all of it ---- */

static void
print_file(const char *path)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	char		buf[16384];
	ssize_t		n;

	if (fd < 0)
	{
		warn("could not open log \"%s\": %m", path);
		return;
	}
	while ((n = read(fd, buf, sizeof(buf))) > 0)
	{
		if (fwrite(buf, 1, n, stdout) != n)
			die(EXIT_GENERAL, "Check where the output goes.", "could not write the log: %m");
	}
	close(fd);
}

void
server_print_log(const char *log, const char *what)
{
	LogMark    *mark = log_mark(log);

	if (mark->n == 0)
		die(EXIT_GENERAL, "It is written from the first start on.", "%s has no log \"%s\"", what,
			log);
	for (int i = 0; i < mark->n; i++)
		print_file(mark->files[i].path);
	fflush(stdout);
	mark_free(mark);
}
