/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Who froze a filesystem. It stays frozen when that process has ended, and until it is thawed
 * nobody wakes those who wait for it.
 */

/* Filesystems that are frozen: struct super_block * to who did it. */
BPF_HASH(frozen, u64, struct holder_rec, 64);

int freeze_super_enter(unsigned long long *ctx)
{
	u64 sb = ctx[0];
	struct holder_rec rec = {};

	/* Frozen already, it stays in the hands of who did it. */
	if (read_u16(sb + OFF_super_block__s_writers + OFF_sb_writers__frozen))
		return 0;
	rec.dev = dev_of(sb);
	proc_of(current_task(), &rec.proc);
	note_current(&rec.proc);
	/* From here on nobody else may write, though it takes until all have stopped. */
	rec.since_ns = bpf_ktime_get_ns();
	frozen.update(&sb, &rec);
	return 0;
}

int thaw_super_enter(unsigned long long *ctx)
{
	u64 sb = ctx[0];
	struct holder_rec *rec = frozen.lookup(&sb);

	if (!rec)
		return 0;
	rec->until_ns = bpf_ktime_get_ns();
	if (ring.ringbuf_output(rec, sizeof(*rec), 0))
		count_loss(LOSS_RING_FULL);
	frozen.delete(&sb);
	return 0;
}
