/*-------------------------------------------------------------------------
 *
 * options.c
 *	  The options of all commands: names, forms of values, help texts, parser.
 *
 *-------------------------------------------------------------------------
 */
#include "options.h"

#include "neon_id.h"
#include "neon_lsn.h"
#include "output.h"

typedef enum ValueKind
{
	VALUE_NONE,					/* a flag */
	VALUE_TEXT,
	VALUE_PORT,					/* 0 to 65535 */
	VALUE_COUNT,				/* 0 to 1024 */
	VALUE_LSN,
	VALUE_ID,
	VALUE_CHOICE,
} ValueKind;

typedef struct OptionDef
{
	OptionId	id;
	char		letter;			/* 0 if it has none */
	const char *name;
	ValueKind	kind;
	const char *value;			/* placeholder; of a choice: a|b */
	const char *help;
} OptionDef;

static const OptionDef option_defs[OPT_COUNT] = {
	{OPT_REPO_DIR, 'D', "repo-dir", VALUE_TEXT, "DIR", "state directory (default: $NEON_REPO_DIR, else ./.neon)"},
	{OPT_JSON, 0, "json", VALUE_NONE, NULL, "print results as JSON"},
	{OPT_USER, 0, "user", VALUE_TEXT, "USER", "run servers as USER when called by root (default: postgres)"},
	{OPT_HELP, 'h', "help", VALUE_NONE, NULL, "show this help"},
	{OPT_VERSION, 'V', "version", VALUE_NONE, NULL, "show the version"},
	{OPT_SAFEKEEPERS, 0, "safekeepers", VALUE_COUNT, "N", "number of safekeepers: 1, 3 (default) or 5; for init also 0, laptop mode: one copy of the data"},
	{OPT_AUTH, 0, "auth", VALUE_CHOICE, "scram|trust", "how clients prove who they are (default: scram)"},
	{OPT_PAGESERVER_PORT, 0, "pageserver-port", VALUE_PORT, "PORT", "port of the pageserver (default: 64000; 0: any free one)"},
	{OPT_SAFEKEEPER_PORT, 0, "safekeeper-port", VALUE_PORT, "PORT", "port of the first safekeeper, the others follow (default: 5454; 0: any free ones)"},
	{OPT_FORCE, 0, "force", VALUE_NONE, NULL, "wipe a stopped state directory that is there already"},
	{OPT_MODE, 'm', "mode", VALUE_CHOICE, "fast|immediate", "how to stop (default: fast)"},
	{OPT_ENDPOINTS, 0, "endpoints", VALUE_NONE, NULL, "start those endpoints too that ran before"},
	{OPT_TENANT_ID, 0, "tenant-id", VALUE_ID, "ID", "tenant (default: the default tenant)"},
	{OPT_SET_DEFAULT, 0, "set-default", VALUE_NONE, NULL, "make it the default tenant"},
	{OPT_LOCALE, 0, "locale", VALUE_TEXT, "LOCALE", "locale of the databases"},
	{OPT_ENCODING, 0, "encoding", VALUE_TEXT, "ENCODING", "encoding of the databases"},
	{OPT_DATA_CHECKSUMS, 0, "data-checksums", VALUE_NONE, NULL, "have checksums on data pages"},
	{OPT_WAL_SEGSIZE, 0, "wal-segsize", VALUE_COUNT, "MB", "size of WAL segments in megabytes"},
	{OPT_PGDATA, 0, "pgdata", VALUE_TEXT, "DATADIR", "take over a cleanly stopped data directory of PostgreSQL"},
	{OPT_BRANCH_NAME, 0, "branch-name", VALUE_TEXT, "NAME", "name of the branch"},
	{OPT_ANCESTOR_BRANCH_NAME, 0, "ancestor-branch-name", VALUE_TEXT, "NAME", "branch to start from (default: main)"},
	{OPT_ANCESTOR_START_LSN, 0, "ancestor-start-lsn", VALUE_LSN, "LSN", "start from this place in its history"},
	{OPT_ANCESTOR_START_TIME, 0, "ancestor-start-time", VALUE_TEXT, "TIME", "start from what it was at this time"},
	{OPT_PORT, 0, "port", VALUE_PORT, "PORT", "port (default: first free one from 55432, of safekeepers from 5454; 0: any free one)"},
	{OPT_LSN, 0, "lsn", VALUE_LSN, "LSN", "static, read-only endpoint at this LSN"},
	{OPT_TIME, 0, "time", VALUE_TEXT, "TIME", "static, read-only endpoint at this time"},
	{OPT_EPHEMERAL, 0, "ephemeral", VALUE_NONE, NULL, "writable, but nothing that it writes is stored"},
	{OPT_TAKE_OVER, 0, "take-over", VALUE_NONE, NULL, "stop the endpoint that writes the branch now"},
	{OPT_ACCEPT_DATA_LOSS, 0, "accept-data-loss", VALUE_LSN, "LSN", "give up what the last writer did after this LSN"},
	{OPT_NO_SUPERVISE, 0, "no-supervise", VALUE_NONE, NULL, "leave nothing that starts it again after a crash"},
	{OPT_KEYS, 0, "keys", VALUE_NONE, NULL, "one line for each key too"},
	{OPT_VERSIONS, 0, "versions", VALUE_NONE, NULL, "one line for each key and each of its versions too"},
	{OPT_REPAIR, 0, "repair", VALUE_NONE, NULL, "rebuild damaged files, where that can be done"},
};

