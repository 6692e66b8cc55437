/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Whom the disks work for. A disk's time from one completion to the next is put down to the
 * process whose request completed.
 */

/* I/O on its way: struct bio * to whom it is for. */
BPF_LRU_HASH(bios, u64, struct io_user, MAX_BIOS);
/* When a disk, by device number, last completed a request. */
BPF_HASH(disk_done, u32, u64, 256);

/*
 * The first of the pages that are one with this one: it alone knows the file. The others have
 * its address, or the bits that it shares with theirs; marked either way. It lies before them.
 */
static __always_inline u64 head_of(u64 page)
{
	u64 mark = read_u64(page + OFF_page__compound_head);

	if (!(mark & 1))
		return page;
	return mark < page ? mark - 1 : page & mark;
}

/* The file that the first page of a bio belongs to, 0 if to none: struct inode *. */
static __always_inline u64 inode_of(u64 bio)
{
	u64 vec = read_u64(bio + OFF_bio__bi_io_vec), page, mapping;

	if (!vec)
		return 0;
	vec += read_u32(bio + OFF_bio__bi_iter + OFF_bvec_iter__bi_idx) * SIZE_bio_vec;
	page = read_u64(vec + OFF_bio_vec__bv_page);
	mapping = page ? read_u64(head_of(page) + OFF_page__mapping) : 0;
	/* Marked: of a process's own memory. */
	return !mapping || mapping & 3 ? 0 : read_u64(mapping + OFF_address_space__host);
}

/* The numbers of operations that bring data to a disk are odd, see op_is_write(). */
static __always_inline bool is_write(u32 flags)
{
	return flags & 1;
}

static __always_inline void note_bio(u64 bio)
{
	struct io_user user = {}, *dirtier;
	u64 inode;

	/* It may lie where another's was. */
	if (is_own()) {
		bios.delete(&bio);
		return;
	}
	/* Most of what kernel threads write was written before, by others, and is theirs. */
	if (is_write(read_u32(bio + OFF_bio__bi_opf)) && is_kthread(current_task())) {
		inode = inode_of(bio);
		dirtier = dirtiers.lookup(&inode);
		if (dirtier) {
			bios.update(&bio, dirtier);
			return;
		}
	}
	current_user(&user);
	note_current(&user.proc);
	bios.update(&bio, &user);
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
	u64 request = ctx->args[0], now = bpf_ktime_get_ns(), made, since, bio, *done;
	u32 bytes = ctx->args[2];
	struct use_key key = {
		.slot = now >> USE_SLOT_SHIFT,
		.dev = disk_of(request),
		.kind = USE_DISK,
	};
	struct io_user *user;
	struct use_val *val;

	if (!key.dev)
		return 0;
	/* It began when it was made, or when the disk was done with the one before. */
	since = made = read_u64(request + OFF_request__start_time_ns);
	done = disk_done.lookup(&key.dev);
	if (done && *done > since)
		since = *done;
	disk_done.update(&key.dev, &now);
	bio = read_u64(request + OFF_request__bio);
	user = bios.lookup(&bio);
	if (!user || !since || now <= since)
		return 0;
	if (is_write(read_u32(request + OFF_request__cmd_flags)))
		key.kind = USE_DISK_WRITE;
	key.proc = user->proc;
	__builtin_memcpy(key.client, user->client, sizeof(key.client));
	bios.delete(&bio);
	val = add_use(&key, now - since);
	if (!val)
		return 0;
	__sync_fetch_and_add(&val->queued_ns, now - made);
	__sync_fetch_and_add(&val->moved_bytes, bytes);
	return 0;
}
