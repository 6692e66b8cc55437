/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Reads kernel memory on demand: never attached, run by BPF_PROG_TEST_RUN with
 * (address, length). It tells what was stuck before any probe was there. Address
 * 0 asks for the current task's own address, from which the task list is walked.
 */

int on_peek(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	u64 length = ctx->args[1];
	struct peek_val *val = peeked.lookup(&zero);

	if (!val || length > PEEK_BYTES)
		return -1;
	if (!ctx->args[0]) {
		*(u64 *)val->bytes = bpf_get_current_task();
		return 0;
	}
	return bpf_probe_read_kernel(val->bytes, length, (void *)ctx->args[0]);
}
