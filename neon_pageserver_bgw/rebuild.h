/*-------------------------------------------------------------------------
 *
 * rebuild.h
 *	  A damaged layer file is made again from its own data, or from stored WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_REBUILD_H
#define NEON_PS_REBUILD_H

#include "timeline.h"

/*
 * Makes the file of the timeline again, if its data are whole or the WAL of its
 * LSN interval is still stored, and puts the new one into its place; with dry_run
 * only finds out whether that can be done.  False if not.  *text: a sentence that
 * says what was, or can be, done, or why not.  Damage that is met on the way is a
 * reason, not an error.  Waits for compaction of the timeline to end its job.
 */
extern bool rebuild_layer(Timeline *tl, uint64 file_id, bool dry_run, char **text);

/* A read has met damage in the file: a compaction worker will look at it. */
extern void rebuild_note_damage(Timeline *tl, uint64 file_id);

/* The same with the stored record that starts there, if that is in no layer yet. */
extern void rebuild_note_wal(Timeline *tl, XLogRecPtr start);

/*
 * What was noted of the timeline, if it is time: the first try is at once, the
 * next ones a minute to an hour later.  Logs what came of it.  For the
 * compaction workers.
 */
extern void rebuild_noted(Timeline *tl);

#endif							/* NEON_PS_REBUILD_H */
