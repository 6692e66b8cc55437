/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Waits of threads inside an operation: off the CPU, woken by whom, on again.
 * Every switch of the host passes here, so what is not ours leaves after one
 * look-up for each of the two threads.
 */

#define EEXIST 17

/* What the `call` before this return address calls; 0 if its operand does not say. */
static __always_inline u64 called_before(u64 address)
{
	struct {
		u8 opcode;
		s32 distance;
	} __attribute__((packed)) call = {};

	if (bpf_probe_read_kernel(&call, sizeof(call), (void *)(address - sizeof(call))))
		return 0;
	return call.opcode == CALL_REL32 ? address + call.distance : 0;
}

/* The id under which `more_stacks` keeps a stack; `first`: that of its kind. NO_STACK if full. */
static __always_inline s32 kept(struct frames *frames, u32 first)
{
	u32 hash = 2166136261, id;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_FRAMES; i++)
		hash = (hash ^ (u32)frames->ip[i]) * 16777619;
	id = first | (hash & (first - 1));
	if (more_stacks.lookup(&id) || !more_stacks.update(&id, frames))
		return id;
	return NO_STACK;
}

/*
 * The id of the current stack, or an errno. Interrupts are off where this is asked: the scratch
 * is ours.
 */
static __always_inline s32 current_stack(void *ctx)
{
	s32 id = stacks.get_stackid(ctx, 0);
	u32 slot = 0;
	struct frames *frames = scratch.lookup(&slot);

	/* Another stack, of which nothing but the hash is the same, has its slot for good. */
	if (id == -EEXIST && frames) {
		__builtin_memset(frames, 0, sizeof(*frames));
		if (bpf_get_stack(ctx, frames->ip, sizeof(frames->ip), 0) > 0)
			id = kept(frames, FIRST_CROWDED);
	}
	if (id < 0)
		count_loss(LOSS_STACK);
	return id;
}

/*
 * The id in `more_stacks` of a sleeping task's stack, or an errno. The kernel leaves out the
 * functions that lead to the scheduler (stack_trace_consume_entry_nosched()), and with them
 * whether it waits for a lock: which of them was called, its caller tells.
 */
static __always_inline s32 sleeper_stack(u64 task, u32 slot)
{
	struct frames *frames = scratch.lookup(&slot);
	s32 id, bytes;

	if (!frames)
		return NO_STACK;
	__builtin_memset(frames, 0, sizeof(*frames));
	bytes = bpf_get_task_stack((void *)task, frames->ip + 1,
				   sizeof(*frames) - sizeof(*frames->ip), 0);
	if (bytes <= 0) {
		count_loss(LOSS_STACK);
		return bytes < 0 ? bytes : NO_STACK;
	}
	frames->ip[0] = called_before(frames->ip[1]);
	id = kept(frames, FIRST_SLEEPER);
	if (id < 0)
		count_loss(LOSS_STACK);
	return id;
}

static __always_inline void blocked_wait(struct op_rec *op, u64 to)
{
	struct wait_rec key = {
		.kind = WAIT_BLOCKED,
		.stack = op->off_stack,
		.waker_stack = -1,
		.group = op->group,
	};

	/* What it sleeps for while it frees memory is all one wait, see reclaim.h. */
	if (to <= op->off_ns || op->reclaim_ns)
		return;
	/* Of whoever woke it from nobody knows what, no more can be said. */
	if (op->waking_ns && (key.stack != NO_STACK || key.group)) {
		key.waker = op->waker;
		key.waker_stack = op->waker_stack;
		key.waker_tid = op->waker_tid;
	}
	add_wait(op, &key, op->off_ns, to, to - op->off_ns);
}

/*
 * A kernel thread that handles packets or replies got no CPU for long, and none of them was
 * handled meanwhile: that is a record of its own.
 */
static __always_inline void kernel_ready(struct op_rec *op, u64 now)
{
	if (now - op->begin_ns < cut_ns())
		return;
	op->op_id = next_id();
	op->end_ns = now;
	if (ring.ringbuf_output(op, sizeof(*op), 0))
		count_loss(LOSS_RING_FULL);
}

