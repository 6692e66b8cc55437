/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Who fills the journals of a server's filesystems: ext4's by blocks of its disk, the log of XFS
 * by its basic blocks.
 */

/* A process has ended a change of a filesystem: so much more is to be committed. */
static __always_inline void journal_filled(u32 dev, u32 blocks)
{
	struct use_key key = {
		.slot = bpf_ktime_get_ns() >> USE_SLOT_SHIFT,
		.dev = dev,
		.kind = USE_JOURNAL,
	};

	if (!blocks || blocks >> 31 || is_own())
		return;
	proc_of(current_task(), &key.proc);
	note_current(&key.proc);
	add_use(&key, blocks);
}

int on_jbd2_handle_stats(struct bpf_raw_tracepoint_args *ctx)
{
	journal_filled(ctx->args[0], ctx->args[7]);
	return 0;
}

#if defined(OFF_xlog__l_mp) && defined(OFF_xlog_ticket__t_curr_res)
#define XFS_BASIC_BLOCK_SHIFT 9

/*
 * What is left of a transaction's reservation tells what it has used, in both places where one
 * ends, see xlog_cil_commit(). XFS also ends what its own threads put together of others'
 * transactions, or do in others' stead later: that is not theirs.
 */
static __always_inline int xfs_filled(u64 log, u64 ticket)
{
	u32 bytes = read_u32(ticket + OFF_xlog_ticket__t_unit_res) -
		    read_u32(ticket + OFF_xlog_ticket__t_curr_res);
	struct op_rec *op = current_op();
	u64 sb;

	if (is_kthread(current_task()) && !(op && is_nfsd(op)))
		return 0;
	sb = read_u64(read_u64(log + OFF_xlog__l_mp) + OFF_xfs_mount__m_super);
	bytes += (1 << XFS_BASIC_BLOCK_SHIFT) - 1;
	journal_filled(read_u32(sb + OFF_super_block__s_dev), bytes >> XFS_BASIC_BLOCK_SHIFT);
	return 0;
}

int on_xfs_log_ticket_ungrant(struct bpf_raw_tracepoint_args *ctx)
{
	return xfs_filled(ctx->args[0], ctx->args[1]);
}

int on_xfs_log_ticket_regrant(struct bpf_raw_tracepoint_args *ctx)
{
	return xfs_filled(ctx->args[0], ctx->args[1]);
}
#endif
