/*
 * lister: reads a large folder again and again, as much of it in one call as there is, and so
 * holds the folder's lock for that time.
 *
 *   lister FOLDER PAUSE_MS
 */
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../truth.h"

#define ALL_BYTES (64 << 20)

int main(int argc, char **argv)
{
	char *entries = malloc(ALL_BYTES);

	if (argc != 3 || !entries) {
		fprintf(stderr, "usage: lister FOLDER PAUSE_MS\n");
		return 2;
	}
	for (;;) {
		int fd = open(argv[1], O_RDONLY | O_DIRECTORY);

		if (fd < 0)
			die(argv[1]);
		while (syscall(SYS_getdents64, fd, entries, ALL_BYTES) > 0)
			;
		close(fd);
		usleep(atoll(argv[2]) * 1000);
	}
}
