/*-------------------------------------------------------------------------
 *
 * bootfiles.h
 *	  The files that make a data directory boot at an LSN without recovery:
 *	  boot record, control file, neon.boot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_BOOTFILES_H
#define NEON_PS_BOOTFILES_H

#include "control.h"
#include "neon_bootrec.h"
#include "timeline.h"

typedef enum BootKind
{
	BOOT_PRIMARY,				/* writes the timeline on; has a term */
	BOOT_STATIC,				/* read-only */
	BOOT_EPHEMERAL,				/* writable, nothing of it is stored */
} BootKind;

/* What a boot is made from. */
typedef struct BootPlan
{
	Timeline   *tl;
	BootKind	kind;
	uint32		term;			/* 0 unless primary */
	NeonId		boot_id;		/* in the boot record; zero if none was given */
	XLogRecPtr	lsn;			/* end of a record: where the boot record goes */
	ControlState state;			/* at lsn */
	ControlFileData control;	/* the lineage's, then as at boot */
	BootRecordPlace place;		/* of the boot record */
} BootPlan;

extern const char *boot_kind_name(BootKind kind);

/* ereport(ERROR) if the name is none. */
extern BootKind boot_kind_from_name(const char *name);

/*
 * Waits for WAL up to lsn, at most neon_pageserver.wait_lsn_timeout;
 * ereport(ERROR) if it does not come.
 */
extern void boot_wait(Timeline *tl, XLogRecPtr lsn);

/* Checks everything and fills the plan but for place.  The LSN has been waited for. */
extern void boot_plan(BootPlan *plan, Timeline *tl, BootKind kind, uint32 term,
					  const NeonId *boot_id, XLogRecPtr lsn);

/*
 * The segment of lsn with the boot record behind its true bytes, or behind
 * records that do nothing where those are no longer stored, palloc'd
 * (two segments; place.nsegments of them are used).  Completes plan->place
 * and plan->control.
 */
extern char *boot_wal(BootPlan *plan);

/* Contents of global/pg_control, PG_CONTROL_FILE_SIZE bytes; after boot_wal. */
extern void boot_control_file(const BootPlan *plan, char *file);

/* Contents of neon.boot; after boot_wal. */
extern void boot_text(const BootPlan *plan, StringInfo buf);

#endif							/* NEON_PS_BOOTFILES_H */
