/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The record of every thread that has been in an operation. Each program looks for one, most of
 * them in vain, so that costs two loads from arrays and no hash: `places` tells by the lower bits
 * of a thread id whose record lies where. `threads` knows all of them: it is asked where two
 * threads share a place, or did. The twin is tracer/thread_table.py.
 */

#define BPF_STACK_OF(name, value, size) BPF_QUEUESTACK("stack", name, value, size, 0)

/* Thread id to where its record lies in `ops`. */
BPF_HASH(threads, u32, u32, MAX_THREADS);
BPF_ARRAY(ops, struct op_rec, MAX_THREADS);
/* Where there is room for a record. Filled by the recorder. */
BPF_STACK_OF(spare, u32, MAX_THREADS);
/* By thread id: place_of(); 0 = no thread of such an id has a record. */
BPF_ARRAY(places, u64, MAX_PLACES);
/* A zeroed record to copy from: it is too large for the BPF stack. */
BPF_ARRAY(zero_op, struct op_rec, 1);

/* No thread's id: one was here that has ended, and others may have come before it. */
#define GONE 0xffffffff

static __always_inline u64 place_of(u32 tid, u32 slot)
{
	return (u64)slot << 32 | tid;
}

static __always_inline u64 *place_at(u32 tid)
{
	u32 index = tid & (MAX_PLACES - 1);

	return places.lookup(&index);
}

/* The record of a thread, NULL if it has none. */
static __always_inline struct op_rec *op_of(u32 tid)
{
	volatile u64 *at = place_at(tid);
	u64 place = at ? *at : 0;
	u32 slot = place >> 32, *known;
	struct op_rec *op;

	if (!place)
		return NULL;
	if ((u32)place != tid) {
		known = threads.lookup(&tid);
		if (!known)
			return NULL;
		slot = *known;
	}
	op = ops.lookup(&slot);
	return op && op->tid == tid ? op : NULL;
}

static __always_inline struct op_rec *current_op(void)
{
	return op_of(bpf_get_current_pid_tgid());
}

/* A blank record for a thread that has none; NULL if there is no room. */
static __always_inline struct op_rec *add_op(u32 tid)
{
	u32 zero = 0, slot = 0, *known;
	struct op_rec *blank = zero_op.lookup(&zero), *op;
	u64 *at = place_at(tid);

	if (!blank || !at)
		return NULL;
	if (spare.pop(&slot)) {
		count_loss(LOSS_THREADS_FULL);
		return NULL;
	}
	ops.update(&slot, blank);
	op = ops.lookup(&slot);
	if (!op)
		return NULL;
	op->tid = tid;
	if (threads.insert(&tid, &slot)) {
		op->tid = 0;
		spare.push(&slot, BPF_ANY);
		/* Who wakes a thread may have come first. */
		known = threads.lookup(&tid);
		if (!known)
			return NULL;
		slot = *known;
		op = ops.lookup(&slot);
	}
	*at = place_of(tid, slot);
	return op;
}

/* The thread of a record ends. */
static __always_inline void remove_op(struct op_rec *op)
{
	u32 tid = op->tid, *known = threads.lookup(&tid), slot;
	u64 *at = place_at(tid);

	if (!known || !at)
		return;
	slot = *known;
	if ((u32)*at == tid)
		*at = GONE;
	threads.delete(&tid);
	op->tid = 0;
	op->active = 0;
	spare.push(&slot, BPF_ANY);
}