/* A thread whose waits go into a record. */
static __always_inline bool is_recorded(struct op_rec *op)
{
	return op->active || op->taken || op->watched;
}

/* It has a CPU again, since `now` if that is known: what had it waited for meanwhile? */
static __always_inline void op_resumes(struct op_rec *op, struct cpu_rec *cpu, u64 now)
{
	bool was_off = is_recorded(op) && op->off_ns;

	if (!was_off && !op->queued_ns)
		return;
	if (!now)
		now = bpf_ktime_get_ns();
	if (was_off && op->off_kind == WAIT_BLOCKED)
		blocked_wait(op, op->waking_ns ? op->waking_ns : now);
	/* From the wake-up, or from the preemption, it could have run. */
	runnable_wait(op, cpu, 0, now);
	/* Until it runs again: an answer is not yet heard while there is no CPU. */
	if (was_off && op->group)
		op->asked_ns += now - op->off_ns;
	op->off_ns = 0;
	op->on_ns = now;
	op_unqueued(op);
	if (op->flags & OP_KERNEL && !op->active)
		kernel_ready(op, now);
}

/* A thread that requests, packets or replies wait for also while it is in no operation. */
static __always_inline bool is_awaited(struct op_rec *op)
{
	return op->side == SIDE_SERVER || op->at_work || op->flags & OP_KERNEL;
}

/*
 * A server's thread between operations: a request that has come waits for it to run, too.
 * Those waits stand in its record when the operation begins.
 */
static __always_inline void early_ready(struct op_rec *op, u64 task, u64 now)
{
	/* Each wait of a kernel thread is a record of its own. */
	if (op->flags & OP_KERNEL) {
		op->early = 0;
		op->begin_ns = now;
	}
	early_waits(op);
	op->waking_ns = now;
	op_queued(op, task, now);
}

/*
 * A server's thread is idle again and has taken up no request, though it was woken for one, or
 * had its transport. If that took long the request has waited for it meanwhile.
 */
static __always_inline void took_nothing(struct op_rec *op, u64 now)
{
	u64 since = op->taken == HAS_TRANSPORT ? op->begin_ns : 0;

	if (op->active || op->watched || op->taken > HAS_TRANSPORT || !is_nfsd(op))
		return;
	if (op->early && op->nwaits && (!since || op->waits[0].first_ns < since))
		since = op->waits[0].first_ns;
	if (!since || now - since < cut_ns())
		return;
	between_begins(op, since);
	op->op = VFS_WOKEN;
}

#define TASK_INTERRUPTIBLE 0x1
#define TASK_NOLOAD 0x400

/*
 * A server's thread goes to sleep between two requests. With nothing to do it does so
 * interruptibly, or idly ("SUNRPC: change svc_get_next_xprt()", v6.6). All else it sleeps for,
 * such as pages for its next request, keeps it from taking one up.
 */
static __always_inline void between_requests(struct op_rec *op, u64 state, u64 now)
{
	bool is_idle = state & (TASK_INTERRUPTIBLE | TASK_NOLOAD) && !op->reclaim_ns;

	if (is_idle)
		took_nothing(op, now);
	if (is_idle && (op->taken == BETWEEN_REQUESTS || op->taken == HAS_TRANSPORT)) {
		between_ends(op, now);
		op->begin_ns = 0;
		op->taken = 0;
	} else if (!is_idle && op->at_work && !is_recorded(op)) {
		between_begins(op, now);
	}
}

