/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Calls inside operations: security hooks on both sides, the VFS on a server. Their
 * begin stands in the operation's record, so a call costs no map of its own, and
 * outside of an operation no more than one look-up. A call inside another of its
 * kind belongs to the outer one. The programs are those of tracer/kernel/templates.py.
 */

/* A server's thread in a request, from when it takes up the transport. */
static __always_inline bool serves(struct op_rec *op)
{
	return op->active ? op->side == SIDE_SERVER : op->taken;
}

static __always_inline void add_call(struct op_rec *op, u64 number, u8 layer, u32 dev, u64 ns)
{
	struct latency_key key = {};

	key.op = number;
	/* A server's thread serves all clients; its own pid says nothing. */
	if (!serves(op))
		key.proc = op->proc;
	key.dev = dev;
	key.side = op->active ? op->side : SIDE_SERVER;
	key.layer = layer;
	add_latency(&key, ns, 0);
}

static __always_inline void hook_enter(struct op_rec *op, u32 number)
{
	if (op->hook_ns)
		return;
	op->hook = number;
	op->asked_ns = 0;
	/* What a group is asked from here on is asked by this hook. */
	op->group = 0;
	op->hook_ns = bpf_ktime_get_ns();
}

/*
 * Time in which agents were asked is theirs, not the hook's: from v6.12 on it lies
 * behind the hook (1cda52f1b461), and the numbers shall compare.
 */
static __always_inline void hook_exit(struct op_rec *op, u32 number)
{
	u64 ns;

	if (!op->hook_ns || op->hook != number)
		return;
	ns = bpf_ktime_get_ns() - op->hook_ns;
	op->hook_ns = 0;
	add_call(op, number, LAYER_HOOK, op->active ? op->dev : 0,
		 ns > op->asked_ns ? ns - op->asked_ns : 0);
}

/* The current thread's record if hooks count for it: it is in a request or another operation. */
static __always_inline struct op_rec *hooked_op(void)
{
	struct op_rec *op = current_op();

	return op && (op->active || op->taken) ? op : NULL;
}

/* True if hooks count for the thread. */
static __always_inline bool hook_in_op_enter(u32 number)
{
	struct op_rec *op = hooked_op();

	if (!op)
		return false;
	hook_enter(op, number);
	return true;
}

static __always_inline void hook_in_op_exit(u32 number)
{
	struct op_rec *op = hooked_op();

	if (op)
		hook_exit(op, number);
}

static __always_inline void call_begin(struct op_rec *op, u32 number)
{
	if (op->call_ns) {
		/* A stacked filesystem calls the same function of the one below. */
		if (op->call == number)
			op->call_depth++;
		return;
	}
	op->call = number;
	op->call_depth = 0;
	op->call_ns = bpf_ktime_get_ns();
}

static __always_inline void call_end(u32 number)
{
	struct op_rec *op = current_op();
	u64 ns;

	if (!op || !op->call_ns || op->call != number)
		return;
	if (op->call_depth) {
		op->call_depth--;
		return;
	}
	ns = bpf_ktime_get_ns() - op->call_ns;
	op->call_ns = 0;
	add_call(op, number, LAYER_VFS, op->active ? op->dev : op->call_dev, ns);
}

/* Where fh_verify cannot be traced, an operation's filesystem is that of its first call. */
static __always_inline void note_dev(struct op_rec *op, u64 sb)
{
	u32 dev = dev_of(sb);

	/* Not where nfsd keeps what it has to remember. */
	if (is_exported(dev))
		op->dev = dev;
}

static __always_inline bool lacks_dev(void)
{
	struct op_rec *op = active_op();

	return op && op->side == SIDE_SERVER && !op->dev;
}

static __always_inline void note_dev_of_op(u64 sb)
{
	struct op_rec *op = active_op();

	if (op)
		note_dev(op, sb);
}

/* True if the thread is in an operation; one by nfsd for a client is a call of its own. */
static __always_inline bool call_in_op_enter(u32 number, u64 sb)
{
	struct op_rec *op = active_op();

	if (!op)
		return false;
	if (op->side == SIDE_SERVER) {
		if (!op->dev)
			note_dev(op, sb);
		call_begin(op, number);
	}
	return true;
}

/* A process of the server on an exported filesystem. */
static __always_inline void local_call_enter(u32 number, u64 sb)
{
	u32 dev = dev_of(sb);
	struct op_rec *op;

	if (!is_exported(dev))
		return;
	op = current_op_or_new();
	if (!op)
		return;
	op->call_dev = dev;
	call_begin(op, number);
}
