/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * A client's VFS calls on NFS, per process, and the RPCs under them.
 *
 * A call is bounded by entry and exit of the function of nfs.ko that serves it;
 * one called inside another belongs to the outer. An RPC's submitter is the
 * thread in which the task began: it ends in rpciod, which knows nobody.
 */

/*
 * RPCs by struct rpc_task *. One that has ended stays, marked so: its task may be restarted,
 * which nothing tells, and the next task at its address writes over it. Inserting and
 * deleting for each RPC would cost more than all else done for it. The collector removes
 * those that have been idle for long.
 */
BPF_HASH(rpcs, u64, struct rpc_rec, MAX_RPCS);

static __always_inline void vfs_enter(u64 number, u32 dev)
{
	struct op_rec *op;
	u64 now;

	op = current_op_or_new();
	if (!op)
		return;
	if (op->active && goes_on(op, current_task())) {
		op->depth++;
		return;
	}
	now = bpf_ktime_get_ns();
	if (op->watched)
		answer_end(op, now);
	op_begin(op, SIDE_CLIENT, now);
	op->mark = syscall_mark(current_task());
	op->arrival_ns = 0;
	op->op = number;
	op->dev = dev;
}

/*
 * The errno in a return register: of an ssize_t or a pointer in all its bits, of an
 * int in the lower half, the upper being zero. Byte counts and pointers are success.
 */
static __always_inline s32 errno_of(u64 ret)
{
	s64 whole = ret >> 32 ? (s64)ret : (s32)ret;

	return whole < 0 && whole > -4096 ? whole : 0;
}

static __always_inline void vfs_end(struct op_rec *op, u8 layer, s32 status)
{
	u64 now = bpf_ktime_get_ns(), wall_ns = now - op->begin_ns;
	struct latency_key key = {};

	op->status = status;
	key.op = op->op;
	key.proc = op->proc;
	key.dev = op->dev;
	key.side = SIDE_CLIENT;
	key.layer = layer;
	/* How long one took that began before us, nobody knows. */
	if (!(op->flags & OP_BEGIN_UNKNOWN))
		add_latency(&key, wall_ns, 0);
	op_end(op, now, wall_ns >= cut_ns());
	if (op->watched)
		answer_begin(op, now);
}

/*
 * Attached as long as there are calls that began before recording: an fexit that came
 * after the entry of a call does not fire at its end, its thread's way back to user
 * space tells.
 */
int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct op_rec *op = active_op();

	if (op && op->side == SIDE_CLIENT && op->flags & OP_BEGIN_UNKNOWN)
		vfs_end(op, LAYER_VFS, errno_of(ctx->args[1]));
	return 0;
}

/* ret points to the return value: read, not loaded, for a pointer may not be calculated with. */
static __always_inline void vfs_exit(u64 number, u8 layer, void *ret)
{
	struct op_rec *op = active_op();

	if (!op || op->side != SIDE_CLIENT)
		return;
	if (op->depth)
		op->depth--;
	/* Not so at the exit of a call whose entry came before us. */
	else if (op->op == number)
		vfs_end(op, layer, errno_of(read_u64((u64)ret)));
}

/*
 * A security hook on a file of an NFS mount is called before nfs.ko is: outside of a
 * call it is an operation of its own, for what it waits for holds up the caller.
 */
static __always_inline void hook_op_enter(u64 number, u64 sb)
{
	if (is_nfs(sb))
		vfs_enter(number, dev_of(sb));
}

static __always_inline void hook_or_op_exit(u64 number, void *ret)
{
	struct op_rec *op = active_op();

	if (!op)
		return;
	if (op->side == SIDE_CLIENT && op->op == number)
		vfs_exit(number, LAYER_HOOK, ret);
	else
		hook_exit(op, number);
}

static __always_inline bool is_hook_op(struct op_rec *op)
{
	return op->side == SIDE_CLIENT && op->op >= HOOKS_FROM && op->op < HOOKS_TO;
}

