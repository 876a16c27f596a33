/*-------------------------------------------------------------------------
 *
 * bootfiles.c
 *	  The files that make a data directory boot at an LSN without recovery.
 *
 * The boot record is the shutdown checkpoint that the server itself would
 * write at the end of crash recovery there; with the control file pointing at
 * it, the server starts as after a clean shutdown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "access/xlog_internal.h"
#include "blobs.h"
#include "bootfiles.h"
#include "catalog/catversion.h"
#include "controlat.h"
#include "import.h"
#include "port/pg_crc32c.h"
#include "service.h"
#include "store.h"
#include "walstore.h"

#define BOOT_TLI			1
#define BOOT_TEXT_FORMAT	1

/* What the server sets where it does not know better. */
#define BOOT_UNLOGGED_LSN	((XLogRecPtr) 1000)

static const char *const kind_names[] = {
	[BOOT_PRIMARY] = "primary",
	[BOOT_STATIC] = "static",
	[BOOT_EPHEMERAL] = "ephemeral",
};

const char *
boot_kind_name(BootKind kind)
{
	return kind_names[kind];
}

BootKind
boot_kind_from_name(const char *name)
{
	for (int i = 0; i < lengthof(kind_names); i++)
		if (strcmp(kind_names[i], name) == 0)
			return (BootKind) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown kind of boot \"%.64s\"", name),
			 errhint("Kinds are primary, static and ephemeral.")));
	return BOOT_STATIC;			/* not reached */
}

/* ---- checks ---- */

void
boot_wait(Timeline *tl, XLogRecPtr lsn)
{
	if (timeline_last_record_lsn(tl) >= lsn ||
		timeline_wait_lsn(tl, lsn, service_wait_lsn_timeout))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("LSN %X/%X is in the future", LSN_FORMAT_ARGS(lsn)),
			 errdetail("The timeline ends at %X/%X.",
					   LSN_FORMAT_ARGS(timeline_last_record_lsn(tl)))));
}

static void
check_term(const BootPlan *plan)
{
	XLogRecPtr	last = timeline_last_record_lsn(plan->tl);
	XLogRecPtr	boot_record_end;
	uint32		last_term = Max(plan->state.term, timeline_term(plan->tl, &boot_record_end));

	if (plan->kind != BOOT_PRIMARY)
	{
		if (plan->term != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a %s endpoint has no term", boot_kind_name(plan->kind))));
		return;
	}
	if (plan->term <= last_term)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("term %u is not above the last one, %u", plan->term, last_term)));
	if (plan->lsn != last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a primary must boot at the end of its timeline"),
				 errdetail("The timeline ends at %X/%X, not at %X/%X.",
						   LSN_FORMAT_ARGS(last), LSN_FORMAT_ARGS(plan->lsn)),
				 errhint("Create a branch at the LSN.")));
}

/* The control file that the lineage began with. */
static void
load_control(BootPlan *plan)
{
	NeonKey		key = blob_file_key(IMPORT_CONTROL_PATH);
	StoreChain	chain;
	char		path[BLOB_PATH_MAX];
	const char *bytes;
	uint32		len;

	store_get(plan->tl, &key, 1, plan->lsn, &chain);
	if (chain.found != STORE_FOUND || chain.nversions < 1 ||
		chain.versions[0].value_kind != NEON_VALUE_BLOB ||
		!blob_get_file(chain.versions[0].data, chain.versions[0].len, path, &bytes, &len) ||
		strcmp(path, IMPORT_CONTROL_PATH) != 0 || len != sizeof(ControlFileData))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the timeline's control file is missing or damaged")));
	memcpy(&plan->control, bytes, sizeof(ControlFileData));
	if (plan->control.system_identifier != plan->tl->id.system_identifier ||
		plan->control.xlog_seg_size != plan->tl->id.wal_segment_size)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the timeline's control file is that of another system")));
}

void
boot_plan(BootPlan *plan, Timeline *tl, BootKind kind, uint32 term, const NeonId *boot_id,
		  XLogRecPtr lsn)
{
	memset(plan, 0, sizeof(*plan));
	plan->tl = tl;
	plan->kind = kind;
	plan->term = term;
	plan->boot_id = *boot_id;
	plan->lsn = lsn;
	control_at(tl, lsn, &plan->state);
	check_term(plan);
	load_control(plan);
}

/* ---- the boot record ---- */

