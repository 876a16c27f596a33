/*-------------------------------------------------------------------------
 *
 * tenantsettings.h
 *	  How much history is kept: of the instance, and of a tenant where it has
 *	  its own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_TENANTSETTINGS_H
#define NEON_PS_TENANTSETTINGS_H

#include "neon_id.h"

typedef struct TenantSettings
{
	bool		own_pitr_interval;	/* else the instance's */
	bool		own_gc_horizon;
	int64		pitr_interval;	/* microseconds */
	uint64		gc_horizon;		/* bytes of WAL */
} TenantSettings;

/*
 * What holds for the tenant now.  ereport(ERROR, ERRCODE_DATA_CORRUPTED) if its
 * file is not what was written: then nothing is known about what may go.
 */
extern TenantSettings tenant_settings(const NeonId *tenant);

/* Writes the tenant's own, durably; what it does not have of its own is the instance's. */
extern void tenant_settings_write(const NeonId *tenant, const TenantSettings *settings);

#endif							/* NEON_PS_TENANTSETTINGS_H */
