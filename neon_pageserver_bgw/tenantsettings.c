/*-------------------------------------------------------------------------
 *
 * tenantsettings.c
 *	  The settings neon_pageserver.pitr_interval and gc_horizon, and those that a
 *	  tenant has of its own, in the file "settings" of its directory.
 *
 * The file, little-endian: u32 magic | u32 version | u8 has pitr_interval | u8
 * has gc_horizon | u16 0 | u64 pitr_interval | u64 gc_horizon | u32 CRC-32C of
 * what is before it.  A tenant without the file has none of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "fmgr.h"
#include "funcapi.h"
#include "init.h"
#include "neon_codec.h"
#include "neon_diskfull.h"
#include "neon_durable.h"
#include "port/pg_crc32c.h"
#include "sqlutil.h"
#include "storage/fd.h"
#include "tenantsettings.h"
#include "timeline_shared.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#define SETTINGS_MAGIC		0x3153544E	/* "NTS1" */
#define SETTINGS_VERSION	1
#define SETTINGS_BYTES		32

PG_FUNCTION_INFO_V1(neon_tenant_configure);
PG_FUNCTION_INFO_V1(neon_tenant_settings);

static int	pitr_interval = 7 * SECS_PER_DAY;
static double gc_horizon = 64 * 1024 * 1024;

void
tenantsettings_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.pitr_interval",
							"Time for which the history of a timeline is kept.",
							"Zero keeps none because of its age.",
							&pitr_interval, 7 * SECS_PER_DAY, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomRealVariable("neon_pageserver.gc_horizon",
							 "Bytes of WAL at the end of a timeline whose history is kept whatever its age.",
							 "Zero keeps none because of its place.",
							 &gc_horizon, 64 * 1024 * 1024, 0, (double) PG_INT64_MAX / 2,
							 PGC_SIGHUP, GUC_UNIT_BYTE, NULL, NULL, NULL);
}

/* ---- the file ---- */

static void
settings_path(const NeonId *tenant, const char *suffix, char *path)
{
	char		hex[NEON_ID_HEXLEN + 1];

	snprintf(path, MAXPGPATH, "%s/%s/settings%s", TENANTS_DIR, neon_id_format(tenant, hex), suffix);
}

static uint32
settings_crc(const uint8 *bytes)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, bytes, SETTINGS_BYTES - 4);
	FIN_CRC32C(crc);
	return crc;
}

static bool
decode(const uint8 *b, TenantSettings *settings)
{
	if (codec_load_u32(b + SETTINGS_BYTES - 4) != settings_crc(b) ||
		codec_load_u32(b) != SETTINGS_MAGIC || codec_load_u32(b + 4) != SETTINGS_VERSION)
		return false;
	settings->own_pitr_interval = b[8] != 0;
	settings->own_gc_horizon = b[9] != 0;
	settings->pitr_interval = (int64) codec_load_u64(b + 12);
	settings->gc_horizon = codec_load_u64(b + 20);
	return settings->pitr_interval >= 0;
}

static void
encode(const TenantSettings *settings, uint8 *b)
{
	memset(b, 0, SETTINGS_BYTES);
	codec_store_u32(b, SETTINGS_MAGIC);
	codec_store_u32(b + 4, SETTINGS_VERSION);
	b[8] = settings->own_pitr_interval;
	b[9] = settings->own_gc_horizon;
	codec_store_u64(b + 12, (uint64) settings->pitr_interval);
	codec_store_u64(b + 20, settings->gc_horizon);
	codec_store_u32(b + SETTINGS_BYTES - 4, settings_crc(b));
}

/* False if the tenant has none. */
static bool
read_file(const NeonId *tenant, TenantSettings *settings)
{
	char		path[MAXPGPATH];
	uint8		bytes[SETTINGS_BYTES + 1];
	ssize_t		n;
	int			fd;

	settings_path(tenant, "", path);
	fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0 && errno == ENOENT)
		return false;
	n = fd < 0 ? -1 : durable_pread(fd, bytes, sizeof(bytes), 0);
	if (n < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	CloseTransientFile(fd);
	if (n != SETTINGS_BYTES || !decode(bytes, settings))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is corrupted", path),
				 errdetail("No history of the tenant is removed."),
				 errhint("Write it anew with neon_pageserver.tenant_configure().")));
	return true;
}

TenantSettings
tenant_settings(const NeonId *tenant)
{
	TenantSettings settings = {0};

	(void) read_file(tenant, &settings);
	if (!settings.own_pitr_interval)
		settings.pitr_interval = pitr_interval * USECS_PER_SEC;
	if (!settings.own_gc_horizon)
		settings.gc_horizon = (uint64) gc_horizon;
	return settings;
}

void
tenant_settings_write(const NeonId *tenant, const TenantSettings *settings)
{
	char		path[MAXPGPATH];
	char		temp[MAXPGPATH];
	uint8		bytes[SETTINGS_BYTES];
	int			fd;

	encode(settings, bytes);
	settings_path(tenant, "", path);
	settings_path(tenant, ".new", temp);
	fd = OpenTransientFile(temp, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0 || !durable_pwrite(fd, bytes, sizeof(bytes), 0) || CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", temp),
				 neon_hint_if_full(temp)));
	durable_rename(temp, path, ERROR);
}

/* ---- SQL ---- */

static void
check_tenant(const NeonId *tenant)
{
	char		hex[NEON_ID_HEXLEN + 1];

	if (!tenant_exists(tenant))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("tenant %s does not exist", neon_id_format(tenant, hex))));
}

/* tenant_configure(tenant, pitr_interval, gc_horizon): NULL is the instance's */
Datum
neon_tenant_configure(PG_FUNCTION_ARGS)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	TenantSettings settings = {0};

	check_superuser("tenant_configure");
	sql_refuse_transaction_block("tenant_configure");
	check_tenant(&tenant);
	if (!PG_ARGISNULL(1))
	{
		settings.own_pitr_interval = true;
		settings.pitr_interval = sql_interval_us(PG_GETARG_INTERVAL_P(1), "pitr_interval");
	}
	if (!PG_ARGISNULL(2))
	{
		if (PG_GETARG_INT64(2) < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("gc_horizon must not be negative")));
		settings.own_gc_horizon = true;
		settings.gc_horizon = PG_GETARG_INT64(2);
	}
	timeline_lock_registry();
	tenant_settings_write(&tenant, &settings);
	timeline_unlock_registry();
	PG_RETURN_VOID();
}

/* One row: what holds, and whether it is the tenant's own. */
Datum
neon_tenant_settings(PG_FUNCTION_ARGS)
{
	NeonId		tenant = sql_id_arg(fcinfo, 0, "tenant");
	TenantSettings settings;
	Interval   *interval = palloc0(sizeof(Interval));
	Datum		values[4];
	bool		nulls[4] = {false, false, false, false};

	check_tenant_access(&tenant);
	InitMaterializedSRF(fcinfo, 0);
	check_tenant(&tenant);
	settings = tenant_settings(&tenant);
	interval->day = settings.pitr_interval / USECS_PER_DAY;
	interval->time = settings.pitr_interval % USECS_PER_DAY;
	values[0] = IntervalPGetDatum(interval);
	values[1] = Int64GetDatum((int64) settings.gc_horizon);
	values[2] = BoolGetDatum(settings.own_pitr_interval);
	values[3] = BoolGetDatum(settings.own_gc_horizon);
	sql_put_row(fcinfo, values, nulls);
	return (Datum) 0;
}
