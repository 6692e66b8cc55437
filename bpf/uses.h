/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What each process has of a server's disks and journals and of a host's memory, in slots of
 * time short enough to lie inside a slow operation.
 */

BPF_HASH(uses0, struct use_key, struct use_val, MAX_USES);
BPF_HASH(uses1, struct use_key, struct use_val, MAX_USES);
BPF_ARRAY_OF_MAPS(uses, "uses0", 1);

/* One more use, of that much; its value, NULL if there is none. */
static __always_inline struct use_val *add_use(struct use_key *key, u64 amount)
{
	struct use_val *val, zeros = {};
	u32 zero = 0;
	void *map = uses.lookup(&zero);

	if (!map)
		return NULL;
	val = value_of(map, key, &zeros);
	if (!val) {
		count_loss(LOSS_USES_FULL);
		return NULL;
	}
	add_up(&val->count, &val->amount, &val->most, amount);
	return val;
}
