/*-------------------------------------------------------------------------
 *
 * openlayer.c
 *	  The pool of blocks in shared memory, and the open index built in it.
 *
 * A layer takes whole blocks and fills them from front to back.  Its keys are
 * in a hash table that grows by one bucket at a time (linear hashing); a key's
 * versions are references of 8 bytes, oldest first: two in the key, then
 * chunks of growing size that are linked backward.
 *
 * Reference, from the high end: 32 bits place, 28 bits length, 3 bits kind,
 * 1 bit base.  Of a WAL record place and length are (start - base_lsn) / 8 and
 * (end - start) / 8; of all else place is the address of an OpenValue.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "init.h"
#include "miscadmin.h"
#include "openlayer.h"
#include "pgstat.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "timeline_shared.h"
#include "utils/guc.h"

#define UNIT			8
#define UNITS_PER_BLOCK	(OPEN_BLOCK_SIZE / UNIT)

#define SEGMENT_BUCKETS	1024
#define MAX_SEGMENTS	4096
#define CHUNK_MIN		6
#define CHUNK_MAX		510
#define CHUNK_BYTES(cap)	(offsetof(OpenChunk, ref) + (cap) * sizeof(uint64))

#define REF_MAX_LENGTH	((UINT64CONST(1) << 28) - 1)
#define REF_MAX_PLACE	((UINT64CONST(1) << 32) - 1)

/* Distance of WAL that one layer can index. */
#define OPEN_MAX_DISTANCE	(REF_MAX_PLACE * UNIT)

typedef struct OpenChunk
{
	OpenAddr	prev;
	uint16		n;
	uint16		cap;
	uint64		ref[FLEXIBLE_ARRAY_MEMBER];
} OpenChunk;

/* Bytes of a value; what does not fit in one block goes on in the next. */
typedef struct OpenValue
{
	XLogRecPtr	start;
	XLogRecPtr	end;
	uint32		len;			/* of the whole value */
	uint32		here;			/* of this piece */
	OpenAddr	more;
	uint32		pad;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} OpenValue;

#define VALUE_HEADER	offsetof(OpenValue, data)
#define VALUE_PIECE		(OPEN_BLOCK_SIZE - VALUE_HEADER)

typedef struct OpenPool
{
	slock_t		mutex;
	uint32		nblocks;
	uint32		nfree;
	uint32		free;			/* head of the free list; 0: empty */
	ConditionVariable freed_cv;
	char	   *base;			/* block 0 is never used */
	uint32		next[FLEXIBLE_ARRAY_MEMBER];
} OpenPool;

static int	open_layer_memory = 256 * 1024;
static OpenPool *pool = NULL;

/* ---- the pool ---- */

void
openlayer_define_gucs(void)
{
	DefineCustomIntVariable("neon_pageserver.open_layer_memory",
							"Shared memory for the index of WAL that is not yet in layer files.",
							NULL, &open_layer_memory, 256 * 1024, 4 * 1024, 16 * 1024 * 1024,
							PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);
}

static uint32
pool_nblocks(void)
{
	return (uint64) open_layer_memory * 1024 / OPEN_BLOCK_SIZE + 1;
}

static Size
pool_header_size(void)
{
	return TYPEALIGN(PG_CACHE_LINE_SIZE,
					 offsetof(OpenPool, next) + (Size) pool_nblocks() * sizeof(uint32));
}

Size
openlayer_shmem_size(void)
{
	return add_size(pool_header_size(), mul_size(pool_nblocks(), OPEN_BLOCK_SIZE));
}

void
openlayer_shmem_init(void)
{
	bool		found;

	pool = ShmemInitStruct("neon open layers", openlayer_shmem_size(), &found);
	if (found)
		return;
	SpinLockInit(&pool->mutex);
	ConditionVariableInit(&pool->freed_cv);
	pool->nblocks = pool_nblocks();
	pool->base = (char *) pool + pool_header_size();
	pool->nfree = pool->nblocks - 1;
	pool->free = 1;
	for (uint32 i = 1; i < pool->nblocks; i++)
		pool->next[i] = i + 1 < pool->nblocks ? i + 1 : 0;
}

