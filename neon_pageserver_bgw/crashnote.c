/*-------------------------------------------------------------------------
 *
 * crashnote.c
 *	  Which timeline a process was working on when it crashed.
 *
 * File neon/crashes: a ring of fixed records, mapped shared by all processes.
 * The handler of SIGSEGV, SIGBUS, SIGILL and SIGABRT writes one record and lets
 * the signal take its default action.  A signal that another process sent is
 * no crash of ours and is not noted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "crashnote.h"
#include "miscadmin.h"
#include "neon_durable.h"
#include "port/atomics.h"
#include "storage/fd.h"

#define CRASH_FILE		"neon/crashes"
#define CRASH_MAGIC		0x3143524E	/* "NRC1" */
#define CRASH_RECORDS	64
#define CRASH_LIMIT		3
#define CRASH_SECONDS	600

typedef struct CrashRecord
{
	int64		time;			/* seconds since 1970; 0: unused */
	int32		signal;
	int32		pid;
	CrashNote	note;
} CrashRecord;

typedef struct CrashFile
{
	uint32		magic;
	pg_atomic_uint32 next;
	CrashRecord record[CRASH_RECORDS];
} CrashFile;

CrashNote	crashnote_now;

static CrashFile *crash_file = NULL;

static void
note_crash(int signo)
{
	uint32		i = pg_atomic_fetch_add_u32(&crash_file->next, 1) % CRASH_RECORDS;
	CrashRecord *r = &crash_file->record[i];

	r->note = crashnote_now;
	r->signal = signo;
	r->pid = (int32) getpid();
	r->time = (int64) time(NULL);
}

static void
crash_handler(int signo, siginfo_t *info, void *context)
{
	static const NeonId none;
	bool		own = info->si_code > 0 || info->si_pid == getpid();

	if (own && crash_file != NULL && memcmp(&crashnote_now.timeline, &none, sizeof(none)) != 0)
		note_crash(signo);
	signal(signo, SIG_DFL);
	raise(signo);
}

static void
map_file(void)
{
	int			fd;
	struct stat st;
	void	   *map;

	if (MakePGDirectory("neon") != 0 && errno != EEXIST)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", "neon")));
	fd = BasicOpenFile(CRASH_FILE, O_RDWR | O_CREAT | PG_BINARY);
	if (fd < 0 || fstat(fd, &st) != 0 || ftruncate(fd, sizeof(CrashFile)) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", CRASH_FILE)));
	map = mmap(NULL, sizeof(CrashFile), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not map file \"%s\": %m", CRASH_FILE)));
	crash_file = map;
	if (crash_file->magic != CRASH_MAGIC || st.st_size != sizeof(CrashFile))
	{
		memset(crash_file, 0, sizeof(CrashFile));
		pg_atomic_init_u32(&crash_file->next, 0);
		crash_file->magic = CRASH_MAGIC;
	}
}

void
crashnote_init(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGABRT};
	struct sigaction sa;

	if (IsUnderPostmaster || crash_file != NULL)
		return;
	map_file();
	memset(&sa, 0, sizeof(sa));
	sa.sa_sigaction = crash_handler;
	sa.sa_flags = SA_SIGINFO;
	sigemptyset(&sa.sa_mask);
	for (int i = 0; i < lengthof(signals); i++)
		sigaction(signals[i], &sa, NULL);
}

bool
crashnote_is_refused(const NeonId *tenant, const NeonId *timeline, char *detail)
{
	const CrashRecord *last = NULL;
	int64		since = (int64) time(NULL) - CRASH_SECONDS;
	int			n = 0;

	for (int i = 0; crash_file != NULL && i < CRASH_RECORDS; i++)
	{
		const CrashRecord *r = &crash_file->record[i];

		if (r->time < since || !neon_id_equal(&r->note.timeline, timeline) ||
			!neon_id_equal(&r->note.tenant, tenant))
			continue;
		n++;
		if (last == NULL || r->time >= last->time)
			last = r;
	}
	if (n < CRASH_LIMIT)
		return false;
	snprintf(detail, TIMELINE_DETAIL_MAX,
			 "%d processes crashed on it within %d minutes, the last one by signal %d with key %02x %u/%u/%u/%u block %u at %X/%X; it is tried again at a start after that time.",
			 n, CRASH_SECONDS / 60, last->signal, last->note.key.kind, last->note.key.spc,
			 last->note.key.db, last->note.key.rel, last->note.key.fork, last->note.key.blk,
			 LSN_FORMAT_ARGS(last->note.lsn));
	return true;
}
