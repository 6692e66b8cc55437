/*
 * hog: takes more memory than there is, gives it back, and begins again.
 *
 *   hog MEGABYTES SECONDS
 */
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../truth.h"

int main(int argc, char **argv)
{
	long page = sysconf(_SC_PAGESIZE), length, rounds = 0, touched = 0;
	long long end_us;
	char *bytes;

	if (argc != 3) {
		fprintf(stderr, "usage: hog MEGABYTES SECONDS\n");
		return 2;
	}
	length = atol(argv[1]) << 20;
	end_us = now_us() + atoll(argv[2]) * 1000000;
	for (; now_us() < end_us; rounds++) {
		bytes = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
		if (bytes == MAP_FAILED)
			die("mmap");
		for (long at = 0; at < length && now_us() < end_us; at += page, touched++)
			*(int64_t *)(bytes + at) = touched;
		munmap(bytes, length);
	}
	printf("%ld MB taken, in %ld rounds\n", touched * page >> 20, rounds);
	return 0;
}