uint64
openpool_total_bytes(void)
{
	return (uint64) (pool->nblocks - 1) * OPEN_BLOCK_SIZE;
}

uint64
openpool_free_bytes(void)
{
	return (uint64) pool->nfree * OPEN_BLOCK_SIZE;
}

static uint32
pool_take(void)
{
	uint32		block;

	SpinLockAcquire(&pool->mutex);
	block = pool->free;
	if (block != 0)
	{
		pool->free = pool->next[block];
		pool->nfree--;
	}
	SpinLockRelease(&pool->mutex);
	return block;
}

/* A list of blocks, last one given, comes back. */
static void
pool_give(uint32 first)
{
	uint32		last = first;
	uint32		n = 1;

	if (first == 0)
		return;
	while (pool->next[last] != 0)
	{
		last = pool->next[last];
		n++;
	}
	SpinLockAcquire(&pool->mutex);
	pool->next[last] = pool->free;
	pool->free = first;
	pool->nfree += n;
	SpinLockRelease(&pool->mutex);
	ConditionVariableBroadcast(&pool->freed_cv);
}

void
openpool_wait_for_room(int timeout_ms)
{
	ConditionVariablePrepareToSleep(&pool->freed_cv);
	(void) ConditionVariableTimedSleep(&pool->freed_cv, timeout_ms, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
}

static inline void *
at(OpenAddr addr)
{
	return pool->base + (Size) addr * UNIT;
}

/* ---- allocation in a layer ---- */

void
openlayer_init(OpenLayer *layer, XLogRecPtr base_lsn)
{
	memset(layer, 0, sizeof(*layer));
	layer->base_lsn = base_lsn;
	layer->newest = base_lsn;
}

void
openlayer_free(OpenLayer *layer)
{
	/* Filled blocks are linked from the newest one backward. */
	pool_give(layer->block);
	pool_give(layer->spare);
	openlayer_init(layer, layer->base_lsn);
}

/* Bytes are at most OPEN_BLOCK_SIZE; a block was reserved. */
static OpenAddr
alloc(OpenLayer *layer, Size bytes)
{
	OpenAddr	addr;

	bytes = TYPEALIGN(UNIT, bytes);
	Assert(bytes <= OPEN_BLOCK_SIZE);
	if (layer->block == 0 || layer->used + bytes > OPEN_BLOCK_SIZE)
	{
		uint32		block = layer->spare;

		if (block == 0)
			elog(ERROR, "open layer has no reserved block");
		layer->spare = pool->next[block];
		layer->nspare--;
		pool->next[block] = layer->block;
		layer->block = block;
		layer->used = 0;
	}
	addr = layer->block * UNITS_PER_BLOCK + layer->used / UNIT;
	layer->used += bytes;
	return addr;
}

/* Upper bound of the bytes that one version may take, with block ends lost. */
static Size
version_bytes(const StorePut *put)
{
	Size		bytes = sizeof(OpenKey) + CHUNK_BYTES(CHUNK_MAX) + SEGMENT_BUCKETS * sizeof(OpenAddr);

	if (put->value_kind != NEON_VALUE_WAL)
		bytes += put->len + VALUE_HEADER * (2 + put->len / VALUE_PIECE);
	return bytes;
}

bool
openlayer_reserve(OpenLayer *layer, const StorePut *puts, int nputs, uint32 more)
{
	Size		bytes = 0;
	uint32		wanted;

	for (int i = 0; i < nputs; i++)
		bytes += version_bytes(&puts[i]);
	/* Often: what is left of this block is enough. */
	if (layer->block != 0 && layer->used + bytes <= OPEN_BLOCK_SIZE && layer->nspare >= more)
		return true;
	/* No single piece but a value's is larger than half a block. */
	wanted = 2 * (bytes / OPEN_BLOCK_SIZE + 1) + more;
	if (layer->directory == 0)
		wanted++;
	while (layer->nspare < wanted)
	{
		uint32		block = pool_take();

		if (block == 0)
			return false;
		pool->next[block] = layer->spare;
		layer->spare = block;
		layer->nspare++;
		layer->nblocks++;
	}
	return true;
}

/* ---- the hash table ---- */

static inline uint32
hash_key(const NeonKey *key)
{
	uint64		h = (uint64) key->kind << 8 | key->fork;

	h = (h ^ ((uint64) key->rel << 32 | key->blk)) * UINT64CONST(0x9E3779B97F4A7C15);
	h ^= h >> 32;
	h = (h ^ ((uint64) key->spc << 32 | key->db)) * UINT64CONST(0xC2B2AE3D27D4EB4F);
	return (uint32) (h >> 32);
}

static inline bool
same_key(const NeonKey *a, const NeonKey *b)
{
	return a->blk == b->blk && a->rel == b->rel && a->kind == b->kind &&
		a->fork == b->fork && a->db == b->db && a->spc == b->spc;
}

static inline uint32
bucket_of(const OpenLayer *layer, uint32 hash)
{
	uint32		mask = pg_nextpower2_32(layer->nbuckets) - 1;
	uint32		bucket = hash & mask;

	return bucket < layer->nbuckets ? bucket : hash & (mask >> 1);
}

static inline OpenAddr *
bucket_head(const OpenLayer *layer, uint32 bucket)
{
	OpenAddr   *directory = at(layer->directory);
	OpenAddr   *segment = at(directory[bucket / SEGMENT_BUCKETS]);

	return &segment[bucket % SEGMENT_BUCKETS];
}

static void
add_segment(OpenLayer *layer)
{
	OpenAddr   *directory;
	OpenAddr	segment;

	if (layer->directory == 0)
		layer->directory = alloc(layer, MAX_SEGMENTS * sizeof(OpenAddr));
	segment = alloc(layer, SEGMENT_BUCKETS * sizeof(OpenAddr));
	memset(at(segment), 0, SEGMENT_BUCKETS * sizeof(OpenAddr));
	directory = at(layer->directory);
	directory[layer->nbuckets / SEGMENT_BUCKETS] = segment;
}

/* One more bucket, which takes its keys from the one it was folded into. */
static void
split_bucket(OpenLayer *layer)
{
	uint32		added = layer->nbuckets;
	OpenAddr   *from;
	OpenAddr   *to;
	OpenAddr	addr;

	if (added / SEGMENT_BUCKETS >= MAX_SEGMENTS)
		return;
	if (added % SEGMENT_BUCKETS == 0)
		add_segment(layer);
	layer->nbuckets++;
	from = bucket_head(layer, added & (pg_nextpower2_32(added + 1) / 2 - 1));
	to = bucket_head(layer, added);
	addr = *from;
	*from = 0;
	while (addr != 0)
	{
		OpenKey    *k = at(addr);
		OpenAddr	next = k->next;
		OpenAddr   *head = bucket_of(layer, hash_key(&k->key)) == added ? to : from;

		k->next = *head;
		*head = addr;
		addr = next;
	}
}

static void
first_buckets(OpenLayer *layer)
{
	add_segment(layer);
	layer->nbuckets = SEGMENT_BUCKETS;
}

OpenKey *
openlayer_find(const OpenLayer *layer, const NeonKey *key)
{
	OpenAddr	addr;

	if (layer->nbuckets == 0)
		return NULL;
	addr = *bucket_head(layer, bucket_of(layer, hash_key(key)));
	while (addr != 0)
	{
		OpenKey    *k = at(addr);

		if (same_key(&k->key, key))
			return k;
		addr = k->next;
	}
	return NULL;
}

static OpenKey *
find_or_add(OpenLayer *layer, const NeonKey *key)
{
	OpenKey    *k = openlayer_find(layer, key);
	OpenAddr	addr;
	OpenAddr   *head;
	OpenAddr   *list;

	if (k != NULL)
		return k;
	if (layer->nbuckets == 0)
		first_buckets(layer);
	else if (layer->nkeys >= layer->nbuckets)
		split_bucket(layer);
	addr = alloc(layer, sizeof(OpenKey));
	k = at(addr);
	memset(k, 0, sizeof(*k));
	k->key = *key;
	head = bucket_head(layer, bucket_of(layer, hash_key(key)));
	k->next = *head;
	*head = addr;
	list = key->kind == NEON_KEY_PAGE ? &layer->pages : &layer->others;
	k->list = *list;
	*list = addr;
	layer->nkeys++;
	return k;
}

OpenKey *
openlayer_first(const OpenLayer *layer, bool pages)
{
	OpenAddr	addr = pages ? layer->pages : layer->others;

	return addr ? at(addr) : NULL;
}

OpenKey *
openlayer_next(const OpenKey *key)
{
	return key->list ? at(key->list) : NULL;
}

/* ---- references ---- */

static inline uint64
make_ref(uint64 place, uint64 length, uint8 kind, bool base)
{
	return place << 32 | length << 4 | (uint64) kind << 1 | (base ? 1 : 0);
}

static inline uint8
ref_kind(uint64 ref)
{
	return (ref >> 1) & 7;
}

static inline XLogRecPtr
ref_end(const OpenLayer *layer, uint64 ref)
{
	if (ref_kind(ref) == NEON_VALUE_WAL)
		return layer->base_lsn + ((ref >> 32) + ((ref >> 4) & REF_MAX_LENGTH)) * UNIT;
	return ((OpenValue *) at(ref >> 32))->end;
}

static OpenAddr
store_value(OpenLayer *layer, XLogRecPtr start, XLogRecPtr end, const StorePut *put)
{
	OpenAddr	first = 0;
	OpenValue  *prev = NULL;
	uint32		done = 0;

	do
	{
		uint32		here = Min(put->len - done, VALUE_PIECE);
		OpenAddr	addr = alloc(layer, VALUE_HEADER + here);
		OpenValue  *v = at(addr);

		v->start = start;
		v->end = end;
		v->len = put->len;
		v->here = here;
		v->more = 0;
		if (here > 0)
			memcpy(v->data, (const char *) put->data + done, here);
		if (prev)
			prev->more = addr;
		else
			first = addr;
		prev = v;
		done += here;
	} while (done < put->len);
	return first;
}

static char *
load_value(const OpenValue *v)
{
	char	   *data = palloc(v->len + 1);
	uint32		done = 0;

	for (;;)
	{
		memcpy(data + done, v->data, v->here);
		done += v->here;
		if (v->more == 0)
			break;
		v = at(v->more);
	}
	data[done] = '\0';
	return data;
}

void
openlayer_decode(const OpenLayer *layer, uint64 ref, bool load, StoreVersion *version)
{
	version->value_kind = ref_kind(ref);
	version->base = ref & 1;
	version->len = 0;
	version->data = NULL;
	version->record = NULL;
	version->timeline = NULL;
	version->lsn = ref_end(layer, ref);
	if (version->value_kind == NEON_VALUE_WAL)
		version->start = layer->base_lsn + (ref >> 32) * UNIT;
	else
	{
		OpenValue  *v = at(ref >> 32);

		version->start = v->start;
		version->len = v->len;
		if (load)
			version->data = load_value(v);
	}
}

/* ---- versions of a key ---- */

static uint64 *
newest_ref(OpenKey *k)
{
	OpenChunk  *chunk;

	if (k->nrefs == 0)
		return NULL;
	if (k->tail == 0)
		return &k->ref[k->nrefs - 1];
	chunk = at(k->tail);
	return &chunk->ref[chunk->n - 1];
}

static void
append_ref(OpenLayer *layer, OpenKey *k, uint64 ref)
{
	OpenChunk  *chunk = k->tail ? at(k->tail) : NULL;

	if (chunk == NULL && k->nrefs < lengthof(k->ref))
	{
		k->ref[k->nrefs++] = ref;
		return;
	}
	if (chunk == NULL || chunk->n == chunk->cap)
	{
		uint16		cap = chunk ? Min(chunk->cap * 2 + 2, CHUNK_MAX) : CHUNK_MIN;
		OpenAddr	addr = alloc(layer, CHUNK_BYTES(cap));

		chunk = at(addr);
		chunk->prev = k->tail;
		chunk->n = 0;
		chunk->cap = cap;
		k->tail = addr;
	}
	chunk->ref[chunk->n++] = ref;
	k->nrefs++;
}

uint32
openlayer_add(OpenLayer *layer, XLogRecPtr start, XLogRecPtr end, const StorePut *put)
{
	OpenKey    *k = find_or_add(layer, &put->key);
	uint64	   *newest = newest_ref(k);
	uint64		ref;

	if (start < layer->base_lsn || start % UNIT != 0 || end % UNIT != 0 || end < start ||
		start - layer->base_lsn >= OPEN_MAX_DISTANCE || (end - start) / UNIT > REF_MAX_LENGTH)
		elog(ERROR, "version from %X/%X to %X/%X does not fit in the open layer at %X/%X",
			 LSN_FORMAT_ARGS(start), LSN_FORMAT_ARGS(end), LSN_FORMAT_ARGS(layer->base_lsn));
	if (put->value_kind == NEON_VALUE_WAL)
		ref = make_ref((start - layer->base_lsn) / UNIT, (end - start) / UNIT,
					   put->value_kind, put->base);
	else
		ref = make_ref(store_value(layer, start, end, put), 0, put->value_kind, true);

	if (newest != NULL && ref_end(layer, *newest) >= end)
	{
		if (ref_end(layer, *newest) > end)
			elog(ERROR, "version at %X/%X is older than the newest of its key",
				 LSN_FORMAT_ARGS(end));
		/* One record changed the key twice: the last word counts. */
		if (ref_kind(*newest) == NEON_VALUE_WAL && put->value_kind == NEON_VALUE_WAL)
			ref |= *newest & 1;
		*newest = ref;
	}
	else
	{
		append_ref(layer, k, ref);
		layer->nrefs++;
	}
	layer->newest = Max(layer->newest, end);
	return k->nrefs;
}

StoreVersion *
versions_add(VersionList *list)
{
	if (list->n == list->max)
	{
		list->max = Max(8, list->max * 2);
		list->v = list->v ?
			repalloc_huge(list->v, list->max * sizeof(StoreVersion)) :
			MemoryContextAllocHuge(CurrentMemoryContext, list->max * sizeof(StoreVersion));
	}
	memset(&list->v[list->n], 0, sizeof(StoreVersion));
	return &list->v[list->n++];
}

void
versions_free(VersionList *list)
{
	for (int i = 0; i < list->n; i++)
	{
		if (list->v[i].data)
			pfree(unconstify(char *, list->v[i].data));
	}
	if (list->v)
		pfree(list->v);
	memset(list, 0, sizeof(*list));
}

/* Number of refs, oldest first, that end at or before upto. */
static int
count_upto(const OpenLayer *layer, const uint64 *ref, int n, XLogRecPtr upto)
{
	int			lo = 0;
	int			hi = n;

	if (n > 0 && ref_end(layer, ref[n - 1]) <= upto)
		return n;
	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (ref_end(layer, ref[mid]) <= upto)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* What a walk over refs from the newest down does with each; false ends it. */
typedef bool (*RefWalk) (const OpenLayer *layer, uint64 ref, void *arg);

static void
walk_down(const OpenLayer *layer, const OpenKey *k, XLogRecPtr upto, RefWalk walk, void *arg)
{
	for (OpenAddr addr = k->tail; addr != 0;)
	{
		const OpenChunk *chunk = at(addr);

		for (int i = count_upto(layer, chunk->ref, chunk->n, upto) - 1; i >= 0; i--)
		{
			if (!walk(layer, chunk->ref[i], arg))
				return;
		}
		addr = chunk->prev;
	}
	for (int i = count_upto(layer, k->ref, Min(k->nrefs, lengthof(k->ref)), upto) - 1; i >= 0; i--)
	{
		if (!walk(layer, k->ref[i], arg))
			return;
	}
}

typedef struct CollectArg
{
	Timeline   *tl;
	XLogRecPtr	above;
	VersionList *list;
	bool		ended;
} CollectArg;

static bool
collect_ref(const OpenLayer *layer, uint64 ref, void *arg)
{
	CollectArg *c = arg;
	StoreVersion *v;

	if (ref_end(layer, ref) <= c->above)
		return false;
	v = versions_add(c->list);
	openlayer_decode(layer, ref, true, v);
	v->timeline = c->tl;
	c->ended = v->base;
	return !v->base;
}

bool
openlayer_collect(const OpenLayer *layer, const OpenKey *key, Timeline *tl, VersionRange range,
				  VersionList *list)
{
	CollectArg	arg = {tl, range.above, list, false};

	walk_down(layer, key, range.upto, collect_ref, &arg);
	return arg.ended;
}

static bool
take_first(const OpenLayer *layer, uint64 ref, void *arg)
{
	*(uint64 *) arg = ref;
	return false;
}

bool
openlayer_newest(const OpenLayer *layer, const OpenKey *key, XLogRecPtr upto, uint64 *ref)
{
	*ref = 0;
	walk_down(layer, key, upto, take_first, ref);
	return *ref != 0;
}

void
openlayer_visit(const OpenLayer *layer, const OpenKey *key, OpenVisit visit, void *arg)
{
	OpenAddr   *chunks;
	int			n = 0;

	for (int i = 0; i < Min(key->nrefs, lengthof(key->ref)); i++)
		visit(layer, key->ref[i], arg);
	for (OpenAddr a = key->tail; a != 0; a = ((OpenChunk *) at(a))->prev)
		n++;
	if (n == 0)
		return;
	chunks = palloc(n * sizeof(OpenAddr));
	for (OpenAddr a = key->tail; a != 0; a = ((OpenChunk *) at(a))->prev)
		chunks[--n] = a;
	for (n = 0;; n++)
	{
		const OpenChunk *chunk = at(chunks[n]);

		for (int i = 0; i < chunk->n; i++)
			visit(layer, chunk->ref[i], arg);
		if (chunks[n] == key->tail)
			break;
	}
	pfree(chunks);
}

static void
trim_key(OpenLayer *layer, OpenKey *k, XLogRecPtr lsn)
{
	uint64	   *newest;

	while ((newest = newest_ref(k)) != NULL && ref_end(layer, *newest) > lsn)
	{
		if (k->tail != 0)
		{
			OpenChunk  *chunk = at(k->tail);

			if (--chunk->n == 0)
				k->tail = chunk->prev;
		}
		k->nrefs--;
		layer->nrefs--;
	}
}

void
openlayer_trim(OpenLayer *layer, XLogRecPtr lsn)
{
	if (layer->newest <= lsn)
		return;
	for (int pages = 0; pages < 2; pages++)
	{
		for (OpenKey *k = openlayer_first(layer, pages); k != NULL; k = openlayer_next(k))
			trim_key(layer, k, lsn);
	}
	layer->newest = lsn;
}
