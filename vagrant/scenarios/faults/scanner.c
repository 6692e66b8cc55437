/*
 * scanner: stands in for an on-access scanner. It asks its engine, a process of its own, about
 * each file that is to be opened, over a socket, and waits for the answer.
 *
 *   scanner PATH SOCKET
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "../truth.h"
#include "../permission.h"

static int engine_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int engine = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	while (connect(engine, (struct sockaddr *)&address, sizeof(address)))
		usleep(100000);
	return engine;
}

int main(int argc, char **argv)
{
	struct fanotify_event_metadata event;
	int group, engine;
	char verdict;

	if (argc != 3) {
		fprintf(stderr, "usage: scanner PATH SOCKET\n");
		return 2;
	}
	engine = engine_at(argv[2]);
	group = ask_for(FAN_OPEN_PERM, argv[1]);
	/* One event at a time: as many bytes as one takes. */
	while (read(group, &event, sizeof(event)) == sizeof(event)) {
		if (event.pid != getpid() && (write(engine, "?", 1) != 1 || read(engine, &verdict, 1) != 1))
			die("engine");
		permit(group, event.fd);
	}
	die("read event");
}
