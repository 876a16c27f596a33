/*-------------------------------------------------------------------------
 *
 * options.h
 *	  The options of all commands, each defined once, and the table entry of
 *	  a command.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CTL_OPTIONS_H
#define NEON_CTL_OPTIONS_H

#include "postgres_fe.h"
#include "access/xlogdefs.h"

typedef enum OptionId
{
	OPT_REPO_DIR,
	OPT_JSON,
	OPT_USER,
	OPT_HELP,
	OPT_VERSION,
	OPT_SAFEKEEPERS,
	OPT_AUTH,
	OPT_PAGESERVER_PORT,
	OPT_SAFEKEEPER_PORT,
	OPT_FORCE,
	OPT_MODE,
	OPT_ENDPOINTS,
	OPT_TENANT_ID,
	OPT_SET_DEFAULT,
	OPT_LOCALE,
	OPT_ENCODING,
	OPT_DATA_CHECKSUMS,
	OPT_WAL_SEGSIZE,
	OPT_PGDATA,
	OPT_BRANCH_NAME,
	OPT_ANCESTOR_BRANCH_NAME,
	OPT_ANCESTOR_START_LSN,
	OPT_ANCESTOR_START_TIME,
	OPT_PORT,
	OPT_LSN,
	OPT_TIME,
	OPT_EPHEMERAL,
	OPT_TAKE_OVER,
	OPT_ACCEPT_DATA_LOSS,
	OPT_NO_SUPERVISE,
	OPT_KEYS,
	OPT_VERSIONS,
	OPT_REPAIR,
	OPT_COUNT,
} OptionId;

#define OPT_BIT(id)		(UINT64CONST(1) << (id))

/* Accepted by every command. */
#define OPTS_GLOBAL (OPT_BIT(OPT_REPO_DIR) | OPT_BIT(OPT_JSON) | OPT_BIT(OPT_USER) | \
					 OPT_BIT(OPT_HELP) | OPT_BIT(OPT_VERSION))

/* What endpoint start takes, and endpoint create with it. */
#define OPTS_START (OPT_BIT(OPT_TENANT_ID) | OPT_BIT(OPT_BRANCH_NAME) | OPT_BIT(OPT_PORT) | \
					OPT_BIT(OPT_LSN) | OPT_BIT(OPT_TIME) | OPT_BIT(OPT_EPHEMERAL) | \
					OPT_BIT(OPT_TAKE_OVER) | OPT_BIT(OPT_ACCEPT_DATA_LOSS) | \
					OPT_BIT(OPT_NO_SUPERVISE))

#define MAX_ARGUMENTS	64

/* A command line, parsed and checked for form. */
typedef struct Invocation
{
	const struct Command *command;
	const char *option[OPT_COUNT];	/* NULL if not given; "" for a flag */
	int			nargs;
	const char *arg[MAX_ARGUMENTS];
} Invocation;

typedef struct Command
{
	const char *group;			/* "tenant", or NULL */
	const char *verb;			/* "create", or "init" */
	const char *arguments;		/* for the synopsis */
	int			min_args;
	int			max_args;
	uint64		options;		/* OPT_BITs besides OPTS_GLOBAL */
	bool		needs_repo;		/* open the state directory first */
	const char *summary;
	const char *examples;		/* lines, each ending with a newline */
	int			(*run) (Invocation *inv);	/* returns the exit code */
} Command;

/* Parses all of argv; dies with EXIT_USAGE.  Finds the command in the table. */
extern void options_parse(int argc, char **argv, const Command *commands, Invocation *inv);

/* Prints the option lines of a help page. */
extern void options_help(uint64 options);

/* Values, checked when parsed.  The caller knows that the option is given. */
extern XLogRecPtr option_lsn(const Invocation *inv, OptionId id);
extern int	option_int(const Invocation *inv, OptionId id);

static inline bool
option_given(const Invocation *inv, OptionId id)
{
	return inv->option[id] != NULL;
}

/* -m immediate */
static inline bool
option_immediate(const Invocation *inv)
{
	return option_given(inv, OPT_MODE) && strcmp(inv->option[OPT_MODE], "immediate") == 0;
}


/* Dies with EXIT_USAGE if the text is no good name of an endpoint. */
extern void check_endpoint_name(const char *name);

#endif							/* NEON_CTL_OPTIONS_H */
