/*-------------------------------------------------------------------------
 *
 * neon_saved.h
 *	  What a compute saves for the next one of its timeline and has no WAL of:
 *	  the kinds, the files of a base backup, the largest size.
 *
 * It is advisory: nothing is refused, and nothing is wrong, for lack of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SAVED_H
#define NEON_SAVED_H

typedef enum NeonSavedKind
{
	NEON_SAVED_STATISTICS,		/* cumulative statistics; of one timeline only */
	NEON_SAVED_FSM,				/* free space maps; a branch may begin with its ancestor's */
	NEON_SAVED_WARM,			/* which blocks were in use; so may it with these */
} NeonSavedKind;

#define NEON_SAVED_KINDS	3

/* Bytes of one kind, as saved. */
#define NEON_SAVED_MAX		(16 * 1024 * 1024)

/* The kind's name in SQL and in views. */
static const char *const neon_saved_names[NEON_SAVED_KINDS] = {"statistics", "fsm", "warm"};

/* Its file in a base backup. */
static const char *const neon_saved_files[NEON_SAVED_KINDS] = {
	"neon.saved_statistics", "neon.saved_fsm", "neon.saved_warm"
};

#endif							/* NEON_SAVED_H */
