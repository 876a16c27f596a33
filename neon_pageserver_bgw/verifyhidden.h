/*-------------------------------------------------------------------------
 *
 * verifyhidden.h
 *	  Versions that no reader finds, although files have them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_VERIFYHIDDEN_H
#define NEON_PS_VERIFYHIDDEN_H

#include "timeline.h"

/*
 * Compares what wide files have at or below the upto of each partition with the
 * partition's own files, and calls report with a sentence for each partition
 * whose files lack something.  Files that are rewritten meanwhile are no
 * problem; damaged ones are an error.
 */
extern void verify_hidden(Timeline *tl, void (*report) (void *arg, const char *problem), void *arg);

#endif							/* NEON_PS_VERIFYHIDDEN_H */
