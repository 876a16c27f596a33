/*-------------------------------------------------------------------------
 *
 * echo.c
 *	  The least that a page over TCP can cost: a process that answers each
 *	  request of 64 bytes with 8 kB, on 127.0.0.1, and a client that asks for
 *	  one at a time.  Prints the nanoseconds of each.
 *
 *	  echo N
 *
 *-------------------------------------------------------------------------
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REQUEST 64
#define ANSWER 8192

static void
fail(const char *what)
{
	perror(what);
	exit(1);
}

/* False at the end of the connection. */
static int
receive(int sock, char *buf, size_t want)
{
	size_t		have = 0;

	while (have < want)
	{
		ssize_t		n = read(sock, buf + have, want - have);

		if (n < 0)
			fail("read");
		if (n == 0)
			return 0;
		have += n;
	}
	return 1;
}

static void
deliver(int sock, const char *buf, size_t len)
{
	if (write(sock, buf, len) != (ssize_t) len)
		fail("write");
}

static void
no_delay(int sock)
{
	int			on = 1;

	if (setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0)
		fail("setsockopt");
}

int
main(int argc, char **argv)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t	len = sizeof(addr);
	char		buf[ANSWER];
	int			n = argc == 2 ? atoi(argv[1]) : 0;
	int			listener = socket(AF_INET, SOCK_STREAM, 0);
	int			sock;
	pid_t		server;

	if (n <= 0)
	{
		fprintf(stderr, "usage: echo N\n");
		return 2;
	}
	memset(buf, 0, sizeof(buf));
	if (listener < 0 || bind(listener, (struct sockaddr *) &addr, len) != 0 ||
		listen(listener, 1) != 0 || getsockname(listener, (struct sockaddr *) &addr, &len) != 0)
		fail("listen");
	server = fork();
	if (server < 0)
		fail("fork");
	if (server == 0)
	{
		sock = accept(listener, NULL, NULL);
		if (sock < 0)
			fail("accept");
		no_delay(sock);
		while (receive(sock, buf, REQUEST))
			deliver(sock, buf, ANSWER);
		return 0;
	}
	sock = socket(AF_INET, SOCK_STREAM, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *) &addr, len) != 0)
		fail("connect");
	no_delay(sock);
	for (int i = 0; i < n; i++)
	{
		struct timespec from,
					to;

		clock_gettime(CLOCK_MONOTONIC, &from);
		deliver(sock, buf, REQUEST);
		if (!receive(sock, buf, ANSWER))
			fail("connection");
		clock_gettime(CLOCK_MONOTONIC, &to);
		printf("%ld\n", (to.tv_sec - from.tv_sec) * 1000000000L + to.tv_nsec - from.tv_nsec);
	}
	close(sock);
	return waitpid(server, NULL, 0) == server ? 0 : 1;
}
