/*-------------------------------------------------------------------------
 *
 * neon_bootrec.h
 *	  The boot checkpoint: the XLOG_CHECKPOINT_SHUTDOWN record that PostgreSQL
 *	  itself would write at X at the end of crash recovery, with the term and
 *	  the boot id in its padding.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_BOOTREC_H
#define NEON_BOOTREC_H

#include "access/xlogreader.h"
#include "catalog/pg_control.h"
#include "neon_id.h"

#define BOOTREC_ID_SIZE		7	/* bytes of a boot id that the record holds: its first ones */

typedef struct BootRecordPlace
{
	XLogRecPtr	start;			/* where the record starts: pg_control.checkPoint */
	XLogRecPtr	end;			/* MAXALIGNed end: where the next one goes */
	int			nsegments;		/* 1 or 2 segments hold it */
} BootRecordPlace;

/*
 * Writes the record at x, with the page headers that it crosses, into image,
 * which holds two whole segments beginning with the segment of x and already
 * has the true bytes below x.  checkpoint gets redo, the term and
 * the first bytes of the boot id (NULL: zeros).
 */
extern void bootrec_write(char *image, XLogRecPtr x, XLogRecPtr prev, CheckPoint *checkpoint,
						  uint32 term, const NeonId *boot_id, uint64 system_identifier,
						  uint32 segsize, TimeLineID tli, BootRecordPlace *place);

/*
 * The term of a record just read, or 0 if it is no boot record (a shutdown
 * checkpoint that PostgreSQL wrote has zeros there).
 */
extern uint32 bootrec_term(XLogReaderState *record);

/* True if the record, which is a boot record, is that of this boot. */
extern bool bootrec_is_of_boot(XLogReaderState *record, const NeonId *boot_id);

/* What a boot record holds of its boot id, with zeros behind it. */
extern NeonId bootrec_boot_id(XLogReaderState *record);

/* The same of a checkpoint as pg_control has it; zeros if it is none of a boot. */
extern NeonId bootrec_checkpoint_boot_id(const CheckPoint *checkpoint);

/* Are the parts of two boot ids that a boot record holds the same? */
extern bool bootrec_same_boot(const NeonId *a, const NeonId *b);

#endif							/* NEON_BOOTREC_H */
