/*
 * burner: a BPF program that keeps nfsd's threads at work at each file they open.
 *
 *   burner lsm|kprobe MS TRUTH
 *
 * MS of a CPU for each open, as a program of the LSM hook file_open or of a kprobe on
 * security_file_open(). What it took in all, by the program's own clock, goes to TRUTH until
 * it is ended.
 */
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../truth.h"

#define COPIED (1 << 20)
/* The verifier goes through all of them. */
#define MOST_ROUNDS 2000
#define BTF_MAX (16 << 20)

#define INSN(code_, dst, src, off_, imm_) \
	((struct bpf_insn){ .code = code_, .dst_reg = dst, .src_reg = src, .off = off_, .imm = imm_ })
#define MOV(dst, src) INSN(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0)
#define SET(dst, value) INSN(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value)
#define ADD(dst, value) INSN(BPF_ALU64 | BPF_ADD | BPF_K, dst, 0, 0, value)
#define SUB(dst, src) INSN(BPF_ALU64 | BPF_SUB | BPF_X, dst, src, 0, 0)
#define CALL(helper) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_##helper)
#define JUMP(how, dst, value, off) INSN(BPF_JMP | how | BPF_K, dst, 0, off, value)

static int bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

/* The number of a kernel function in the kernel's own types, 0 if there is none. */
static int type_of(const char *function)
{
	static const int extra[] = { [BTF_KIND_INT] = 4,	 [BTF_KIND_ARRAY] = 12,
				     [BTF_KIND_VAR] = 4,	 [BTF_KIND_DECL_TAG] = 4,
				     [BTF_KIND_ENUM64] = 0 };
	static const int each[] = { [BTF_KIND_STRUCT] = 12,	[BTF_KIND_UNION] = 12,
				    [BTF_KIND_ENUM] = 8,	[BTF_KIND_FUNC_PROTO] = 8,
				    [BTF_KIND_DATASEC] = 12,	[BTF_KIND_ENUM64] = 12 };
	char *data = malloc(BTF_MAX), *at, *end, *names;
	int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY), length = 0, got, number = 1;
	struct btf_header *header = (void *)data;

	while ((got = read(fd, data + length, BTF_MAX - length)) > 0)
		length += got;
	if (length < (int)sizeof(*header))
		die("/sys/kernel/btf/vmlinux");
	at = data + header->hdr_len + header->type_off;
	end = at + header->type_len;
	names = data + header->hdr_len + header->str_off;
	for (; at < end; number++) {
		struct btf_type *type = (void *)at;
		int kind = BTF_INFO_KIND(type->info);

		if (kind == BTF_KIND_FUNC && !strcmp(names + type->name_off, function))
			return number;
		at += sizeof(*type) + (kind <= BTF_KIND_ENUM64 ? extra[kind] : 0) +
		      (kind <= BTF_KIND_ENUM64 ? each[kind] * BTF_INFO_VLEN(type->info) : 0);
	}
	return 0;
}

static int load(int map, int is_lsm, int burn_ns)
{
	static char log[1 << 24];
	struct bpf_insn program[] = {
		/* Of nfsd only. */
		MOV(1, 10), ADD(1, -16), SET(2, 16), CALL(get_current_comm),
		INSN(BPF_LDX | BPF_MEM | BPF_W, 1, 10, -16, 0),
		JUMP(BPF_JNE, 1, 'n' | 'f' << 8 | 's' << 16 | 'd' << 24, 18),
		/* r7: the map's value; r8: begin; r6: rounds left */
		INSN(BPF_LD | BPF_IMM | BPF_DW, 7, BPF_PSEUDO_MAP_VALUE, 0, map), INSN(0, 0, 0, 0, 0),
		CALL(ktime_get_ns), MOV(8, 0), SET(6, MOST_ROUNDS),
		/* A round: some memory onto itself. */
		MOV(1, 7), ADD(1, 8), SET(2, COPIED), MOV(3, 1), CALL(probe_read_kernel),
		CALL(ktime_get_ns), SUB(0, 8), JUMP(BPF_JGT, 0, burn_ns, 2),
		ADD(6, -1), JUMP(BPF_JNE, 6, 0, -10),
		/* What it took. */
		CALL(ktime_get_ns), SUB(0, 8),
		INSN(BPF_STX | BPF_ATOMIC | BPF_DW, 7, 0, 0, BPF_ADD),
		SET(0, 0), INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	union bpf_attr attr = {
		.prog_type = is_lsm ? BPF_PROG_TYPE_LSM : BPF_PROG_TYPE_KPROBE,
		.insns = (uintptr_t)program,
		.insn_cnt = sizeof(program) / sizeof(*program),
		.license = (uintptr_t)"GPL",
		.prog_name = "burn_opens",
	};
	int fd;

	if (is_lsm) {
		attr.expected_attach_type = BPF_LSM_MAC;
		attr.attach_btf_id = type_of("bpf_lsm_file_open");
	}
	fd = bpf(BPF_PROG_LOAD, &attr);
	if (fd < 0) {
		attr.log_buf = (uintptr_t)log;
		attr.log_size = sizeof(log);
		attr.log_level = 1;
		bpf(BPF_PROG_LOAD, &attr);
		fputs(log + (strlen(log) > 2000 ? strlen(log) - 2000 : 0), stderr);
		die("BPF_PROG_LOAD");
	}
	return fd;
}

static void attach(int program, int is_lsm)
{
	union bpf_attr lsm = { .raw_tracepoint.prog_fd = program };
	struct perf_event_attr kprobe = { .size = sizeof(kprobe), .sample_period = 1 };
	FILE *type;
	int fd;

	if (is_lsm) {
		if (bpf(BPF_RAW_TRACEPOINT_OPEN, &lsm) < 0)
			die("BPF_RAW_TRACEPOINT_OPEN");
		return;
	}
	type = fopen("/sys/bus/event_source/devices/kprobe/type", "r");
	if (!type || fscanf(type, "%u", &kprobe.type) != 1)
		die("no kprobes");
	kprobe.config1 = (uintptr_t)"security_file_open";
	fd = syscall(SYS_perf_event_open, &kprobe, -1, 0, -1, 0);
	if (fd < 0 || ioctl(fd, PERF_EVENT_IOC_SET_BPF, program) ||
	    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0))
		die("kprobe");
}

int main(int argc, char **argv)
{
	static uint64_t value[1 + COPIED / 8];
	union bpf_attr map = {
		.map_type = BPF_MAP_TYPE_ARRAY,
		.key_size = 4,
		.value_size = sizeof(value),
		.max_entries = 1,
	};
	union bpf_attr look = { .value = (uintptr_t)value };
	int is_lsm, fd;
	uint32_t zero = 0;

	if (argc != 4) {
		fprintf(stderr, "usage: burner lsm|kprobe MS TRUTH\n");
		return 2;
	}
	/* Maps counted as locked memory before 97306be45fbe (v5.11). */
	setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){ RLIM_INFINITY, RLIM_INFINITY });
	is_lsm = !strcmp(argv[1], "lsm");
	fd = bpf(BPF_MAP_CREATE, &map);
	if (fd < 0)
		die("BPF_MAP_CREATE");
	attach(load(fd, is_lsm, atoi(argv[2]) * 1000000), is_lsm);
	look.map_fd = fd;
	look.key = (uintptr_t)&zero;
	for (;;) {
		if (bpf(BPF_MAP_LOOKUP_ELEM, &look))
			die("BPF_MAP_LOOKUP_ELEM");
		write_truth(argv[3], value[0] / 1000);
		usleep(300000);
	}
}
