/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * A server's RPCs from arrival to reply, by tracepoints alone:
 *   svcsock_data_ready  bytes are in the socket
 *   svc_xprt_dequeue    a thread takes up the transport
 *   svc_xdr_recvfrom    it has read a request as a whole
 *   svc_process         the header is decoded: an operation begins
 *   nfsd_compound[_status]  an operation inside a COMPOUND begins, ends
 *   svc_stats_latency   execution is over
 *   svc_send            the reply has been handed to the socket
 *   svc_drop            there will be none
 *
 * Arrival: svc_xprt_enqueue would only tell when the transport got in line, once
 * for all requests that wait in its socket. So the time at which each byte
 * arrived is kept (rcv_nxt at data_ready) and looked up when the request has
 * been read (copied_seq).
 */

/* When the unread data of a transport arrived. Stays in the kernel. */
#define MAX_ARRIVALS 32
struct xprt_rec {
	u64 arrival_ns[MAX_ARRIVALS];
	u32 seq[MAX_ARRIVALS]; /* rcv_nxt of the socket at that time */
	u32 head;	       /* arrivals ever noted */
	u32 tail;	       /* arrivals consumed */
	u64 socket;	       /* struct tcp_sock * */
};

/* By struct svc_xprt *. */
BPF_HASH(xprts, u64, struct xprt_rec, MAX_XPRTS);
BPF_ARRAY(zero_xprt, struct xprt_rec, 1);

/*
 * Requests that were put off until an upcall is answered. Those that are dropped then stay: the
 * collector asks the kernel's own list. It adds what was put off before recording.
 */
BPF_LRU_HASH(deferred, struct request_key, struct deferred_rec, MAX_XPRTS);
/* How many were seen to be: where there was none, none is looked for. */
BPF_ARRAY(deferrals, u64, 1);

#include "svc_sock.h"
#include "disk.h"
#include "journal.h"

int on_svcsock_data_ready(struct bpf_raw_tracepoint_args *ctx)
{
	u64 xprt = ctx->args[0], now = bpf_ktime_get_ns();
	u32 zero = 0, slot, seq;
	struct xprt_rec *rec = xprts.lookup(&xprt), *blank;

	if (!rec) {
		blank = zero_xprt.lookup(&zero);
		if (!blank)
			return 0;
		if (xprts.update(&xprt, blank)) {
			count_loss(LOSS_XPRTS_FULL);
			return 0;
		}
		rec = xprts.lookup(&xprt);
		if (!rec)
			return 0;
		rec->socket = socket_of(xprt);
	}
	seq = read_u32(rec->socket + OFF_tcp_sock__rcv_nxt);
	/* Full: the newest slot moves on, so its bytes look younger, never older. */
	if (rec->head - rec->tail >= MAX_ARRIVALS)
		slot = rec->head - 1;
	else
		slot = rec->head++;
	slot &= MAX_ARRIVALS - 1;
	rec->arrival_ns[slot] = now;
	rec->seq[slot] = seq;
	return 0;
}

/* When the last byte read so far had arrived; 0 if that was not seen. */
static __always_inline u64 arrival_of(struct xprt_rec *rec, u32 copied)
{
	u64 arrival_ns = 0;

	for (int i = 0; i < MAX_ARRIVALS; i++) {
		u32 slot = rec->tail & (MAX_ARRIVALS - 1);

		if (rec->tail == rec->head)
			break;
		if ((s32)(rec->seq[slot] - copied) >= 0) {
			arrival_ns = rec->arrival_ns[slot];
			/* Bytes of the next request may have come with this one. */
			if (rec->seq[slot] == copied)
				rec->tail++;
			break;
		}
		rec->tail++;
	}
	return arrival_ns;
}

/*
 * Not svcsock_tcp_recv: that comes for a part of a request, too, and for a client's answer to a
 * callback, after which the thread is free. What this one is given differs between kernels.
 */
int on_svc_xdr_recvfrom(struct bpf_raw_tracepoint_args *ctx)
{
	struct op_rec *op = current_op();
	struct xprt_rec *rec;

	if (!op)
		return 0;
	/* It has a request in hand, and may wait already for what tells whose it is. */
	early_waits(op);
	op->taken = HAS_REQUEST;
	rec = xprts.lookup(&op->xprt);
	if (rec)
		op->arrival_ns = arrival_of(
			rec, read_u32(rec->socket + OFF_tcp_sock__copied_seq));
	return 0;
}

int on_svc_xprt_free(struct bpf_raw_tracepoint_args *ctx)
{
	u64 xprt = ctx->args[0];

	xprts.delete(&xprt);
	return 0;
}

