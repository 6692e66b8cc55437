/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Who had the CPU while a thread of an operation could have run. Each CPU keeps who ran
 * on it last, but only as long as such a thread waits anywhere: else a switch costs one
 * load here.
 */

#define MAX_RAN 64
/* Of all that ran during a wait the longest are named; the rest stays without a name. */
#define MAX_NAMED 3
#define NAMED_RUN_NS 250000

struct ran {
	u64 end_ns; /* ran from the end of the one before it until then */
	struct proc_id proc; /* or that of several that ran one after the other: their family's */
	struct proc_id family; /* of whose workers it is one, see family_of() */
};

struct cpu_rec {
	struct ran ran[MAX_RAN];
	u64 current; /* struct task_struct * that runs now */
	u32 next;
	u32 hops; /* of the thread that runs now, if it works on an answer */
};

/* In assembly, for clang might mask where the verifier does not see it. */
static __always_inline struct ran *ran_at(struct cpu_rec *cpu, u64 index)
{
	asm volatile("%0 &= %1" : "+r"(index) : "i"(MAX_RAN - 1));
	return &cpu->ran[index];
}

BPF_ARRAY(cpus, struct cpu_rec, MAX_CPUS);
/* How many threads of operations could run and do not. */
BPF_ARRAY(waiting, u64, 1);

#ifdef OFF_cfs_rq__throttled_clock_pelt_time
static __always_inline u64 throttled_of(u64 cfs_rq)
{
	return cfs_rq ? read_u64(cfs_rq + OFF_cfs_rq__throttled_clock_pelt_time) : 0;
}

/* Of a task in a typed program. */
static __always_inline void note_quota(struct op_rec *op, u64 task)
{
	u64 cfs_rq = load_u64(task, OFF_task_struct__se + OFF_sched_entity__cfs_rq);

	op->cfs_rq = cfs_rq;
	op->throttled = cfs_rq ? load_u64(cfs_rq, OFF_cfs_rq__throttled_clock_pelt_time) : 0;
}
#else
/* No quotas in this kernel. */
#define throttled_of(cfs_rq) 0
#define note_quota(op, task)
#endif

/* It could run from now on. */
static __always_inline void op_queued(struct op_rec *op, u64 task, u64 now)
{
	u32 zero = 0;
	u64 *count = waiting.lookup(&zero);

	if (count && !op->queued_ns)
		__sync_fetch_and_add(count, 1);
	op->queued_ns = now;
	note_quota(op, task);
}

/* It runs, or it sleeps. */
static __always_inline void op_unqueued(struct op_rec *op)
{
	u32 zero = 0;
	u64 *count = waiting.lookup(&zero);

	if (count && op->queued_ns)
		__sync_fetch_and_add(count, -1);
	op->queued_ns = 0;
}

static __always_inline bool is_process(struct proc_id *one, struct proc_id *other)
{
	return one->tgid == other->tgid && one->start_ns == other->start_ns;
}

static __always_inline u64 exe_of(u64 task)
{
	u64 mm = read_u64(task + OFF_task_struct__mm);

	return mm ? read_u64(mm + OFF_mm_struct__exe_file) : 0;
}

/*
 * The process that has forked a task's, if both run what that has executed: of many workers each
 * has a CPU for a moment only. Whoever executes a program opens it anew, if it is the same, too.
 */
static __always_inline void family_of(u64 task, struct proc_id *id)
{
	u64 leader = read_u64(task + OFF_task_struct__group_leader);
	u64 parent = read_u64(leader + OFF_task_struct__real_parent), exe = exe_of(task);

	if (exe && exe == exe_of(parent))
		proc_at(parent, id);
}

/*
 * At a switch on this CPU: the current task has had it until now, the next one has it. Returns
 * the time, if that had to be asked for.
 */
static __always_inline u64 note_ran(struct cpu_rec *cpu, u64 next)
{
	u32 zero = 0, tgid = bpf_get_current_pid_tgid() >> 32;
	u64 *count = waiting.lookup(&zero);
	struct proc_id id = {}, family = {};
	struct ran *ran;
	u64 now, since;
	bool is_same;

	cpu->current = next;
	if (!count || !*count)
		return 0;
	now = bpf_ktime_get_ns();
	ran = ran_at(cpu, cpu->next - 1);
	since = ran->end_ns;
	/*
	 * Many short runs shall not push a long one out: together they have no name. Nor have
	 * we: what we cost is told apart.
	 */
	if (tgid && now - since >= NAMED_RUN_NS && !is_own()) {
		proc_of(current_task(), &id);
		family_of(current_task(), &family);
	}
	is_same = is_process(&ran->proc, &id);
	if (!is_same && family.tgid && is_process(&ran->family, &family)) {
		ran->proc = family;
	} else if (!is_same) {
		ran = ran_at(cpu, cpu->next++);
		ran->proc = id;
		ran->family = family;
	}
	ran->end_ns = now;
	if (id.tgid && now - since >= stack_ns())
		note_current(&id);
	return now;
}

/* What a wait for a CPU is put down to: some processes and a quota; the rest has no name. */
struct part {
	struct proc_id proc;
	struct proc_id family;
	u64 ns;
	u64 kind;
};
#define MAX_PARTS 8
struct parts {
	struct part part[MAX_PARTS];
	u64 at;
	struct ran now; /* who has a CPU that is looked at */
};
BPF_PERCPU_ARRAY(scratch_parts, struct parts, 1);

