/*-------------------------------------------------------------------------
 *
 * framecache.c
 *	  Pages that redo made, in shared memory, for the next reader.
 *
 * Frames are in sets of WAYS; a key belongs to one set, and the frame of it
 * that was used least goes when another key needs room.  One lock for each of
 * LOCKS groups of sets, held for the copy of a page.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "framecache.h"
#include "init.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "timeline_shared.h"
#include "utils/guc.h"

#define WAYS		8
#define LOCKS		128
#define MAX_USES	8

typedef struct Frame
{
	NeonKey		key;
	TimelineShared *slot;		/* NULL: unused */
	uint64		incarnation;	/* of the slot */
	XLogRecPtr	lsn;
	uint32		uses;
} Frame;

typedef struct FrameCache
{
	int			tranche;
	uint32		nsets;
	LWLockPadded locks[LOCKS];
	Frame		frames[FLEXIBLE_ARRAY_MEMBER];	/* nsets * WAYS; their pages follow */
} FrameCache;

static int	page_cache_size = 64 * 1024;	/* kB */
static FrameCache *cache = NULL;
static char *pages = NULL;

void
framecache_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.page_cache_size",
							"Shared memory for pages that were made from WAL records.",
							"Zero keeps none.",
							&page_cache_size, 64 * 1024, 0, MAX_KILOBYTES,
							PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);
}

static uint32
number_of_sets(void)
{
	return (uint32) ((Size) page_cache_size * 1024 / (WAYS * BLCKSZ));
}

static Size
frames_size(void)
{
	return MAXALIGN(add_size(offsetof(FrameCache, frames),
							 mul_size((Size) number_of_sets() * WAYS, sizeof(Frame))));
}

Size
framecache_shmem_size(void)
{
	return add_size(frames_size(), mul_size((Size) number_of_sets() * WAYS, BLCKSZ));
}

void
framecache_shmem_init(void)
{
	bool		found;

	cache = ShmemInitStruct("neon page cache", framecache_shmem_size(), &found);
	pages = (char *) cache + frames_size();
	if (!found)
	{
		memset(cache, 0, frames_size());
		cache->tranche = LWLockNewTrancheId();
		cache->nsets = number_of_sets();
		for (int i = 0; i < LOCKS; i++)
			LWLockInitialize(&cache->locks[i].lock, cache->tranche);
	}
	LWLockRegisterTranche(cache->tranche, "NeonPageCache");
}

bool
framecache_is_used(void)
{
	return cache->nsets > 0;
}

static uint32
set_of(const Timeline *tl, const NeonKey *key)
{
	uint32		h = hash_bytes((const unsigned char *) key, sizeof(NeonKey));

	return hash_combine(h, hash_bytes((const unsigned char *) tl->id.timeline.b, NEON_ID_BYTES)) %
		cache->nsets;
}

/* The frame of the key in its set, or NULL; the lock is held. */
static Frame *
find_frame(const Timeline *tl, uint32 set, const NeonKey *key)
{
	uint64		incarnation = tl->incarnation;

	for (uint32 i = set * WAYS; i < (set + 1) * WAYS; i++)
	{
		Frame	   *f = &cache->frames[i];

		if (f->slot == tl->shared && f->incarnation == incarnation &&
			neon_key_cmp(&f->key, key) == 0)
			return f;
	}
	return NULL;
}

/* The one that was used least; all others lose a use, so that none stays for ever. */
static Frame *
victim(uint32 set)
{
	Frame	   *best = NULL;

	for (uint32 i = set * WAYS; i < (set + 1) * WAYS; i++)
	{
		Frame	   *f = &cache->frames[i];

		if (f->slot == NULL)
			return f;
		if (best == NULL || f->uses < best->uses)
			best = f;
		if (f->uses > 0)
			f->uses--;
	}
	return best;
}

static char *
page_of(const Frame *f)
{
	return pages + (Size) (f - cache->frames) * BLCKSZ;
}

bool
framecache_get(Timeline *tl, const NeonKey *key, XLogRecPtr above, XLogRecPtr upto, char *page,
			   XLogRecPtr *lsn)
{
	LWLock	   *lock;
	uint32		set;
	Frame	   *f;
	bool		found;

	if (cache->nsets == 0)
		return false;
	set = set_of(tl, key);
	lock = &cache->locks[set % LOCKS].lock;
	LWLockAcquire(lock, LW_SHARED);
	f = find_frame(tl, set, key);
	found = f != NULL && f->lsn > above && f->lsn <= upto;
	if (found)
	{
		memcpy(page, page_of(f), BLCKSZ);
		*lsn = f->lsn;
		/* several at once may count as one */
		if (f->uses < MAX_USES)
			f->uses++;
	}
	LWLockRelease(lock);
	return found;
}

void
framecache_put(Timeline *tl, const NeonKey *key, XLogRecPtr lsn, const char *page)
{
	LWLock	   *lock;
	uint32		set;
	Frame	   *f;

	if (cache->nsets == 0)
		return;
	set = set_of(tl, key);
	lock = &cache->locks[set % LOCKS].lock;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	f = find_frame(tl, set, key);
	if (f == NULL)
	{
		f = victim(set);
		f->lsn = InvalidXLogRecPtr;
		f->uses = 1;
	}
	if (f->lsn < lsn)
	{
		f->key = *key;
		f->slot = tl->shared;
		f->incarnation = tl->incarnation;
		f->lsn = lsn;
		memcpy(page_of(f), page, BLCKSZ);
	}
	LWLockRelease(lock);
}
