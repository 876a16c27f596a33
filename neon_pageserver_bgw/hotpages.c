/*-------------------------------------------------------------------------
 *
 * hotpages.c
 *	  Pages that are made before anybody asks for them.
 *
 * What waits is in a small ring.  A page that is in it already is not put
 * again: the worker makes it as it is then.  What finds no room is forgotten;
 * its next records tell of it again.  Nothing depends on these pages.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "framecache.h"
#include "history.h"
#include "hotpages.h"
#include "miscadmin.h"
#include "neon_library.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "read.h"
#include "service.h"
#include "storage/condition_variable.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "store_private.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#define MAX_WAITING		64
#define IDLE_MS			10000

/* A record is noted before it can be read. */
#define WAIT_LSN_MS		1000

typedef struct NotedPage
{
	NeonId		tenant;
	NeonId		timeline;
	NeonKey		key;
	XLogRecPtr	lsn;			/* up to which it is wanted */
} NotedPage;

typedef struct HotPages
{
	slock_t		mutex;
	int			first;			/* the oldest one */
	int			n;
	bool		working;		/* on one that is not in the ring any more */
	NotedPage	ring[MAX_WAITING];
	ConditionVariable work_cv;
} HotPages;

static HotPages *hot = NULL;

extern PGDLLEXPORT void hotpages_main(Datum arg);

Size
hotpages_shmem_size(void)
{
	return sizeof(HotPages);
}

void
hotpages_shmem_init(void)
{
	bool		found;

	hot = ShmemInitStruct("neon hot pages", sizeof(HotPages), &found);
	if (!found)
	{
		memset(hot, 0, sizeof(HotPages));
		SpinLockInit(&hot->mutex);
		ConditionVariableInit(&hot->work_cv);
	}
}

void
hotpages_register_worker(void)
{
	library_register_workers("neon_pageserver", "hotpages_main", "neon hot pages", 1);
}

/* ---- the ring ---- */

static NotedPage *
find_waiting(const NotedPage *page)
{
	for (int i = 0; i < hot->n; i++)
	{
		NotedPage  *other = &hot->ring[(hot->first + i) % MAX_WAITING];

		if (neon_key_cmp(&other->key, &page->key) == 0 &&
			neon_id_equal(&other->timeline, &page->timeline) &&
			neon_id_equal(&other->tenant, &page->tenant))
			return other;
	}
	return NULL;
}

void
hotpages_note(Timeline *tl, const NeonKey *key, XLogRecPtr lsn)
{
	NotedPage	page = {tl->id.tenant, tl->id.timeline, *key, lsn};
	NotedPage  *waiting;
	bool		added;

	if (!framecache_is_used())
		return;
	SpinLockAcquire(&hot->mutex);
	waiting = find_waiting(&page);
	if (waiting)
		waiting->lsn = lsn;
	added = waiting == NULL && hot->n < MAX_WAITING;
	if (added)
		hot->ring[(hot->first + hot->n++) % MAX_WAITING] = page;
	SpinLockRelease(&hot->mutex);
	if (added)
		ConditionVariableSignal(&hot->work_cv);
}

static bool
take_page(NotedPage *page)
{
	bool		found;

	SpinLockAcquire(&hot->mutex);
	found = hot->n > 0;
	if (found)
	{
		*page = hot->ring[hot->first];
		hot->first = (hot->first + 1) % MAX_WAITING;
		hot->n--;
	}
	hot->working = found;
	SpinLockRelease(&hot->mutex);
	return found;
}

int
hotpages_waiting(void)
{
	int			n;

	SpinLockAcquire(&hot->mutex);
	n = hot->n + hot->working;
	SpinLockRelease(&hot->mutex);
	return n;
}

/* ---- the worker ---- */

/* Reading it puts it into the page cache.  If it cannot be made its readers are told. */
static void
make_page(Timeline *tl, const NotedPage *noted)
{
	char	   *page = palloc(BLCKSZ);
	PageResult	result;

	(void) timeline_wait_lsn(tl, noted->lsn, WAIT_LSN_MS);
	(void) history_read_begin(tl);
	PG_TRY();
	{
		read_pages(tl, &noted->key, 1, timeline_last_record_lsn(tl), page, &result);
	}
	PG_FINALLY();
	{
		history_read_end();
	}
	PG_END_TRY();
	if (result.ok)
		service_count(SERVE_PAGES_AHEAD, 1);
}

static void
make_guarded(const NotedPage *page, MemoryContext context)
{
	PG_TRY();
	{
		Timeline   *tl = timeline_open(&page->tenant, &page->timeline, true);

		if (tl != NULL && timeline_state(tl) == TIMELINE_ACTIVE)
			make_page(tl, page);
	}
	PG_CATCH();
	{
		store_recover_from_error(context);
	}
	PG_END_TRY();
	MemoryContextReset(context);
}

void
hotpages_main(Datum arg)
{
	MemoryContext context;
	NotedPage		page;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	context = AllocSetContextCreate(TopMemoryContext, "neon hot pages", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	for (;;)
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		ConditionVariablePrepareToSleep(&hot->work_cv);
		while (take_page(&page))
		{
			CHECK_FOR_INTERRUPTS();
			make_guarded(&page, context);
		}
		timeline_close_files(false);
		if (hotpages_waiting() == 0)
			(void) ConditionVariableTimedSleep(&hot->work_cv, IDLE_MS, PG_WAIT_EXTENSION);
		ConditionVariableCancelSleep();
		CHECK_FOR_INTERRUPTS();
	}
}
