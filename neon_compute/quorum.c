/*-------------------------------------------------------------------------
 *
 * quorum.c
 *	  The safekeepers of this compute, and what they have of its WAL.
 *
 * Who they are is in neon.safekeepers; that a commit waits for a majority of
 * them is synchronous_standby_names, whose names nobody but they can use.
 * Both come from one generated file and must agree.  PostgreSQL would stop
 * waiting when synchronous_standby_names became empty or weaker, so a value
 * that does not demand a majority of this boot's members is refused when the
 * file is read again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <float.h>

#include "access/parallel.h"
#include "coordinator.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "quorum.h"
#include "replication/slot.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "settings.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#define BOOT_SUFFIX_LENGTH	15	/* of a name: "_" and 14 digits */
#define MAX_INGEST_LAG		(10.0 * 1024 * 1024 * 1024)
#define CONFIG_HINT			"Use \"neon endpoint start\", which sets it; \"neon endpoint config\" cannot."

char	   *neon_safekeepers;
char	   *neon_safekeeper_connstring;
int			neon_config_generation = 0;
int			neon_read_lease = 5000;
double		neon_max_ingest_lag = MAX_INGEST_LAG;
int			neon_safekeeper_wal_keep = 10240;

static int	applied_generation_setting;
static char *term_setting;
static char *boot_id_setting;

typedef struct QuorumShared
{
	pg_atomic_uint64 pageserver_lsn;	/* only rises */
	pg_atomic_uint32 wanted_generation;	/* WAL senders of older ones have to go */
	pg_atomic_uint32 applied_generation;	/* and have gone */
	LWLock	   *lock;			/* protects the fields below */
	int			n;
	MemberStatus status[NEON_MEMBERS_UNION_MAX];
} QuorumShared;

static QuorumShared *shared = NULL;
static bool in_quorum_mode = false;
static GucStringCheckHook prev_check_standby_names = NULL;

/* ----------
 * Settings
 * ----------
 */

static bool
check_safekeepers(char **newval, void **extra, GucSource source)
{
	NeonMembers members;
	const char *problem;

	/*
	 * At the start, quorum_check_settings refuses: here PostgreSQL would go
	 * on with "".  A parallel worker sets "" first, then its leader's value.
	 */
	if (process_shared_preload_libraries_in_progress || InitializingParallelWorker)
		return true;
	if ((**newval != '\0') != in_quorum_mode)
	{
		GUC_check_errdetail("Whether a compute has safekeepers is decided when it starts.");
		return false;
	}
	if (**newval != '\0' && !members_parse(*newval, &members, &problem))
	{
		GUC_check_errdetail("The value is not valid: %s.", problem);
		return false;
	}
	return true;
}

static const char *
show_applied_generation(void)
{
	static char text[16];

	snprintf(text, sizeof(text), "%d", in_quorum_mode && shared ? quorum_applied_generation() : 0);
	return text;
}

