/*
 * engine: stands in for a scanner's engine, which decides on what it is asked over sockets.
 *
 *   engine ENDPOINT HOLD_MS TRUTH [DEVICE]
 *
 * Each decision takes it HOLD_MS, and a MiB of DEVICE, where it has its signatures. The time from
 * question to answer goes to TRUTH.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>

#include "../endpoint.h"
#include "../truth.h"

#define BLOCK_BYTES (1 << 20)
#define BLOCKS 512

static pthread_mutex_t truth_lock = PTHREAD_MUTEX_INITIALIZER;
static long long total_us;
static const char *truth, *device;
static int hold_ms;

static void look_up(int signatures, void *block)
{
	off_t offset = (off_t)(rand() % BLOCKS) * BLOCK_BYTES;

	if (pread(signatures, block, BLOCK_BYTES, offset) < 0)
		die(device);
}

static void *serve(void *connection)
{
	int scanner = (long)connection, signatures = -1;
	long long since_us;
	void *block = NULL;
	char question;

	if (device) {
		signatures = open(device, O_RDONLY | O_DIRECT);
		if (signatures < 0 || posix_memalign(&block, 4096, BLOCK_BYTES))
			die(device);
	}
	while (read(scanner, &question, 1) == 1) {
		since_us = now_us();
		usleep(hold_ms * 1000);
		if (device)
			look_up(signatures, block);
		if (write(scanner, "!", 1) != 1)
			die("answer");
		pthread_mutex_lock(&truth_lock);
		total_us += now_us() - since_us;
		write_truth(truth, total_us);
		pthread_mutex_unlock(&truth_lock);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	int listener;

	if (argc < 4) {
		fprintf(stderr, "usage: engine ENDPOINT HOLD_MS TRUTH [DEVICE]\n");
		return 2;
	}
	hold_ms = atoi(argv[2]);
	truth = argv[3];
	device = argc > 4 ? argv[4] : NULL;
	write_truth(truth, 0);
	listener = listen_at(argv[1]);
	if (listener < 0)
		die(argv[1]);
	for (;;) {
		long scanner = accept(listener, NULL, NULL);

		if (scanner < 0 || pthread_create(&thread, NULL, serve, (void *)scanner))
			die("scanner");
	}
}
