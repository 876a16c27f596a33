/*-------------------------------------------------------------------------
 *
 * neon_clock.h
 *	  Clocks that nobody sets: waits, intervals and leases go by them.  The
 *	  wall clock is for what people and other machines are told.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_CLOCK_H
#define NEON_CLOCK_H

#include <time.h>

#include "datatype/timestamp.h"

/*
 * Microseconds since some moment in the past, never 0.  It has the type and
 * unit of a TimestampTz, so that TimestampDifferenceMilliseconds() and its
 * siblings work on it; it is no date, and means nothing outside this boot of
 * the machine.
 */
static inline TimestampTz
neon_clock(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
		elog(FATAL, "could not read the clock: %m");
	return (TimestampTz) now.tv_sec * USECS_PER_SEC + now.tv_nsec / 1000 + 1;
}

/* Milliseconds; goes on while the machine sleeps, as a lease does. */
static inline uint64
neon_boottime_ms(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_BOOTTIME, &now) != 0)
		elog(FATAL, "could not read the clock: %m");
	return (uint64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

#endif							/* NEON_CLOCK_H */
