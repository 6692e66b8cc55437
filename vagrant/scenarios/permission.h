/* What every stand-in for a security agent needs: a group to ask it, and an answer. */
#include <fcntl.h>
#include <sys/fanotify.h>
#include <unistd.h>

#define HELD_MAX 4096

/* An event that has been read and not answered. */
struct held {
	int fd;
	long long since_us;
};

/* A group that is asked for these permissions on a whole filesystem. */
static inline int ask_for(unsigned long mask, const char *path)
{
	int group = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_UNLIMITED_QUEUE,
				  O_RDONLY | O_LARGEFILE | O_CLOEXEC);

	if (group < 0)
		die("fanotify_init");
	if (fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, mask, AT_FDCWD, path))
		die("fanotify_mark");
	return group;
}

static inline void permit(int group, int fd)
{
	struct fanotify_response answer = { .fd = fd, .response = FAN_ALLOW };

	if (write(group, &answer, sizeof(answer)) < 0)
		die("answer");
	close(fd);
}
