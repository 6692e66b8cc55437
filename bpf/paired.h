/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * RPCs that are sent one by one whatever they took. Their client and their server choose the
 * same ones, by their xid: what both saw tells how the clocks of the two hosts differ.
 */

/* One in 16, but no more than four a second; and one in 4096. */
#define PAIR_NS 250000000
#define PAIR_BITS 4
#define PAIR_ALWAYS_BITS 12

/* When the last one of a side was chosen. */
BPF_ARRAY(paired_ns, u64, SIDE_CLIENT + 1);

static __always_inline bool is_paired(u32 side, u32 xid, u64 now)
{
	/* Which bits of an xid count is its client's affair: Linux on x86 counts in the upper. */
	u32 hash = xid * 2654435761U;
	u64 *last_ns;

	if (hash >> (32 - PAIR_BITS))
		return false;
	last_ns = paired_ns.lookup(&side);
	if (!last_ns)
		return false;
	if (hash >> (32 - PAIR_ALWAYS_BITS) && now - *last_ns < PAIR_NS)
		return false;
	*last_ns = now;
	return true;
}
