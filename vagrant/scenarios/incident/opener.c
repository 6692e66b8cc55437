/*
 * opener: an application that opens files and reads a little of each, many at a time.
 *
 *   opener FOLDER WORKERS SECONDS
 *
 * Each worker takes its own share of the folder's files, none of them twice, so that no open is
 * served from a cache; and its own user, for NFSv4.0 sends the opens of one user one by one.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Between two opens of a worker: an application has other things to do as well. */
static const struct timespec pause_time = { .tv_nsec = 200 * 1000 * 1000 };

static void work(const char *folder, int worker, int workers, time_t end)
{
	char path[4096], byte;

	if (setuid(10000 + worker))
		exit(1);
	for (int number = worker; time(NULL) < end; number += workers) {
		int fd;

		snprintf(path, sizeof(path), "%s/%d", folder, number);
		fd = open(path, O_RDONLY);
		/* Out of files. */
		if (fd < 0)
			exit(2);
		if (read(fd, &byte, 1) < 0)
			exit(3);
		close(fd);
		nanosleep(&pause_time, NULL);
	}
	exit(0);
}

int main(int argc, char **argv)
{
	int workers, status, failed = 0;
	time_t end;

	if (argc != 4) {
		fprintf(stderr, "usage: opener FOLDER WORKERS SECONDS\n");
		return 2;
	}
	workers = atoi(argv[2]);
	end = time(NULL) + atoi(argv[3]);
	for (int worker = 0; worker < workers; worker++)
		if (fork() == 0)
			work(argv[1], worker, workers, end);
	while (wait(&status) > 0)
		failed |= status;
	return failed ? 1 : 0;
}
