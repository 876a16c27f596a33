/*-------------------------------------------------------------------------
 *
 * sandbox.c
 *	  Takes everything from a redo process that it does not need.
 *
 * The records and pages that a redo process works on come from tenants, and
 * redo routines trust them.  Whatever they are made to do, afterwards the
 * process can read from and write to its own sockets, use the memory it has,
 * and end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <malloc.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "walredo.h"

#ifndef __x86_64__
#error "the system call filter of neon_walredo is written for x86-64 only"
#endif

#define LOAD(field) \
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(what) \
	BPF_STMT(BPF_RET | BPF_K, (what))
/* If the loaded number is nr, return what. */
#define ON(nr, what) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), RETURN(what)

static struct sock_filter filter[] = {
	LOAD(arch),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
	RETURN(SECCOMP_RET_KILL_PROCESS),
	LOAD(nr),
	ON(__NR_read, SECCOMP_RET_ALLOW),
	ON(__NR_write, SECCOMP_RET_ALLOW),
	ON(__NR_poll, SECCOMP_RET_ALLOW),
	ON(__NR_accept4, SECCOMP_RET_ALLOW),
	ON(__NR_close, SECCOMP_RET_ALLOW),
	ON(__NR_brk, SECCOMP_RET_ALLOW),
	ON(__NR_exit_group, SECCOMP_RET_ALLOW),
	/* only where the C library has no vDSO for them */
	ON(__NR_clock_gettime, SECCOMP_RET_ALLOW),
	ON(__NR_gettimeofday, SECCOMP_RET_ALLOW),
	/* malloc at its limit tries these, and copes with the error */
	ON(__NR_mmap, SECCOMP_RET_ERRNO | ENOMEM),
	ON(__NR_mremap, SECCOMP_RET_ERRNO | ENOMEM),
	ON(__NR_munmap, SECCOMP_RET_ERRNO | ENOMEM),
	ON(__NR_madvise, SECCOMP_RET_ERRNO | EINVAL),
	RETURN(SECCOMP_RET_KILL_PROCESS),
};

static void
limit(int resource, const char *name, rlim_t value)
{
	struct rlimit lim;

	lim.rlim_cur = lim.rlim_max = value;
	if (setrlimit(resource, &lim) != 0)
		elog(FATAL, "could not set limit %s of the redo process: %m", name);
}

static void
set_limits(void)
{
	limit(RLIMIT_CORE, "RLIMIT_CORE", 0);
	limit(RLIMIT_FSIZE, "RLIMIT_FSIZE", 0);
	limit(RLIMIT_NPROC, "RLIMIT_NPROC", 0);
	/* the sockets and one connection */
	limit(RLIMIT_NOFILE, "RLIMIT_NOFILE", WALREDO_LISTEN_FD + 2);
	limit(RLIMIT_DATA, "RLIMIT_DATA", WALREDO_MEMORY_LIMIT);
}

/* Nothing stays open but the two sockets; the server's log is out of reach. */
static void
close_descriptors(void)
{
	int			null;

	if (syscall(SYS_close_range, WALREDO_LISTEN_FD + 1, ~0U, 0) != 0)
		elog(FATAL, "could not close the descriptors of the redo process: %m");
	null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(null, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0 ||
		close(null) != 0)
		elog(FATAL, "could not redirect the output of the redo process: %m");
}

void
sandbox_enter(void)
{
	struct sock_fprog program = {lengthof(filter), filter};

	/* malloc must do with brk from here on */
	mallopt(M_MMAP_MAX, 0);
	mallopt(M_TRIM_THRESHOLD, 64 * 1024 * 1024);
	mallopt(M_TOP_PAD, 1024 * 1024);

	/* Later there is no place to complain to. */
	if (prctl(PR_GET_SECCOMP) < 0)
		elog(FATAL, "the kernel has no system call filters: %m");
	set_limits();
	close_descriptors();
	if (prctl(PR_SET_DUMPABLE, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		elog(FATAL, "could not restrict the redo process: %m");

#ifdef NEON_TESTING
	if (getenv("NEON_WALREDO_TEST_ESCAPE") != NULL)
		(void) syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY);
#endif
}
