/*-------------------------------------------------------------------------
 *
 * output.c
 *	  Everything the command says: errors, notices, progress, tables, JSON.
 *
 *-------------------------------------------------------------------------
 */
#include "output.h"

#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/file_utils.h"
#include "portability/instr_time.h"

#define TEXT_RING		8
#define MAX_CLEANUPS	4
#define TABLE_MAX_COLUMNS 12

bool		output_json = false;

/* What at_exit_remove was told; "" is a free place. */
static struct
{
	char		path[MAXPGPATH];
	pid_t		pid;			/* children do not clean up for us */
}			cleanups[MAX_CLEANUPS];

static const char *progress_what;
static instr_time progress_start;
static int	progress_shown;

static void
run_cleanups(void)
{
	struct stat st;

	for (int i = 0; i < MAX_CLEANUPS; i++)
	{
		const char *path = cleanups[i].path;

		if (path[0] == '\0' || cleanups[i].pid != getpid() || lstat(path, &st) < 0)
			continue;
		if (S_ISDIR(st.st_mode))
			(void) rmtree(path, true);
		else
			(void) unlink(path);
	}
}

void
at_exit_remove(const char *path)
{
	static bool registered = false;

	for (int i = 0; i < MAX_CLEANUPS; i++)
	{
		if (cleanups[i].path[0] != '\0')
			continue;
		strlcpy(cleanups[i].path, path, sizeof(cleanups[i].path));
		cleanups[i].pid = getpid();
		break;
	}
	if (!registered)
		atexit(run_cleanups);
	registered = true;
}

void
at_exit_forget(const char *path)
{
	for (int i = 0; i < MAX_CLEANUPS; i++)
	{
		if (strcmp(cleanups[i].path, path) == 0)
			cleanups[i].path[0] = '\0';
	}
}

/* Messages of a server may have several lines; ours have one. */
static void
print_one_line(const char *prefix, const char *message)
{
	fputs(prefix, stderr);
	for (const char *p = message; *p; p++)
		fputc((*p == '\n' || *p == '\r') ? ' ' : *p, stderr);
	fputc('\n', stderr);
}

void
die(ExitCode code, const char *hint, const char *fmt,...)
{
	char		message[8192];
	va_list		args;

	progress_end();
	fflush(stdout);
	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	print_one_line("neon: error: ", message);
	print_one_line("HINT: ", hint);
	exit(code);
}

void
die_oom(void)
{
	die(EXIT_GENERAL, "Free some memory and try again.", "out of memory");
}

void
warn(const char *fmt,...)
{
	char		message[8192];
	va_list		args;

	progress_end();
	fflush(stdout);
	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	print_one_line("neon: warning: ", message);
}

void
say(const char *fmt,...)
{
	va_list		args;

	progress_end();
	if (output_json)
		return;
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

const char *
strf(const char *fmt,...)
{
	static char ring[TEXT_RING][4096];
	static int	next = 0;
	char	   *buf = ring[next];
	va_list		args;

	next = (next + 1) % TEXT_RING;
	va_start(args, fmt);
	vsnprintf(buf, sizeof(ring[0]), fmt, args);
	va_end(args);
	return buf;
}

/* ---- progress ---- */

void
progress_begin(const char *what)
{
	progress_end();
	progress_what = what;
	INSTR_TIME_SET_CURRENT(progress_start);
}

void
progress_tick(void)
{
	instr_time	now;
	double		seconds;

	if (progress_what == NULL || !isatty(STDERR_FILENO))
		return;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, progress_start);
	seconds = INSTR_TIME_GET_DOUBLE(now);
	if (seconds < 0.5 || (int) (seconds * 5) == progress_shown)
		return;
	progress_shown = (int) (seconds * 5);
	fprintf(stderr, "\r%s ... %.0f s\033[K", progress_what, seconds);
	fflush(stderr);
}

void
progress_end(void)
{
	if (progress_what != NULL && progress_shown > 0)
	{
		fputs("\r\033[K", stderr);
		fflush(stderr);
	}
	progress_what = NULL;
	progress_shown = 0;
}

/* ---- JSON ---- */

static void
json_escape(PQExpBuffer buf, const char *value)
{
	appendPQExpBufferChar(buf, '"');
	for (const unsigned char *p = (const unsigned char *) value; *p; p++)
	{
		if (*p == '"' || *p == '\\')
			appendPQExpBuffer(buf, "\\%c", *p);
		else if (*p < 0x20)
			appendPQExpBuffer(buf, "\\u%04x", *p);
		else
			appendPQExpBufferChar(buf, (char) *p);
	}
	appendPQExpBufferChar(buf, '"');
}

static void
json_name(PQExpBuffer buf, const char *name)
{
	if (buf->len > 0 && buf->data[buf->len - 1] != '{')
		appendPQExpBufferStr(buf, ", ");
	json_escape(buf, name);
	appendPQExpBufferStr(buf, ": ");
}

