/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  PostgreSQL's own settings, found to change what may be set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "settings.h"

struct config_generic *
setting_find(const char *name, enum config_type type)
{
	struct config_generic **all = get_guc_variables();
	int			n = GetNumConfigOptions();

	for (int i = 0; i < n; i++)
		if (strcmp(all[i]->name, name) == 0 && all[i]->vartype == type)
			return all[i];
	ereport(FATAL,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("this server has no setting \"%s\" as PostgreSQL 15 has it", name)));
	return NULL;				/* not reached */
}
