/*-------------------------------------------------------------------------
 *
 * sqlutil.c
 *	  Arguments of the pageserver's SQL functions: timelines, branch names.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "sqlutil.h"
#include "utils/builtins.h"

static bool
branch_name_char(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		(c >= '0' && c <= '9') || strchr("_-./", c) != NULL;
}

void
sql_check_branch_name(const char *name)
{
	NeonId		id;
	const char *problem = NULL;
	const char *p;

	if (name[0] == '\0')
		problem = "It must not be empty.";
	else if (strlen(name) >= NEON_NAME_MAX)
		problem = "It must be shorter than 64 characters.";
	else if (name[0] == '-' || name[0] == '.' || name[0] == '/')
		problem = "It must begin with a letter, a digit or an underscore.";
	else if (neon_id_parse(name, &id))
		problem = "It could be taken for an id.";
	for (p = name; *p && problem == NULL; p++)
		if (!branch_name_char(*p))
			problem = "Only letters, digits and the characters _ - . / may be in it.";
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid branch name: \"%.64s\"", name),
				 errdetail_internal("%s", problem),
				 errhint("Choose another name.")));
}

Timeline *
sql_open_timeline(FunctionCallInfo fcinfo, int tenant_argno, int timeline_argno)
{
	NeonId		tenant = sql_id_arg(fcinfo, tenant_argno, "tenant");
	NeonId		timeline = sql_id_arg(fcinfo, timeline_argno, "timeline");

	check_tenant_access(&tenant);
	return timeline_open(&tenant, &timeline, false);
}

XLogRecPtr
sql_history_start(Timeline *tl)
{
	while (tl->ancestor)
		tl = tl->ancestor;
	return tl->id.start_lsn;
}

int64
sql_interval_us(Interval *interval, const char *what)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz then = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
															   TimestampTzGetDatum(now),
															   IntervalPGetDatum(interval)));

	if (then < now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative", what)));
	return then - now;
}
