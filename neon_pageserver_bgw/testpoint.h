/*-------------------------------------------------------------------------
 *
 * testpoint.h
 *	  Named places where a TESTING build can be made to die.
 *
 * neon_pageserver.test_crash_at = 'name' kills the whole instance when a process
 * comes there, as a power cut would; 'segv:name' makes that process crash;
 * neon_pageserver.test_fail_at = 'name' makes a sync there fail.  Product
 * builds have nothing of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_PS_TESTPOINT_H
#define NEON_PS_TESTPOINT_H

#ifdef NEON_TESTING
extern void testpoint_reached(const char *name);
extern void testpoint_define_gucs(void);

extern bool testpoint_fails(const char *name);

#define NEON_TEST_POINT(name) testpoint_reached(name)
#define NEON_TEST_FAILS(name) testpoint_fails(name)
#else
#define NEON_TEST_POINT(name) ((void) 0)
#define NEON_TEST_FAILS(name) false
#endif

#endif							/* NEON_PS_TESTPOINT_H */