static __always_inline void count_op(struct op_rec *op, u64 name, u32 kind, s32 status)
{
	struct count_key key = {};

	key.op = name;
	__builtin_memcpy(key.peer, op->peer, sizeof(key.peer));
	key.kind = kind;
	key.status = status;
	key.side = SIDE_SERVER;
	count(&key);
}

/* No reply: the thread goes on to something else. */
static __always_inline void drop_op(struct op_rec *op)
{
	u64 now = bpf_ktime_get_ns();

	op->flags |= OP_DROPPED;
	count_op(op, op->op, COUNT_DROPPED, 0);
	op_end(op, now, now - (op->arrival_ns ? op->arrival_ns : op->begin_ns) >= cut_ns());
	op->begin_ns = 0;
}

int on_svc_xprt_dequeue(struct bpf_raw_tracepoint_args *ctx)
{
	u64 rqst = ctx->args[0], now;
	struct op_rec *op = current_op_or_new();

	if (!op || !rqst)
		return 0;
	/* There was no svc_drop to tell (gone since v6.12). */
	if (op->active)
		drop_op(op);
	now = bpf_ktime_get_ns();
	between_ends(op, now);
	op->begin_ns = now;
	op->arrival_ns = 0;
	op->xprt = load_u64(rqst, OFF_svc_rqst__rq_xprt);
	early_waits(op);
	/* None of those before goes on: the request, once it is read, was in the queue until now. */
	op->nearly = op->nwaits;
	op->taken = HAS_TRANSPORT;
	crew_begins(op, now);
	return 0;
}

static __always_inline void request_of(u64 rqst, struct request_key *key)
{
	key->xid = __builtin_bswap32(read_u32(rqst + OFF_svc_rqst__rq_xid));
	read_peer(rqst + OFF_svc_rqst__rq_addr, key->peer);
}

/* If it was put off before, copy that to ``was``, and take the time since then for a wait. */
static __always_inline void was_deferred(struct op_rec *op, struct request_key *request,
					 struct deferred_rec *was)
{
	struct wait_rec key = { .kind = WAIT_BLOCKED, .waker_stack = -1 };
	struct deferred_rec *rec;
	u32 zero = 0;
	u64 *any = deferrals.lookup(&zero);

	rec = any && *any ? deferred.lookup(request) : NULL;
	if (!rec)
		return;
	/* A retransmission has an arrival of its own. */
	if (!op->arrival_ns && rec->arrival_ns && rec->arrival_ns < op->begin_ns) {
		*was = *rec;
		key.stack = rec->stack;
		early_waits(op);
		op->arrival_ns = rec->arrival_ns;
		add_wait(op, &key, rec->arrival_ns, op->begin_ns,
			 op->begin_ns - rec->arrival_ns);
	}
	deferred.delete(request);
}

#define NFS_PROGRAM 100003

int on_svc_process(struct bpf_raw_tracepoint_args *ctx)
{
	u64 rqst = ctx->args[0], begin_ns, procinfo;
	struct op_rec *op;
	struct request_key request = {};
	struct deferred_rec was = {};

	if (!rqst)
		return 0;
	op = current_op();
	/* Callbacks on a client's backchannel are processed but never taken up or sent. */
	if (!op || !op->begin_ns)
		return 0;
	request_of(rqst, &request);
	was_deferred(op, &request, &was);
	begin_ns = op->begin_ns;
	/* Taken up before its last byte was there: that is no time in the queue. */
	if (op->arrival_ns > begin_ns)
		begin_ns = op->arrival_ns;
	op_begin(op, SIDE_SERVER, begin_ns);
	/* What was shown to be put off is this one. */
	if (was.op_id)
		op->op_id = was.op_id;
	op->flags = was.flags;
	op->xid = request.xid;
	__builtin_memcpy(op->peer, request.peer, sizeof(op->peer));
	procinfo = load_u64(rqst, OFF_svc_rqst__rq_procinfo);
	op->op = load_u64(procinfo, OFF_svc_procedure__pc_name);
	/* A NULL has no status. */
	if (load_u32(rqst, OFF_svc_rqst__rq_prog) == NFS_PROGRAM &&
	    load_u32(rqst, OFF_svc_rqst__rq_vers) == 3 && load_u32(rqst, OFF_svc_rqst__rq_proc))
		op->flags |= OP_NFS3;
	return 0;
}

#include "nfsd.h"

int on_nfsd_compound(struct bpf_raw_tracepoint_args *ctx)
{
	u64 rqst = ctx->args[0];
	struct op_rec *op = current_op();

	if (!op || !op->active)
		return 0;
	op->ops = compound_ops(rqst);
	op->nfs_op = op->ops ? compound_op_name(op->ops, 0) : 0;
	op->nfs_begin_ns = bpf_ktime_get_ns();
	return 0;
}

