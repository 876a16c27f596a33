/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  PostgreSQL's own settings, found to change what may be set.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SETTINGS_H
#define NEON_SETTINGS_H

#include "postgres.h"

#include "utils/guc_tables.h"

/*
 * The server's setting of this name; FATAL if there is none of that type.
 * For _PG_init, which may put a check hook before the one that is there.
 */
extern struct config_generic *setting_find(const char *name, enum config_type type);

#endif							/* NEON_SETTINGS_H */
