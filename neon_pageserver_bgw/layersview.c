/*-------------------------------------------------------------------------
 *
 * layersview.c
 *	  What the views layers and history_points show: the files and the points
 *	  that the manifests name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "history.h"
#include "historygc.h"
#include "layerfile.h"
#include "sqlutil.h"
#include "timeline_shared.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

PG_FUNCTION_INFO_V1(neon_layers_info);
PG_FUNCTION_INFO_V1(neon_history_points_info);

static void
put_layer(Timeline *tl, const ManifestFile *file, FunctionCallInfo fcinfo)
{
	char		path[MAXPGPATH];
	Datum		values[8];
	bool		nulls[8] = {false};

	layer_path(&tl->id, file, path);
	values[0] = sql_id_datum(&tl->id.tenant);
	values[1] = sql_id_datum(&tl->id.timeline);
	values[2] = CStringGetTextDatum(path);
	values[3] = CStringGetTextDatum(file->type == LAYER_IMAGE ? "image" : "delta");
	values[4] = LSNGetDatum(file->lsn_lo);
	values[5] = LSNGetDatum(file->lsn_hi);
	values[6] = Int64GetDatum((int64) file->bytes);
	values[7] = Int64GetDatum((int64) file->entries);
	sql_put_row(fcinfo, values, nulls);
}

/* NULL if the manifest cannot be read, or the timeline is gone meanwhile: it has no rows then. */
static Manifest *
read_or_null(Timeline *tl)
{
	MemoryContext context = CurrentMemoryContext;
	Manifest   *volatile m = NULL;

	if (timeline_state(tl) != TIMELINE_ACTIVE && timeline_state(tl) != TIMELINE_READONLY)
		return NULL;
	PG_TRY();
	{
		m = timeline_read_manifest(tl);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (geterrcode() != ERRCODE_UNDEFINED_OBJECT && geterrcode() != ERRCODE_DATA_CORRUPTED)
			PG_RE_THROW();
		FlushErrorState();
		LWLockReleaseAll();
	}
	PG_END_TRY();
	return m;
}

static void
put_layers(Timeline *tl, void *arg)
{
	Manifest   *m = read_or_null(tl);

	if (m == NULL)
		return;
	for (int i = 0; i < m->nfiles; i++)
		put_layer(tl, &m->files[i], arg);
	manifest_free(m);
}

Datum
neon_layers_info(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	timeline_foreach(put_layers, fcinfo);
	return (Datum) 0;
}

static void
put_point(Timeline *tl, const ManifestPoint *point, FunctionCallInfo fcinfo)
{
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = sql_id_datum(&tl->id.tenant);
	values[1] = sql_id_datum(&tl->id.timeline);
	values[2] = CStringGetTextDatum(point->kind == HISTORY_BRANCH ? "branch" : "lease");
	values[3] = sql_id_datum(&point->id);
	values[4] = LSNGetDatum(point->lsn);
	values[5] = TimestampTzGetDatum(history_end_of(point));
	nulls[5] = point->expires == 0;
	sql_put_row(fcinfo, values, nulls);
}

static void
put_points(Timeline *tl, void *arg)
{
	Manifest   *m = read_or_null(tl);

	if (m == NULL)
		return;
	for (int i = 0; i < m->npoints; i++)
		put_point(tl, &m->points[i], arg);
	manifest_free(m);
}

Datum
neon_history_points_info(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	timeline_foreach(put_points, fcinfo);
	return (Datum) 0;
}