/*
 * Add time to the part of a process, or that of its family, who then stands for both; if others
 * have all of them, to that of the shortest.
 */
static __always_inline void add_part(struct parts *parts, struct ran *ran, u64 ns)
{
	u64 least_ns = ~0ULL, index = 0, is_new = 1;
	struct part *part;

#pragma unroll
	for (int i = 0; i < MAX_NAMED; i++) {
		part = &parts->part[i];
		if (is_process(&part->proc, &ran->proc) ||
		    (ran->family.tgid && (is_process(&part->family, &ran->family) ||
					  is_process(&part->proc, &ran->family)))) {
			index = i;
			is_new = 0;
			break;
		}
		if (part->ns < least_ns) {
			least_ns = part->ns;
			index = i;
		}
	}
	/* What is read from a map is one case for the verifier, and not one for each index. */
	parts->at = index;
	index = *(volatile u64 *)&parts->at & (MAX_PARTS - 1);
	part = &parts->part[index];
	if (is_new) {
		if (part->ns >= ns)
			return;
		part->proc = ran->proc;
		part->family = ran->family;
		part->kind = WAIT_RUNNABLE;
		part->ns = 0;
	} else if (!is_process(&part->proc, &ran->proc)) {
		part->proc = ran->family;
	}
	part->ns += ns;
}

/* Put the time from..now in this CPU's queue down to those who ran there. */
static __always_inline void find_parts(struct parts *parts, struct cpu_rec *cpu, u64 from, u64 now)
{
	u64 until = now;

#pragma clang loop unroll(disable)
	for (u32 back = 0; back < MAX_RAN - 1; back++) {
		struct ran *ran = ran_at(cpu, cpu->next - back);
		u64 since = ran_at(cpu, cpu->next - back - 1)->end_ns;

		if (!back)
			ran = &parts->now;
		if (since < from)
			since = from;
		if (since < until) {
			if (ran->proc.tgid)
				add_part(parts, ran, until - since);
			until = since;
		}
		if (until <= from)
			break;
	}
}

/* Put a long wait for a CPU down to those who ran there, or to the quota of its cgroup. */
static __always_inline void find_all_parts(struct parts *parts, struct op_rec *op,
					   struct cpu_rec *cpu, u64 task, u64 now)
{
	u64 from = op->queued_ns, throttled = throttled_of(op->cfs_rq) - op->throttled;

	__builtin_memset(parts, 0, sizeof(*parts));
	if (task) {
		proc_at(task, &parts->now.proc);
		family_of(task, &parts->now.family);
	}
	if (throttled > now - from)
		throttled = now - from;
	/* Its cgroup was not let on any CPU: who ran there took nothing from it. */
	if (!throttled)
		find_parts(parts, cpu, from, now);
	parts->part[MAX_NAMED].kind = WAIT_THROTTLED;
	parts->part[MAX_NAMED].ns = throttled;
}

/*
 * A thread has been in this CPU's queue since it was queued. `task`: who has run there since
 * the last switch that was noted; 0 if that is just now.
 */
static __always_inline void runnable_wait(struct op_rec *op, struct cpu_rec *cpu, u64 task, u64 now)
{
	struct wait_rec rest = { .kind = WAIT_RUNNABLE, .stack = -1, .waker_stack = -1 };
	u64 from = op->queued_ns, left = now - from;
	struct parts *parts;
	u32 zero = 0;

	if (!from || now <= from)
		return;
	parts = left >= stack_ns() ? scratch_parts.lookup(&zero) : NULL;
	if (parts)
		find_all_parts(parts, op, cpu, task, now);
#pragma clang loop unroll(disable)
	for (u64 i = 0; parts && i <= MAX_NAMED; i++) {
		struct wait_rec key = { .stack = -1, .waker_stack = -1 };
		u64 index = i, ns;

		asm volatile("%0 &= 7" : "+r"(index));
		ns = parts->part[index].ns;
		if (!ns || (parts->part[index].proc.tgid && ns < stack_ns()))
			continue;
		left -= ns;
		key.kind = parts->part[index].kind;
		key.waker = parts->part[index].proc;
		add_wait(op, &key, from, now, ns);
	}
	if (left)
		add_wait(op, &rest, from, now, left);
}

/*
 * At a wake-up to the CPU that was chosen, later to one that had less to do: whoever runs
 * on the CPU it leaves has not been noted yet.
 */
int on_sched_migrate_task(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0], now;
	u32 tid = read_u32(task + OFF_task_struct__pid), number;
	struct op_rec *op = op_of(tid);
	struct cpu_rec *cpu;

	if (!op || !op->queued_ns)
		return 0;
	now = bpf_ktime_get_ns();
	number = read_u32(task + OFF_task_struct__cpu);
	cpu = cpus.lookup(&number);
	if (cpu)
		runnable_wait(op, cpu, cpu->current, now);
	op->queued_ns = now;
	/* Of the queue it goes to nothing is known yet. */
	op->cfs_rq = 0;
	op->throttled = 0;
	return 0;
}
