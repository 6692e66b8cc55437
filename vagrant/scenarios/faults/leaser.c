/*
 * leaser: a file server of another protocol, as Samba is one: takes a lease on each of the first
 * files of a folder, and is slow to give up those that others want.
 *
 *   leaser FOLDER FILES READY
 *
 * Creates READY once it has them. The kernel takes a lease away after fs.lease-break-time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../truth.h"

int main(int argc, char **argv)
{
	struct rlimit files = { 1 << 16, 1 << 16 };
	char path[4096];
	int file;

	if (argc != 4) {
		fprintf(stderr, "usage: leaser FOLDER FILES READY\n");
		return 2;
	}
	signal(SIGIO, SIG_IGN);
	if (setrlimit(RLIMIT_NOFILE, &files))
		die("files");
	for (int number = 0; number < atoi(argv[2]); number++) {
		snprintf(path, sizeof(path), "%s/%d", argv[1], number);
		file = open(path, O_RDWR);
		if (file < 0 || fcntl(file, F_SETLEASE, F_WRLCK))
			die(path);
	}
	file = open(argv[3], O_CREAT | O_WRONLY, 0644);
	if (file < 0)
		die(argv[3]);
	for (;;)
		pause();
}
