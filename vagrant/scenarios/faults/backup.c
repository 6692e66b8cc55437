/*
 * backup: freezes a filesystem for its snapshots, as a backup does.
 *
 *   backup PATH FROZEN_MS PAUSE_MS TIMES TRUTH
 *
 * How long it was frozen, by this process's own clock, goes to TRUTH.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../truth.h"

int main(int argc, char **argv)
{
	long long total_us = 0;
	int folder;

	if (argc != 6) {
		fprintf(stderr, "usage: backup PATH FROZEN_MS PAUSE_MS TIMES TRUTH\n");
		return 2;
	}
	folder = open(argv[1], O_RDONLY | O_DIRECTORY);
	if (folder < 0)
		die(argv[1]);
	for (int left = atoi(argv[4]); left > 0; left--) {
		long long from_us;

		usleep(atoll(argv[3]) * 1000);
		if (ioctl(folder, FIFREEZE, 0))
			die("freeze");
		from_us = now_us();
		usleep(atoll(argv[2]) * 1000);
		if (ioctl(folder, FITHAW, 0))
			die("thaw");
		total_us += now_us() - from_us;
		write_truth(argv[5], total_us);
	}
	pause();
}