static const OptionDef *
find_long(const char *name, size_t len)
{
	for (int i = 0; i < OPT_COUNT; i++)
	{
		Assert(option_defs[i].id == i);
		if (strlen(option_defs[i].name) == len && strncmp(option_defs[i].name, name, len) == 0)
			return &option_defs[i];
	}
	return NULL;
}

static const OptionDef *
find_letter(char letter)
{
	for (int i = 0; i < OPT_COUNT; i++)
	{
		if (option_defs[i].letter == letter)
			return &option_defs[i];
	}
	return NULL;
}

static bool
parse_int(const char *value, int max, int *result)
{
	char	   *end;
	long		number;

	if (*value == '\0' || strspn(value, "0123456789") != strlen(value))
		return false;
	errno = 0;
	number = strtol(value, &end, 10);
	if (errno != 0 || number > max)
		return false;
	*result = (int) number;
	return true;
}

static bool
is_choice(const char *choices, const char *value)
{
	size_t		len = strlen(value);

	for (const char *p = choices; *p;)
	{
		size_t		n = strcspn(p, "|");

		if (n == len && strncmp(p, value, n) == 0)
			return true;
		p += n;
		if (*p == '|')
			p++;
	}
	return false;
}

static void
check_value(const OptionDef *def, const char *value)
{
	NeonId		id;
	XLogRecPtr	lsn;
	int			number;
	bool		ok = true;
	const char *form = "Give it a value, in one line.";

	switch (def->kind)
	{
		case VALUE_NONE:
			break;
		case VALUE_TEXT:
			ok = (value[0] != '\0' && strpbrk(value, "\r\n") == NULL);
			break;
		case VALUE_PORT:
			ok = parse_int(value, 65535, &number);
			form = "A port is a number from 0 to 65535.";
			break;
		case VALUE_COUNT:
			ok = parse_int(value, 1024, &number);
			form = "Give a number from 0 to 1024.";
			break;
		case VALUE_LSN:
			ok = neon_lsn_parse(value, &lsn) && lsn != InvalidXLogRecPtr;
			form = "An LSN has the form 0/16F9A00, and 0/0 is none.";
			break;
		case VALUE_ID:
			ok = neon_id_parse(value, &id) && !neon_id_is_zero(&id);
			form = "An id is 32 hexadecimal digits, not all of them 0.";
			break;
		case VALUE_CHOICE:
			ok = is_choice(def->value, value);
			form = strf("Give one of %s.", def->value);
			break;
	}
	if (!ok)
		die(EXIT_USAGE, form, "invalid value \"%s\" for option --%s", value, def->name);
}

static void
set_option(Invocation *inv, const OptionDef *def, const char *value)
{
	if (inv->option[def->id] != NULL)
		die(EXIT_USAGE, "Give each option once.", "option --%s is given twice", def->name);
	check_value(def, value);
	inv->option[def->id] = value;
}

/* Handles argv[*i], an option, and moves *i past its value. */
static void
parse_option(int argc, char **argv, int *i, Invocation *inv)
{
	const char *word = argv[*i];
	const OptionDef *def;
	const char *attached = NULL;

	if (word[1] == '-')
	{
		size_t		len = strcspn(word + 2, "=");

		def = find_long(word + 2, len);
		if (word[2 + len] == '=')
			attached = word + 2 + len + 1;
	}
	else
	{
		def = find_letter(word[1]);
		if (word[2] != '\0')
			attached = word + 2;
	}
	if (def == NULL)
		die(EXIT_USAGE, "Try \"neon --help\", or --help after a command.", "unknown option \"%s\"", word);
	(*i)++;
	if (def->kind == VALUE_NONE)
	{
		if (attached != NULL)
			die(EXIT_USAGE, "Give it without a value.", "option --%s takes no value", def->name);
		set_option(inv, def, "");
		return;
	}
	if (attached == NULL)
	{
		if (*i >= argc)
			die(EXIT_USAGE, strf("Give it as --%s %s.", def->name, def->value),
				"option --%s needs a value", def->name);
		attached = argv[(*i)++];
	}
	set_option(inv, def, attached);
}

