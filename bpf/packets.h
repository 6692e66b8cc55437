/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Packets of NFS that a process holds in a netfilter queue (NFQUEUE) until it has decided on
 * them. They look like the network's, but whoever answers does so in its own context.
 */

/* struct nf_queue_entry * to the packet in it. */
BPF_HASH(held, u64, struct held_rec, MAX_HELD);
/* By CPU: bcc makes no per-CPU map of this struct. */
BPF_ARRAY(packet, struct op_rec, MAX_CPUS);

#ifdef OFF_nf_queue_entry__skb
#define NFS_PORT 2049
#define NF_INET_PRE_ROUTING 0
#define NF_INET_LOCAL_IN 1
#define NF_INET_LOCAL_OUT 3
#define NF_INET_POST_ROUTING 4
#define NFPROTO_IPV4 2
#define NFPROTO_IPV6 10
#define IPPROTO_TCP 6

/* The other host of a TCP packet; false if it is none, or on its way through this host. */
static __always_inline bool read_other_host(u64 state, u64 ip, bool in, u8 *peer)
{
	u8 family = read_u8(state + OFF_nf_hook_state__pf);

	if (family == NFPROTO_IPV4 && read_u8(ip + 9) == IPPROTO_TCP) {
		peer[10] = 0xff;
		peer[11] = 0xff;
		bpf_probe_read_kernel(peer + 12, 4, (void *)(ip + (in ? 12 : 16)));
		return true;
	}
	if (family == NFPROTO_IPV6 && read_u8(ip + 6) == IPPROTO_TCP) {
		bpf_probe_read_kernel(peer, 16, (void *)(ip + (in ? 8 : 24)));
		return true;
	}
	return false;
}

/* Whose packet it is, and on which side of NFS we are; false if it is none of NFS. */
static __always_inline bool is_nfs_packet(u64 entry, struct held_rec *rec)
{
	u64 state = entry + OFF_nf_queue_entry__state;
	u64 skb = read_u64(entry + OFF_nf_queue_entry__skb);
	u64 head = read_u64(skb + OFF_sk_buff__head), tcp;
	u64 ip = head + read_u16(skb + OFF_sk_buff__network_header);
	u8 hook = read_u8(state + OFF_nf_hook_state__hook);
	bool in = hook == NF_INET_PRE_ROUTING || hook == NF_INET_LOCAL_IN, to_server;

	if (!in && hook != NF_INET_LOCAL_OUT && hook != NF_INET_POST_ROUTING)
		return false;
	if (!read_other_host(state, ip, in, rec->peer))
		return false;
	tcp = head + read_u16(skb + OFF_sk_buff__transport_header);
	to_server = read_u16(tcp + 2) == __builtin_bswap16(NFS_PORT);
	rec->side = in == to_server ? SIDE_SERVER : SIDE_CLIENT;
	return to_server || read_u16(tcp) == __builtin_bswap16(NFS_PORT);
}

/* The last step before a packet, or a segment of it, is put into a queue. */
int nf_queue_entry_get_refs_enter(unsigned long long *ctx)
{
	u64 entry = ctx[0];
	struct held_rec rec = {};

	if (!is_nfs_packet(entry, &rec))
		return 0;
	rec.op_id = next_id();
	rec.since_ns = bpf_ktime_get_ns();
	if (held.update(&entry, &rec))
		count_loss(LOSS_PACKETS_FULL);
	return 0;
}

/* The process that decides has let it pass, or dropped it. */
int nf_reinject_enter(unsigned long long *ctx)
{
	u64 entry = ctx[0], now = bpf_ktime_get_ns();
	struct held_rec *rec = held.lookup(&entry);
	struct wait_rec *wait;
	struct op_rec *op;
	u32 number = bpf_get_smp_processor_id();

	if (!rec)
		return 0;
	op = packet.lookup(&number);
	if (!op || now - rec->since_ns < cut_ns())
		goto out;
	/* All else in it is, and stays, 0. */
	op->op_id = rec->op_id;
	op->op = VFS_PACKET;
	op->side = rec->side;
	op->flags = OP_KERNEL | rec->flags;
	op->begin_ns = rec->since_ns;
	op->end_ns = now;
	__builtin_memcpy(op->peer, rec->peer, sizeof(op->peer));
	op->nwaits = 1;
	wait = &op->waits[0];
	wait->kind = WAIT_HELD;
	wait->stack = NO_STACK;
	wait->waker_stack = stacks.get_stackid(ctx, 0);
	proc_of(current_task(), &wait->waker);
	note_current(&wait->waker);
	wait->first_ns = rec->since_ns;
	wait->last_ns = now;
	wait->total_ns = wait->max_ns = now - rec->since_ns;
	wait->count = 1;
	if (ring.ringbuf_output(op, sizeof(*op), 0))
		count_loss(LOSS_RING_FULL);
out:
	held.delete(&entry);
	return 0;
}
#else
/* No netfilter in this kernel. */
int nf_queue_entry_get_refs_enter(unsigned long long *ctx)
{
	return 0;
}

int nf_reinject_enter(unsigned long long *ctx)
{
	return 0;
}
#endif
