/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* BPF_STACK_TRACE rounds its size up; ours is a power of two already. */
#define roundup_pow_of_two(n) (n)