static const Command *
find_command(const Command *commands, Invocation *inv)
{
	const char *first = inv->nargs > 0 ? inv->arg[0] : NULL;
	const char *second = inv->nargs > 1 ? inv->arg[1] : NULL;
	bool		is_group = false;

	if (first == NULL)
		return NULL;
	for (const Command *c = commands; c->verb != NULL; c++)
	{
		int			words = c->group ? 2 : 1;

		if (strcmp(first, c->group ? c->group : c->verb) != 0)
			continue;
		if (c->group != NULL)
		{
			is_group = true;
			if (second == NULL || strcmp(second, c->verb) != 0)
				continue;
		}
		inv->nargs -= words;
		memmove(inv->arg, inv->arg + words, inv->nargs * sizeof(inv->arg[0]));
		return c;
	}
	if (option_given(inv, OPT_HELP))
		return NULL;
	if (is_group && second == NULL)
		die(EXIT_USAGE, strf("Try \"neon %s --help\".", first), "\"neon %s\" needs a verb", first);
	die(EXIT_USAGE, is_group ? strf("Try \"neon %s --help\".", first) : "Try \"neon --help\".",
		"unknown command \"%s%s%s\"", first, is_group ? " " : "", is_group ? second : "");
}

/* Options that the command does not take, and the number of its arguments. */
static void
check_fit(const Invocation *inv)
{
	const Command *c = inv->command;
	const char *name = c->group ? strf("%s %s", c->group, c->verb) : c->verb;

	for (int i = 0; i < OPT_COUNT; i++)
	{
		if (inv->option[i] != NULL && ((c->options | OPTS_GLOBAL) & OPT_BIT(i)) == 0)
			die(EXIT_USAGE, strf("Try \"neon %s --help\".", name),
				"\"neon %s\" has no option --%s", name, option_defs[i].name);
	}
	if (inv->nargs < c->min_args)
		die(EXIT_USAGE, strf("Usage: neon %s %s", name, c->arguments),
			"\"neon %s\" needs %s", name, c->arguments);
	if (inv->nargs > c->max_args)
		die(EXIT_USAGE, strf("Usage: neon %s %s", name, c->arguments),
			"unexpected argument \"%s\"", inv->arg[c->max_args]);
}

void
options_parse(int argc, char **argv, const Command *commands, Invocation *inv)
{
	bool		only_arguments = false;

	memset(inv, 0, sizeof(*inv));
	for (int i = 1; i < argc;)
	{
		if (!only_arguments && strcmp(argv[i], "--") == 0)
		{
			only_arguments = true;
			i++;
		}
		else if (!only_arguments && argv[i][0] == '-' && argv[i][1] != '\0')
			parse_option(argc, argv, &i, inv);
		else if (inv->nargs == MAX_ARGUMENTS)
			die(EXIT_USAGE, "Try \"neon --help\".", "too many arguments");
		else
			inv->arg[inv->nargs++] = argv[i++];
	}
	inv->command = find_command(commands, inv);
	if (inv->command != NULL && !option_given(inv, OPT_HELP) && !option_given(inv, OPT_VERSION))
		check_fit(inv);
}

void
options_help(uint64 options)
{
	for (int i = 0; i < OPT_COUNT; i++)
	{
		const OptionDef *def = &option_defs[i];
		char		left[64];

		if ((options & OPT_BIT(i)) == 0)
			continue;
		snprintf(left, sizeof(left), "%c%c%s--%s%s%s", def->letter ? '-' : ' ',
				 def->letter ? def->letter : ' ', def->letter ? ", " : "  ", def->name,
				 def->value ? " " : "", def->value ? def->value : "");
		printf("  %-34s %s\n", left, def->help);
	}
}

XLogRecPtr
option_lsn(const Invocation *inv, OptionId id)
{
	XLogRecPtr	lsn = InvalidXLogRecPtr;

	(void) neon_lsn_parse(inv->option[id], &lsn);
	return lsn;
}

int
option_int(const Invocation *inv, OptionId id)
{
	int			number = 0;

	(void) parse_int(inv->option[id], 65535, &number);
	return number;
}

void
check_endpoint_name(const char *name)
{
	size_t		len = strlen(name);

	if (len < 1 || len > 63 ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != len ||
		name[0] == '.' || name[0] == '-')
		die(EXIT_USAGE, "Use up to 63 letters, digits, \"_\", \"-\" and \".\", beginning with a letter, digit or \"_\".",
			"\"%s\" cannot be the name of an endpoint", name);
}
