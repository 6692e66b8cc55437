/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Whose data it is that the kernel writes back, to a disk or to an NFS server. */

/* Who does I/O: a process; of nfsd's threads also the client at whose request. */
struct io_user {
	struct proc_id proc;
	u8 client[16]; /* zero = none, or unknown */
};

/* Files that are to be written back: struct inode * to who wrote to them last. */
BPF_LRU_HASH(dirtiers, u64, struct io_user, MAX_DIRTIERS);

static __always_inline void current_user(struct io_user *user)
{
	struct op_rec *op;

	proc_of(current_task(), &user->proc);
	op = is_kthread(current_task()) ? active_op() : NULL;
	if (op && op->side == SIDE_SERVER)
		__builtin_memcpy(user->client, op->peer, sizeof(user->client));
}

static __always_inline bool is_user(struct io_user *one, struct io_user *other)
{
	const u64 *a = (const void *)one->client, *b = (const void *)other->client;

	return is_process(&one->proc, &other->proc) && a[0] == b[0] && a[1] == b[1];
}

/* For each page that becomes dirty: all but the first of a writer find it noted. */
int on_writeback_dirty_folio(struct bpf_raw_tracepoint_args *ctx)
{
	u64 inode = read_u64(ctx->args[1] + OFF_address_space__host);
	struct io_user user = {}, *known;

	if (is_own()) {
		dirtiers.delete(&inode);
		return 0;
	}
	current_user(&user);
	known = dirtiers.lookup(&inode);
	if (known && is_user(known, &user))
		return 0;
	note_current(&user.proc);
	dirtiers.update(&inode, &user);
	return 0;
}
