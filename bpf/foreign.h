/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Code in which a thread is not at its own work: out-of-tree modules, others' BPF programs, what
 * interrupts have left to be done. What they take of a CPU is no wait; it is sampled.
 */

/* As far in as this a stack is searched: interrupt, what the code has called, itself. */
#define MAX_LOOKED 32

/* In the order of LPM tries: how many leading bits count, then an address, big-endian. */
struct code_key {
	u32 bits;
	u64 address;
} __attribute__((packed));

/* Filled by the collector: where such code lies, and for each where its owner's begins. */
BPF_LPM_TRIE(foreign, struct code_key, u64, MAX_FOREIGN);

/* The innermost frame of foreign code; MAX_LOOKED if there is none. */
static __always_inline u32 foreign_frame(struct frames *frames, u64 *owner)
{
	u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_LOOKED; i++) {
		struct code_key key = { .bits = 64 };
		u64 *begin;

		if (!frames->ip[i])
			return MAX_LOOKED;
		key.address = __builtin_bswap64(frames->ip[i]);
		begin = foreign.lookup(&key);
		if (begin) {
			*owner = *begin;
			return i;
		}
	}
	return MAX_LOOKED;
}

/*
 * A timer is due, the clock tick's or another: the time of the thread that it interrupts,
 * since it got the CPU or since the last look, goes to the code that it is in. No perf event:
 * its program is not run while another kind of program is (bpf_overflow_handler()), and it
 * wakes CPUs that sleep.
 */
int on_hrtimer_expire_entry(struct bpf_raw_tracepoint_args *ctx)
{
	struct wait_rec key = { .kind = WAIT_RUNNING, .waker_stack = NO_STACK };
	struct op_rec *op = active_op();
	struct frames *frames;
	u64 now, since;
	u32 slot = 2, index;

	if (!op || op->off_ns)
		return 0;
	now = bpf_ktime_get_ns();
	since = op->on_ns;
	op->on_ns = now;
	frames = scratch.lookup(&slot);
	/* Of a call that began before recording it is not known since when. */
	if (!frames || !since || now <= since)
		return 0;
	__builtin_memset(frames, 0, sizeof(*frames));
	if (bpf_get_stack(ctx, frames->ip, sizeof(frames->ip), 0) <= 0)
		return 0;
	index = foreign_frame(frames, &key.group);
	if (index == MAX_LOOKED)
		return 0;
	/* From its caller on: where in it the thread was just then is another place each time. */
	key.stack = stacks.get_stackid(ctx, (index + 1) & BPF_F_SKIP_FIELD_MASK);
	if (key.stack < 0)
		count_loss(LOSS_STACK);
	add_wait(op, &key, since, now, now - since);
	return 0;
}
