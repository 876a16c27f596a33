/*-------------------------------------------------------------------------
 *
 * testpoint.h
 *	  Named places where a TESTING build can be made to die.
 *
 * neon_pageserver.test_crash_at = 'name' kills the process that comes there
 * with SIGKILL, as a power cut would find the files.  Product builds have
 * nothing of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_TESTPOINT_H
#define NEON_PS_TESTPOINT_H

#ifdef NEON_TESTING
extern void testpoint_reached(const char *name);
extern void testpoint_define_gucs(void);

#define NEON_TEST_POINT(name) testpoint_reached(name)
#else
#define NEON_TEST_POINT(name) ((void) 0)
#endif

#endif							/* NEON_PS_TESTPOINT_H */
