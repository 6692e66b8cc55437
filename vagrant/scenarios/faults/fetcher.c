/*
 * fetcher: an application that reads a large file piece by piece, each of them from the server.
 *
 *   fetcher FILE SECONDS
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

#include "../truth.h"

#define PIECE (64 << 10)

int main(int argc, char **argv)
{
	long long end_us;
	off_t at = 0;
	void *bytes;
	int fd;

	if (argc != 3) {
		fprintf(stderr, "usage: fetcher FILE SECONDS\n");
		return 2;
	}
	end_us = now_us() + atoll(argv[2]) * 1000000;
	fd = open(argv[1], O_RDONLY | O_DIRECT);
	if (fd < 0 || posix_memalign(&bytes, 4096, PIECE))
		die(argv[1]);
	while (now_us() < end_us) {
		if (pread(fd, bytes, PIECE, at) != PIECE)
			die("read");
		at += PIECE;
		usleep(100 * 1000);
	}
	return 0;
}
