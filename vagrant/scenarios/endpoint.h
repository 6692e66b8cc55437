/* Where local processes meet: a socket in the file system, or "tcp:PORT" on the loopback. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

union endpoint {
	struct sockaddr any;
	struct sockaddr_un unix_domain;
	struct sockaddr_in tcp;
};

/* Returns a stream socket for it, and fills in the address. */
static inline int socket_for(const char *where, union endpoint *address)
{
	memset(address, 0, sizeof(*address));
	if (strncmp(where, "tcp:", 4)) {
		address->any.sa_family = AF_UNIX;
		strncpy(address->unix_domain.sun_path, where,
			sizeof(address->unix_domain.sun_path) - 1);
	} else {
		address->any.sa_family = AF_INET;
		address->tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		address->tcp.sin_port = htons(atoi(where + 4));
	}
	return socket(address->any.sa_family, SOCK_STREAM, 0);
}

/* Returns a connection, once somebody listens there. */
static inline int connect_to(const char *where)
{
	union endpoint address;
	int connection = socket_for(where, &address);

	while (connect(connection, &address.any, sizeof(address)))
		usleep(100000);
	return connection;
}

/* Returns a socket that listens there, or -1. */
static inline int listen_at(const char *where)
{
	union endpoint address;
	int listener = socket_for(where, &address);

	if (address.any.sa_family == AF_UNIX)
		unlink(where);
	if (bind(listener, &address.any, sizeof(address)) || listen(listener, 16))
		return -1;
	return listener;
}
