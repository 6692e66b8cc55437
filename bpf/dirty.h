/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Whose data it is that the kernel writes back, to a disk or to an NFS server. */

/* Files that are to be written back: struct inode * to who wrote to them last. */
BPF_LRU_HASH(dirtiers, u64, struct proc_id, MAX_DIRTIERS);

/* For each page that becomes dirty: all but the first of a writer find it noted. */
int on_writeback_dirty_folio(struct bpf_raw_tracepoint_args *ctx)
{
	u64 inode = read_u64(ctx->args[1] + OFF_address_space__host);
	struct proc_id id = {}, *known;

	if (is_own()) {
		dirtiers.delete(&inode);
		return 0;
	}
	proc_of(current_task(), &id);
	known = dirtiers.lookup(&inode);
	if (known && known->tgid == id.tgid && known->start_ns == id.start_ns)
		return 0;
	note_current(&id);
	dirtiers.update(&inode, &id);
	return 0;
}