int on_nfsd_compound_status(struct bpf_raw_tracepoint_args *ctx)
{
	u32 count = ctx->args[0], done = ctx->args[1];
	u32 status = __builtin_bswap32(ctx->args[2]); /* as it is sent */
	u64 now = bpf_ktime_get_ns(), ns;
	struct latency_key key = {};
	struct op_rec *op = current_op();

	if (!op || !op->active || !op->nfs_begin_ns)
		return 0;
	ns = now - op->nfs_begin_ns;
	key.op = ctx->args[3];
	key.side = SIDE_SERVER;
	key.layer = LAYER_NFS;
	key.dev = op->dev;
	__builtin_memcpy(key.peer, op->peer, sizeof(key.peer));
	add_latency(&key, ns, 0);
	if (status) {
		op->nfs_status = status;
		count_op(op, key.op, COUNT_STATUS, status);
	}
	if (ns > op->nfs_longest_ns) {
		op->nfs_longest_ns = ns;
		op->nfs_longest = key.op;
	}
	op->nfs_begin_ns = 0;
	if (!status && done < count) {
		op->nfs_op = op->ops ? compound_op_name(op->ops, done) : 0;
		op->nfs_begin_ns = now;
	}
	return 0;
}

/* An NFSv3 reply begins with its status. */
static __always_inline void nfs3_status(struct op_rec *op, u64 rqst)
{
	u64 reply = read_u64(rqst + OFF_svc_rqst__rq_resp);

	if (!reply)
		return;
	op->nfs_status = __builtin_bswap32(read_u32(reply));
	if (op->nfs_status)
		count_op(op, op->op, COUNT_STATUS, op->nfs_status);
}

int on_svc_stats_latency(struct bpf_raw_tracepoint_args *ctx)
{
	struct op_rec *op = active_op();

	if (!op)
		return 0;
	op->reply_ns = bpf_ktime_get_ns();
	if (op->flags & OP_NFS3)
		nfs3_status(op, ctx->args[0]);
	return 0;
}

/* enum of the duplicate request cache's answers: drop it, send the old reply, a new request. */
#define RC_DOIT 2

int on_nfsd_drc_found(struct bpf_raw_tracepoint_args *ctx)
{
	struct op_rec *op = active_op();
	s32 result = ctx->args[2];

	if (op && result != RC_DOIT)
		count_op(op, op->op, COUNT_REPLY_CACHE, result);
	return 0;
}

int on_nfsd_file_acquire(struct bpf_raw_tracepoint_args *ctx)
{
	struct op_rec *op = active_op();

	if (op)
		count_op(op, 0, COUNT_FILE, 0);
	return 0;
}

int on_nfsd_file_open(struct bpf_raw_tracepoint_args *ctx)
{
	struct op_rec *op = active_op();

	if (op)
		count_op(op, 0, COUNT_FILE_OPENED, 0);
	return 0;
}

/* Not nfsd_deleg_recall: that a conflict asks for a delegation back does not hit it. */
int on_nfsd_cb_recall(struct bpf_raw_tracepoint_args *ctx)
{
	struct count_key key = {};

	peer_of_stid(ctx->args[0], key.peer);
	key.kind = COUNT_RECALL;
	key.side = SIDE_SERVER;
	count(&key);
	return 0;
}

#define EAGAIN 11
#define FILE_LOCK_DEFERRED 1

/*
 * nfsd, or lockd, is refused a byte-range lock: one of its own clients, of NFSv4 or not as the
 * one that asks, has it, or somebody else. nfsd is told the lock that is in the way; that of
 * lockd waits for it.
 */
int refused_lock_exit(unsigned long long *ctx)
{
	u64 lock = ctx[2], conflict = ctx[3], owner, asker;
	struct op_rec *op = active_op();
	struct count_key key = {};
	s32 result = ctx[4];

	if (!op || op->side != SIDE_SERVER || (result != -EAGAIN && result != FILE_LOCK_DEFERRED))
		return 0;
	if (!conflict)
		conflict = read_u64(lock + OFF_file_lock__fl_blocker);
	if (!conflict)
		return 0;
	owner = read_u64(conflict + OFF_file_lock__fl_owner);
	asker = read_u64(lock + OFF_file_lock__fl_owner);
	if (read_u64(conflict + OFF_file_lock__fl_lmops) == read_u64(lock + OFF_file_lock__fl_lmops))
		key.status = op->nfs_begin_ns ? nfs4_holder(owner, asker, key.peer)
					      : nlm_holder(owner, asker, key.peer);
	key.kind = COUNT_CONFLICT;
	key.side = SIDE_SERVER;
	count(&key);
	return 0;
}

