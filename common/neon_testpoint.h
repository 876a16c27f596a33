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
 * the file PGDATA/test_wait exists.  PREFIX.test_bug = 'name' breaks a rule on
 * purpose: what looks for bugs must find that.  Product builds have nothing of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NEON_TESTPOINT_H
#define NEON_TESTPOINT_H

#ifdef NEON_TESTING
extern void testpoint_define_gucs(const char *prefix);
extern void testpoint_reached(const char *name);
extern bool testpoint_fails(const char *name);
extern bool testpoint_has_bug(const char *name);

/* Called at every place, if it is set; may ereport(ERROR). */
extern void (*testpoint_hook) (const char *name);

#define NEON_TEST_POINT(name) testpoint_reached(name)
#define NEON_TEST_FAILS(name) testpoint_fails(name)
#define NEON_TEST_BUG(name) testpoint_has_bug(name)
#else
#define NEON_TEST_POINT(name) ((void) 0)
#define NEON_TEST_FAILS(name) false
#define NEON_TEST_BUG(name) false
#endif

#endif							/* NEON_TESTPOINT_H */
