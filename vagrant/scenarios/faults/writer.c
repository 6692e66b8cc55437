/*
 * writer: an application that writes small files, one after the other, and sees to it that they
 * are on the server's disk.
 *
 *   writer FOLDER SECONDS
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char path[4096];
	time_t end;

	if (argc != 3) {
		fprintf(stderr, "usage: writer FOLDER SECONDS\n");
		return 2;
	}
	mkdir(argv[1], 0755);
	end = time(NULL) + atoi(argv[2]);
	for (int number = 0; time(NULL) < end; number++) {
		int fd;

		snprintf(path, sizeof(path), "%s/%d", argv[1], number);
		fd = open(path, O_WRONLY | O_CREAT, 0644);
		if (fd < 0 || write(fd, path, 100) < 0 || fsync(fd) || close(fd)) {
			perror(path);
			return 1;
		}
		usleep(50 * 1000);
	}
}
