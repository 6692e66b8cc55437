/*
 * qaxsafed: stands in for an endpoint-security agent that gets overloaded now and then.
 *
 * It permits every open and read on a filesystem: at once while it is calm, at the end of the phase
 * while it holds. Events are read as soon as they come and only the answers are held, so that the
 * time from reading to answering is what the victims wait; its sum goes to the truth file.
 *
 *   qaxsafed PATH TRUTH CALM_SECONDS HOLD_SECONDS PHASES
 *
 * After PHASES holds it stays calm for good.
 */
#define _GNU_SOURCE
#include <poll.h>

#include "../truth.h"
#include "../permission.h"

static struct held held[HELD_MAX];
static int held_count;
static long long total_us;

static void read_truth(const char *path)
{
	FILE *file = fopen(path, "r");

	/* After a kill and a respawn the sum goes on. */
	if (file) {
		if (fscanf(file, "%lld", &total_us) != 1)
			total_us = 0;
		fclose(file);
	}
}

static void release(int group, const char *truth)
{
	for (int i = 0; i < held_count; i++) {
		total_us += now_us() - held[i].since_us;
		permit(group, held[i].fd);
	}
	held_count = 0;
	write_truth(truth, total_us);
}

static void read_events(int group, int holding)
{
	static struct fanotify_event_metadata events[64];
	struct fanotify_event_metadata *event = events;
	ssize_t left = read(group, events, sizeof(events));
	long long since_us = now_us();

	if (left < 0)
		die("read events");
	for (; FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left)) {
		if (holding && event->pid != getpid() && held_count < HELD_MAX)
			held[held_count++] = (struct held){ event->fd, since_us };
		else
			permit(group, event->fd);
	}
}

/* One phase: until its end, or for ever with a negative length. */
static void phase(int group, double seconds, int holding)
{
	long long end_us = now_us() + (long long)(seconds * 1e6);
	struct pollfd events = { .fd = group, .events = POLLIN };

	for (;;) {
		long long left_us = end_us - now_us();

		if (seconds >= 0 && left_us <= 0)
			return;
		if (poll(&events, 1, seconds < 0 ? -1 : (int)(left_us / 1000) + 1) > 0)
			read_events(group, holding);
	}
}

int main(int argc, char **argv)
{
	int group;

	if (argc != 6) {
		fprintf(stderr, "usage: qaxsafed PATH TRUTH CALM_SECONDS HOLD_SECONDS PHASES\n");
		return 2;
	}
	read_truth(argv[2]);
	group = ask_for(FAN_OPEN_PERM | FAN_ACCESS_PERM, argv[1]);
	write_truth(argv[2], total_us);
	for (int left = atoi(argv[5]); left > 0; left--) {
		phase(group, atof(argv[3]), 0);
		phase(group, atof(argv[4]), 1);
		release(group, argv[2]);
	}
	phase(group, -1, 0);
}
