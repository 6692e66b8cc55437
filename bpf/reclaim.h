/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Threads that have to free memory before they get any, and who takes it meanwhile. A thread
 * of an operation mostly runs while it does: from begin to end all of that is one wait, on a
 * CPU or asleep, but for the time in which it could run and had no CPU.
 */

/* When a thread last had to free memory, for the collector: then it has counted who takes it. */
BPF_ARRAY(shortage, u64, 1);

static __always_inline void note_shortage(void)
{
	u64 now = bpf_ktime_get_ns();
	u32 zero = 0;

	shortage.update(&zero, &now);
}

/* All that a thread has waited for in its operation, and what of it had no place. */
static __always_inline u64 waited_ns(struct op_rec *op)
{
	u64 ns = op->waits_lost_ns;

	for (u32 i = 0; i < MAX_WAITS; i++)
		if (i < op->nwaits)
			ns += op->waits[i].total_ns;
	return ns;
}

/* True if the thread's time goes into a record, that of its next operation perhaps. */
static __always_inline bool reclaim_begin(u32 kind)
{
	struct op_rec *op = current_op();

	if (!op || op->reclaim_ns || op->flags & OP_KERNEL)
		return false;
	if (!is_recorded(op)) {
		if (!op->at_work)
			return false;
		/* nfsd gets the pages for a request before it takes one up. */
		between_begins(op, bpf_ktime_get_ns());
	}
	op->reclaim_kind = kind;
	op->reclaim_waited_ns = waited_ns(op);
	op->reclaim_ns = bpf_ktime_get_ns();
	return true;
}

static __always_inline void reclaim_end(void)
{
	struct wait_rec key = { .stack = NO_STACK, .waker_stack = NO_STACK };
	struct op_rec *op = current_op();
	u64 now, since, waited;

	if (!op || !op->reclaim_ns)
		return;
	now = bpf_ktime_get_ns();
	since = op->reclaim_ns;
	op->reclaim_ns = 0;
	waited = waited_ns(op);
	if (waited >= op->reclaim_waited_ns)
		waited -= op->reclaim_waited_ns;
	if (now <= since + waited)
		return;
	key.kind = op->reclaim_kind;
	add_wait(op, &key, since, now, now - since - waited);
}

int on_mm_vmscan_direct_reclaim_begin(struct bpf_raw_tracepoint_args *ctx)
{
	note_shortage();
	reclaim_begin(WAIT_RECLAIMING);
	return 0;
}

int on_mm_vmscan_direct_reclaim_end(struct bpf_raw_tracepoint_args *ctx)
{
	reclaim_end();
	return 0;
}

/* Containers live at their limits: that is a shortage only where an operation waits for it. */
int on_mm_vmscan_memcg_reclaim_begin(struct bpf_raw_tracepoint_args *ctx)
{
	if (reclaim_begin(WAIT_LIMITED))
		note_shortage();
	return 0;
}

int on_mm_vmscan_memcg_reclaim_end(struct bpf_raw_tracepoint_args *ctx)
{
	reclaim_end();
	return 0;
}

/* Enough is free, but not side by side: pages are moved. */
int on_mm_compaction_begin(struct bpf_raw_tracepoint_args *ctx)
{
	reclaim_begin(WAIT_RECLAIMING);
	return 0;
}

int on_mm_compaction_end(struct bpf_raw_tracepoint_args *ctx)
{
	reclaim_end();
	return 0;
}

/* Whether pages are a process's doing: not the kernel's own, ours, or what an interrupt does. */
static __always_inline bool is_by_process(void *ctx, u64 task)
{
	return !is_kthread(task) && !is_own() && is_by_thread(ctx, task);
}

/*
 * Of the pages that are taken and given back one in so many is counted, for all: a host that is
 * short of memory has little time. Who has most of the memory has thousands of them.
 */
#define ONE_IN 16

static __always_inline bool is_counted(void)
{
	return !(bpf_get_prandom_u32() & (ONE_IN - 1));
}

/* Attached while memory is short only: each page of the host passes here. */
int on_mm_page_alloc(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = current_task(), pages = (u64)ONE_IN << (ctx->args[1] & 31);
	struct use_key key = {
		.slot = bpf_ktime_get_ns() >> USE_SLOT_SHIFT,
		.kind = USE_MEMORY,
	};

	if (!ctx->args[0] || !is_counted())
		return 0;
	/* The rest counts as well, as nobody's: of all that was taken it is a part. */
	if (is_by_process(ctx, task)) {
		proc_of(task, &key.proc);
		note_current(&key.proc);
	}
	add_use(&key, pages);
	return 0;
}

/*
 * Who gives back at once what he took has taken nothing. Pages that are freed in reclaim are
 * others'.
 */
int on_mm_page_free(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = current_task(), pages = (u64)ONE_IN << (ctx->args[1] & 31);
	struct use_key key = {
		.slot = bpf_ktime_get_ns() >> USE_SLOT_SHIFT,
		.kind = USE_MEMORY,
	};
	struct use_val *val;
	u32 zero = 0;
	void *map = uses.lookup(&zero);

	if (!map || !is_counted() || load_u32(task, OFF_task_struct__flags) & PF_MEMALLOC)
		return 0;
	if (is_by_process(ctx, task))
		proc_of(task, &key.proc);
	val = bpf_map_lookup_elem(map, &key);
	if (val)
		__sync_fetch_and_add(&val->amount, -pages);
	return 0;
}
