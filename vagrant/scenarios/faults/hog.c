/*
 * hog: a process whose memory is more than there is, and which uses all of it, again and again.
 *
 *   hog PERCENT SECONDS
 *
 * PERCENT is of the memory of the host.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "../truth.h"

#define PAGE 4096

int main(int argc, char **argv)
{
	struct sysinfo host;
	long long end_us;
	size_t length;
	volatile char *memory;

	if (argc != 3 || sysinfo(&host)) {
		fprintf(stderr, "usage: hog PERCENT SECONDS\n");
		return 2;
	}
	length = host.totalram / 100 * atol(argv[1]) * host.mem_unit;
	end_us = now_us() + atoll(argv[2]) * 1000000;
	memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	madvise((void *)memory, length, MADV_NOHUGEPAGE);
	while (now_us() < end_us)
		for (size_t at = 0; at < length && now_us() < end_us; at += PAGE)
			memory[at]++;
	return 0;
}
