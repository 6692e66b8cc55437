/*
 * reader: a process that reads a disk hard, past the page cache, with many requests at a time.
 *
 *   reader DEVICE READERS SECONDS
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../truth.h"

#define BLOCK_BYTES (1 << 20)
#define BLOCKS 512

static void read_on(const char *device, long long end_us)
{
	int fd = open(device, O_RDONLY | O_DIRECT);
	void *block;

	if (fd < 0 || posix_memalign(&block, 4096, BLOCK_BYTES))
		die(device);
	while (now_us() < end_us)
		if (pread(fd, block, BLOCK_BYTES, (long long)(rand() % BLOCKS) * BLOCK_BYTES) < 0)
			die(device);
	exit(0);
}

int main(int argc, char **argv)
{
	long long end_us;

	if (argc != 4) {
		fprintf(stderr, "usage: reader DEVICE READERS SECONDS\n");
		return 2;
	}
	end_us = now_us() + atoll(argv[3]) * 1000000;
	for (int number = 0; number < atoi(argv[2]); number++)
		if (!fork())
			read_on(argv[1], end_us);
	while (wait(NULL) > 0)
		;
	return 0;
}
