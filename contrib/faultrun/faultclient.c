/*-------------------------------------------------------------------------
 *
 * faultclient.c
 *	  A client of the fault run: small transactions on one connection, and a
 *	  log of what became of each.
 *
 *	  faultclient ID SEED LOG TARGETS
 *
 * TARGETS is a file of connection strings, one a line, that may be replaced at
 * any time; each connection takes one of them by chance.  Every transaction
 * inserts a row (ID, n, ...) with an n that is never used again.  LOG gets a
 * line for each step, in this order:
 *
 *	  S n			is sent now: from here on it may be committed
 *	  A n			acknowledged: must never be lost
 *	  R n SQLSTATE	refused with an error: must never be seen
 *	  B n			rolled back before it was sent: must never be seen
 *	  U n			nobody knows (the connection or the answer was lost)
 *	  V n ...		a later read in a later statement saw something else
 *	  C				could not connect
 *
 * SIGTERM ends the client after its present transaction, whose answer it
 * awaits for as long as ever; nothing may be kept waiting for good when all
 * servers are well.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "libpq-fe.h"

#define ACCOUNTS		50
#define WINDOW			64		/* transactions that are looked for again */
#define PATIENCE_MS		6000	/* then the answer is given up */
#define MAX_TARGETS		16

typedef enum
{
	UNSENT = 0, ACKNOWLEDGED, REFUSED, UNKNOWN
} Outcome;

typedef enum
{
	GOOD, ERROR_ANSWER, NO_ANSWER
} Answer;

static int	id;
static int	log_fd;
static const char *targets_path;
static PGconn *conn;
static char sqlstate[6];
static uint64_t n_used;
static Outcome recent[WINDOW];
static volatile sig_atomic_t stop;

static void
on_term(int sig)
{
	(void) sig;
	stop = 1;
}

static void
die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static void
note(const char *fmt,...)
{
	char		line[512];
	va_list		args;
	struct timeval now;
	int			len;

	gettimeofday(&now, NULL);
	len = snprintf(line, sizeof(line), "%ld.%03d ", (long) now.tv_sec, (int) (now.tv_usec / 1000));
	va_start(args, fmt);
	len += vsnprintf(line + len, sizeof(line) - len - 1, fmt, args);
	va_end(args);
	if (len > (int) sizeof(line) - 2)
		len = sizeof(line) - 2;
	line[len++] = '\n';
	if (write(log_fd, line, len) != len)
		die("log");
}

static int64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void
pause_ms(int ms)
{
	(void) poll(NULL, 0, ms);
}

/* ---- connection ---- */

static void
disconnect(void)
{
	PQfinish(conn);
	conn = NULL;
}

static bool
choose_target(char *target, size_t size)
{
	FILE	   *f = fopen(targets_path, "r");
	char		line[1024];
	int			n = 0;

	if (f == NULL)
		return false;
	while (fgets(line, sizeof(line), f))
	{
		line[strcspn(line, "\n")] = '\0';
		if (line[0] != '\0' && random() % ++n == 0)
			snprintf(target, size, "%s", line);
	}
	fclose(f);
	return n > 0;
}

static bool
connect_somewhere(void)
{
	char		target[1024];

	if (!choose_target(target, sizeof(target)))
		return false;
	conn = PQconnectdb(target);
	if (PQstatus(conn) == CONNECTION_OK)
		return true;
	note("C");
	disconnect();
	return false;
}

/* ---- statements ---- */

/* Waits for the answer's next part; false if the patience is at its end. */
static bool
await_input(int64_t *deadline, bool *cancelled)
{
	struct pollfd pfd = {PQsocket(conn), POLLIN, 0};
	char		problem[256];
	PGcancel   *cancel;

	while (now_ms() < *deadline)
	{
		if (poll(&pfd, 1, 200) > 0)
			return PQconsumeInput(conn) != 0;
	}
	if (*cancelled || random() % 2 == 0)
		return false;
	/* A cancel must not make a waiting commit look like a refused one. */
	*cancelled = true;
	*deadline += 2000;
	cancel = PQgetCancel(conn);
	if (cancel != NULL)
		(void) PQcancel(cancel, problem, sizeof(problem));
	PQfreeCancel(cancel);
	return true;
}

/* The last result of a query string; an error anywhere counts. */
static Answer
collect(PGresult **last)
{
	int64_t		deadline = now_ms() + PATIENCE_MS;
	bool		cancelled = false;
	Answer		answer = GOOD;

	*last = NULL;
	for (;;)
	{
		PGresult   *res;
		const char *severity;

		while (PQisBusy(conn))
		{
			if (!await_input(&deadline, &cancelled))
				return NO_ANSWER;
		}
		res = PQgetResult(conn);
		if (res == NULL)
			return PQstatus(conn) == CONNECTION_OK ? answer : NO_ANSWER;
		if (PQresultStatus(res) == PGRES_FATAL_ERROR || PQresultStatus(res) == PGRES_BAD_RESPONSE)
		{
			const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

			severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
			snprintf(sqlstate, sizeof(sqlstate), "%s", state ? state : "-----");
			answer = severity && strcmp(severity, "ERROR") == 0 && answer != NO_ANSWER ? ERROR_ANSWER : NO_ANSWER;
		}
		PQclear(*last);
		*last = res;
	}
}