#ifdef OFF_svc_fh__fh_dentry
/*
 * The file an operation is about: the last one whose handle was verified. The dentry
 * is the handle's until fh_put, so that is when its name is copied, if anyone asks.
 */
int fh_verify_exit(unsigned long long *ctx)
{
	struct op_rec *op = active_op();
	u64 dentry, inode;

	if (!op)
		return 0;
	dentry = load_u64(ctx[1], OFF_svc_fh__fh_dentry);
	if (!dentry || dentry == op->dentry)
		return 0;
	inode = load_u64(dentry, OFF_dentry__d_inode);
	op->dentry = dentry;
	op->dev = dev_of(sb_of_dentry(dentry));
	op->ino = inode ? load_u64(inode, OFF_inode__i_ino) : 0;
	op->name[0][0] = 0;
	return 0;
}

int fh_put_enter(unsigned long long *ctx)
{
	struct op_rec *op = active_op();
	u64 dentry;

	if (!op || !op->dentry || load_u64(ctx[0], OFF_svc_fh__fh_dentry) != op->dentry ||
	    bpf_ktime_get_ns() - op->begin_ns < cut_ns())
		return 0;
	dentry = op->dentry;
	for (int i = 0; i < NAME_PARTS; i++) {
		u64 name = read_u64(dentry + OFF_dentry__d_name + OFF_qstr__name);
		u64 parent = read_u64(dentry + OFF_dentry__d_parent);

		bpf_probe_read_kernel_str(op->name[i], NAME_PART_LEN, (void *)name);
		if (i + 1 < NAME_PARTS)
			op->name[i + 1][0] = 0;
		if (!parent || parent == dentry)
			break;
		dentry = parent;
	}
	op->dentry = 0;
	return 0;
}
#endif

int on_svc_drop(struct bpf_raw_tracepoint_args *ctx)
{
	struct op_rec *op = current_op();

	if (op)
		op->taken = 0;
	if (op && op->active)
		drop_op(op);
	return 0;
}

/* Put off until an upcall (to mountd, idmapd, gssd) is answered; it will be dropped now. */
int on_svc_defer(struct bpf_raw_tracepoint_args *ctx)
{
	struct op_rec *op = current_op();
	struct request_key request = {};
	struct deferred_rec rec = {}, *before;
	u32 zero = 0;
	u64 *any = deferrals.lookup(&zero);

	if (!op || !op->begin_ns || !any)
		return 0;
	__sync_fetch_and_add(any, 1);
	request_of(ctx->args[0], &request);
	__builtin_memcpy(op->peer, request.peer, sizeof(op->peer));
	count_op(op, op->active ? op->op : 0, COUNT_DEFERRED, 0);
	/* The same once more: it has not come from the socket since. */
	before = op->arrival_ns ? NULL : deferred.lookup(&request);
	if (before)
		rec = *before;
	if (!rec.op_id) {
		rec.op_id = next_id();
		rec.arrival_ns = op->arrival_ns ? op->arrival_ns : op->begin_ns;
	}
	rec.stack = stacks.get_stackid(ctx, 0);
	deferred.update(&request, &rec);
	return 0;
}

/* In eighths of a microsecond, smoothed; of TCP alone, of whose requests the arrival is known. */
static __always_inline void note_rtt(struct op_rec *op)
{
	struct xprt_rec *rec = op->arrival_ns ? xprts.lookup(&op->xprt) : NULL;

	if (rec)
		op->rtt_us = read_u32(rec->socket + OFF_tcp_sock__srtt_us) >> 3;
}

int on_svc_send(struct bpf_raw_tracepoint_args *ctx)
{
	u64 rqst = ctx->args[0], now = bpf_ktime_get_ns(), wall_ns, bytes;
	s32 status = ctx->args[1];
	bool sent;
	struct latency_key key = {};
	struct op_rec *op = current_op();

	if (!op || !op->active || !rqst)
		return 0;
	wall_ns = now - (op->arrival_ns ? op->arrival_ns : op->begin_ns);
	op->status = status < 0 ? status : 0;
	bytes = load_u32(rqst, OFF_svc_rqst__rq_arg + OFF_xdr_buf__len) + (status < 0 ? 0 : status);
	key.op = op->op;
	key.side = SIDE_SERVER;
	key.layer = LAYER_RPC;
	key.dev = op->dev;
	__builtin_memcpy(key.peer, op->peer, sizeof(key.peer));
	add_latency(&key, wall_ns, bytes);
	sent = wall_ns >= cut_ns() || is_paired(SIDE_SERVER, op->xid, now);
	if (sent)
		note_rtt(op);
	op_end(op, now, sent);
	op->begin_ns = 0;
	return 0;
}
