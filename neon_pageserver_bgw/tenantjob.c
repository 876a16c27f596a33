/*-------------------------------------------------------------------------
 *
 * tenantjob.c
 *	  Making a timeline from nothing, in a background worker of its own.
 *
 * The worker lives for one job: it makes a data directory below neon/tmp,
 * imports it and removes it.  Its notices and errors go through a queue in
 * dynamic shared memory to the session that asked, and when that session ends
 * or cancels, the worker is terminated.
 *
 * A new timeline is not visible before timeline_finish_root(), the last step.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/stat.h>

#include "access/xact.h"
#include "adopt.h"
#include "executor/spi.h"
#include "import.h"
#include "libpq/pqformat.h"
#include "libpq/pqmq.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "neon_diskfull.h"
#include "neon_library.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "sqlutil.h"
#include "storage/dsm.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shm_mq.h"
#include "storage/shm_toc.h"
#include "tcop/tcopprot.h"
#include "tenant.h"
#include "neon_testpoint.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define JOB_MAGIC			0x4e54454e	/* "NETN" */
#define JOB_KEY_JOB			1
#define JOB_KEY_QUEUE		2
#define JOB_QUEUE_SIZE		16384

#define JOB_TMP_DIR			"neon/tmp"
#define JOB_DIR_FORMAT		JOB_TMP_DIR "/create.%d.%d"	/* postmaster, worker */

#define OWNERSHIP_TIMEOUT_MS	10000

extern PGDLLEXPORT void neon_tenant_worker_main(Datum arg);

/* What a tenant's role may call; check_tenant_access() does the rest. */
static const char *const tenant_grants[] = {
	"USAGE ON SCHEMA neon_pageserver",
	"EXECUTE ON PROCEDURE neon_pageserver.pagestream",
	"EXECUTE ON PROCEDURE neon_pageserver.basebackup",
	"EXECUTE ON FUNCTION neon_pageserver.timeline_source",
	"EXECUTE ON FUNCTION neon_pageserver.writer_get",
	"EXECUTE ON FUNCTION neon_pageserver.wait_lsn",
	"EXECUTE ON FUNCTION neon_pageserver.branch_create",
	"EXECUTE ON FUNCTION neon_pageserver.branches",
	"EXECUTE ON FUNCTION neon_pageserver.lease_lsn",
	"EXECUTE ON FUNCTION neon_pageserver.lease_release",
	"EXECUTE ON FUNCTION neon_pageserver.saved_put",
	"EXECUTE ON FUNCTION neon_pageserver.writer_pace",
};

static void
execute(const char *format,...) pg_attribute_printf(1, 2);

static void
execute(const char *format,...)
{
	StringInfoData sql;
	int			needed;
	int			rc;

	initStringInfo(&sql);
	for (;;)
	{
		va_list		args;

		va_start(args, format);
		needed = appendStringInfoVA(&sql, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&sql, needed);
	}
	rc = SPI_execute(sql.data, false, 0);
	if (rc < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not set up a tenant's role: %s", SPI_result_code_string(rc))));
	pfree(sql.data);
}

void
tenant_role_create(const NeonId *tenant, const char *verifier)
{
	char		role[NEON_TENANT_ROLE_MAX];
	const char *quoted;

	quoted = quote_identifier(tenant_role_name(tenant, role));
	SPI_connect();
	if (!OidIsValid(get_role_oid(role, true)))
		execute("CREATE ROLE %s", quoted);
	execute("ALTER ROLE %s LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD %s",
			quoted, verifier[0] ? quote_literal_cstr(verifier) : "NULL");
	for (int i = 0; i < lengthof(tenant_grants); i++)
		execute("GRANT %s TO %s", tenant_grants[i], quoted);
	SPI_finish();
}

void
tenant_role_drop(const NeonId *tenant)
{
	char		role[NEON_TENANT_ROLE_MAX];
	const char *quoted;

	quoted = quote_identifier(tenant_role_name(tenant, role));
	if (!OidIsValid(get_role_oid(role, true)))
		return;
	SPI_connect();
	execute("DROP OWNED BY %s", quoted);
	execute("DROP ROLE %s", quoted);
	SPI_finish();
}

/* ---- the work ---- */

/*
 * Directories that workers left which were killed.  Under a postmaster that
 * was killed too, its workers are dead although nobody may have reaped them.
 */
static void
remove_stale_directories(void)
{
	DIR		   *d = AllocateDir(JOB_TMP_DIR);
	struct dirent *de;

	while ((de = ReadDir(d, JOB_TMP_DIR)) != NULL)
	{
		char		path[MAXPGPATH];
		int			postmaster;
		int			pid;

		if (sscanf(de->d_name, "create.%d.%d", &postmaster, &pid) != 2 || pid <= 0)
			continue;
		if (postmaster == PostmasterPid && pid != MyProcPid &&
			(kill(pid, 0) == 0 || errno != ESRCH))
			continue;
		snprintf(path, sizeof(path), "%s/%s", JOB_TMP_DIR, de->d_name);
		rmtree(path, true);
	}
	FreeDir(d);
}

static void
make_tmp_dir(void)
{
	if ((MakePGDirectory("neon") < 0 && errno != EEXIST) ||
		(MakePGDirectory(JOB_TMP_DIR) < 0 && errno != EEXIST))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", JOB_TMP_DIR),
				 neon_hint_if_full(JOB_TMP_DIR)));
}

