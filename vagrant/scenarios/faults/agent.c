/*
 * agent: stands in for a security agent that permits opens or reads, each after a fixed time.
 *
 *   agent PATH MASK HOLD_MS TRUTH
 *
 * MASK is of the letters o (opens) and r (reads). Events are read at once and answered HOLD_MS
 * later, each on its own, so a victim waits from reading to answering; the sum of that goes to
 * TRUTH. Events beyond LIMIT are answered at once: a fault ends, the program goes on.
 *
 *   agent PATH MASK HOLD_MS TRUTH LIMIT
 */
#define _GNU_SOURCE
#include <poll.h>
#include <string.h>

#include "../truth.h"
#include "../permission.h"

/* In the order in which they came, which is that in which they are due. */
static struct held held[HELD_MAX];
static unsigned int head, tail;
static long long total_us;

static void read_events(int group, long long hold_us, long *left)
{
	static struct fanotify_event_metadata events[64];
	struct fanotify_event_metadata *event = events;
	ssize_t length = read(group, events, sizeof(events));
	long long since_us = now_us();

	if (length < 0)
		die("read events");
	for (; FAN_EVENT_OK(event, length); event = FAN_EVENT_NEXT(event, length)) {
		if (!hold_us || event->pid == getpid() || *left == 0 || head - tail == HELD_MAX) {
			permit(group, event->fd);
			continue;
		}
		*left -= 1;
		held[head++ % HELD_MAX] = (struct held){ event->fd, since_us };
	}
}

int main(int argc, char **argv)
{
	unsigned long mask = 0;
	long long hold_us;
	long left;
	int group;

	if (argc < 5) {
		fprintf(stderr, "usage: agent PATH MASK HOLD_MS TRUTH [LIMIT]\n");
		return 2;
	}
	mask |= strchr(argv[2], 'o') ? FAN_OPEN_PERM : 0;
	mask |= strchr(argv[2], 'r') ? FAN_ACCESS_PERM : 0;
	hold_us = atoll(argv[3]) * 1000;
	left = argc > 5 ? atol(argv[5]) : -1;
	group = ask_for(mask, argv[1]);
	write_truth(argv[4], total_us);
	for (;;) {
		struct pollfd events = { .fd = group, .events = POLLIN };
		long long due_us = -1;

		if (head != tail) {
			due_us = held[tail % HELD_MAX].since_us + hold_us - now_us();
			due_us = due_us > 0 ? due_us : 0;
		}
		if (poll(&events, 1, due_us < 0 ? -1 : (int)((due_us + 999) / 1000)) > 0)
			read_events(group, hold_us, &left);
		for (; head != tail; tail++) {
			struct held *first = &held[tail % HELD_MAX];

			if (now_us() - first->since_us < hold_us)
				break;
			permit(group, first->fd);
			total_us += now_us() - first->since_us;
			write_truth(argv[4], total_us);
		}
	}
}
