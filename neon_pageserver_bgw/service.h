/*-------------------------------------------------------------------------
 *
 * service.h
 *	  Counters of what the pageserver serves, and its settings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_SERVICE_H
#define NEON_PS_SERVICE_H

/* Names of these as rows of stat_pageserver: service.c. */
typedef enum ServeCounter
{
	SERVE_STREAMS,				/* pagestream connections opened */
	SERVE_REQUESTS,
	SERVE_PAGES_IMAGE,			/* copied from a stored image */
	SERVE_PAGES_ZERO,			/* beyond the end, or never written */
	SERVE_PAGES_REDO,			/* made by redo */
	SERVE_REDO_RECORDS,			/* records given to redo */
	SERVE_PAGES_AHEAD,			/* made before anybody asked */
	SERVE_ERRORS,				/* error answers of all classes */
	SERVE_SUPERSEDED,			/* of these, to computes of an older term */
	SERVE_WAIT_TIMEOUTS,		/* of these, WAL that did not arrive in time */
	SERVE_BYTES_SENT,
	SERVE_BASEBACKUPS,
	SERVE_NUM_COUNTERS,
} ServeCounter;

/* Cheap; from any process; nothing if shared memory is not set up. */
extern void service_count(ServeCounter counter, uint64 n);
extern const char *service_counter_name(ServeCounter counter);
extern uint64 service_counter_value(ServeCounter counter);

/* neon_pageserver.wait_lsn_timeout, milliseconds */
extern int	service_wait_lsn_timeout;

/* neon_pageserver.basebackup_timeout, milliseconds; 0: none */
extern int	service_basebackup_timeout;

#endif							/* NEON_PS_SERVICE_H */