static void
make_identity(const TenantJob *job, const ImportSource *source, TimelineIdentity *id)
{
	memset(id, 0, sizeof(*id));
	id->tenant = job->tenant;
	id->timeline = job->timeline;
	id->start_lsn = source->end;
	id->start_prev = source->start;
	id->system_identifier = source->control.system_identifier;
	id->wal_segment_size = source->control.xlog_seg_size;
	id->data_checksums = source->control.data_checksum_version != 0;
	id->server_version_num = atoi(GetConfigOption("server_version_num", false, false));
}

static void
fill_timeline(Timeline *tl, const ImportSource *source)
{
	if (!timeline_acquire_ownership(tl, false, OWNERSHIP_TIMEOUT_MS))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("could not get the right to write the new timeline")));
	import_data_directory(tl, source);
	timeline_release_ownership(tl);
}

static void
commit_role(TenantJob *job)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	tenant_role_create(&job->tenant, job->role_verifier);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * Removes what a failed job made.  Errors here are only logged: the next start
 * of the instance does it then.
 */
static void
undo(TenantJob *job, Timeline *tl)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		if (tl)
		{
			timeline_release_ownership(tl);
			timeline_drop(tl);
		}
		if (job->new_tenant)
			tenant_drop(&job->tenant);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		edata->elevel = LOG_SERVER_ONLY;
		ThrowErrorData(edata);
	}
	PG_END_TRY();
}

/* started: the tenant's directory is ours, so that undo() may remove it. */
static void
make_timeline(TenantJob *job, const ImportSource *source, Timeline *volatile *tl,
			  volatile bool *started)
{
	TimelineIdentity id;

	make_identity(job, source, &id);
	if (job->new_tenant)
		tenant_create_dir(&job->tenant);
	*started = true;
	NEON_TEST_POINT("tenant-directory");
	timeline_create_root(&id, job->name);
	*tl = timeline_open(&job->tenant, &job->timeline, false);
	fill_timeline(*tl, source);
	NEON_TEST_POINT("tenant-imported");
	if (job->pgdata[0] != '\0')
		adopt_check_unchanged(job->pgdata, source->user_checkpoint);
	if (job->new_tenant)
		commit_role(job);
	NEON_TEST_POINT("tenant-role");
	timeline_finish_root(*tl);
}

static void
store_timeline(TenantJob *job, const ImportSource *source)
{
	Timeline   *volatile tl = NULL;
	volatile bool started = false;
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		make_timeline(job, source, &tl, &started);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		LWLockReleaseAll();
		if (started)
			undo(job, tl);
		ReThrowError(edata);
	}
	PG_END_TRY();
}

/* The directory of the running job, or "". */
static char job_dir[MAXPGPATH];

/*
 * Also at process exit; not by PG_ENSURE_ERROR_CLEANUP, which does not allow
 * that the code inside registers callbacks of its own.
 */
static void
remove_directory(int code, Datum arg)
{
	if (job_dir[0] != '\0')
		rmtree(job_dir, true);
	job_dir[0] = '\0';
}

static void
open_source(const TenantJob *job, ImportSource *source)
{
	if (job->pgdata[0] != '\0')
	{
		adopt_data_directory(source, job->pgdata, job_dir, &job->options);
		return;
	}
	ereport(NOTICE, (errmsg("creating a new database system with initdb")));
	initdb_run(job_dir, &job->options);
	import_open(source, job_dir);
}

void
tenant_job_run(TenantJob *job)
{
	ImportSource source;

	make_tmp_dir();
	remove_stale_directories();
	on_proc_exit(remove_directory, (Datum) 0);
	snprintf(job_dir, sizeof(job_dir), JOB_DIR_FORMAT, (int) PostmasterPid, MyProcPid);

	PG_TRY();
	{
		open_source(job, &source);
		ereport(NOTICE, (errmsg("storing its pages")));
		store_timeline(job, &source);
	}
	PG_FINALLY();
	{
		remove_directory(0, (Datum) 0);
	}
	PG_END_TRY();
	job->lsn = source.end;
	job->done = true;
}

