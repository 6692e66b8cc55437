/*
 * crowd: many processes that do nothing.
 *
 *   crowd PROCESSES
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: crowd PROCESSES\n");
		return 2;
	}
	for (int left = atoi(argv[1]); left > 0; left--) {
		pid_t child = fork();

		if (child < 0) {
			perror("fork");
			return 1;
		}
		if (!child) {
			pause();
			return 0;
		}
	}
}