static void
prepare_checkpoint(BootPlan *plan)
{
	CheckPoint *checkpoint = &plan->control.checkPointCopy;

	*checkpoint = plan->state.checkpoint;
	checkpoint->ThisTimeLineID = BOOT_TLI;
	checkpoint->PrevTimeLineID = BOOT_TLI;
	checkpoint->time = (pg_time_t) time(NULL);
	checkpoint->oldestActiveXid = InvalidTransactionId;
	/* it replays nothing after this record, so a base backup of it misses no image */
	if (plan->kind == BOOT_STATIC)
		checkpoint->fullPageWrites = true;
}

static void
set_control(BootPlan *plan)
{
	ControlFileData *control = &plan->control;

	control->state = DB_SHUTDOWNED;
	control->time = control->checkPointCopy.time;
	control->checkPoint = plan->place.start;
	control->unloggedLSN = BOOT_UNLOGGED_LSN;
	control->minRecoveryPoint = InvalidXLogRecPtr;
	control->minRecoveryPointTLI = 0;
	control->backupStartPoint = InvalidXLogRecPtr;
	control->backupEndPoint = InvalidXLogRecPtr;
	control->backupEndRequired = false;
	control_set_parameters(control, &plan->state);
}

char *
boot_wal(BootPlan *plan)
{
	uint32		segsize = plan->tl->id.wal_segment_size;
	char	   *image = palloc_extended(2 * (Size) segsize, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

	walstore_read_head(plan->tl, plan->lsn, plan->state.prev, image);
	prepare_checkpoint(plan);
	bootrec_write(image, plan->lsn, plan->state.prev, &plan->control.checkPointCopy, plan->term,
				  neon_id_is_zero(&plan->boot_id) ? NULL : &plan->boot_id,
				  plan->tl->id.system_identifier, segsize, BOOT_TLI, &plan->place);
	set_control(plan);
	return image;
}

void
boot_control_file(const BootPlan *plan, char *file)
{
	ControlFileData control = plan->control;

	INIT_CRC32C(control.crc);
	COMP_CRC32C(control.crc, &control, offsetof(ControlFileData, crc));
	FIN_CRC32C(control.crc);
	memset(file, 0, PG_CONTROL_FILE_SIZE);
	memcpy(file, &control, sizeof(control));
}

/* ---- neon.boot ---- */

static void
put_lsn(StringInfo buf, const char *key, XLogRecPtr lsn)
{
	appendStringInfo(buf, "%s=%X/%X\n", key, LSN_FORMAT_ARGS(lsn));
}

static void
put_int(StringInfo buf, const char *key, int64 value)
{
	appendStringInfo(buf, "%s=" INT64_FORMAT "\n", key, value);
}

static void
put_id(StringInfo buf, const char *key, const NeonId *id)
{
	char		hex[NEON_ID_HEXLEN + 1];

	appendStringInfo(buf, "%s=%s\n", key, neon_id_format(id, hex));
}

void
boot_text(const BootPlan *plan, StringInfo buf)
{
	const TimelineIdentity *id = &plan->tl->id;
	const ControlFileData *control = &plan->control;

	put_int(buf, "format", BOOT_TEXT_FORMAT);
	put_id(buf, "tenant_id", &id->tenant);
	put_id(buf, "timeline_id", &id->timeline);
	appendStringInfo(buf, "kind=%s\n", boot_kind_name(plan->kind));
	put_int(buf, "term", plan->term);
	put_lsn(buf, "boot_lsn", plan->lsn);
	put_lsn(buf, "boot_record_lsn", plan->place.start);
	put_lsn(buf, "boot_record_end", plan->place.end);
	put_lsn(buf, "prev_record_lsn", plan->state.prev);
	appendStringInfo(buf, "system_identifier=" UINT64_FORMAT "\n", id->system_identifier);
	put_int(buf, "wal_segment_size", id->wal_segment_size);
	put_int(buf, "data_checksums", id->data_checksums);
	put_int(buf, "server_version_num", id->server_version_num);
	put_int(buf, "catalog_version", control->catalog_version_no);
	put_int(buf, "max_connections", control->MaxConnections);
	put_int(buf, "max_worker_processes", control->max_worker_processes);
	put_int(buf, "max_wal_senders", control->max_wal_senders);
	put_int(buf, "max_prepared_xacts", control->max_prepared_xacts);
	put_int(buf, "max_locks_per_xact", control->max_locks_per_xact);
	put_int(buf, "wal_level", control->wal_level);
	put_int(buf, "track_commit_timestamp", control->track_commit_timestamp);
	put_lsn(buf, "branched_at", id->ancestor_lsn);
}