static void
define_member_settings(void)
{
	DefineCustomStringVariable("neon.safekeepers",
							   "Safekeepers that make the WAL durable.",
							   "Empty means that the pageserver streams from this compute.",
							   &neon_safekeepers, "",
							   PGC_SIGHUP, 0, check_safekeepers, NULL, NULL);
	DefineCustomStringVariable("neon.safekeeper_connstring",
							   "How to connect to each safekeeper, but for host and port.",
							   NULL, &neon_safekeeper_connstring, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomIntVariable("neon.config_generation",
							"Generation of the configuration that names the safekeepers.",
							NULL, &neon_config_generation, 0, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("neon.applied_generation",
							"Generation of the configuration by which all WAL senders count the safekeepers.",
							NULL, &applied_generation_setting, 0, 0, INT_MAX,
							PGC_INTERNAL, GUC_NOT_IN_SAMPLE, NULL, NULL, show_applied_generation);
	DefineCustomIntVariable("neon.safekeeper_wal_keep",
							"WAL that is kept for a safekeeper that does not stream.",
							"Beyond it, the safekeeper has to get from the others what a majority has.",
							&neon_safekeeper_wal_keep, 10240, 1, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
}

void
quorum_define_settings(void)
{
	define_member_settings();
	DefineCustomIntVariable("neon.read_lease",
							"How long this compute may answer reads after the safekeepers confirmed it.",
							NULL, &neon_read_lease, 5000, 500, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomRealVariable("neon.max_ingest_lag",
							 "WAL that the pageserver may lack before writers are slowed down.",
							 "They are held at twice of it.  0 means no limit.",
							 &neon_max_ingest_lag, MAX_INGEST_LAG, 0, DBL_MAX,
							 PGC_SIGHUP, GUC_UNIT_BYTE, NULL, NULL, NULL);
	DefineCustomStringVariable("neon.term",
							   "Term in which this compute writes its timeline.",
							   NULL, &term_setting, "0",
							   PGC_INTERNAL, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("neon.boot_id",
							   "Identifies this start of the compute.",
							   NULL, &boot_id_setting, "",
							   PGC_INTERNAL, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
}

static void
show_boot(void)
{
	char		hex[NEON_ID_HEXLEN + 1];
	char		term[16];

	snprintf(term, sizeof(term), "%u", neon_boot.term);
	SetConfigOption("neon.term", term, PGC_INTERNAL, PGC_S_OVERRIDE);
	SetConfigOption("neon.boot_id", neon_id_format(&neon_boot.boot_id, hex),
					PGC_INTERNAL, PGC_S_OVERRIDE);
}

static void
refuse_start(const char *name, const char *value, const char *why)
{
	ereport(FATAL,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a compute cannot run with \"%s\" set to \"%s\"", name, value),
			 errdetail("%s", why),
			 errhint(CONFIG_HINT)));
}

/* One slot and one WAL sender a member, and one of each while one is replaced. */
static void
check_room(const NeonMembers *members)
{
	if (max_wal_senders < members->n)
		refuse_start("max_wal_senders", psprintf("%d", max_wal_senders),
					 "Each safekeeper streams by a WAL sender.");
	if (max_replication_slots < members->n)
		refuse_start("max_replication_slots", psprintf("%d", max_replication_slots),
					 "Each safekeeper needs a replication slot.");
}

/* ----------
 * synchronous_standby_names
 * ----------
 */

bool
quorum_is_member_name(const char *name)
{
	/* PostgreSQL compares these names without regard to case */
	return pg_strncasecmp(name, NEON_MEMBER_PREFIX, strlen(NEON_MEMBER_PREFIX)) == 0;
}

static bool
is_listed(const SyncRepConfigData *config, const char *name)
{
	const char *listed = config->member_names;

	for (int i = 0; i < config->nmembers; i++, listed += strlen(listed) + 1)
		if (strcmp(listed, name) == 0)
			return true;
	return false;
}

/* Does it demand a majority, and of nothing but members of this boot? */
static bool
demands_majority(const SyncRepConfigData *config)
{
	char		boot[NEON_ID_HEXLEN + 1];
	const char *name;

	if (config == NULL || config->syncrep_method != SYNC_REP_QUORUM ||
		config->num_sync <= config->nmembers / 2)
		return false;
	neon_id_format(&neon_boot.boot_id, boot);
	name = config->member_names;
	for (int i = 0; i < config->nmembers; i++, name += strlen(name) + 1)
	{
		const char *suffix = name + strlen(name) - Min(strlen(name), BOOT_SUFFIX_LENGTH);

		if (!quorum_is_member_name(name) || suffix[0] != '_' ||
			strncmp(suffix + 1, boot, BOOT_SUFFIX_LENGTH - 1) != 0)
			return false;
	}
	return true;
}

static bool
check_standby_names(char **newval, void **extra, GucSource source)
{
	if (prev_check_standby_names && !prev_check_standby_names(newval, extra, source))
		return false;
	if (demands_majority(*extra) || InitializingParallelWorker)
		return true;
	free(*extra);
	*extra = NULL;
	GUC_check_errdetail("Commits of this compute wait for a majority of its safekeepers.");
	return false;
}

bool
quorum_names_agree(void)
{
	const NeonMembers *members = quorum_members();
	char		name[NEON_MEMBER_NAME_MAX];

	if (!demands_majority(SyncRepConfig) ||
		SyncRepConfig->num_sync != members_quorum(members) ||
		SyncRepConfig->nmembers != members->n)
		return false;
	for (int i = 0; i < members->n; i++)
		if (!is_listed(SyncRepConfig, members_name(&members->member[i], &neon_boot.boot_id, name)))
			return false;
	return true;
}

static void
check_names_at_start(void)
{
	char		text[NEON_QUORUM_TEXT_MAX];

	if (quorum_names_agree())
		return;
	members_quorum_text(quorum_members(), &neon_boot.boot_id, text);
	refuse_start("synchronous_standby_names", SyncRepStandbyNames ? SyncRepStandbyNames : "",
				 psprintf("For its safekeepers it has to be \"%s\".", text));
}

void
quorum_check_settings(void)
{
	NeonMembers members;
	const char *problem;
	struct config_string *names;

	show_boot();
	if (neon_safekeepers[0] == '\0')
		return;
	if (!members_parse(neon_safekeepers, &members, &problem))
		refuse_start("neon.safekeepers", neon_safekeepers, psprintf("The value is not valid: %s.", problem));
	if (!storage_needed())
		return;
	in_quorum_mode = true;
	check_room(&members);
	check_names_at_start();
	names = (struct config_string *) setting_find("synchronous_standby_names", PGC_STRING);
	prev_check_standby_names = names->check_hook;
	names->check_hook = check_standby_names;
}

bool
quorum_mode(void)
{
	return in_quorum_mode;
}

const NeonMembers *
quorum_members(void)
{
	static NeonMembers members;
	const char *problem;

	if (!members_parse(neon_safekeepers, &members, &problem))
		elog(ERROR, "neon.safekeepers is not valid: %s", problem);
	return &members;
}

/* ----------
 * Shared memory
 * ----------
 */

void
quorum_request_shmem(void)
{
	if (!in_quorum_mode)
		return;
	RequestAddinShmemSpace(MAXALIGN(sizeof(QuorumShared)));
	RequestNamedLWLockTranche("neon_quorum", 1);
}

void
quorum_shmem_startup(void)
{
	bool		found;

	if (!in_quorum_mode)
		return;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("neon quorum", sizeof(QuorumShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(QuorumShared));
		pg_atomic_init_u64(&shared->pageserver_lsn, neon_boot.boot_lsn);
		pg_atomic_init_u32(&shared->wanted_generation, neon_config_generation);
		pg_atomic_init_u32(&shared->applied_generation, neon_config_generation);
		shared->lock = &GetNamedLWLockTranche("neon_quorum")->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}

XLogRecPtr
quorum_flush_lsn(void)
{
	XLogRecPtr	lsn;

	LWLockAcquire(SyncRepLock, LW_SHARED);
	lsn = WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH];
	LWLockRelease(SyncRepLock);
	return lsn;
}

XLogRecPtr
quorum_pageserver_lsn(void)
{
	return pg_atomic_read_u64(&shared->pageserver_lsn);
}

void
quorum_set_pageserver_lsn(XLogRecPtr lsn)
{
	if (lsn > pg_atomic_read_u64(&shared->pageserver_lsn))
		pg_atomic_write_u64(&shared->pageserver_lsn, lsn);
}

void
quorum_set_wanted_generation(int generation)
{
	pg_atomic_write_u32(&shared->wanted_generation, generation);
}

int
quorum_wanted_generation(void)
{
	return pg_atomic_read_u32(&shared->wanted_generation);
}

void
quorum_set_applied_generation(int generation)
{
	pg_atomic_write_u32(&shared->applied_generation, generation);
}

int
quorum_applied_generation(void)
{
	return pg_atomic_read_u32(&shared->applied_generation);
}

void
quorum_publish(const MemberStatus *status, int n)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	memcpy(shared->status, status, sizeof(MemberStatus) * n);
	shared->n = n;
	LWLockRelease(shared->lock);
}

int
quorum_status(MemberStatus status[NEON_MEMBERS_UNION_MAX])
{
	int			n;

	if (!in_quorum_mode)
		return 0;
	LWLockAcquire(shared->lock, LW_SHARED);
	n = shared->n;
	memcpy(status, shared->status, sizeof(MemberStatus) * n);
	LWLockRelease(shared->lock);
	return n;
}

char *
quorum_name_laggards(XLogRecPtr lsn)
{
	MemberStatus status[NEON_MEMBERS_UNION_MAX];
	int			n = quorum_status(status);
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < n; i++)
		if (status[i].flush_lsn < lsn)
			appendStringInfo(&names, "%ssafekeeper %d (%s:%d)", names.len > 0 ? ", " : "",
							 status[i].member.id, status[i].member.host, status[i].member.port);
	return names.data;
}
