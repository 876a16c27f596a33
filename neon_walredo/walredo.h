/*-------------------------------------------------------------------------
 *
 * walredo.h
 *	  Between the files of neon_walredo.
 *
 *-------------------------------------------------------------------------
 */
#ifndef WALREDO_H
#define WALREDO_H

#include "walredo_protocol.h"

/*
 * Memory that a page may need: its largest record, raw and decoded, and what
 * redo routines allocate.  More is an error of that page.
 */
#define WALREDO_MEMORY_LIMIT	(512L * 1024 * 1024)

/* takeover.c: the parts of a server that resource managers need, in private memory. */
extern void walredo_init_environment(void);

/* memsmgr.c: relation storage that holds one page, the target. */
extern void memsmgr_install(void);

/* Makes a page the target; base is BLCKSZ bytes or NULL for zeros. */
extern void memsmgr_set_target(const WalRedoPage *page, const char *base);
extern bool memsmgr_is_target(RelFileNode rnode, ForkNumber fork, BlockNumber blk);

/* After each record with blocks other than the target. */
extern void memsmgr_poison_others(void);

/* Copies the target out and gives it up. */
extern void memsmgr_take_target(char *page);

/* After an error: gives up the target and the content of all buffers. */
extern void memsmgr_forget_all(void);

/* apply.c: a page and its records. */
extern void apply_init(void);

/* These ereport(ERROR); then apply_recover must be called. */
extern void apply_begin(const WalRedoPage *page, const char *base);
extern void apply_record(const WalRedoRecord *where, const char *data, uint32 len);
extern void apply_finish(char *page);

/* Back to the state before apply_begin; also when a page is given up. */
extern void apply_recover(void);

/* sandbox.c: from here on nothing but reading, writing, accepting and ending. */
extern void sandbox_enter(void);

/* loop.c: serves batches until the supervisor is gone. */
extern void walredo_loop(void) pg_attribute_noreturn();

#endif							/* WALREDO_H */
