/*
 * scanner: stands in for an on-access scanner. Its workers ask its engine, a process of its own,
 * about each file that is to be opened, over a socket, and wait for the answer. Without workers it
 * does so itself, and waits however long it takes.
 *
 *   scanner PATH ENDPOINT WORKERS
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>

#include "../endpoint.h"
#include "../truth.h"
#include "../permission.h"

static int group, to_workers[2];
static const char *engine_path;

static void ask(int engine, int file, int timeout_ms)
{
	struct pollfd answer = { .fd = engine, .events = POLLIN };
	char verdict;

	if (write(engine, "?", 1) != 1 || (timeout_ms && poll(&answer, 1, timeout_ms) != 1) ||
	    read(engine, &verdict, 1) != 1)
		die("engine");
	permit(group, file);
}

static void *work(void *unused)
{
	int engine = connect_to(engine_path), file;

	while (read(to_workers[0], &file, sizeof(file)) == sizeof(file))
		/* As clients with a timeout do. */
		ask(engine, file, 60000);
	return unused;
}

int main(int argc, char **argv)
{
	struct fanotify_event_metadata event;
	int workers, engine = -1;
	pthread_t worker;

	if (argc != 4) {
		fprintf(stderr, "usage: scanner PATH ENDPOINT WORKERS\n");
		return 2;
	}
	engine_path = argv[2];
	if (pipe(to_workers))
		die("pipe");
	workers = atoi(argv[3]);
	if (!workers)
		engine = connect_to(engine_path);
	for (int left = workers; left > 0; left--)
		if (pthread_create(&worker, NULL, work, NULL))
			die("worker");
	group = ask_for(FAN_OPEN_PERM, argv[1]);
	/* One event at a time: as many bytes as one takes. */
	while (read(group, &event, sizeof(event)) == sizeof(event)) {
		if (event.pid == getpid())
			permit(group, event.fd);
		else if (!workers)
			ask(engine, event.fd, 0);
		else if (write(to_workers[1], &event.fd, sizeof(event.fd)) < 0)
			die("hand on");
	}
	die("read event");
}
