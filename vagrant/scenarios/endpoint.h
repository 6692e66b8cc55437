/* Where local processes meet: a socket in the file system, or "tcp:PORT" on the loopback. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct endpoint {
	union {
		struct sockaddr any;
		struct sockaddr_un unix_domain;
		struct sockaddr_in tcp;
	} address;
	socklen_t bytes; /* that count: the kernel takes no more */
};

/* Returns a stream socket for it, and fills in the address. */
static inline int socket_for(const char *where, struct endpoint *at)
{
	memset(at, 0, sizeof(*at));
	if (strncmp(where, "tcp:", 4)) {
		at->bytes = sizeof(at->address.unix_domain);
		at->address.any.sa_family = AF_UNIX;
		strncpy(at->address.unix_domain.sun_path, where,
			sizeof(at->address.unix_domain.sun_path) - 1);
	} else {
		at->bytes = sizeof(at->address.tcp);
		at->address.any.sa_family = AF_INET;
		at->address.tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		at->address.tcp.sin_port = htons(atoi(where + 4));
	}
	return socket(at->address.any.sa_family, SOCK_STREAM, 0);
}

/* Returns a connection, once somebody listens there. */
static inline int connect_to(const char *where)
{
	struct endpoint at;
	int connection = socket_for(where, &at);

	while (connect(connection, &at.address.any, at.bytes))
		usleep(100000);
	return connection;
}

/* Returns a socket that listens there, or -1. */
static inline int listen_at(const char *where)
{
	struct endpoint at;
	int listener = socket_for(where, &at);

	if (at.address.any.sa_family == AF_UNIX)
		unlink(where);
	if (bind(listener, &at.address.any, at.bytes) || listen(listener, 16))
		return -1;
	return listener;
}
