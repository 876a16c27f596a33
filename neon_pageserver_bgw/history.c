/*-------------------------------------------------------------------------
 *
 * history.c
 *	  History points: LSNs of a timeline that must stay readable.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store_private.h"
#include "utils/timestamp.h"

/* Leases that ended are dropped together with the next change of one. */
static void
drop_expired_leases(Timeline *tl, StringInfo body)
{
	Manifest   *m = timeline_read_manifest(tl);
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < m->npoints; i++)
	{
		const ManifestPoint *p = &m->points[i];

		if (p->kind == HISTORY_LEASE && p->expires != 0 && p->expires < now)
			manifest_op_drop_point(body, p->kind, &p->id);
	}
	manifest_free(m);
}

void
store_add_history_point(Timeline *tl, HistoryPointKind kind, const NeonId *id, XLogRecPtr lsn,
						TimestampTz expires)
{
	ManifestPoint point = {(uint8) kind, *id, lsn, expires};
	StringInfoData body;

	initStringInfo(&body);
	if (kind == HISTORY_LEASE)
		drop_expired_leases(tl, &body);
	manifest_op_add_point(&body, &point);
	timeline_edit(tl, body.data, body.len);
	pfree(body.data);
}

void
store_drop_history_point(Timeline *tl, HistoryPointKind kind, const NeonId *id)
{
	StringInfoData body;

	initStringInfo(&body);
	manifest_op_drop_point(&body, (uint8) kind, id);
	timeline_edit(tl, body.data, body.len);
	pfree(body.data);
}
