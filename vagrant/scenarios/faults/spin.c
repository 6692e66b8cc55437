/*
 * spin: burns CPU, in bursts, on all the CPUs it may use.
 *
 *   spin PRIORITY BURST_MS PAUSE_MS BURSTS TRUTH
 *
 * PRIORITY is a real-time one (SCHED_FIFO), 0 for an ordinary process. The length of the bursts,
 * by this process's own clock, goes to TRUTH: that long nobody else had those CPUs.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "../truth.h"

#define CPUS_MAX 64

static pthread_barrier_t begin;
static int bursts;
static long long burst_us, pause_us;

static void *work(void *truth)
{
	long long total_us = 0;

	for (int i = 0; i < bursts; i++) {
		long long from_us;

		usleep(pause_us);
		pthread_barrier_wait(&begin);
		from_us = now_us();
		while (now_us() - from_us < burst_us)
			;
		total_us += now_us() - from_us;
		/* Of all threads the first writes: they burn at the same time. */
		if (truth)
			write_truth(truth, total_us);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct sched_param priority = {};
	pthread_t threads[CPUS_MAX + 1];
	cpu_set_t allowed;
	int count, made = 1;

	if (argc != 6) {
		fprintf(stderr, "usage: spin PRIORITY BURST_MS PAUSE_MS BURSTS TRUTH\n");
		return 2;
	}
	burst_us = atoll(argv[2]) * 1000;
	pause_us = atoll(argv[3]) * 1000;
	bursts = atoi(argv[4]);
	priority.sched_priority = atoi(argv[1]);
	if (sched_getaffinity(0, sizeof(allowed), &allowed) ||
	    (priority.sched_priority && sched_setscheduler(0, SCHED_FIFO, &priority))) {
		perror("spin");
		return 1;
	}
	count = CPU_COUNT(&allowed);
	count = count < CPUS_MAX ? count : CPUS_MAX;
	pthread_barrier_init(&begin, NULL, count);
	for (int cpu = 0; made <= count && cpu < CPU_SETSIZE; cpu++) {
		cpu_set_t one;

		if (!CPU_ISSET(cpu, &allowed))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		/* The last CPU is this thread's. */
		threads[made] = pthread_self();
		if (made < count && pthread_create(&threads[made], NULL, work, NULL))
			return 1;
		pthread_setaffinity_np(threads[made], sizeof(one), &one);
		made++;
	}
	work(argv[5]);
	for (int i = 1; i < count; i++)
		pthread_join(threads[i], NULL);
	pause();
}
