/*-------------------------------------------------------------------------
 *
 * init.h
 *	  What each part of the library gives to _PG_init.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_INIT_H
#define NEON_PS_INIT_H

/* timeline.c */
extern void timeline_define_gucs(void);
extern Size timeline_shmem_size(void);
extern void timeline_shmem_init(void);

/* supervisor.c */
extern void supervisor_register_worker(void);

/* historyread.c */
extern Size history_shmem_size(void);
extern void history_shmem_init(void);

/* historyworker.c */
extern void historyworker_register_worker(void);

/* tenantsettings.c */
extern void tenantsettings_define_gucs(void);

/* openlayer.c */
extern void openlayer_define_gucs(void);
extern Size openlayer_shmem_size(void);
extern void openlayer_shmem_init(void);

/* storeput.c */
extern void store_define_gucs(void);
extern void walremove_define_gucs(void);

/* flushworker.c */
extern void flushworker_define_gucs(void);
extern Size flushworker_shmem_size(void);
extern void flushworker_shmem_init(void);
extern void flushworker_register_workers(void);

/* compactworker.c */
extern void compactworker_define_gucs(void);
extern Size compactworker_shmem_size(void);
extern void compactworker_shmem_init(void);
extern void compactworker_register_workers(void);

/* ingest.c */
extern void ingest_define_gucs(void);
extern Size ingest_shmem_size(void);
extern void ingest_shmem_init(void);
extern void ingest_register_worker(void);

/* service.c */
extern void service_define_gucs(void);
extern Size service_shmem_size(void);
extern void service_shmem_init(void);

#endif							/* NEON_PS_INIT_H */