/*
 * Permission events on a file of an NFS mount: an agent on the client holds the
 * caller before nfs.ko sees the call. Called only for filesystems with marks.
 * VFS_PERMISSION, the call's number, comes as -D from tracer/calls.py.
 */

static __always_inline bool asks_permission_on_nfs(u64 dentry, u64 mask)
{
	return mask & FAN_PERMISSION_EVENTS && is_nfs(sb_of_dentry(dentry));
}

int fsnotify_parent_enter(unsigned long long *ctx)
{
	struct op_rec *op;

	if (!asks_permission_on_nfs(ctx[0], ctx[1]))
		return 0;
	/*
	 * Until "fsnotify, lsm: Decouple fsnotify from lsm" (1cda52f1b461, v6.12) a hook
	 * asked the agents itself, after the modules. So that it means the same
	 * everywhere, it ends here.
	 */
	op = current_op();
	if (op && op->active && is_hook_op(op))
		vfs_end(op, LAYER_HOOK, 0);
	vfs_enter(VFS_PERMISSION, dev_of(sb_of_dentry(ctx[0])));
	return 0;
}

int fsnotify_parent_exit(unsigned long long *ctx)
{
	if (asks_permission_on_nfs(ctx[0], ctx[1]))
		vfs_exit(VFS_PERMISSION, LAYER_VFS, &ctx[4]);
	return 0;
}

/* The programs that call vfs_enter and vfs_exit are those of tracer/kernel/templates.py. */

/* The last RPC of a task. */
static __always_inline struct rpc_rec *last_rpc_of(u64 task)
{
	return rpcs.lookup(&task);
}

/* The RPC of a task, unless it has ended. */
static __always_inline struct rpc_rec *rpc_of(u64 task)
{
	struct rpc_rec *rec = last_rpc_of(task);

	return rec && !(rec->flags & RPC_ENDED) ? rec : NULL;
}

static __always_inline struct rpc_rec *rpc_or_new(u64 task)
{
	struct rpc_rec *rec = last_rpc_of(task), blank = {};

	if (rec)
		return rec;
	if (rpcs.update(&task, &blank)) {
		count_loss(LOSS_RPCS_FULL);
		return NULL;
	}
	return last_rpc_of(task);
}

static __always_inline void forget_rpc(u64 task)
{
	rpcs.delete(&task);
}

/* char * of the procedure's name; preparing a task may change it (OPEN to OPEN_NOATTR). */
static __always_inline u64 procedure_of(u64 task)
{
	u64 proc = load_u64(task, OFF_rpc_task__tk_msg + OFF_rpc_message__rpc_proc), name;

	if (!proc)
		return 0;
	name = load_u64(proc, OFF_rpc_procinfo__p_name);
	/* The ping of a new rpc_clnt has no name. */
	return name || load_u32(proc, OFF_rpc_procinfo__p_proc) ? name : RPC_NULL;
}

/* An RPC of a task begins; on whose behalf is known already or comes next. */
static __always_inline void rpc_begin(struct rpc_rec *rec, u64 now)
{
	rec->op_id = next_id();
	rec->begin_ns = now;
	rec->reserved_ns = 0;
	rec->sent_ns = 0;
	rec->reply_ns = 0;
	rec->end_ns = 0;
	rec->transmits = 0;
}

/*
 * What a thread of the kernel writes back: it says so just before it submits the RPC. Without
 * the types' offsets an RPC of the kernel's own has neither mount nor writer.
 */
struct writeback {
	u64 dev;
	struct proc_id writer;
};
BPF_LRU_HASH(writebacks, u32, struct writeback, 1024);

static __always_inline int note_writeback(u64 inode)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct writeback next = {};
	struct io_user *dirtier;

	if (!is_kthread(current_task()))
		return 0;
	next.dev = read_u32(read_u64(inode + OFF_inode__i_sb) + OFF_super_block__s_dev);
	dirtier = dirtiers.lookup(&inode);
	if (dirtier)
		next.writer = dirtier->proc;
	writebacks.update(&tid, &next);
	return 0;
}

