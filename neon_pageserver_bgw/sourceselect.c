/*-------------------------------------------------------------------------
 *
 * sourceselect.c
 *	  Which of a timeline's safekeepers to receive WAL from.
 *
 * All of them serve the same committed WAL, but one may be behind, hang, or
 * be cut off from the others.  So all are asked for the end of what they
 * know to be committed, and the one that is farthest is taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest_private.h"
#include "lib/stringinfo.h"
#include "sourceselect.h"

#define COMPUTE_TIMEOUT_MS	10000
#define MEMBER_TIMEOUT_MS	2000	/* others wait behind one that hangs */

static Receiver *
connect_one(Timeline *tl, const char *conninfo, const char *options, int timeout_ms,
			char **problem)
{
	ReceiverOptions how = {
		.replication = true,
		.application_name = SOURCE_APPLICATION_NAME,
		.passfile = ingest_passfile,
		.options = options,
	};
	Receiver   *r = receiver_connect(conninfo, &how, timeout_ms, problem);

	if (r == NULL)
		return NULL;
	if (!receiver_identify(r, tl->id.system_identifier, timeout_ms, problem))
	{
		receiver_close(r);
		return NULL;
	}
	return r;
}

/* A safekeeper has the WAL of many timelines: the session is for this one. */
static char *
session_options(Timeline *tl)
{
	char		tenant[NEON_ID_HEXLEN + 1];
	char		timeline[NEON_ID_HEXLEN + 1];

	return psprintf("-c neon.tenant_id=%s -c neon.timeline_id=%s",
					neon_id_format(&tl->id.tenant, tenant),
					neon_id_format(&tl->id.timeline, timeline));
}

/* The member that has committed most, of those that answer. */
static Receiver *
connect_farthest(Timeline *tl, const SourceTarget *target, char **problem)
{
	Receiver   *best = NULL;
	StringInfoData problems;
	char	   *options = session_options(tl);

	initStringInfo(&problems);
	for (int i = 0; i < target->nconninfo; i++)
	{
		char	   *one;
		Receiver   *r = connect_one(tl, target->conninfo[i], options, MEMBER_TIMEOUT_MS, &one);

		if (r == NULL)
			appendStringInfo(&problems, "%s%s", problems.len > 0 ? "; " : "", one);
		else if (best == NULL || receiver_position(r) > receiver_position(best))
		{
			if (best)
				receiver_close(best);
			best = r;
		}
		else
			receiver_close(r);
	}
	if (best == NULL)
		*problem = problems.data;
	return best;
}

Receiver *
source_connect_to(Timeline *tl, const SourceTarget *target, int which, char **problem)
{
	if (target->kind == SOURCE_SAFEKEEPERS)
		return connect_one(tl, target->conninfo[which], session_options(tl),
						   MEMBER_TIMEOUT_MS, problem);
	return connect_one(tl, target->conninfo[which], NULL, COMPUTE_TIMEOUT_MS, problem);
}

Receiver *
source_connect(Timeline *tl, const SourceTarget *target, int turn, char **problem)
{
	if (target->kind == SOURCE_SAFEKEEPERS)
		return connect_farthest(tl, target, problem);
	return source_connect_to(tl, target, turn % target->nconninfo, problem);
}

bool
source_has_more(Timeline *tl, const SourceTarget *target, XLogRecPtr lsn)
{
	char	   *problem;
	Receiver   *r;
	bool		more;

	if (target->kind != SOURCE_SAFEKEEPERS)
		return false;
	r = connect_farthest(tl, target, &problem);
	if (r == NULL)
		return false;
	more = receiver_position(r) > lsn;
	receiver_close(r);
	return more;
}
