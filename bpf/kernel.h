/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What we read of the kernel. OFF_<struct>__<member> and the like come as -D
 * from this host's BTF (tracer/kernel/offsets.py), so no layout is written here.
 */

#define PF_KTHREAD 0x00200000
#define PF_MEMALLOC 0x00000800
#define AF_INET 2
#define AF_INET6 10

/* What lies at an address of the kernel; 0, and counted, if that cannot be read. */
#define DEFINE_READ(type)                                                              \
	static __always_inline type read_##type(u64 address)                           \
	{                                                                              \
		type value = 0;                                                        \
                                                                                       \
		if (bpf_probe_read_kernel(&value, sizeof(value), (void *)address))     \
			count_loss(LOSS_READ);                                         \
		return value;                                                          \
	}

DEFINE_READ(u64)
DEFINE_READ(u32)
DEFINE_READ(u16)
DEFINE_READ(u8)

/*
 * A field of a struct whose type the verifier knows: an argument of a typed program, the
 * current task, what one of their fields points to. A plain load, a tenth of the price of
 * a helper; one that faults gives 0. In assembly, for clang might move the address.
 * TYPED is there if the modules have BTF: without it there are no typed programs. A module's
 * argument must be compared with NULL first, which none of ours is: "bpf: Augment raw_tp
 * arguments with PTR_MAYBE_NULL" (838a10bd2ebf, v6.13).
 */
#ifdef TYPED
#define load_u64(base, offset)                                                         \
	({                                                                             \
		u64 value_;                                                            \
		asm volatile("%0 = *(u64 *)(%1 + %2)"                                  \
			     : "=r"(value_)                                            \
			     : "r"((u64)(base)), "i"(offset));                         \
		value_;                                                                \
	})
#define load_u32(base, offset)                                                         \
	({                                                                             \
		u32 value_;                                                            \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                  \
			     : "=r"(value_)                                            \
			     : "r"((u64)(base)), "i"(offset));                         \
		value_;                                                                \
	})

static __always_inline u64 current_task(void)
{
	return (u64)bpf_get_current_task_btf();
}
#else
#define load_u64(base, offset) read_u64((base) + (offset))
#define load_u32(base, offset) read_u32((base) + (offset))

static __always_inline u64 current_task(void)
{
	return bpf_get_current_task();
}
#endif

/*
 * What tells a thread's system call from the next: a hash of the registers with which it
 * entered the kernel, the same for as long as it is inside. 0 if nothing does.
 * bpf_task_pt_regs is there since dd6e10fbd9fb (v5.15).
 */
#if defined(TYPED) && defined(TASK_PT_REGS)
static u64 (*task_pt_regs)(u64 task) = (void *)175;

static __always_inline u64 syscall_mark(u64 task)
{
	u64 regs = task_pt_regs(task), mark = 14695981039346656037ULL;

#pragma unroll
	for (u32 i = 0; i < SIZE_pt_regs / 8; i++)
		mark = (mark ^ load_u64(regs, i * 8)) * 1099511628211ULL;
	return mark | 1;
}
#else
static __always_inline u64 syscall_mark(u64 task)
{
	return 0;
}
#endif

static __always_inline bool is_kthread(u64 task)
{
	return load_u32(task, OFF_task_struct__flags) & PF_KTHREAD;
}

/* The identity of the process (not the thread) of a task. */
static __always_inline void proc_of(u64 task, struct proc_id *id)
{
	u64 leader = load_u64(task, OFF_task_struct__group_leader);

	id->tgid = load_u32(task, OFF_task_struct__tgid);
	id->start_ns = load_u64(leader, OFF_task_struct__start_boottime);
	id->pad = 0;
}

/* The same of a task whose address alone is known. */
static __always_inline void proc_at(u64 task, struct proc_id *id)
{
	u64 leader = read_u64(task + OFF_task_struct__group_leader);

	id->tgid = read_u32(task + OFF_task_struct__tgid);
	id->start_ns = read_u64(leader + OFF_task_struct__start_boottime);
	id->pad = 0;
}

/* The name of the main thread of a task's process, by which people know it. */
static __always_inline void read_comm(u64 task, char *comm)
{
	u64 leader = load_u64(task, OFF_task_struct__group_leader);

	bpf_probe_read_kernel(comm, TASK_COMM_LEN, (void *)(leader + OFF_task_struct__comm));
}

