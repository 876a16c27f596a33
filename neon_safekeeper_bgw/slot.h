/*-------------------------------------------------------------------------
 *
 * slot.h
 *	  Physical replication slots of timelines: where consumers of the
 *	  replication service are, so that the WAL they need is kept.
 *
 * All slots of the instance lie in one array in shared memory, read from
 * DIR/slots/NAME of each timeline by the first process that needs any.  One
 * LWLock protects which slots there are (exclusive: create, drop, load; shared:
 * all else); each slot's spinlock protects its positions and its user.  Lock
 * order: operation lock of the timeline, this lock, spinlock.
 *
 * What is on disk may be older than what is in memory; retention goes by the
 * older of both.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_SLOT_H
#define NEON_SK_SLOT_H

#include "table.h"

typedef struct SkSlotInfo
{
	NeonId		tenant;
	NeonId		timeline;
	NameData	name;
	bool		temporary;		/* of the session active_pid; never on disk */
	bool		unreadable;		/* its file is damaged: holds all that is here */
	pid_t		active_pid;		/* 0: nobody uses it */
	XLogRecPtr	restart_lsn;	/* 0: nothing reserved, or invalidated */
	XLogRecPtr	saved_lsn;		/* restart_lsn as it is on disk */
	XLogRecPtr	invalidated_at; /* restart_lsn when it was invalidated, else 0 */
} SkSlotInfo;

/* ---- of the session's use; errors are those of the stock functions ---- */

/* reserve: from the oldest WAL that is here.  A temporary slot belongs to the process. */
extern void skslot_create(SkTimeline *tl, const char *name, bool temporary, bool reserve);

/* wait: until nobody uses it, interruptibly; else an error if somebody does. */
extern void skslot_drop(SkTimeline *tl, const char *name, bool wait);

/* Makes it the process's slot; ereport(ERROR) if another process uses it. */
extern void skslot_acquire(SkTimeline *tl, const char *name);
extern void skslot_release(void);

/* After an error: releases the slot in use, drops the process's temporary ones. */
extern void skslot_end_use(void);

/* Has the same done at the end of the process. */
extern void skslot_register_exit(void);

/* The consumer of the process's slot, if it has one, has everything below lsn. */
extern void skslot_confirm(XLogRecPtr lsn);

/* False if there is no such slot. */
extern bool skslot_get(SkTimeline *tl, const char *name, SkSlotInfo *info);

/* Calls f for copies of all slots, or of those of one timeline (tl not NULL). */
extern void skslot_foreach(const SkTimeline *tl, void (*f) (const SkSlotInfo *slot, void *arg),
						   void *arg);

/* ---- of retention ---- */

/* The oldest LSN that the slot needs; 0: none. */
extern XLogRecPtr skslot_needs(const SkSlotInfo *slot);

/* Writes slots whose position went on: all, or those that need another segment now. */
extern void skslot_save(SkTimeline *tl, bool all);

/*
 * WAL below lsn is about to go: invalidates the slots that need it, and ends
 * the sessions that use them.
 */
extern void skslot_invalidate(SkTimeline *tl, XLogRecPtr lsn);

/* Forgets the slots of a deleted timeline. */
extern void skslot_forget_timeline(const NeonId *tenant, const NeonId *timeline);

/* ---- slotfile.c ---- */

extern void slotfile_write(const SkTimeline *tl, const SkSlotInfo *slot);
extern void slotfile_remove(const SkTimeline *tl, const char *name);

/* Calls f for each slot file of the timeline, damaged ones too. */
extern void slotfile_foreach(SkTimeline *tl, void (*f) (const SkSlotInfo *slot, void *arg),
							 void *arg);

/* ---- called by init.c ---- */
extern void skslot_define_gucs(void);
extern Size skslot_shmem_size(void);
extern void skslot_shmem_init(void);

#endif							/* NEON_SK_SLOT_H */
