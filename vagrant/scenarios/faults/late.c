/*
 * late: stands in for a program that asks a slow name service: waits, then becomes that program.
 *
 * Installed in its place, with the program itself in /opt/real under the same name.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LATE_S 3

int main(int argc, char **argv)
{
	char self[4096] = "", real[4096 + 16];

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0) {
		perror("/proc/self/exe");
		return 1;
	}
	sleep(LATE_S);
	snprintf(real, sizeof(real), "/opt/real%s", strrchr(self, '/'));
	execv(real, argv);
	perror(real);
	return 1;
}