/* ---- the worker ---- */

void
neon_tenant_worker_main(Datum arg)
{
	dsm_segment *seg;
	shm_toc    *toc;
	shm_mq	   *queue;
	TenantJob  *job;

	/* an ERROR, not FATAL: what is half made must be removed */
	pqsignal(SIGTERM, StatementCancelHandler);
	BackgroundWorkerUnblockSignals();
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "neon tenant worker");

	seg = dsm_attach(DatumGetUInt32(arg));
	toc = seg ? shm_toc_attach(JOB_MAGIC, dsm_segment_address(seg)) : NULL;
	if (toc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the session that wanted a new timeline is gone")));
	job = shm_toc_lookup(toc, JOB_KEY_JOB, false);
	queue = shm_toc_lookup(toc, JOB_KEY_QUEUE, false);
	shm_mq_set_sender(queue, MyProc);
	pq_redirect_to_shm_mq(seg, shm_mq_attach(queue, seg, NULL));

	BackgroundWorkerInitializeConnectionByOid(job->database, InvalidOid, 0);
	/* after its own transaction there is none again */
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "neon tenant worker");
	SetConfigOption("client_min_messages", "notice", PGC_SUSET, PGC_S_OVERRIDE);
	pgstat_report_activity(STATE_RUNNING, "neon_pageserver: creating a timeline");
	tenant_job_run(job);
	dsm_detach(seg);
}

/* ---- the session that waits for it ---- */

/* A notice is passed on, an error is thrown here. */
static void
handle_message(char *data, Size len)
{
	StringInfoData msg;
	ErrorData	edata;
	char		type;

	initStringInfo(&msg);
	appendBinaryStringInfo(&msg, data, len);
	type = pq_getmsgbyte(&msg);
	if (type != 'E' && type != 'N')
		return;
	pq_parse_errornotice(&msg, &edata);
	edata.elevel = Min(edata.elevel, ERROR);
	edata.context = NULL;
	ThrowErrorData(&edata);
}

static void
follow_worker(shm_mq_handle *handle)
{
	for (;;)
	{
		Size		len;
		void	   *data;

		if (shm_mq_receive(handle, &len, &data, false) != SHM_MQ_SUCCESS)
			return;
		handle_message(data, len);
	}
}

static BackgroundWorkerHandle *
start_worker(dsm_segment *seg)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	library_worker(&worker, "neon_pageserver", "neon_tenant_worker_main",
				   "neon pageserver tenant creation");
	worker.bgw_flags |= BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(seg));
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start a background worker"),
				 errhint("Raise max_worker_processes.")));
	return handle;
}

static void
terminate_worker(int code, Datum arg)
{
	TerminateBackgroundWorker((BackgroundWorkerHandle *) DatumGetPointer(arg));
}

/* The segment with the job and an empty queue that we receive from. */
static dsm_segment *
make_segment(const TenantJob *job, TenantJob **shared, shm_mq **queue)
{
	shm_toc_estimator e;
	dsm_segment *seg;
	shm_toc    *toc;
	Size		size;

	shm_toc_initialize_estimator(&e);
	shm_toc_estimate_chunk(&e, sizeof(TenantJob));
	shm_toc_estimate_chunk(&e, JOB_QUEUE_SIZE);
	shm_toc_estimate_keys(&e, 2);
	size = shm_toc_estimate(&e);
	seg = dsm_create(size, 0);
	toc = shm_toc_create(JOB_MAGIC, dsm_segment_address(seg), size);
	*shared = shm_toc_allocate(toc, sizeof(TenantJob));
	**shared = *job;
	shm_toc_insert(toc, JOB_KEY_JOB, *shared);
	*queue = shm_mq_create(shm_toc_allocate(toc, JOB_QUEUE_SIZE), JOB_QUEUE_SIZE);
	shm_mq_set_receiver(*queue, MyProc);
	shm_toc_insert(toc, JOB_KEY_QUEUE, *queue);
	return seg;
}

void
tenant_job_delegate(TenantJob *job)
{
	TenantJob  *shared;
	shm_mq	   *queue;
	dsm_segment *seg = make_segment(job, &shared, &queue);
	BackgroundWorkerHandle *worker = start_worker(seg);

	PG_ENSURE_ERROR_CLEANUP(terminate_worker, PointerGetDatum(worker));
	{
		follow_worker(shm_mq_attach(queue, seg, worker));
	}
	PG_END_ENSURE_ERROR_CLEANUP(terminate_worker, PointerGetDatum(worker));

	*job = *shared;
	dsm_detach(seg);
	if (!job->done)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the worker that makes the timeline ended before it was done"),
				 errhint("See the pageserver's log.")));
}
