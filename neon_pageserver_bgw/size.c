/*-------------------------------------------------------------------------
 *
 * size.c
 *	  Size of a relation fork and its cut list.
 *
 * The cuts have strictly growing blocks with growing LSN: a truncation removes
 * those at or above its own size.  When the list is full, the cut that governs
 * the fewest blocks is forgotten, so that an older cut governs them.  That
 * hides no version.  It matters only for a block that was cut away there and
 * then came back without any record that writes it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "neon_codec.h"
#include "size.h"

#define SIZE_FLAG_DROPPED	1

void
relsize_init(RelSize *size)
{
	memset(size, 0, sizeof(*size));
}

bool
relsize_extend(RelSize *size, BlockNumber nblocks)
{
	bool		changed = size->dropped || nblocks > size->nblocks;

	size->dropped = false;
	size->nblocks = Max(size->nblocks, nblocks);
	return changed;
}

static void
remove_cut(RelSize *size, int i)
{
	memmove(&size->cuts[i], &size->cuts[i + 1], (size->ncuts - i - 1) * sizeof(SizeCut));
	size->ncuts--;
}

static void
forget_narrowest_cut(RelSize *size)
{
	int			best = 0;

	for (int i = 1; i < size->ncuts - 1; i++)
	{
		if (size->cuts[i + 1].blocks - size->cuts[i].blocks <
			size->cuts[best + 1].blocks - size->cuts[best].blocks)
			best = i;
	}
	remove_cut(size, best);
}

static void
push_cut(RelSize *size, XLogRecPtr lsn, BlockNumber blocks)
{
	while (size->ncuts > 0 && size->cuts[size->ncuts - 1].blocks >= blocks)
		size->ncuts--;
	if (size->ncuts == SIZE_MAX_CUTS)
		forget_narrowest_cut(size);
	size->cuts[size->ncuts].lsn = lsn;
	size->cuts[size->ncuts].blocks = blocks;
	size->ncuts++;
}

void
relsize_truncate(RelSize *size, XLogRecPtr lsn, BlockNumber nblocks)
{
	size->nblocks = nblocks;
	size->dropped = false;
	push_cut(size, lsn, nblocks);
}

void
relsize_drop(RelSize *size, XLogRecPtr lsn)
{
	size->nblocks = 0;
	size->dropped = true;
	push_cut(size, lsn, 0);
}

void
relsize_create(RelSize *size)
{
	size->dropped = false;
}

XLogRecPtr
relsize_floor(const RelSize *size, BlockNumber blk)
{
	int			lo = 0;
	int			hi = size->ncuts;

	/* The first cut with blocks > blk is at lo when this ends. */
	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (size->cuts[mid].blocks <= blk)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo > 0 ? size->cuts[lo - 1].lsn : InvalidXLogRecPtr;
}

void
relsize_encode(const RelSize *size, StringInfo buf)
{
	codec_put_u32(buf, size->nblocks);
	codec_put_u8(buf, size->dropped ? SIZE_FLAG_DROPPED : 0);
	codec_put_u8(buf, size->ncuts);
	for (int i = 0; i < size->ncuts; i++)
	{
		codec_put_u64(buf, size->cuts[i].lsn);
		codec_put_u32(buf, size->cuts[i].blocks);
	}
}

bool
relsize_decode(const char *data, uint32 len, RelSize *size)
{
	Cursor		c = cursor_over(data, len);
	uint8		flags;

	relsize_init(size);
	size->nblocks = cursor_u32(&c);
	flags = cursor_u8(&c);
	size->dropped = (flags & SIZE_FLAG_DROPPED) != 0;
	size->ncuts = cursor_u8(&c);
	if ((flags & ~SIZE_FLAG_DROPPED) != 0 || size->ncuts > SIZE_MAX_CUTS)
		c.ok = false;
	for (int i = 0; c.ok && i < size->ncuts; i++)
	{
		size->cuts[i].lsn = cursor_u64(&c);
		size->cuts[i].blocks = cursor_u32(&c);
		if (i > 0 && (size->cuts[i].lsn < size->cuts[i - 1].lsn ||
					  size->cuts[i].blocks <= size->cuts[i - 1].blocks))
			c.ok = false;
	}
	if (!c.ok || cursor_left(&c) != 0)
	{
		relsize_init(size);
		return false;
	}
	return true;
}