static __always_inline void take_writeback(struct rpc_rec *rec)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct writeback *next = writebacks.lookup(&tid);

	if (!next)
		return;
	rec->dev = next->dev;
	rec->writer = next->writer;
	writebacks.delete(&tid);
}

int on_nfs_initiate_write(struct bpf_raw_tracepoint_args *ctx)
{
#ifdef OFF_nfs_pgio_header__inode
	return note_writeback(read_u64(ctx->args[0] + OFF_nfs_pgio_header__inode));
#else
	return 0;
#endif
}

int on_nfs_initiate_commit(struct bpf_raw_tracepoint_args *ctx)
{
#ifdef OFF_nfs_commit_data__inode
	return note_writeback(read_u64(ctx->args[0] + OFF_nfs_commit_data__inode));
#else
	return 0;
#endif
}

int on_rpc_task_begin(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0], submitter = current_task();
	struct op_rec *op = current_op();
	struct rpc_rec *rec;

	if (!task)
		return 0;
	if (!op && is_own()) {
		forget_rpc(task);
		return 0;
	}
	rec = rpc_or_new(task);
	if (!rec)
		return 0;
	rpc_begin(rec, load_u64(task, OFF_rpc_task__tk_start));
	rec->op = procedure_of(task);
	rec->parent_id = 0;
	rec->dev = 0;
	rec->tid = 0;
	rec->xid = 0;
	rec->status = 0;
	rec->before = 0;
	rec->flags = 0;
	__builtin_memset(&rec->proc, 0, sizeof(rec->proc));
	__builtin_memset(&rec->writer, 0, sizeof(rec->writer));
	__builtin_memset(rec->peer, 0, sizeof(rec->peer));
	__builtin_memset(rec->comm, 0, sizeof(rec->comm));
	if (is_kthread(submitter)) {
		take_writeback(rec);
		return 0;
	}
	rec->tid = bpf_get_current_pid_tgid();
	proc_of(submitter, &rec->proc);
	read_comm(submitter, rec->comm);
	if (op && op->active && op->side == SIDE_CLIENT) {
		rec->parent_id = op->op_id;
		rec->dev = op->dev;
	}
	return 0;
}

int on_xprt_reserve(struct bpf_raw_tracepoint_args *ctx)
{
	u64 rqst = ctx->args[0], task;
	struct rpc_rec *rec;

	if (!rqst)
		return 0;
	task = load_u64(rqst, OFF_rpc_rqst__rq_task);
	rec = last_rpc_of(task);
	if (!rec)
		return 0;
	/* A task that was restarted (NFS4ERR_DELAY, short read, session recovery): a new RPC. */
	if (rec->flags & RPC_ENDED) {
		rec->flags &= ~RPC_ENDED;
		rec->before = rec->status;
		rec->begin_ns = load_u64(task, OFF_rpc_task__tk_start);
	}
	rec->reserved_ns = bpf_ktime_get_ns();
	rec->xid = __builtin_bswap32(load_u32(rqst, OFF_rpc_rqst__rq_xid));
	read_peer(load_u64(rqst, OFF_rpc_rqst__rq_xprt) + OFF_rpc_xprt__addr, rec->peer);
	return 0;
}

static __always_inline void count_rpc(struct rpc_rec *rec, u32 kind, s32 status)
{
	struct count_key key = {};

	key.op = rec->op;
	__builtin_memcpy(key.peer, rec->peer, sizeof(key.peer));
	key.kind = kind;
	key.status = status;
	key.side = SIDE_CLIENT;
	count(&key);
}

int on_xprt_transmit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 rqst = ctx->args[0];
	struct rpc_rec *rec;

	if (!rqst)
		return 0;
	rec = rpc_of(load_u64(rqst, OFF_rpc_rqst__rq_task));
	if (!rec || (s32)ctx->args[1])
		return 0;
	/* When it began: until this event the reply may have come, or we lost the CPU. */
	if (!rec->sent_ns)
		rec->sent_ns = load_u64(rqst, OFF_rpc_rqst__rq_xtime);
	else
		count_rpc(rec, COUNT_RETRANSMIT, 0);
	rec->transmits++;
	return 0;
}

