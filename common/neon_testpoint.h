/*-------------------------------------------------------------------------
 *
 * neon_testpoint.h
 *	  Named places where a TESTING build can be made to die, to fail or to wait.
 *
 * With PREFIX being the library's settings ("neon_pageserver"):
 * PREFIX.test_crash_at = 'name' kills the whole instance when a process comes
 * there, as a power cut would; 'segv:name' makes that process crash.
 * PREFIX.test_fail_at = 'name' makes a write or sync there fail.
 * PREFIX.test_wait_at = 'name' makes a process wait there, interruptibly, while
 * the file PGDATA/test_wait exists.  Product builds have nothing of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_TESTPOINT_H
#define NEON_TESTPOINT_H

#ifdef NEON_TESTING
extern void testpoint_define_gucs(const char *prefix);
extern void testpoint_reached(const char *name);
extern bool testpoint_fails(const char *name);

#define NEON_TEST_POINT(name) testpoint_reached(name)
#define NEON_TEST_FAILS(name) testpoint_fails(name)
#else
#define NEON_TEST_POINT(name) ((void) 0)
#define NEON_TEST_FAILS(name) false
#endif

#endif							/* NEON_TESTPOINT_H */
