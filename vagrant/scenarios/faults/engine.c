/*
 * engine: stands in for a scanner's engine, which decides on what it is asked over a socket.
 *
 *   engine SOCKET HOLD_MS TRUTH [DEVICE]
 *
 * Each decision takes it HOLD_MS, and a MiB of DEVICE, where it has its signatures. The time from
 * question to answer goes to TRUTH.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../truth.h"

#define BLOCK_BYTES (1 << 20)
#define BLOCKS 512

static int scanner_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), scanner;

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	unlink(path);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 1))
		die(path);
	scanner = accept(listener, NULL, NULL);
	if (scanner < 0)
		die("accept");
	return scanner;
}

int main(int argc, char **argv)
{
	long long total_us = 0, since_us;
	int scanner, signatures = -1;
	void *block = NULL;
	char question;

	if (argc < 4) {
		fprintf(stderr, "usage: engine SOCKET HOLD_MS TRUTH [DEVICE]\n");
		return 2;
	}
	if (argc > 4) {
		signatures = open(argv[4], O_RDONLY | O_DIRECT);
		if (signatures < 0 || posix_memalign(&block, 4096, BLOCK_BYTES))
			die(argv[4]);
	}
	write_truth(argv[3], total_us);
	scanner = scanner_at(argv[1]);
	while (read(scanner, &question, 1) == 1) {
		since_us = now_us();
		usleep(atoi(argv[2]) * 1000);
		if (signatures >= 0 && pread(signatures, block, BLOCK_BYTES,
					     (long long)(rand() % BLOCKS) * BLOCK_BYTES) < 0)
			die(argv[4]);
		if (write(scanner, "!", 1) != 1)
			die("answer");
		total_us += now_us() - since_us;
		write_truth(argv[3], total_us);
	}
	return 0;
}
