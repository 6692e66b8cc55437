/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Threads that others wait for: who has a permission event to answer, has given up a lock or
 * sent what was waited for, and whom such a thread wakes, for it may be asked for something.
 * From then on what they wait for is recorded, from one answer to the next, as that of an
 * operation is: so a chain goes on behind them.
 */

/* Who has answered nobody for so long is watched no more. */
#define WATCH_NS (300ULL * 1000000000)
/*
 * How many threads are watched that were in no operation, and how many may be: they leave room
 * in `threads` for those that are. Others are not watched: chains end before them.
 */
BPF_ARRAY(watching, u64, 1);
#define MAX_WATCHING 1024

/* The bytes of a thread's kernel stack on x86 and arm64. */
#define THREAD_BYTES 16384

/*
 * Whether a program runs on the current thread's own stack: for what an interrupt does the
 * thread can do nothing. The context lies on the stack of whoever came upon the program; it is
 * read as a number through a copy, for pointers may not be calculated with.
 */
static __always_inline bool is_by_thread(void *ctx, u64 task)
{
	void *pointer = ctx;
	u64 address = 0;

	if (bpf_probe_read_kernel(&address, sizeof(address), &pointer))
		return false;
	return address - read_u64(task + OFF_task_struct__stack) < THREAD_BYTES;
}

/* Neither in an operation nor about to be: what it waits for belongs to its next answer. */
static __always_inline bool is_answering(struct op_rec *op)
{
	return op->watched && !op->active && !op->taken;
}

static __always_inline u8 hops_of(struct op_rec *op)
{
	return is_answering(op) ? op->watched & ~ASKED : 0;
}

/* How far from an operation the current thread is for those whom it wakes, until it sleeps. */
static __always_inline void set_hops(u32 hops)
{
	u32 number = bpf_get_smp_processor_id();
	struct cpu_rec *cpu = cpus.lookup(&number);

	if (cpu)
		cpu->hops = hops;
}

/* The current thread is, or is not, to be known by those whom it wakes. */
static __always_inline void note_hops(struct op_rec *op)
{
	set_hops(hops_of(op));
}

/* The answer that a thread works on begins. */
static __always_inline void answer_begin(struct op_rec *op, u64 now)
{
	op_begin(op, HOST_SIDE, now);
	op->active = 0;
	op->arrival_ns = 0;
	op->op = VFS_ANSWER;
	op->flags = OP_ANSWER;
}

/* It is over. */
static __always_inline void answer_end(struct op_rec *op, u64 now)
{
	if (now - op->begin_ns < cut_ns())
		return;
	op->end_ns = now;
	if (ring.ringbuf_output(op, sizeof(*op), 0))
		count_loss(LOSS_RING_FULL);
}

/* The record of a thread, made if there is room for one that is to be watched. */
static __always_inline struct op_rec *watched_op(u32 tid, u64 task)
{
	u32 zero = 0;
	u64 *count = watching.lookup(&zero);
	struct op_rec *op = op_of(tid);

	if (op || !count || *count >= MAX_WATCHING)
		return op;
	op = new_op(tid, task);
	if (!op)
		return NULL;
	op->counted = 1;
	__sync_fetch_and_add(count, 1);
	return op;
}

/* It ends. */
static __always_inline void forget_watched(struct op_rec *op)
{
	u32 zero = 0;
	u64 *count = watching.lookup(&zero);

	if (count && op->counted)
		__sync_fetch_and_add(count, -1);
}

/* The current thread lets another go on that has waited for long. */
static __always_inline void note_answer(void *ctx, u64 task, struct op_rec *woken, u64 now)
{
	u8 hops = hops_of(woken) + 1, known;
	struct op_rec *op;

	/* Else whoever deals with one who deals with one ... would be watched. */
	if (hops > MAX_HOPS)
		return;
	if (is_kthread(task) || is_own() || !is_by_thread(ctx, task))
		return;
	op = watched_op(bpf_get_current_pid_tgid(), task);
	if (!op || op->active)
		return;
	if (op->watched)
		answer_end(op, now);
	known = op->watched & ~ASKED;
	if (!known || hops < known)
		op->watched = (op->watched & ASKED) | hops;
	answer_begin(op, now);
	note_hops(op);
	/* It may have been watched before it ran. */
	note_current(&op->proc);
}

/* The current thread wakes one that is in no operation: it may ask it for something. */
static __always_inline void note_request(void *ctx, u64 asked)
{
	u32 number = bpf_get_smp_processor_id(), tid = load_u32(asked, OFF_task_struct__pid);
	u32 tgid = load_u32(asked, OFF_task_struct__tgid);
	struct cpu_rec *cpu = cpus.lookup(&number);
	struct op_rec *op;
	u64 now;
	u8 hops;

	if (!cpu || !cpu->hops || is_kthread(asked) || own.lookup(&tgid))
		return;
	hops = cpu->hops + (tgid != bpf_get_current_pid_tgid() >> 32);
	if (hops > MAX_HOPS || !is_by_thread(ctx, current_task()))
		return;
	op = watched_op(tid, asked);
	if (!op)
		return;
	now = bpf_ktime_get_ns();
	answer_begin(op, now);
	op->watched = hops;
	/* What keeps it from running now is a part of the answer. */
	op->waking_ns = now;
	op_queued(op, asked, now);
}

/*
 * What a watched thread, woken for an event, waited for since then is a CPU: that is time of its
 * answer. Returns since when.
 */
static __always_inline u64 keep_since_woken(struct op_rec *op, u64 now)
{
	u32 kept = 0;

	if (!is_answering(op) || !op->waking_ns)
		return now;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_WAITS; i++) {
		struct wait_rec *wait = &op->waits[i];

		if (i >= op->nwaits || wait->first_ns < op->waking_ns)
			continue;
		op->waits[kept & (MAX_WAITS - 1)] = *wait;
		kept++;
	}
	op->nwaits = kept;
	op->early = 1;
	return op->waking_ns;
}

/* The current thread has taken up a permission event that an operation waits for. */
static __always_inline void note_asked(u64 now)
{
	struct op_rec *op = current_op_or_new();

	/* One read may take up several: it works on all of them since the first. */
	if (!op || op->active || op->watched & ASKED)
		return;
	answer_begin(op, keep_since_woken(op, now));
	op->watched = ASKED | 1;
	note_hops(op);
}

/* It asks for the next event. */
static __always_inline void note_not_asked(void)
{
	struct op_rec *op = current_op();

	if (op)
		op->watched &= ~ASKED;
}

/*
 * It answers one. All that wait for their answers are woken by that, and sleep again: so by
 * its own a thread may have slept for a moment only.
 */
static __always_inline void note_permitted(void)
{
	struct op_rec *op = current_op();
	u64 now;

	if (!op || !is_answering(op))
		return;
	now = bpf_ktime_get_ns();
	op->watched &= ~ASKED;
	answer_end(op, now);
	answer_begin(op, now);
}

/* It goes to sleep: is it to be watched any longer? */
static __always_inline void watch_or_not(struct op_rec *op, u64 now)
{
	if (!is_answering(op) || op->watched & ASKED || now - op->begin_ns < WATCH_NS)
		return;
	op->watched = 0;
	op->side = 0;
}
