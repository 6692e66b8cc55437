/*
 * renamer: renames files of one folder to and fro, many at a time, as something that moves what
 * others have put there does: one or another always has the folder's lock.
 *
 *   renamer FOLDER THREADS
 */
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <unistd.h>

#include "../truth.h"

static const char *folder;

static void *rename_it(void *number)
{
	char one[PATH_MAX], other[PATH_MAX];
	int fd;

	snprintf(one, sizeof(one), "%s/moved-%ld", folder, (long)number);
	snprintf(other, sizeof(other), "%s/moving-%ld", folder, (long)number);
	fd = open(one, O_CREAT | O_WRONLY, 0644);
	if (fd < 0)
		die(one);
	close(fd);
	while (!rename(one, other) && !rename(other, one))
		;
	die("rename");
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	if (argc != 3) {
		fprintf(stderr, "usage: renamer FOLDER THREADS\n");
		return 2;
	}
	folder = argv[1];
	for (long number = 0; number < atol(argv[2]); number++)
		if (pthread_create(&thread, NULL, rename_it, (void *)number))
			die("pthread_create");
	pause();
}
