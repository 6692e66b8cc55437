/*
 * filter: stands in for an agent that decides on packets in user space.
 *
 *   filter QUEUE FAST_MS HOLD_MS EVERY_MS TIMES TRUTH
 *
 * Lets the packets of a netfilter queue pass at once, but FAST_MS after its start and then each
 * EVERY_MS, TIMES times, keeps all that come for HOLD_MS. The time for which it has kept the first
 * packet of each such time goes to TRUTH.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../truth.h"

#define KEPT_MAX 65536

static unsigned int kept[KEPT_MAX];
static unsigned int count;
static int queue, fd;

/* Sends one message of the queue's with one attribute. */
static void tell(int type, int attribute, const void *value, unsigned short length)
{
	struct {
		struct nlmsghdr header;
		struct nfgenmsg family;
		struct nlattr attribute;
		char value[32];
	} message = { 0 };

	message.header.nlmsg_len = sizeof(message.header) + sizeof(message.family) +
				   NLA_ALIGN(sizeof(message.attribute) + length);
	message.header.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | type;
	message.header.nlmsg_flags = NLM_F_REQUEST;
	message.family.nfgen_family = AF_UNSPEC;
	message.family.version = NFNETLINK_V0;
	message.family.res_id = htons(queue);
	message.attribute.nla_len = sizeof(message.attribute) + length;
	message.attribute.nla_type = attribute;
	memcpy(message.value, value, length);
	if (send(fd, &message, message.header.nlmsg_len, 0) < 0)
		die("send");
}

static void permit(unsigned int id)
{
	struct nfqnl_msg_verdict_hdr verdict = { htonl(NF_ACCEPT), htonl(id) };

	tell(NFQNL_MSG_VERDICT, NFQA_VERDICT_HDR, &verdict, sizeof(verdict));
}

static void take(void)
{
	static char buffer[1 << 18] __attribute__((aligned(8)));
	int length = recv(fd, buffer, sizeof(buffer), 0);
	struct nlmsghdr *header = (struct nlmsghdr *)buffer;

	if (length < 0 && errno != ENOBUFS)
		die("recv");
	for (; length > 0 && NLMSG_OK(header, (unsigned int)length);
	     header = NLMSG_NEXT(header, length)) {
		struct nlattr *attribute = NLMSG_DATA(header) + sizeof(struct nfgenmsg);

		/* The header of a packet is the first of its attributes. */
		if ((header->nlmsg_type & 0xff) != NFQNL_MSG_PACKET ||
		    (attribute->nla_type & NLA_TYPE_MASK) != NFQA_PACKET_HDR || count == KEPT_MAX)
			continue;
		kept[count++] =
			ntohl(((struct nfqnl_msg_packet_hdr *)(attribute + 1))->packet_id);
	}
}

int main(int argc, char **argv)
{
	struct nfqnl_msg_config_cmd bind = { .command = NFQNL_CFG_CMD_BIND };
	struct nfqnl_msg_config_params copy = { htonl(128), NFQNL_COPY_PACKET };
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	long long due_us, hold_us, every_us, first_us = 0, total_us = 0;
	int times;

	if (argc < 7) {
		fprintf(stderr, "usage: filter QUEUE FAST_MS HOLD_MS EVERY_MS TIMES TRUTH\n");
		return 2;
	}
	queue = atoi(argv[1]);
	due_us = now_us() + atoll(argv[2]) * 1000;
	hold_us = atoll(argv[3]) * 1000;
	every_us = atoll(argv[4]) * 1000;
	times = atoi(argv[5]);
	fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	if (fd < 0 || connect(fd, (struct sockaddr *)&kernel, sizeof(kernel)))
		die("netlink");
	tell(NFQNL_MSG_CONFIG, NFQA_CFG_CMD, &bind, sizeof(bind));
	tell(NFQNL_MSG_CONFIG, NFQA_CFG_PARAMS, &copy, sizeof(copy));
	write_truth(argv[6], 0);
	for (;;) {
		struct pollfd packets = { .fd = fd, .events = POLLIN };

		if (poll(&packets, 1, 10) > 0)
			take();
		if (count && !first_us)
			first_us = now_us();
		if (times > 0 && now_us() >= due_us && now_us() < due_us + hold_us)
			continue;
		if (times > 0 && now_us() >= due_us + hold_us) {
			if (count)
				total_us += now_us() - first_us;
			write_truth(argv[6], total_us);
			due_us += every_us;
			times--;
		}
		for (unsigned int i = 0; i < count; i++)
			permit(kept[i]);
		count = 0;
		first_us = 0;
	}
}
