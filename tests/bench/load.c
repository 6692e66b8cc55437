/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One NFS operation over and over, as fast as it goes or at a given rate.
 *
 *   load getattr|read|fsync|create|fork FOLDER OPERATIONS [PER_SECOND]
 *
 * Prints JSON: operations, elapsed_ns, and the latency of each operation in order of size
 * thinned to percentiles. One thread: on a machine of one CPU more would only queue.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define FILE_BLOCKS 4096

static int folder, file;
static char *block;
static uint64_t random_state = 88172645463325252ull;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* xorshift64: the same offsets in each run. */
static off_t random_offset(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (off_t)(random_state % FILE_BLOCKS) * BLOCK;
}

static void open_file(int flags)
{
	file = openat(folder, "blocks", O_RDWR | O_CREAT | flags, 0600);
	if (file < 0)
		err(1, "blocks");
}

static void fill_file(void)
{
	open_file(0);
	for (int i = 0; i < FILE_BLOCKS; i++)
		if (pwrite(file, block, BLOCK, (off_t)i * BLOCK) != BLOCK)
			err(1, "blocks");
	if (fsync(file))
		err(1, "blocks");
	close(file);
}

/* An attribute that must come from the server, whatever the client has cached. */
static void getattr(void)
{
	struct statx found;

	if (statx(folder, "blocks", AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &found))
		err(1, "statx");
}

/* Past the client's cache, so from the server's. */
static void read_block(void)
{
	if (pread(file, block, BLOCK, random_offset()) != BLOCK)
		err(1, "read");
}

static void write_fsync(void)
{
	if (pwrite(file, block, BLOCK, random_offset()) != BLOCK || fsync(file))
		err(1, "write");
}

static void create_unlink(void)
{
	int new = openat(folder, "new", O_WRONLY | O_CREAT | O_EXCL, 0600);

	if (new < 0 || close(new) || unlinkat(folder, "new", 0))
		err(1, "create");
}

/* Each operation by another process: as many keys in the tracer's maps. */
static void fork_getattr(void)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		err(1, "fork");
	if (!child) {
		getattr();
		_exit(0);
	}
	if (waitpid(child, &status, 0) != child || status)
		errx(1, "a child failed");
}

struct workload {
	const char *name;
	void (*operation)(void);
	int flags;
};

static const struct workload workloads[] = {
	{"getattr", getattr, 0},	 {"read", read_block, O_DIRECT},
	{"fsync", write_fsync, 0},	 {"create", create_unlink, 0},
	{"fork", fork_getattr, 0},
};

static const struct workload *find(const char *name)
{
	for (size_t i = 0; i < sizeof(workloads) / sizeof(*workloads); i++)
		if (!strcmp(workloads[i].name, name))
			return &workloads[i];
	errx(2, "no workload %s", name);
}

static int by_size(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

static void wait_until(uint64_t due_ns)
{
	struct timespec due = {due_ns / 1000000000, due_ns % 1000000000};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		errx(2, "usage: load WORKLOAD FOLDER OPERATIONS [PER_SECOND]");

	const struct workload *workload = find(argv[1]);
	size_t operations = strtoul(argv[3], NULL, 10);
	uint64_t pace_ns = argc > 4 ? 1000000000ull / strtoul(argv[4], NULL, 10) : 0;
	uint64_t *took_ns = calloc(operations, sizeof(*took_ns));
	struct stat status;

	if (!operations || !took_ns || posix_memalign((void **)&block, BLOCK, BLOCK))
		errx(1, "no memory");
	memset(block, 'x', BLOCK);
	folder = open(argv[2], O_RDONLY | O_DIRECTORY);
	if (folder < 0)
		err(1, "%s", argv[2]);
	if (fstatat(folder, "blocks", &status, 0) || status.st_size != FILE_BLOCKS * BLOCK)
		fill_file();
	open_file(workload->flags);
	/* What is done for the first time only. */
	for (int i = 0; i < 50; i++)
		workload->operation();

	uint64_t begin_ns = now_ns(), at_ns = begin_ns;

	for (size_t i = 0; i < operations; i++) {
		uint64_t from_ns = at_ns;

		if (pace_ns) {
			wait_until(begin_ns + i * pace_ns);
			from_ns = now_ns();
		}
		workload->operation();
		at_ns = now_ns();
		took_ns[i] = at_ns - from_ns;
	}
	qsort(took_ns, operations, sizeof(*took_ns), by_size);
	printf("{\"operations\": %zu, \"elapsed_ns\": %lu, \"p50_ns\": %lu, \"p99_ns\": %lu}\n",
	       operations, at_ns - begin_ns, took_ns[operations / 2],
	       took_ns[operations * 99 / 100]);
	return 0;
}