int on_sched_switch(struct bpf_raw_tracepoint_args *ctx)
{
	u64 prev = ctx->args[1], next = ctx->args[2];
	u32 tid = bpf_get_current_pid_tgid(); /* current is still prev here */
	u32 number = bpf_get_smp_processor_id();
	struct cpu_rec *cpu = cpus.lookup(&number);
	struct op_rec *op;
	u64 now;

	if (!cpu)
		return 0;
	now = note_ran(cpu, next);
	op = tid ? op_of(tid) : NULL;
	if (op && (is_recorded(op) || is_awaited(op))) {
		/* A task that is preempted or yields stays runnable: state 0. */
		u64 state = ctx->args[0] ? 0 : load_u32(prev, OFF_task_struct__state);

		if (!now)
			now = bpf_ktime_get_ns();
		/* One that is preempted goes on with what it was woken for. */
		if (state)
			op->waking_ns = 0;
		/* It may have been woken before it slept. */
		op_unqueued(op);
		if (state) {
			watch_or_not(op, now);
			between_requests(op, state, now);
		}
		if (!is_recorded(op)) {
			if (state) {
				op->early = 0;
				crew_ends(op, now);
			} else {
				early_ready(op, prev, now);
			}
		} else {
			op->off_kind = state ? WAIT_BLOCKED : WAIT_RUNNABLE;
			op->off_stack = NO_STACK;
			/* A young operation's is read once the wait has turned out to be long. */
			if (state && !is_answering(op) && now - op->begin_ns >= stack_ns())
				op->off_stack = current_stack(ctx);
			op->off_ns = now;
			if (!state)
				op_queued(op, prev, now);
		}
	}

	tid = load_u32(next, OFF_task_struct__pid);
	op = tid ? op_of(tid) : NULL;
	cpu->hops = op ? hops_of(op) : 0;
	if (op)
		op_resumes(op, cpu, now);
	return 0;
}

/* sched_waking runs in the waker's context; sched_wakeup may not. */
int on_sched_waking(unsigned long long *ctx)
{
	u64 task = ctx[0];
	u32 tid = load_u32(task, OFF_task_struct__pid);
	struct op_rec *op = op_of(tid);
	u64 now;

	if (op && op->waking_ns)
		return 0;
	if (!op || !is_recorded(op)) {
		if (op && is_awaited(op))
			early_ready(op, task, bpf_ktime_get_ns());
		else
			note_request(ctx, task);
		return 0;
	}
	if (!op->off_ns || op->off_kind != WAIT_BLOCKED)
		return 0;
	now = bpf_ktime_get_ns();
	proc_of(current_task(), &op->waker);
	op->waker_tid = bpf_get_current_pid_tgid();
	op->waker_stack = -1;
	if (now - op->off_ns >= stack_ns()) {
		if (op->off_stack == NO_STACK)
			op->off_stack = sleeper_stack(task, 0);
		op->waker_stack = current_stack(ctx);
		note_current(&op->waker);
		note_answer(ctx, current_task(), op, now);
	}
	op->waking_ns = now;
	op_queued(op, task, now);
	return 0;
}

/*
 * Run by the collector for each thread: a wait that has not ended has no waker to read it,
 * and a call may have ended unseen.
 */
int on_sleeper(unsigned long long *ctx)
{
	u64 task = ctx[1];
	struct op_rec *op;
	u32 tid;

	if (!task)
		return 0;
	tid = load_u32(task, OFF_task_struct__pid);
	op = op_of(tid);
	if (!op || !(op->active || op->watched & ASKED) || !goes_on(op, task))
		return 0;
	if (op->off_ns && !op->waking_ns && op->off_kind == WAIT_BLOCKED &&
	    op->off_stack == NO_STACK && bpf_ktime_get_ns() - op->off_ns >= stack_ns())
		op->off_stack = sleeper_stack(task, 1);
	return 0;
}

/* A process that was seen between fork and exec is another program now. */
int on_sched_process_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct proc_id id = {};

	proc_of(current_task(), &id);
	if (procs.lookup(&id)) {
		procs.delete(&id);
		note_current(&id);
	}
	return 0;
}

int on_sched_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct op_rec *op = current_op();

	if (!op)
		return 0;
	note_current(&op->proc);
	op_unqueued(op);
	crew_ends(op, bpf_ktime_get_ns());
	forget_watched(op);
	remove_op(op);
	return 0;
}
