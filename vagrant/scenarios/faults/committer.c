/*
 * committer: makes small files and adds a little to a log, and sees to it that it is on disk,
 * again and again, as an agent does that must not lose what it has seen.
 *
 *   committer FOLDER PROCESSES SECONDS
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FOLDERS 16

/* Folders lie far apart on the disk: what is new in them is in as many blocks of the journal. */
static int commit(const char *top, int number, time_t end)
{
	char path[4096];
	int log;

	snprintf(path, sizeof(path), "%s/log-%d", top, number);
	log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
	for (int round = 0; log >= 0 && time(NULL) < end; round++) {
		for (int folder = 0; folder < FOLDERS; folder++) {
			snprintf(path, sizeof(path), "%s/%d-%d", top, number, folder);
			mkdir(path, 0755);
			snprintf(path, sizeof(path), "%s/%d-%d/%d", top, number, folder, round);
			close(open(path, O_WRONLY | O_CREAT, 0644));
		}
		if (write(log, path, 100) < 0 || fsync(log))
			break;
	}
	if (log < 0 || time(NULL) < end) {
		perror(path);
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int processes, failed = 0, status;
	time_t end;

	if (argc != 4) {
		fprintf(stderr, "usage: committer FOLDER PROCESSES SECONDS\n");
		return 2;
	}
	mkdir(argv[1], 0755);
	processes = atoi(argv[2]);
	end = time(NULL) + atoi(argv[3]);
	for (int number = 0; number < processes; number++)
		if (!fork())
			return commit(argv[1], number, end);
	while (wait(&status) > 0)
		failed |= status != 0;
	return failed;
}