/* Address part of a struct sockaddr_storage as 16 bytes, IPv4 mapped. */
static __always_inline void read_peer(u64 sockaddr, u8 *peer)
{
	struct {
		u16 family;
		u16 port;
		u32 v4;
		u8 v6[16];
	} address = {};

	bpf_probe_read_kernel(&address, sizeof(address), (void *)sockaddr);
	if (address.family == AF_INET) {
		peer[10] = 0xff;
		peer[11] = 0xff;
		__builtin_memcpy(peer + 12, &address.v4, sizeof(address.v4));
	} else if (address.family == AF_INET6) {
		__builtin_memcpy(peer, address.v6, sizeof(address.v6));
	}
}

#define NFS_SUPER_MAGIC 0x6969

/* struct super_block * of what a traced function is given; 0 if it is given nothing. */
static __always_inline u64 sb_of_inode(u64 inode)
{
	return inode ? load_u64(inode, OFF_inode__i_sb) : 0;
}

static __always_inline u64 sb_of_file(u64 file)
{
	return file ? sb_of_inode(load_u64(file, OFF_file__f_inode)) : 0;
}

static __always_inline u64 sb_of_kiocb(u64 kiocb)
{
	return sb_of_file(load_u64(kiocb, OFF_kiocb__ki_filp));
}

static __always_inline u64 sb_of_dentry(u64 dentry)
{
	return dentry ? load_u64(dentry, OFF_dentry__d_sb) : 0;
}

static __always_inline u64 sb_of_path(u64 path)
{
	return sb_of_dentry(load_u64(path, OFF_path__dentry));
}

static __always_inline u64 sb_of_vma(u64 vma)
{
	return sb_of_file(load_u64(vma, OFF_vm_area_struct__vm_file));
}

static __always_inline u64 sb_of_fault(u64 fault)
{
	return sb_of_vma(load_u64(fault, OFF_vm_fault__vma));
}

static __always_inline u64 sb_of_mapping(u64 mapping)
{
	return sb_of_inode(load_u64(mapping, OFF_address_space__host));
}

static __always_inline u64 sb_of_readahead(u64 control)
{
	return sb_of_mapping(load_u64(control, OFF_readahead_control__mapping));
}

/*
 * The same of an argument whose kind is put into the compiled program, see
 * tracer/kernel/templates.py: the verifier takes out all branches but one.
 */
static __always_inline u64 sb_of(u64 kind, u64 argument)
{
	/* Clang must not choose one by the stand-in. */
	asm volatile("" : "+r"(kind));
	switch (kind) {
	case SB_OF_INODE:
		return sb_of_inode(argument);
	case SB_OF_FILE:
		return sb_of_file(argument);
	case SB_OF_KIOCB:
		return sb_of_kiocb(argument);
	case SB_OF_DENTRY:
		return sb_of_dentry(argument);
	case SB_OF_PATH:
		return sb_of_path(argument);
	case SB_OF_VMA:
		return sb_of_vma(argument);
	case SB_OF_FAULT:
		return sb_of_fault(argument);
	case SB_OF_MAPPING:
		return sb_of_mapping(argument);
	case SB_OF_READAHEAD:
		return sb_of_readahead(argument);
	}
	return 0;
}

static __always_inline bool is_nfs(u64 sb)
{
	return sb && load_u64(sb, OFF_super_block__s_magic) == NFS_SUPER_MAGIC;
}

static __always_inline u32 dev_of(u64 sb)
{
	return sb ? load_u32(sb, OFF_super_block__s_dev) : 0;
}

/* Remember the current process by name, once, so that it can be named later. */
static __always_inline void note_current(struct proc_id *id)
{
	struct proc_rec rec = {};
	u64 task = current_task();
	u64 leader, mm, file, dentry, name;

	if (procs.lookup(id))
		return;
	leader = read_u64(task + OFF_task_struct__group_leader);
	read_comm(task, rec.comm);
	rec.uid = bpf_get_current_uid_gid();
	rec.cgroup_id = bpf_get_current_cgroup_id();
	rec.kthread = is_kthread(task);
	rec.ppid = read_u32(read_u64(leader + OFF_task_struct__real_parent) +
			    OFF_task_struct__tgid);
	mm = read_u64(task + OFF_task_struct__mm);
	if (mm) {
		file = read_u64(mm + OFF_mm_struct__exe_file);
		if (file) {
			dentry = read_u64(file + OFF_file__f_path + OFF_path__dentry);
			name = read_u64(dentry + OFF_dentry__d_name + OFF_qstr__name);
			bpf_probe_read_kernel_str(&rec.exe, sizeof(rec.exe), (void *)name);
		}
	}
	if (procs.update(id, &rec))
		count_loss(LOSS_PROCS_FULL);
}
