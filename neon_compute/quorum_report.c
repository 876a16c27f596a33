/*-------------------------------------------------------------------------
 *
 * quorum_report.c
 *	  What the coordinator logs and shows of a safekeeper.
 *
 * A problem is logged at once, and again each minute while it lasts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "quorum_link.h"

#define CATCH_UP_MS		5000	/* one that has come back lags for a moment */
#define LAGGING_BYTES	(16 * 1024 * 1024)	/* what a member may lack without a word */
#define MEGABYTE		(1024 * 1024)
#define LAG_TEXT		"it is "

static uint64
lag_bytes(const Link *link, XLogRecPtr majority)
{
	XLogRecPtr	flush_lsn = link->status.flush_lsn;

	return flush_lsn != InvalidXLogRecPtr && majority > flush_lsn ? majority - flush_lsn : 0;
}

MemberStatus
shown_status(const Link *link, XLogRecPtr majority)
{
	MemberStatus status = link->status;

	status.lag_bytes = lag_bytes(link, majority);
	if (status.problem[0] != '\0')
		return status;
	if (link->member_says[0] != '\0')
		strlcpy(status.problem, link->member_says, sizeof(status.problem));
	else if (status.streaming && status.lag_bytes > LAGGING_BYTES)
		snprintf(status.problem, sizeof(status.problem), LAG_TEXT "%llu MB behind the majority",
				 (unsigned long long) (status.lag_bytes / MEGABYTE));
	return status;
}

static bool
is_lag(const char *problem)
{
	return strncmp(problem, LAG_TEXT, strlen(LAG_TEXT)) == 0;
}

/* A lag is another one each time that it is looked at. */
static bool
same_problem(const char *a, const char *b)
{
	return strcmp(a, b) == 0 || (is_lag(a) && is_lag(b));
}

void
report_problem(Link *link, XLogRecPtr majority, uint64 now)
{
	MemberStatus status = shown_status(link, majority);
	bool		same = same_problem(status.problem, link->told_problem);

	if (status.problem[0] == '\0' ||
		(is_lag(status.problem) && now - link->streaming_since < CATCH_UP_MS) ||
		(link->told_at != 0 && now - link->told_at < (same ? REMINDER_MS : REMINDER_MS / 6)))
		return;
	link->told_at = now;
	strlcpy(link->told_problem, status.problem, sizeof(link->told_problem));
	ereport(LOG,
			(errmsg(status.streaming ?
					"safekeeper %d at %s:%d streams the WAL of this compute, but: %s" :
					"safekeeper %d at %s:%d does not stream the WAL of this compute: %s",
					status.member.id, status.member.host, status.member.port, status.problem)));
}

void
report_streaming(Link *link, uint64 now)
{
	const NeonMember *member = &link->status.member;
	bool		streaming = link->status.streaming;

	if (streaming == link->told_streaming)
		return;
	link->told_streaming = streaming;
	if (streaming)
	{
		link->status.problem[0] = '\0';
		link->member_says[0] = '\0';	/* that was about the time before */
		link->told_problem[0] = '\0';
		link->told_at = 0;
		link->streaming_since = now;
		link->receive_backoff_ms = 0;
		ereport(LOG,
				(errmsg("safekeeper %d at %s:%d streams the WAL of this compute",
						member->id, member->host, member->port)));
		return;
	}
	link->next_receive = now + STREAM_GONE_MS;
	ereport(LOG,
			(errmsg("safekeeper %d at %s:%d no longer streams the WAL of this compute",
					member->id, member->host, member->port),
			 errdetail("It has the WAL up to %X/%X.", LSN_FORMAT_ARGS(link->status.flush_lsn))));
}

void
set_problem(Link *link, const char *text, const char *detail)
{
	snprintf(link->status.problem, sizeof(link->status.problem), "%s%s%s%s", text,
			 detail ? " (" : "", detail ? detail : "", detail ? ")" : "");
}
