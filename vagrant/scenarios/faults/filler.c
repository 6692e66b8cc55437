/*
 * filler: writes a lot to a file in one call, as a restore does, and so holds the lock of its
 * inode for that time.
 *
 *   filler FILE MEGABYTES PAUSE_MS TIMES TRUTH
 *
 * How long the calls took, by this process's own clock, goes to TRUTH.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../truth.h"

int main(int argc, char **argv)
{
	long long total_us = 0;
	size_t length;
	char *bytes;
	int fd;

	if (argc != 6) {
		fprintf(stderr, "usage: filler FILE MEGABYTES PAUSE_MS TIMES TRUTH\n");
		return 2;
	}
	length = atoll(argv[2]) << 20;
	bytes = malloc(length);
	fd = open(argv[1], O_WRONLY | O_CREAT, 0666);
	if (!bytes || fd < 0)
		die(argv[1]);
	memset(bytes, 'x', length);
	for (int left = atoi(argv[4]); left > 0; left--) {
		long long from_us;

		usleep(atoll(argv[3]) * 1000);
		from_us = now_us();
		if (pwrite(fd, bytes, length, 0) != (ssize_t)length)
			die("write");
		total_us += now_us() - from_us;
		write_truth(argv[5], total_us);
	}
	pause();
}
