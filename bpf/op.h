/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Operations and the waits inside them, the same on both sides. */

static __always_inline struct op_rec *active_op(void)
{
	struct op_rec *op = current_op();

	return op && op->active ? op : NULL;
}

/*
 * Whether a call goes on in which a thread was seen last. Its end goes unseen if another
 * thread was preempted on this CPU in the program of such an end: a program is not run
 * twice at a time (ca06f55b9002, "bpf: Add per-program recursion prevention mechanism",
 * v5.12).
 */
static __always_inline bool goes_on(struct op_rec *op, u64 task)
{
	if (op->side != SIDE_CLIENT || !op->mark || op->mark == syscall_mark(task))
		return true;
	op->active = 0;
	count_loss(LOSS_EXIT);
	return false;
}

static __always_inline bool is_own(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;

	return own.lookup(&tgid) != NULL;
}

/* A record for a thread that has none. */
static __always_inline struct op_rec *new_op(u32 tid, u64 task)
{
	struct op_rec *op = add_op(tid);

	if (!op)
		return NULL;
	proc_of(task, &op->proc);
	read_comm(task, op->comm);
	return op;
}

/* The record of the current thread, made at its first operation; of our own there is none. */
static __always_inline struct op_rec *current_op_or_new(void)
{
	struct op_rec *op = current_op();

	if (op || is_own())
		return op;
	op = new_op(bpf_get_current_pid_tgid(), current_task());
	/* While it lives: one that ends has no executable any more. */
	if (op)
		note_current(&op->proc);
	return op;
}

/* Clear what an earlier operation of this thread left; it starts at begin_ns. */
static __always_inline void op_begin(struct op_rec *op, u8 side, u64 begin_ns)
{
	op->op_id = next_id();
	op->side = side;
	op->begin_ns = begin_ns;
	op->reply_ns = 0;
	op->end_ns = 0;
	op->nfs_op = 0;
	op->nfs_begin_ns = 0;
	op->nfs_longest = 0;
	op->nfs_longest_ns = 0;
	op->ops = 0;
	op->mark = 0;
	op->off_ns = 0;
	op->on_ns = begin_ns;
	op->waking_ns = 0;
	op->group = 0;
	op->waits_lost_ns = 0;
	op->call_ns = 0;
	op->hook_ns = 0;
	op->reclaim_ns = 0;
	op->dev = 0;
	op->dentry = 0;
	op->ino = 0;
	op->name[0][0] = 0;
	op->status = 0;
	op->nfs_status = 0;
	op->rtt_us = 0;
	op->flags = 0;
	/* What the thread waited for to take it up belongs to it. */
	if (!op->early)
		op->nwaits = 0;
	op->early = 0;
	op->taken = 0;
	op->nearly = op->nwaits;
	op->depth = 0;
	op->active = 1;
}

#define LATENCY_WORDS (sizeof(struct latency_key) / 8)

static __always_inline u64 hash_of(const struct latency_key *key)
{
	const u64 *words = (const void *)key;
	u64 hash = words[0];

	/* A template gets its number later: clang must not compute anything from the stand-in. */
	asm volatile("" : "+r"(hash));
#pragma unroll
	for (u32 i = 1; i < LATENCY_WORDS; i++) {
		hash *= 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 32;
		hash ^= words[i];
	}
	return hash;
}

static __always_inline bool is_same(const struct latency_key *one, const struct latency_key *other)
{
	const u64 *a = (const void *)one, *b = (const void *)other;
	u64 differing = 0;

#pragma unroll
	for (u32 i = 0; i < LATENCY_WORDS; i++)
		differing |= a[i] ^ b[i];
	return !differing;
}

/* Not there yet; NULL if the map is full. */
static __always_inline struct latency_rec *new_latency(void *map, u64 *hash,
						       struct latency_key *key)
{
	struct latency_rec first = { .key = *key };

	return value_of(map, hash, &first);
}

static __always_inline void add_latency(struct latency_key *key, u64 ns, u64 bytes)
{
	u32 zero = 0;
	void *map = latency.lookup(&zero);
	struct latency_rec *rec;
	u64 hash;

	if (!map)
		return;
	key->bucket = bucket_of(ns / 1000);
	hash = hash_of(key);
	rec = bpf_map_lookup_elem(map, &hash);
	if (!rec)
		rec = new_latency(map, &hash, key);
	/* Two keys of one hash: there is no room for the second. */
	if (!rec || !is_same(&rec->key, key)) {
		count_loss(LOSS_LATENCY_FULL);
		return;
	}
	add_up(&rec->val.count, &rec->val.sum_ns, &rec->val.max_ns, ns);
	if (bytes)
		__sync_fetch_and_add(&rec->val.rpc_bytes, bytes);
}

static __always_inline void add_interval_wait(struct op_rec *op, struct wait_rec *wait)
{
	struct wait_val *val, zeros = {};
	struct wait_key key = {};
	u32 zero = 0;
	void *map = waits.lookup(&zero);

	if (!map)
		return;
	key.op = op->op;
	key.waker = wait->waker;
	key.group = wait->group;
	key.stack = wait->stack;
	key.waker_stack = wait->waker_stack;
	key.kind = wait->kind;
	key.side = op->side;
	val = value_of(map, &key, &zeros);
	if (!val) {
		count_loss(LOSS_WAITS_FULL);
		return;
	}
	__sync_fetch_and_add(&val->count, wait->count);
	__sync_fetch_and_add(&val->total_ns, wait->total_ns);
	__sync_fetch_and_add(&val->unread_ns, wait->unread_ns);
	if (wait->max_ns > val->max_ns)
		val->max_ns = wait->max_ns;
}