static Answer
run(const char *sql, PGresult **result)
{
	PGresult   *last = NULL;
	Answer		answer = NO_ANSWER;

	if (PQsendQuery(conn, sql))
		answer = collect(&last);
	if (answer == NO_ANSWER)
		disconnect();
	if (result != NULL)
		*result = last;
	else
		PQclear(last);
	return answer;
}

static void
outcome(uint64_t n, Outcome what, const char *letter)
{
	recent[n % WINDOW] = what;
	note("%s %llu%s%s", letter, (unsigned long long) n, what == REFUSED && *letter == 'R' ? " " : "",
		 what == REFUSED && *letter == 'R' ? sqlstate : "");
}

static uint64_t
next_number(void)
{
	n_used++;
	recent[n_used % WINDOW] = UNSENT;
	return n_used;
}

/* The end of a transaction that may be committed from here on. */
static void
decide(uint64_t n, const char *sql)
{
	PGresult   *res;
	Answer		answer;

	recent[n % WINDOW] = UNKNOWN;
	note("S %llu", (unsigned long long) n);
	answer = run(sql, &res);
	if (answer == GOOD && strcmp(PQcmdStatus(res), "ROLLBACK") == 0)
	{
		strcpy(sqlstate, "ABORT");
		answer = ERROR_ANSWER;
	}
	PQclear(res);
	if (answer == GOOD)
		outcome(n, ACKNOWLEDGED, "A");
	else if (answer == ERROR_ANSWER)
		outcome(n, REFUSED, "R");
	else
		outcome(n, UNKNOWN, "U");
}

/* ---- what a client does ---- */

static void
insert_row(void)
{
	uint64_t	n = next_number();
	char		sql[256];

	snprintf(sql, sizeof(sql), "INSERT INTO fault_rows VALUES (%d, %llu, 0, 0, 0, repeat('%c', %d))",
			 id, (unsigned long long) n, (int) ('a' + n % 26), (int) (random() % 800));
	decide(n, sql);
}

/* Money goes from one account to another; the sum of all stays 0. */
static void
transfer(bool roll_back)
{
	uint64_t	n = next_number();
	int			from = random() % ACCOUNTS;
	int			to = random() % ACCOUNTS;
	int			amount = random() % 1000;
	char		sql[768];
	Answer		answer;

	snprintf(sql, sizeof(sql), "BEGIN;"
			 "UPDATE fault_accounts SET balance = balance - %d WHERE id = %d;"
			 "UPDATE fault_accounts SET balance = balance + %d WHERE id = %d;"
			 "INSERT INTO fault_rows VALUES (%d, %llu, %d, %d, %d, '')",
			 amount, from, amount, to, id, (unsigned long long) n, from, to, amount);
	answer = run(sql, NULL);
	if (answer == ERROR_ANSWER)
	{
		(void) run("ROLLBACK", NULL);
		outcome(n, REFUSED, "R");
	}
	else if (answer == NO_ANSWER)
		outcome(n, REFUSED, "B");	/* COMMIT was never sent */
	else if (roll_back)
	{
		(void) run("ROLLBACK", NULL);
		outcome(n, REFUSED, "B");
	}
	else
		decide(n, "COMMIT");
}

/* What was acknowledged is there for every later statement, wherever it runs. */
static void
look_back(void)
{
	uint64_t	first = n_used >= WINDOW ? n_used - WINDOW + 1 : 1;
	bool		seen[WINDOW] = {false};
	char		sql[256];
	PGresult   *res;
	Answer		answer;

	snprintf(sql, sizeof(sql), "SELECT n, current_setting('port') FROM fault_rows WHERE client = %d AND n >= %llu",
			 id, (unsigned long long) first);
	answer = run(sql, &res);
	if (answer == GOOD && PQresultStatus(res) == PGRES_TUPLES_OK)
	{
		for (int i = 0; i < PQntuples(res); i++)
			seen[strtoull(PQgetvalue(res, i, 0), NULL, 10) % WINDOW] = true;
		for (uint64_t n = first; n <= n_used; n++)
		{
			if (recent[n % WINDOW] == ACKNOWLEDGED && !seen[n % WINDOW])
				note("V %llu was acknowledged and is not seen at port %s", (unsigned long long) n, PQport(conn));
			if (recent[n % WINDOW] == REFUSED && seen[n % WINDOW])
				note("V %llu was refused and is seen at port %s", (unsigned long long) n, PQport(conn));
		}
	}
	PQclear(res);
}

static void
act(void)
{
	int			draw = random() % 100;

	if (draw < 60)
		insert_row();
	else if (draw < 80)
		transfer(false);
	else if (draw < 84)
		transfer(true);
	else
		look_back();
}

int
main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_term};

	if (argc != 5)
	{
		fprintf(stderr, "usage: faultclient ID SEED LOG TARGETS\n");
		return 2;
	}
	id = atoi(argv[1]);
	srandom(atoi(argv[2]));
	targets_path = argv[4];
	log_fd = open(argv[3], O_WRONLY | O_CREAT | O_APPEND, 0644);
	if (log_fd < 0)
		die(argv[3]);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	while (!stop)
	{
		if (conn == NULL && !connect_somewhere())
			pause_ms(50 + random() % 200);
		else
		{
			act();
			/* now and then to another target */
			if (conn != NULL && random() % 200 == 0)
				disconnect();
			pause_ms(random() % 20);
		}
	}
	if (conn != NULL)
		disconnect();
	return 0;
}
