/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Whom the disks work for. A disk's time from one completion to the next is put down to the
 * process whose request completed, in slots short enough to lie inside a slow operation.
 */

/* I/O on its way: struct bio * to who submitted it. */
BPF_LRU_HASH(bios, u64, struct proc_id, MAX_BIOS);
BPF_HASH(disk_use0, struct disk_key, struct latency_val, MAX_DISK_KEYS);
BPF_HASH(disk_use1, struct disk_key, struct latency_val, MAX_DISK_KEYS);
BPF_ARRAY_OF_MAPS(disk_use, "disk_use0", 1);
/* When a disk, by device number, last completed a request. */
BPF_HASH(disk_done, u32, u64, 256);

static __always_inline void note_bio(u64 bio)
{
	struct proc_id id = {};

	/* Kernel threads work for others, and it may lie where another's was. */
	if (is_own() || is_kthread(current_task())) {
		bios.delete(&bio);
		return;
	}
	proc_of(current_task(), &id);
	note_current(&id);
	bios.update(&bio, &id);
}

/* Both run where the I/O is submitted: later it is in other hands, and on other CPUs. */
int on_block_bio_queue(struct bpf_raw_tracepoint_args *ctx)
{
	note_bio(ctx->args[ARG_block_bio_queue]);
	return 0;
}

/* The front of what is too long for one request; the rest is the bio that there was. */
int on_block_split(struct bpf_raw_tracepoint_args *ctx)
{
	note_bio(ctx->args[ARG_block_split]);
	return 0;
}

/* The number of the disk that a request is for. request.rq_disk went with f3fa33acca9f (v5.17). */
static __always_inline u32 disk_of(u64 request)
{
#ifdef OFF_request__rq_disk
	u64 disk = read_u64(request + OFF_request__rq_disk);
#else
	u64 disk = read_u64(read_u64(request + OFF_request__q) + OFF_request_queue__disk);
#endif

	return disk ? read_u32(disk + OFF_gendisk__major) << 20 |
			      read_u32(disk + OFF_gendisk__first_minor) :
		      0;
}

int on_block_rq_complete(struct bpf_raw_tracepoint_args *ctx)
{
	u64 request = ctx->args[0], now = bpf_ktime_get_ns(), since, bio, *done;
	struct disk_key key = { .slot = now >> DISK_SLOT_SHIFT, .dev = disk_of(request) };
	struct proc_id *id;
	u32 zero = 0;
	void *map;

	if (!key.dev)
		return 0;
	/* It began when it was made, or when the disk was done with the one before. */
	since = read_u64(request + OFF_request__start_time_ns);
	done = disk_done.lookup(&key.dev);
	if (done && *done > since)
		since = *done;
	disk_done.update(&key.dev, &now);
	bio = read_u64(request + OFF_request__bio);
	id = bios.lookup(&bio);
	map = disk_use.lookup(&zero);
	if (!id || !map || !since || now <= since)
		return 0;
	key.proc = *id;
	bios.delete(&bio);
	add_time(map, &key, now - since, LOSS_DISKS_FULL);
	return 0;
}
