/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The maps. Interval maps come in pairs behind a map of one map: programs write to
 * the inner map it holds, the collector puts the other one there and drains the
 * first. The kernel lets that update return only when no program uses the old map
 * any more (1ae80cf31938, v4.20), so no count is lost and none is seen twice, which
 * draining a live map cannot give.
 */

#define BPF_LRU_HASH(name, key, value, size) BPF_TABLE("lru_hash", key, value, name, size)

/* Filled by the collector: processes that are never traced (nfsblame itself). */
BPF_HASH(own, u32, u8, 16);

/* Filled by the collector: s_dev of the filesystems that are exported. */
BPF_HASH(exported, u32, u8, 256);
/* And a bit for each of them, which spares most others' look-up. */
BPF_ARRAY(exported_bits, u64, 1);

/* Filled by the collector: from how many ns on an operation is sent one by one. */
BPF_ARRAY(cut, u64, 1);

BPF_HASH(latency0, u64, struct latency_rec, MAX_KEYS);
BPF_HASH(latency1, u64, struct latency_rec, MAX_KEYS);
BPF_ARRAY_OF_MAPS(latency, "latency0", 1);
BPF_HASH(waits0, struct wait_key, struct wait_val, MAX_KEYS);
BPF_HASH(waits1, struct wait_key, struct wait_val, MAX_KEYS);
BPF_ARRAY_OF_MAPS(waits, "waits0", 1);
BPF_HASH(counts0, struct count_key, u64, MAX_COUNTS);
BPF_HASH(counts1, struct count_key, u64, MAX_COUNTS);
BPF_ARRAY_OF_MAPS(counts, "counts0", 1);

/* Of very many processes the latest, for the collector has taken in the others. */
BPF_LRU_HASH(procs, struct proc_id, struct proc_rec, MAX_PROCS);
/* fanotify groups that are read or answered, by struct fsnotify_group *. */
BPF_HASH(listeners, u64, struct listener_rec, 256);
/* Events in fanotify groups for which a thread may wait: struct fsnotify_event * to tid. */
BPF_LRU_HASH(events, u64, u32, 1024);
BPF_STACK_TRACE(stacks, 8192);
/* As a value of a stack map: innermost first, zeros behind it; the first may be unknown, 0. */
struct frames {
	u64 ip[MAX_FRAMES];
};
/* Stacks that `stacks` cannot have, by FIRST_CROWDED or FIRST_SLEEPER and a hash. */
BPF_HASH(more_stacks, u32, struct frames, MAX_MORE_STACKS);
/* Where a stack is read to: for wake-ups, for the look of the collector, for timers. */
BPF_PERCPU_ARRAY(scratch, struct frames, 3);

/*
 * Slow operations one by one, and who held what: op_rec, rpc_rec or holder_rec, told apart
 * by their size.
 */
BPF_RINGBUF_OUTPUT(ring, RING_PAGES);

BPF_PERCPU_ARRAY(lost, u64, LOSS_MAX);
BPF_PERCPU_ARRAY(ids, u64, 1);

struct peek_val {
	u8 bytes[PEEK_BYTES];
};
BPF_ARRAY(peeked, struct peek_val, 1);

static __always_inline void count_loss(u32 reason)
{
	u64 *n = lost.lookup(&reason);

	if (n)
		*n += 1;
}

static __always_inline u64 cut_ns(void)
{
	u32 zero = 0;
	u64 *ns = cut.lookup(&zero);

	return ns ? *ns : 0;
}

static __always_inline bool is_exported(u32 dev)
{
	u32 zero = 0;
	u64 *bits = exported_bits.lookup(&zero);

	return bits && *bits >> (dev & 63) & 1 && exported.lookup(&dev);
}

/* Unique within host and boot: CPU in the upper bits, a counter below. */
static __always_inline u64 next_id(void)
{
	u32 zero = 0;
	u64 *n = ids.lookup(&zero);

	if (!n)
		return 0;
	*n += 1;
	return ((u64)bpf_get_smp_processor_id() << 40) | *n;
}

/* The value of a key, made of zeros if it is not there; NULL if the map is full. */
static __always_inline void *value_of(void *map, void *key, void *zeros)
{
	void *value = bpf_map_lookup_elem(map, key);

	if (value)
		return value;
	/* NOEXIST: another CPU may have come first, then its value is ours too. */
	bpf_map_update_elem(map, key, zeros, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, key);
}

/* One more, of that much. */
static __always_inline void add_up(u64 *count, u64 *sum, u64 *most, u64 amount)
{
	__sync_fetch_and_add(count, 1);
	__sync_fetch_and_add(sum, amount);
	if (amount > *most)
		*most = amount;
}

static __always_inline void count(struct count_key *key)
{
	u32 zero = 0;
	void *map = counts.lookup(&zero);
	u64 *n, zeros = 0;

	if (!map)
		return;
	n = value_of(map, key, &zeros);
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		count_loss(LOSS_COUNTS_FULL);
}
