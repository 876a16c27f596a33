/*-------------------------------------------------------------------------
 *
 * tracerecord.c
 *	  The records that a walk writes, and what else is drawn for it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef NEON_TESTING

#include "access/xlog_internal.h"
#include "replay.h"

int
trace_draw(Replay *r, int n)
{
	return (int) pg_prng_uint64_range(&r->random, 0, n - 1);
}

void
trace_draw_for(Replay *r, int what)
{
	pg_prng_seed(&r->random, ((uint64) r->seed << 32) ^ ((uint64) r->trace << 16) ^ what);
}

static uint32
draw_payload(Replay *r, int who, int position)
{
	trace_draw_for(r, 1 + who * MAX_LENGTH + position);
	switch (trace_draw(r, 8))
	{
		case 0:
			return trace_draw(r, 30000);
		case 1:
		case 2:
			return trace_draw(r, 9000);
		default:
			return trace_draw(r, 200);
	}
}

/* At a segment's start, shortly behind it, at a page's start, anywhere. */
static uint32
draw_offset(Replay *r)
{
	switch (trace_draw(r, 6))
	{
		case 0:
			return 0;
		case 1:
			return SizeOfXLogLongPHD + 8 * trace_draw(r, 20);
		case 2:
			return XLOG_BLCKSZ * (1 + trace_draw(r, 127));
		default:
			return XLOG_BLCKSZ * trace_draw(r, 128) + SizeOfXLogLongPHD + 8 * trace_draw(r, 1000);
	}
}

/* The record of each position ends in the segment behind that of the one before. */
static uint32
draw_segment(Replay *r, XLogRecPtr start, int who, int position)
{
	XLogRecPtr	end = (r->start_lsn / SEGMENT_SIZE + position + 1) * SEGMENT_SIZE;

	trace_draw_for(r, 1 + who * MAX_LENGTH + position);
	end += draw_offset(r);
	if (end - start < XLOG_BLCKSZ)
		end += 2 * XLOG_BLCKSZ;		/* there must be room for its header */
	return walmake_payload(start, end, SEGMENT_SIZE);
}

void
trace_append_record(Replay *r, int who)
{
	TraceLauncher *l = &r->launchers[who];
	XLogRecPtr	prev = InvalidXLogRecPtr;
	XLogRecPtr	start;
	uint32		payload;

	if (l->end >= MAX_LENGTH)
		trace_differs(r, "invalid line");
	start = trace_lsn(r, l->log, l->end);
	payload = r->segments ? draw_segment(r, start, who, l->end) : draw_payload(r, who, l->end);
	if (l->end > 0)
		prev = r->record[l->log[l->end - 1] - 1][l->end - 1].record;
	r->record[who][l->end] = walmake_record(start, prev, payload, who + 1, SYSTEM_ID,
											SEGMENT_SIZE);
	l->log[l->end++] = who + 1;
}

/* At a segment's start, at a page's, shortly before a segment's end, anywhere. */
XLogRecPtr
trace_draw_start(Replay *r)
{
	XLogRecPtr	segment;

	trace_draw_for(r, 0);
	segment = (XLogRecPtr) (2 + trace_draw(r, 5)) * SEGMENT_SIZE;
	switch (trace_draw(r, 4))
	{
		case 0:
			return segment;
		case 1:
			return segment + (1 + trace_draw(r, 127)) * XLOG_BLCKSZ;
		case 2:
			return segment + SEGMENT_SIZE - XLOG_BLCKSZ * trace_draw(r, 3) - 8 * (1 + trace_draw(r, 500));
		default:
			return segment + trace_draw(r, 128) * XLOG_BLCKSZ + SizeOfXLogLongPHD + 8 * trace_draw(r, 900);
	}
}

#endif							/* NEON_TESTING */