/*
 * A reply is found its RPC by a worker that reads the socket: from now on it is watched how
 * it gets the CPU.
 */
int on_xprt_lookup_rqst(struct bpf_raw_tracepoint_args *ctx)
{
	struct op_rec *op;

	if (!is_kthread(current_task()))
		return 0;
	op = current_op_or_new();
	if (op && !op->active) {
		op->op = VFS_WORK;
		op->side = SIDE_CLIENT;
		op->flags = OP_KERNEL;
	}
	return 0;
}

static __always_inline void rpc_emit(struct rpc_rec *rec)
{
	if (rec->end_ns - rec->begin_ns < cut_ns() &&
	    !is_paired(SIDE_CLIENT, rec->xid, rec->end_ns))
		return;
	if (ring.ringbuf_output(rec, sizeof(*rec), 0))
		count_loss(LOSS_RING_FULL);
}

int on_rpc_stats_latency(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0], rtt_ns = ctx->args[2], execute_ns = ctx->args[3], now, rqst;
	u64 bytes = 0;
	struct latency_key key = {};
	struct rpc_rec *rec;
	s32 status;

	if (!task)
		return 0;
	rec = rpc_of(task);
	if (!rec)
		return 0;
	rqst = load_u64(task, OFF_rpc_task__tk_rqstp);
	now = load_u64(task, OFF_rpc_task__tk_start) + execute_ns;
	rec->end_ns = now;
	rec->op = procedure_of(task);
	if (rqst) {
		rec->xid = __builtin_bswap32(load_u32(rqst, OFF_rpc_rqst__rq_xid));
		rec->reply_ns = load_u64(rqst, OFF_rpc_rqst__rq_xtime) + rtt_ns;
		bytes = load_u64(rqst, OFF_rpc_rqst__rq_xmit_bytes_sent) +
			load_u64(rqst, OFF_rpc_rqst__rq_reply_bytes_recvd);
	}
	/* A positive status is a byte count. */
	status = load_u32(task, OFF_rpc_task__tk_status);
	rec->status = status < 0 ? status : 0;
	if (rec->status)
		count_rpc(rec, COUNT_STATUS, status);
	key.op = rec->op;
	key.proc = rec->proc.tgid ? rec->proc : rec->writer;
	key.dev = rec->dev;
	__builtin_memcpy(key.peer, rec->peer, sizeof(key.peer));
	key.side = SIDE_CLIENT;
	key.layer = LAYER_RPC;
	add_latency(&key, now - rec->begin_ns, bytes);
	rpc_emit(rec);
	/* As it is if it comes back: in the name of the same thread. */
	rpc_begin(rec, now);
	rec->flags = RPC_ENDED;
	return 0;
}

int on_rpc_task_end(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0];

	/* One that holds a request is counted right after this: on_rpc_stats_latency ends it. */
	if (task && !load_u64(task, OFF_rpc_task__tk_rqstp))
		forget_rpc(task);
	return 0;
}

static __always_inline int count_connection(u64 xprt, u32 kind, s32 status)
{
	struct count_key key = {};

	read_peer(xprt + OFF_rpc_xprt__addr, key.peer);
	key.kind = kind;
	key.status = status;
	key.side = SIDE_CLIENT;
	count(&key);
	return 0;
}

int on_rpc_socket_connect(struct bpf_raw_tracepoint_args *ctx)
{
	return count_connection(ctx->args[0], COUNT_CONNECT, ctx->args[2]);
}

int on_xprt_disconnect_done(struct bpf_raw_tracepoint_args *ctx)
{
	return count_connection(ctx->args[0], COUNT_DISCONNECT, 0);
}

/* An RPC has waited for its reply longer than the mount's timeo. */
int on_xprt_timer(struct bpf_raw_tracepoint_args *ctx)
{
	return count_connection(ctx->args[0], COUNT_TIMEOUT, 0);
}
