/*-------------------------------------------------------------------------
 *
 * savedwarm.c
 *	  Which blocks were in shared buffers, from one life of a compute to the
 *	  next.
 *
 * The list has a bitmap for each chunk of 128 blocks of which some were there,
 * those of catalogs first, as each session needs them, then those that were
 * used most.  The next life fetches them in this order in the background
 * (hydration.c), into its files: a session that needs one does not wait for
 * the pageserver then.  Its length is that of shared buffers at most.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "map.h"
#include "miscadmin.h"
#include "saved.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

StaticAssertDecl(sizeof(WarmChunk) == 40, "the list's entries have no padding");

/* What fits; the rest is what was used least. */
#define WARM_MAX	((NEON_SAVED_MAX - sizeof(SavedHeader)) / sizeof(WarmChunk))

typedef struct WarmEntry
{
	WarmChunk	chunk;			/* begins with the key of the hash table */
	uint32		uses;
} WarmEntry;

#define WARM_KEY_SIZE	offsetof(WarmChunk, blocks)

/* What was restored: made in the postmaster, inherited. */
static const WarmChunk *restored = NULL;
static uint32 nrestored = 0;

/* ----------
 * Saving
 * ----------
 */

/* The page's tag, if it is one of a fork that can be remote in the next life. */
static bool
buffer_tag(BufferDesc *buf, BufferTag *tag, uint32 *uses)
{
	uint32		state = LockBufHdr(buf);

	*tag = buf->tag;
	*uses = BUF_STATE_GET_USAGECOUNT(state) + 1;
	UnlockBufHdr(buf, state);
	return (state & BM_TAG_VALID) && (state & BM_PERMANENT) &&
		(tag->forkNum == MAIN_FORKNUM || tag->forkNum == VISIBILITYMAP_FORKNUM);
}

static void
note_buffer(HTAB *chunks, const BufferTag *tag, uint32 uses)
{
	WarmChunk	key = {0};
	WarmEntry  *entry;
	uint32		bit = tag->blockNum % MAP_CHUNK_BLOCKS;
	bool		found;

	key.spc = tag->rnode.spcNode;
	key.db = tag->rnode.dbNode;
	key.rel = tag->rnode.relNode;
	key.fork = tag->forkNum;
	key.chunk = tag->blockNum / MAP_CHUNK_BLOCKS;
	entry = hash_search(chunks, &key, HASH_ENTER, &found);
	if (!found)
	{
		entry->chunk = key;
		entry->uses = 0;
	}
	entry->chunk.blocks[bit / 64] |= UINT64CONST(1) << (bit % 64);
	entry->uses += uses;
}

static int
compare_entries(const void *a, const void *b)
{
	const WarmEntry *x = *(WarmEntry *const *) a;
	const WarmEntry *y = *(WarmEntry *const *) b;
	bool		x_catalog = x->chunk.rel < FirstNormalObjectId;
	bool		y_catalog = y->chunk.rel < FirstNormalObjectId;

	if (x_catalog != y_catalog)
		return x_catalog ? -1 : 1;
	if (x->uses != y->uses)
		return x->uses > y->uses ? -1 : 1;
	return memcmp(&x->chunk, &y->chunk, WARM_KEY_SIZE);
}

static void
append_sorted(StringInfo out, HTAB *chunks)
{
	uint64		n = hash_get_num_entries(chunks);
	uint64		i = 0;
	WarmEntry **entries = palloc_extended(Max(n, 1) * sizeof(WarmEntry *), MCXT_ALLOC_HUGE);
	HASH_SEQ_STATUS scan;
	WarmEntry  *entry;

	hash_seq_init(&scan, chunks);
	while ((entry = hash_seq_search(&scan)) != NULL)
		entries[i++] = entry;
	qsort(entries, n, sizeof(WarmEntry *), compare_entries);
	for (i = 0; i < Min(n, WARM_MAX); i++)
		appendBinaryStringInfo(out, (char *) &entries[i]->chunk, sizeof(WarmChunk));
	pfree(entries);
}

void
savedwarm_collect(StringInfo out)
{
	HASHCTL		ctl = {.keysize = WARM_KEY_SIZE,.entrysize = sizeof(WarmEntry),.hcxt = CurrentMemoryContext};
	HTAB	   *chunks = hash_create("warm chunks", 1024, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	for (int i = 0; i < NBuffers; i++)
	{
		BufferTag	tag;
		uint32		uses;

		CHECK_FOR_INTERRUPTS();
		if (buffer_tag(GetBufferDescriptor(i), &tag, &uses))
			note_buffer(chunks, &tag, uses);
	}
	append_sorted(out, chunks);
	hash_destroy(chunks);
}

/* ----------
 * The next life
 * ----------
 */

bool
savedwarm_restore(const char *body, uint32 len)
{
	if (len == 0 || len % sizeof(WarmChunk) != 0)
		return false;
	restored = memcpy(MemoryContextAlloc(TopMemoryContext, len), body, len);
	nrestored = len / sizeof(WarmChunk);
	return true;
}

uint32
savedwarm_chunks(const WarmChunk **chunks)
{
	*chunks = restored;
	return nrestored;
}
