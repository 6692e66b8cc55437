/*
 * locker: an application that locks a file as a whole, works on it, and gives the lock up, again
 * and again.
 *
 *   locker FILE HOLD_MS PAUSE_MS SECONDS
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>

#include "../truth.h"

static void set(int file, short type)
{
	struct flock whole = { .l_type = type, .l_whence = SEEK_SET };

	if (fcntl(file, F_SETLKW, &whole))
		die("lock");
}

int main(int argc, char **argv)
{
	long long end_us;
	int file;

	if (argc != 5) {
		fprintf(stderr, "usage: locker FILE HOLD_MS PAUSE_MS SECONDS\n");
		return 2;
	}
	file = open(argv[1], O_RDWR | O_CREAT, 0666);
	if (file < 0)
		die(argv[1]);
	end_us = now_us() + atoll(argv[4]) * 1000000;
	while (now_us() < end_us) {
		set(file, F_WRLCK);
		usleep(atoi(argv[2]) * 1000);
		set(file, F_UNLCK);
		usleep(atoi(argv[3]) * 1000);
	}
	return 0;
}