/*
 * Whether a wait of a fast operation is worth a sum: it tells for whom it was, or a server's
 * thread was held by it.
 */
static __always_inline bool is_telling(struct op_rec *op, struct wait_rec *wait)
{
	/* Without branches: the verifier follows each for each of the waits. */
	return (op->side & SIDE_SERVER) | wait->group | wait->waker.tgid | (u32)(~wait->stack >> 31);
}

/* The operation is over: sent one by one if wanted, else its waits are summed. */
static __always_inline void op_end(struct op_rec *op, u64 now, bool sent)
{
	op->end_ns = now;
	op->active = 0;
	if (sent) {
		if (ring.ringbuf_output(op, sizeof(*op), 0))
			count_loss(LOSS_RING_FULL);
		return;
	}
	for (int i = 0; i < MAX_WAITS; i++)
		if (i < op->nwaits && is_telling(op, &op->waits[i]))
			add_interval_wait(op, &op->waits[i]);
}

/* The part of a wait for a group in which its event had not been read. */
static __always_inline u64 unread_ns(struct op_rec *op, u64 from, u64 to)
{
	if (!op->read_ns || op->read_ns > to)
		return to - from;
	return op->read_ns > from ? op->read_ns - from : 0;
}

/*
 * How long a wait must be, or how old its operation, for stacks to be read and for who had
 * the CPU to be named: that costs more than all else here. At most a hundredth of a stall
 * is without: the cut is a tenth of the threshold.
 */
static __always_inline u64 stack_ns(void)
{
	return cut_ns() / 10;
}

/*
 * One of the waits, by op->slot: a number that is kept in a map is one of which the verifier
 * knows nothing. Of a constant it would follow each of MAX_WAITS to the program's end.
 */
static __always_inline struct wait_rec *wait_at(struct op_rec *op)
{
	return &op->waits[*(volatile u32 *)&op->slot & (MAX_WAITS - 1)];
}

/* The slot for one wait more: a free one, or else that of the shortest, if it is longer. */
static __always_inline struct wait_rec *slot_for(struct op_rec *op, u64 ns)
{
	u64 shortest_ns = ~0ULL;

	if (op->nwaits < MAX_WAITS) {
		op->slot = op->nwaits++;
		return wait_at(op);
	}
	for (u32 i = 0; i < MAX_WAITS; i++) {
		if (op->waits[i].total_ns < shortest_ns) {
			shortest_ns = op->waits[i].total_ns;
			op->slot = i;
		}
	}
	count_loss(LOSS_WAIT_SLOTS);
	if (shortest_ns >= ns) {
		op->waits_lost_ns += ns;
		return NULL;
	}
	op->waits_lost_ns += shortest_ns;
	return wait_at(op);
}

/* Waits from here on stand in the record of the operation that begins next. */
static __always_inline void early_waits(struct op_rec *op)
{
	if (!op->early)
		op->nwaits = op->nearly = 0;
	op->early = 1;
}

/* The slot of this kind, stack, waker and group; NULL if there is none. */
static __always_inline struct wait_rec *same_wait(struct op_rec *op, struct wait_rec *key)
{
	op->slot = MAX_WAITS;
	for (u32 i = 0; i < MAX_WAITS && i < op->nwaits; i++) {
		struct wait_rec *wait = &op->waits[i];

		if (i >= op->nearly && wait->kind == key->kind && wait->stack == key->stack &&
		    wait->group == key->group && wait->waker.tgid == key->waker.tgid) {
			op->slot = i;
			break;
		}
	}
	return *(volatile u32 *)&op->slot < MAX_WAITS ? wait_at(op) : NULL;
}

/* Add time to the slot of this kind, stack, waker and group. */
static __always_inline void add_wait(struct op_rec *op, struct wait_rec *key, u64 from, u64 to,
				     u64 ns)
{
	struct wait_rec *wait = same_wait(op, key);

	/* Who had the CPU for a moment is not worth another wait's place. */
	if (!wait && key->kind == WAIT_RUNNABLE && op->nwaits >= MAX_WAITS / 2 && ns < cut_ns()) {
		struct wait_rec nameless = { .kind = WAIT_RUNNABLE, .stack = -1 };

		wait = same_wait(op, &nameless);
	}
	if (wait)
		goto add;
	wait = slot_for(op, ns);
	if (!wait)
		return;
	*wait = *key;
	wait->first_ns = from;
add:
	wait->last_ns = to;
	wait->waker_tid = key->waker_tid;
	wait->total_ns += ns;
	if (wait->group && wait->kind != WAIT_RUNNING)
		wait->unread_ns += unread_ns(op, from, to);
	wait->count += 1;
	if (ns <= wait->max_ns)
		return;
	wait->max_ns = ns;
	/* Who reads a socket wakes its writer for room, who waits to read, too. */
	if (key->waker_stack >= 0)
		wait->waker_stack = key->waker_stack;
}
