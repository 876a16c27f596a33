/*-------------------------------------------------------------------------
 *
 * fromaddr.c
 *	  A preload library that gives a server's connections an address of
 *	  their own.
 *
 * All instances of a state directory listen on 127.0.0.1 and differ by their
 * ports; whoever connects is one of them only by its source address.  With
 * this library that is $FROM_ADDR, so that a packet filter can cut the network
 * between two instances, in one direction too.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

typedef int (*ConnectFunction) (int, const struct sockaddr *, socklen_t);

static int
bind_source(int fd, const char *text)
{
	struct sockaddr_in from = {.sin_family = AF_INET};
	struct sockaddr_in bound;
	socklen_t	len = sizeof(bound);
	int			on = 1;

	if (inet_pton(AF_INET, text, &from.sin_addr) != 1)
	{
		errno = EADDRNOTAVAIL;
		return -1;
	}
	if (getsockname(fd, (struct sockaddr *) &bound, &len) == 0 && bound.sin_addr.s_addr != 0)
		return 0;				/* the program chose one itself */
	if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on)) < 0)
		return -1;
	return bind(fd, (const struct sockaddr *) &from, sizeof(from));
}

__attribute__((visibility("default"))) int
connect(int fd, const struct sockaddr *to, socklen_t len)
{
	static ConnectFunction next;
	const char *text = getenv("FROM_ADDR");

	if (next == NULL)
		next = (ConnectFunction) dlsym(RTLD_NEXT, "connect");
	if (text != NULL && to->sa_family == AF_INET && bind_source(fd, text) < 0)
		return -1;
	return next(fd, to, len);
}
