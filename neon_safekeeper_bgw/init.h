/*-------------------------------------------------------------------------
 *
 * init.h
 *	  What each part of the library gives to _PG_init.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_SK_INIT_H
#define NEON_SK_INIT_H

/* table.c */
extern void sktable_define_gucs(void);
extern Size sktable_shmem_size(void);
extern void sktable_shmem_init(void);

extern uint64 sktable_started_ms(void); /* neon_boottime_ms() at the start of the instance */

/* skwal.c */
extern void skwal_define_gucs(void);

#ifdef NEON_TESTING
/* For the test module: the library's own testpoint_hook is not visible to it. */
extern void sk_set_testpoint_hook(void (*hook) (const char *name));
#endif

#endif							/* NEON_SK_INIT_H */
