/*
 * appender: an application that changes one byte of a file again and again, and waits until the
 * server has it.
 *
 *   appender FILE SECONDS
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	time_t end;
	int fd;

	if (argc != 3) {
		fprintf(stderr, "usage: appender FILE SECONDS\n");
		return 2;
	}
	fd = open(argv[1], O_WRONLY | O_CREAT | O_SYNC, 0666);
	end = time(NULL) + atoi(argv[2]);
	while (time(NULL) < end) {
		if (pwrite(fd, "x", 1, 0) != 1) {
			perror(argv[1]);
			return 1;
		}
		usleep(50 * 1000);
	}
}