void
json_begin(PQExpBuffer buf)
{
	initPQExpBuffer(buf);
	appendPQExpBufferChar(buf, '{');
}

void
json_string(PQExpBuffer buf, const char *name, const char *value)
{
	json_name(buf, name);
	if (value == NULL)
		appendPQExpBufferStr(buf, "null");
	else
		json_escape(buf, value);
}

void
json_number(PQExpBuffer buf, const char *name, int64 value)
{
	json_name(buf, name);
	appendPQExpBuffer(buf, INT64_FORMAT, value);
}

void
json_bool(PQExpBuffer buf, const char *name, bool value)
{
	json_name(buf, name);
	appendPQExpBufferStr(buf, value ? "true" : "false");
}

void
json_end_print(PQExpBuffer buf)
{
	appendPQExpBufferChar(buf, '}');
	if (PQExpBufferBroken(buf))
		die_oom();
	if (output_json)
		puts(buf->data);
	termPQExpBuffer(buf);
}

/* ---- tables ---- */

struct Table
{
	int			ncolumns;
	const char *const *titles;
	const char *const *json_names;
	bool		is_number[TABLE_MAX_COLUMNS];	/* in JSON */
	int			ncells;
	int			maxcells;
	char	  **cells;
};

Table *
table_new(int ncolumns, const char *const *titles, const char *const *json_names)
{
	Table	   *table = pg_malloc0(sizeof(Table));

	Assert(ncolumns <= TABLE_MAX_COLUMNS);
	table->ncolumns = ncolumns;
	table->titles = titles;
	table->json_names = json_names;
	return table;
}

void
table_cell(Table *table, const char *value)
{
	if (table->ncells == table->maxcells)
	{
		table->maxcells = table->maxcells ? table->maxcells * 2 : 64;
		table->cells = pg_realloc(table->cells, table->maxcells * sizeof(char *));
	}
	table->cells[table->ncells++] = value ? pg_strdup(value) : NULL;
}

/* The rows as JSON objects, with commas between. */
static void
table_json_rows(Table *table, PQExpBuffer buf)
{
	for (int i = 0; i < table->ncells; i++)
	{
		int			column = i % table->ncolumns;

		if (column == 0)
			appendPQExpBufferStr(buf, i ? ",\n {" : "{");
		if (table->json_names[column] == NULL)
			 /* not in JSON */ ;
		else if (table->is_number[column] && table->cells[i] != NULL)
			json_number(buf, table->json_names[column], strtoll(table->cells[i], NULL, 10));
		else
			json_string(buf, table->json_names[column], table->cells[i]);
		if (column == table->ncolumns - 1)
			appendPQExpBufferChar(buf, '}');
	}
}

static void
table_print_json(Table *table, bool as_array)
{
	PQExpBufferData buf;

	initPQExpBuffer(&buf);
	if (as_array)
		appendPQExpBufferChar(&buf, '[');
	table_json_rows(table, &buf);
	if (as_array)
		appendPQExpBufferChar(&buf, ']');
	if (PQExpBufferBroken(&buf))
		die_oom();
	puts(buf.data);
	termPQExpBuffer(&buf);
}

void
table_print_object(Table *table)
{
	Assert(table->ncells == table->ncolumns);
	table_print_json(table, false);
}

void
table_number_column(Table *table, int column)
{
	table->is_number[column] = true;
}

/* Width on the screen of UTF-8 text, near enough: bytes that start a character. */
static int
screen_width(const char *value)
{
	int			width = 0;

	for (; *value; value++)
		width += ((*value & 0xC0) != 0x80);
	return width;
}

static void
table_print_row(Table *table, const char *const *cells, const int *widths)
{
	int			pad = 0;

	for (int c = 0; c < table->ncolumns; c++)
	{
		const char *value = cells[c] ? cells[c] : "-";

		if (table->titles[c] == NULL)
			continue;
		printf("%*s%s%s", pad, "", c ? "  " : " ", value);
		pad = Max(widths[c] - screen_width(value), 0);
	}
	putchar('\n');
}

void
table_print(Table *table)
{
	int			widths[TABLE_MAX_COLUMNS] = {0};

	progress_end();
	if (output_json)
	{
		table_print_json(table, true);
		return;
	}
	for (int c = 0; c < table->ncolumns; c++)
		widths[c] = table->titles[c] ? screen_width(table->titles[c]) : 0;
	for (int i = 0; i < table->ncells; i++)
	{
		int			width = screen_width(table->cells[i] ? table->cells[i] : "-");

		if (width > widths[i % table->ncolumns])
			widths[i % table->ncolumns] = width;
	}
	table_print_row(table, table->titles, widths);
	for (int i = 0; i < table->ncells; i += table->ncolumns)
		table_print_row(table, (const char *const *) &table->cells[i], widths);
}
